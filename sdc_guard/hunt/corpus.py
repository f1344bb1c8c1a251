"""What hunts leave in a folder for later ones: the state to resume by, and all that was found.

Both files are written in whole every few seconds: by ``state.json`` a hunt that is ended at any
moment can go on; ``found.json`` holds the divergences of all hunts in the folder.  A file that
cannot be read is set aside under another name, and said.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from sdc_guard.document.files import write_whole
from sdc_guard.errors import UsageError
from sdc_guard.hunt.divergence import SEVERITY
from sdc_guard.hunt.finding_record import NO_EVIDENCE
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.ledger import Ledger, TargetLedger
from sdc_guard.plain_json import dumps, loads, record_of
from sdc_guard.records import Record

VERSION = 1
MAX_ASIDE = 100
MAX_FILE_BYTES = 1 << 28
"""A hundred times what the longest hunt has left."""
MAX_ROUNDS = 1 << 20
_KIND = re.compile(r"[0-9a-f]{16}")


class Key(Record, frozen=True, kw_only=True):
    """What the draws of a round depend on besides its target and number."""

    seed: int
    torch: str
    oracles: tuple[str, ...]
    max_bytes: int


class Corpus:
    """A folder, held by one hunt at a time.

    ``notes`` says in words what could not be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []

    @contextlib.contextmanager
    def held(self) -> Iterator[Corpus]:
        """The folder, made if missing, for as long as the block lasts.

        Raises:
            UsageError: if it cannot be written, or another hunt holds it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"--corpus {self.folder} cannot be used: {error}") from error
        try:
            _lock(descriptor, self.folder)
            yield self
        finally:
            os.close(descriptor)

    def load_state(self, key: Key) -> tuple[Ledger, bool] | None:
        """The ledger of the last hunt under this key, and whether it ended; None for none."""
        value = self._read("state.json")
        if value is None:
            return None
        try:
            if msgspec.convert(value["key"], Key) != key:
                return None
            parts = dict(value["ledger"])
            found, gone = _revived(parts.pop("found")), _revived(parts.pop("gone"))
            ledger = msgspec.convert(parts, Ledger)
            if any(not 0 <= page.rounds <= MAX_ROUNDS for page in ledger.targets.values()):
                raise ValueError("a number of rounds that no hunt makes")
            ledger.found, ledger.gone = found, gone
            return ledger, bool(value["is_finished"])
        except (msgspec.ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._set_aside("state.json", error)
            return None

    def save_state(self, key: Key, ledger: Ledger, *, is_finished: bool) -> None:
        """Write the ledger in whole."""
        self._write("state.json", {"version": VERSION, "key": key, "is_finished": is_finished,
                                   "ledger": ledger})

    def save(self, key: Key, ledger: Ledger, *, is_finished: bool) -> None:
        """Write what was found, then the state: rounds that a later hunt does not make again have
        their divergences in the folder, whatever ends this one in between."""
        self.save_found(ledger)
        self.save_state(key, ledger, is_finished=is_finished)

    def load_found(self) -> dict[str, FoundDivergence]:
        """The divergences of all hunts, by kind."""
        value = self._read("found.json")
        if value is None:
            return {}
        try:
            return _revived(value["found"])
        except (msgspec.ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._set_aside("found.json", error)
            return {}

    def save_found(self, ledger: Ledger) -> None:
        """Add what was found and take out what is gone."""
        known = {kind: found for kind, found in self.load_found().items()
                 if kind not in ledger.gone}
        self._write("found.json", {"version": VERSION, "found": {**known, **ledger.found}})

    def try_save(self, save: Callable[[], None]) -> None:
        """Save, or note why that failed: a full disk must not cost the report of a hunt."""
        try:
            save()
        except UsageError as error:
            if str(error) not in self.notes:
                self.notes.append(str(error))

    def _write(self, name: str, value: Any) -> None:
        """Raises UsageError if the folder refuses."""
        try:
            write_whole(self.folder / name, dumps(msgspec.to_builtins(value)) + b"\n")
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.folder / name} cannot be written: {error}") from error

    def _read(self, name: str) -> Any:
        path = self.folder / name
        try:
            size = path.stat().st_size
            if not path.is_file():
                raise OSError("it is no file")
            data = path.read_bytes() if size <= MAX_FILE_BYTES else b""
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error}; move it away, or name another "
                             "folder") from error
        try:
            if size > MAX_FILE_BYTES:
                raise ValueError(f"it has {size} bytes, the limit is {MAX_FILE_BYTES}")
            value = loads(data)
            if not isinstance(value, dict) or value.get("version") != VERSION:
                raise ValueError(f"it is not of version {VERSION}")
        except ValueError as error:
            self._set_aside(name, error)
            return None
        return value

    def _set_aside(self, name: str, error: Exception) -> None:
        path = self.folder / name
        for number in range(MAX_ASIDE):
            aside = self.folder / f"{name}.damaged-{number}"
            if not aside.exists():
                try:
                    path.rename(aside)
                except OSError as why:
                    raise UsageError(f"{path} is damaged ({str(error)[:200]}) and cannot be set "
                                     f"aside: {why}") from why
                self.notes.append(f"{path} could not be read ({str(error)[:200]}); it is kept as "
                                  f"{aside.name}, and the hunt began without it")
                return
        raise UsageError(f"{self.folder} holds {MAX_ASIDE} damaged files of {name}: clean it up, "
                         "or name another folder")


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # where the system has no flock the folder is only made
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(f"another hunt is at work in {folder}; wait for it, or name another "
                         "folder") from error


def _revived(value: Any) -> dict[str, FoundDivergence]:
    """Raises ValueError for what no hunt has written: a kind becomes a file's name."""
    found = {str(kind): record_of(one, FoundDivergence) for kind, one in value.items()}
    for kind, one in found.items():
        if (kind != one.seen_as or one.word not in SEVERITY
                or not all(map(_KIND.fullmatch, (kind, one.fingerprint)))):
            raise ValueError(f"{kind[:40]!r} is no kind of divergence")
    return {kind: without_texts(one) for kind, one in found.items()}


def without_texts(found: FoundDivergence) -> FoundDivergence:
    """Without what a user would run: whoever wrote the folder's files may have put anything there.
    It is written anew from the trial."""
    return msgspec.structs.replace(
        found, script="", script_shows="not run", regression_test="", issue="",
        finding=msgspec.structs.replace(found.finding, evidence=NO_EVIDENCE))


def continued(ledger: Ledger) -> dict[str, TargetLedger]:
    """Pages of a new ledger: the rounds that were made and what is left out, nothing counted."""
    return {target: TargetLedger(rounds=page.rounds, ahead=list(page.ahead), skip=list(page.skip))
            for target, page in ledger.targets.items()}


def of_hunt(
    found: dict[str, FoundDivergence], targets: Iterable[str], oracles: Iterable[str]
) -> dict[str, FoundDivergence]:
    """Those whose target is hunted now, by the oracle that found them: others are not made again,
    and would seem to be gone."""
    wanted, told = set(targets), set(oracles)
    return {kind: one for kind, one in found.items()
            if {one.drawn.target, one.trial.target} <= wanted and one.oracle in told}
