"""What every sweep on this machine found, in SQLite under the user's state directory.

Three uses: a short sweep goes on where the last one stopped, the time spent on a unit adds up, and
a SUSPECT is not forgotten.  A history is never worth a sweep: where it cannot be written the sweep
goes on without, with a warning.

The journal is SQLite's rollback journal, not WAL: a home directory is often shared by hosts, and
WAL is for processes of one host alone.  Sweeps before the latest :data:`MAX_SWEEPS` are added up
into one; what was found in them stays.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sdc_guard.document.schema import Entry, Report, Run, SweptUnit
from sdc_guard.document.sweeps import host_and_name
from sdc_guard.document.text import sound
from sdc_guard.errors import UsageError
from sdc_guard.render.swept import case_of
from sdc_guard.sweep.history_rows import EARLIER, UnitRecord, rows_of

_Result = TypeVar("_Result")
_Value = str | float | int | None

FILE = "sweep.sqlite"
VARIABLE = "SDC_GUARD_STATE"
FORMAT = 1
"""In ``PRAGMA user_version``; another format is left as it is and not used."""
BUSY_S = 20.0
MAX_SWEEPS = 300
MAX_FINDINGS_PER_SWEEP = 1000
MAX_INTEGER = (1 << 63) - 1
_COMPANIONS = ("", "-journal", "-wal", "-shm")

_TABLES = """
CREATE TABLE IF NOT EXISTS sweeps (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, started_utc TEXT NOT NULL, seed TEXT NOT NULL,
    budget_s REAL NOT NULL DEFAULT 0, elapsed_s REAL NOT NULL DEFAULT 0,
    is_complete INTEGER NOT NULL DEFAULT 0, tool_version TEXT NOT NULL DEFAULT '',
    torch TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS visits (
    sweep TEXT NOT NULL, host TEXT NOT NULL, unit TEXT NOT NULL, test TEXT NOT NULL,
    times INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0,
    checks INTEGER NOT NULL DEFAULT 0, next_case INTEGER NOT NULL DEFAULT 0,
    word TEXT NOT NULL DEFAULT '', last_utc TEXT NOT NULL,
    PRIMARY KEY (sweep, host, unit, test));
CREATE INDEX IF NOT EXISTS visits_by_unit ON visits (host, unit, test, last_utc);
CREATE TABLE IF NOT EXISTS findings (
    sweep TEXT NOT NULL, host TEXT NOT NULL, unit TEXT NOT NULL, test TEXT NOT NULL,
    id TEXT NOT NULL, word TEXT NOT NULL, verdict TEXT NOT NULL, op TEXT NOT NULL,
    detail TEXT NOT NULL, xor TEXT NOT NULL, wrong INTEGER, tried INTEGER,
    replay TEXT NOT NULL, time_utc TEXT NOT NULL,
    PRIMARY KEY (sweep, host, unit, test, id, detail));
"""
_ADD_VISIT = """
INSERT INTO visits (sweep, host, unit, test, times, seconds, checks, next_case, word, last_utc)
VALUES (:sweep, :host, :unit, :test, 1, :seconds, :checks, :next_case, :word, :now)
ON CONFLICT DO UPDATE SET times = times + 1, seconds = seconds + excluded.seconds,
    checks = checks + excluded.checks, next_case = excluded.next_case,
    word = CASE excluded.word WHEN '' THEN word ELSE excluded.word END,
    last_utc = excluded.last_utc
"""
_ADD_WORD = """
INSERT INTO visits (sweep, host, unit, test, seconds, checks, word, last_utc)
VALUES (:sweep, :host, :unit, :test, :seconds, :checks, :word, :now)
ON CONFLICT DO UPDATE SET word = excluded.word, seconds = max(seconds, excluded.seconds),
    checks = max(checks, excluded.checks)
"""

_ADD_SWEEP = """
INSERT OR REPLACE INTO sweeps VALUES (:id, :host, :started_utc, :seed, :budget_s, :elapsed_s,
    :is_complete, :tool_version, :torch)
"""
_ADD_FINDING = """
INSERT OR REPLACE INTO findings VALUES (:sweep, :host, :unit, :test, :id, :word, :verdict, :op,
    :detail, :xor, :wrong, :tried, :replay, :now)
"""
_FOLD = """
INSERT INTO visits (sweep, host, unit, test, times, seconds, checks, next_case, word, last_utc)
SELECT :earlier, host, unit, test, sum(times), sum(seconds), min(sum(checks), :max_integer),
    next_case, '', max(last_utc)
FROM visits WHERE sweep != :earlier AND sweep NOT IN (
    SELECT sweep FROM visits WHERE sweep != :earlier
    GROUP BY sweep ORDER BY max(last_utc) DESC, max(rowid) DESC LIMIT :kept)
GROUP BY host, unit, test
ON CONFLICT DO UPDATE SET times = times + excluded.times, seconds = seconds + excluded.seconds,
    checks = min(checks + excluded.checks, :max_integer), next_case = excluded.next_case,
    last_utc = excluded.last_utc
"""
_DROP_FOLDED = """
DELETE FROM {table} WHERE {column} != :earlier AND {column} NOT IN (
    SELECT sweep FROM visits WHERE sweep != :earlier
    GROUP BY sweep ORDER BY max(last_utc) DESC, max(rowid) DESC LIMIT :kept)
"""


def state_folder(given: Path | None = None) -> Path:
    """``given``, else ``$SDC_GUARD_STATE``, else ``sdc-guard`` in ``$XDG_STATE_HOME``, which is
    ``~/.local/state`` where it is not set.

    Raises:
        UsageError: if there is no home directory to look in.
    """
    if given is not None:
        return given
    named = os.environ.get(VARIABLE, "")
    if named:
        return Path(named)
    base = os.environ.get("XDG_STATE_HOME", "")
    if base and Path(base).is_absolute():  # the specification ignores a relative one
        return Path(base) / "sdc-guard"
    try:
        return Path.home() / ".local" / "state" / "sdc-guard"
    except RuntimeError as error:
        raise UsageError(f"there is no home directory for the history: name a folder with --state "
                         f"or in {VARIABLE}") from error


class History:
    """The history in one file.  Made by :meth:`open`; used by several threads and processes.

    Attributes:
        path: the file.
        is_kept: whether what is added outlives this process.
    """

    def __init__(self, path: Path, warn: Callable[[str], None], busy_s: float = BUSY_S) -> None:
        self.path = path
        self._busy_s = busy_s
        self.is_kept = True
        self._warn = warn
        self._warned: set[str] = set()
        self._lock = threading.RLock()
        self._inode: int | None = None
        self._database = self._opened()

    @classmethod
    def open(
        cls, path: Path, warn: Callable[[str], None] = lambda message: None,
        busy_s: float = BUSY_S,
    ) -> History:
        """The history at ``path``, made with its folder where there is none.

        Never fails: a file that is damaged is moved aside and begun anew, and where none can be
        written the history is kept in memory; ``warn`` is told, once for each reason.  ``busy_s``
        is how long a file that another process has locked is waited for.
        """
        return cls(path, warn, busy_s)

    def close(self) -> None:
        """End; nothing is added afterwards."""
        with self._lock:
            self._database.close()

    def add_visit(
        self, *, sweep: str, host: str, unit: str, test: str, seconds: float, checks: int,
        next_case: int, word: str = "",
    ) -> None:
        """A visit has ended: on disk when this returns, so that a kill loses nothing of it.

        ``sweep`` is the id of the sweep's run; ``next_case`` is where the next visit goes on;
        ``word`` the test's word so far, "" to leave it.
        """
        self._do(lambda db: db.execute(_ADD_VISIT, _storable({
            "sweep": sweep, "host": host, "unit": unit, "test": test, "seconds": seconds,
            "checks": checks, "next_case": next_case, "word": word, "now": _now()})))

    def record(self, report: Report) -> None:
        """The sweep's words and failures; seconds and checks of visits that were added stay."""
        sweep = report.sweep
        if sweep is None:
            return
        units = {unit.id: unit for unit in sweep.units}
        runs = [run for run in report.runs if run.kind == "sweep"]
        by_host = {run.host: run for run in runs}

        def write(db: sqlite3.Connection) -> None:
            for run in runs:
                db.execute(_ADD_SWEEP, _storable({
                    "id": run.id, "host": run.host, "started_utc": run.start_utc,
                    "seed": str(sweep.seed), "budget_s": sweep.budget_s,
                    "elapsed_s": run.elapsed_s, "is_complete": int(run.is_complete),
                    "tool_version": report.tool_version,
                    "torch": str(run.environment.get("torch", ""))}))
            for cell in report.cells:
                host, unit, swept_by = _place(cell.unit, units, by_host, runs)
                if swept_by is not None:
                    db.execute(_ADD_WORD, _storable({
                        "sweep": swept_by.id, "host": host, "unit": unit, "test": cell.test,
                        "seconds": cell.elapsed_s, "checks": cell.checks, "word": cell.word,
                        "now": _now()}))
            for entry in report.findings[:MAX_FINDINGS_PER_SWEEP]:
                if entry.tool == "sweep":
                    host, unit, _ = _place(entry.unit, units, by_host, runs)
                    db.execute(_ADD_FINDING, _finding_row(entry, host, unit))
            limits = {"earlier": EARLIER, "kept": MAX_SWEEPS, "max_integer": MAX_INTEGER}
            db.execute(_FOLD, limits)
            db.execute(_DROP_FOLDED.format(table="sweeps", column="id"), limits)
            db.execute(_DROP_FOLDED.format(table="visits", column="sweep"), limits)

        self._do(write)

    def dwell(self, host: str, unit: str) -> dict[str, float]:
        """Seconds spent on a unit in all sweeps, by test."""
        found = self._do(lambda db: db.execute(
            "SELECT test, sum(seconds) FROM visits WHERE host = ? AND unit = ? GROUP BY test",
            (host, unit)).fetchall())
        return {str(test): float(seconds) for test, seconds in found or ()}

    def last_case(self, host: str, unit: str, test: str) -> int:
        """The case that the unit's next visit of this test begins with; 0 without any visit."""
        found = self._do(lambda db: db.execute(
            "SELECT next_case FROM visits WHERE host = ? AND unit = ? AND test = ? AND times > 0 "
            "ORDER BY sweep = ?, last_utc DESC, rowid DESC LIMIT 1",
            (host, unit, test, EARLIER)).fetchone())
        return int(found[0]) if found else 0

    def rows(
        self, unit: str | None = None, host: str | None = None, since: datetime | None = None
    ) -> list[UnitRecord]:
        """What is known of each unit, or of one; ``since`` leaves out sweeps that ended before."""
        return self._do(lambda db: rows_of(db, unit=unit, host=host, since=since)) or []

    def _do(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
        """In one transaction; again in a new file where the old one turns out to be damaged."""
        with self._lock:
            for _ in range(2):
                try:
                    with self._database:
                        return work(self._database)
                except sqlite3.OperationalError as error:
                    self._tell(f"the history {self.path} cannot be used: {error}; the sweep goes "
                               "on without")
                    # What is locked for so long may stay so: later visits only try.
                    self._database.execute("PRAGMA busy_timeout = 0")
                    return None
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        raise
                    self._database.close()
                    self._set_aside(str(error))
                    self._database = self._opened()
        return None

    def _opened(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(2):
                database = self._connected(str(self.path))
                try:
                    _prepare(database)
                    self._inode = self.path.stat().st_ino
                    return database
                except sqlite3.DatabaseError as error:
                    database.close()
                    if not _is_damage(error):
                        raise
                    self._inode = self.path.stat().st_ino
                    self._set_aside(str(error))
                except _NewerFormat:
                    database.close()
                    raise
            raise sqlite3.OperationalError("it cannot be begun anew")
        except (sqlite3.Error, OSError, ValueError, _NewerFormat) as error:
            self._tell(f"the history {self.path} cannot be used: {error}; this sweep remembers "
                       "nothing of earlier ones")
            self.is_kept = False
            database = self._connected(":memory:")
            _prepare(database)
            return database

    def _connected(self, name: str) -> sqlite3.Connection:
        # A transaction that reads first and writes then would not wait for a lock, but fail.
        return sqlite3.connect(name, timeout=self._busy_s, check_same_thread=False,
                               isolation_level="IMMEDIATE")

    def _set_aside(self, reason: str) -> None:
        """Rename the damaged file with its journal, which would be rolled back into the new one;
        nothing is done where another process did so already."""
        aside = self.path.with_name(
            f"{self.path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}")
        try:
            if self.path.stat().st_ino != self._inode:
                return
            for companion in _COMPANIONS[::-1]:
                part = self.path.with_name(self.path.name + companion)
                if part.exists():
                    part.rename(aside.with_name(aside.name + companion))
        except FileNotFoundError:
            return
        except OSError as error:
            self._tell(f"the history {self.path} is damaged ({reason}) and cannot be moved aside: "
                       f"{error}")
            return
        self._tell(f"the history {self.path} was damaged ({reason}): it is now {aside.name}, and a "
                   "new one is begun")

    def _tell(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._warn(message)


class _NewerFormat(Exception):
    """The file was written by another version."""


class _Damaged(sqlite3.DatabaseError):
    """SQLite's own check has found something."""


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is to blame, not a lock, a full disk or a statement."""
    code = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, _Damaged) or code & 0xFF in (sqlite3.SQLITE_CORRUPT,
                                                          sqlite3.SQLITE_NOTADB)


def _prepare(database: sqlite3.Connection) -> None:
    """Tables, where there are none.

    Raises:
        sqlite3.DatabaseError: if the file is damaged, or no database.
        _NewerFormat: if its format is another.
    """
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found not in (0, FORMAT):
        raise _NewerFormat(f"its format is {found}, this version knows {FORMAT}")
    (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise _Damaged(str(state))
    if found == 0:
        database.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {FORMAT}; "
                               "COMMIT;")


def _place(
    unit: str, units: dict[str, SweptUnit], by_host: dict[str, Run], runs: list[Run]
) -> tuple[str, str, Run | None]:
    """The host, the name of a unit on it, and the run that swept it."""
    known = units.get(unit)
    host, name = host_and_name(unit)
    if known is not None:
        host, name = known.facts.get("host", host), known.name
    elif not host and runs:
        host = runs[0].host
    run = by_host.get(host)
    if run is None and len(runs) == 1:
        run = runs[0]
        host = host or run.host
    return host, name, run


def _finding_row(entry: Entry, host: str, unit: str) -> dict[str, _Value]:
    finding = entry.finding
    return _storable({
        "sweep": entry.run, "host": host, "unit": unit, "test": entry.test, "id": entry.id,
        "word": entry.word, "verdict": entry.verdict.value, "op": finding.op,
        "detail": case_of(entry), "xor": finding.bits, "wrong": entry.wrong,
        "tried": entry.tried, "replay": finding.evidence.replay_command, "now": _now()})


def _storable(row: dict[str, _Value]) -> dict[str, _Value]:
    """What SQLite can hold: no unpaired surrogate, no integer beyond 64 bits, no NaN."""
    return {name: _limited(value) for name, value in row.items()}


def _limited(value: _Value) -> _Value:
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else 0.0
    return value if value is None else max(-MAX_INTEGER, min(value, MAX_INTEGER))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
