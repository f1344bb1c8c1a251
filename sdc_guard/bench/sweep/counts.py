"""What was counted: records of the matrix, which a later run continues."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from sdc_guard.bench.benchfile import numbers
from sdc_guard.bench.results import Stamp
from sdc_guard.errors import UsageError
from sdc_guard.records import Record

SWEEP, RIVAL = "sweep", "rival"
Numbers = tuple[tuple[int, int], ...]


class Tested(Record, frozen=True, kw_only=True):
    """One test with one kind of answer, or a rival.  ``group`` is SWEEP or RIVAL; ``runs`` and
    ``checks`` are what a clean visit of the dwell time did, ``false_alarms`` its miscompares."""

    name: str
    group: str
    family: str
    oracle: str
    num_cases: int
    runs: int
    checks: int
    false_alarms: int
    note: str = ""


class NotRun(Record, frozen=True, kw_only=True):
    """A test that could not be tried here, and why."""

    test: str
    family: str
    reason: str


class Cell(Record, frozen=True, kw_only=True):
    """Trials 0 to ``num`` - 1 of one kind of fault against one column.

    ``reached``, ``found``: numbers of the trials in which the fault changed a bit within the dwell
    time, and in which it was found, as ranges [start, stop).  ``bits``: ``float32 31`` to how often
    that position was flipped, and how often that was found.
    """

    column: str
    kind: str
    num: int = 0
    reached: Numbers = ()
    found: Numbers = ()
    bits: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)

    @property
    def num_reached(self) -> int:
        return len(numbers(self.reached))

    @property
    def num_found(self) -> int:
        return len(numbers(self.found))


class Blame(Record, frozen=True, kw_only=True):
    """Faults on one of ``num_units`` units, or ``all_alike`` on each of them: to how many trials
    each word of :data:`sdc_guard.bench.sweep.blame.WORDS` applies."""

    column: str
    oracle: str
    kind: str
    num_units: int
    all_alike: bool = False
    num: int = 0
    words: dict[str, int] = msgspec.field(default_factory=dict)


class MatrixFile(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``matrix.json``.  ``budget_s``: the whole sweep whose share of time each test has.  ``ops``,
    ``dtypes``: what restricted faults were drawn from."""

    stamp: Stamp
    budget_s: float
    ops: tuple[str, ...]
    dtypes: tuple[str, ...]
    columns: tuple[Tested, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    cells: tuple[Cell, ...] = ()
    blames: tuple[Blame, ...] = ()


def joined(old: Stamp, new: Stamp) -> Stamp:
    """The newer stamp, with the commands and commits of both."""
    return msgspec.structs.replace(
        new, commands=tuple(dict.fromkeys((*old.commands, *new.commands))),
        commits=tuple(dict.fromkeys((*old.commits, *new.commits))))


def encoded(file: MatrixFile) -> bytes:
    """JSON with one column, cell or count in a line."""
    parts = []
    for name in MatrixFile.__struct_fields__:
        value = getattr(file, name)
        if isinstance(value, tuple) and value and isinstance(value[0], Record):
            lines = ",\n".join(msgspec.json.encode(item).decode() for item in value)
            parts.append(f'"{name}": [\n{lines}\n]')
        else:
            parts.append(f'"{name}": {msgspec.json.encode(value).decode()}')
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def read(path: Path) -> MatrixFile:
    """The file at ``path``.

    Raises:
        UsageError: if it cannot be read or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=MatrixFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is no matrix of sdc-guard bench sweep: {error}; give another "
                         "folder with --out") from error


def total(cells: Iterable[Cell]) -> tuple[int, int, int]:
    """Trials, reached and found of all of them."""
    listed = list(cells)
    return (sum(c.num for c in listed), sum(c.num_reached for c in listed),
            sum(c.num_found for c in listed))
