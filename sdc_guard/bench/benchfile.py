"""``bench.json``: every result of the benchmark in one document that runs can be merged into."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import msgspec

from sdc_guard.bench.cells import FIRM, Cell, CleanCell, Cost, Harm, ranges
from sdc_guard.bench.results import Stamp
from sdc_guard.errors import UsageError
from sdc_guard.records import Record

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Numbers = tuple[tuple[int, int], ...]
_Item = TypeVar("_Item", Cell, CleanCell, Cost, Harm)


class BenchFile(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that was measured.  ``stamps``: one for each machine, set of versions and seed, with
    every command and commit that measured there."""

    stamps: tuple[Stamp, ...] = ()
    cells: tuple[Cell, ...] = ()
    clean: tuple[CleanCell, ...] = ()
    costs: tuple[Cost, ...] = ()
    harms: tuple[Harm, ...] = ()


def merge(one: BenchFile, other: BenchFile) -> BenchFile:
    """The results of both, sorted; merging a file with itself changes nothing.

    - Cells with one key are added where their fault numbers are disjoint; as many examples stay as
  the longer list had, or all where both have all.  Where one holds all
      numbers of the other it stays alone: it is the other, continued.
    - Clean runs with one key are the same steps again: the one with more alarms stays, then the
  one with more steps.
    - Of two costs with one key the one with more pairs stays, the later of equals.
    - Harm of one key: changes of all faults, the larger noise.

    Raises:
        UsageError: if the numbers of two cells overlap in part, since faults would count twice.
    """
    return BenchFile(
        stamps=_stamps((*one.stamps, *other.stamps)),
        cells=_merged((*one.cells, *other.cells), lambda c: c.key, _cells),
        clean=_merged((*one.clean, *other.clean),
                      lambda c: (c.detector, c.workload, c.dtype, c.device, c.seed), _clean),
        costs=_merged((*one.costs, *other.costs),
                      lambda c: (c.detector, c.workload, c.dtype, c.device, c.seed, c.num_threads),
                      lambda a, b: a if a.num_pairs > b.num_pairs else b),
        harms=_merged((*one.harms, *other.harms),
                      lambda h: (h.workload, h.dtype, h.fault, h.device, h.seed, h.num_steps),
                      _harms))


def _merged(
    items: Iterable[_Item], key: Callable[[_Item], tuple[Hashable, ...]],
    join: Callable[[_Item, _Item], _Item],
) -> tuple[_Item, ...]:
    found: dict[tuple[Hashable, ...], _Item] = {}
    for item in items:
        found[key(item)] = join(found[key(item)], item) if key(item) in found else item
    return tuple(found[k] for k in sorted(found, key=lambda k: tuple(map(str, k))))


def numbers(held: Numbers) -> set[int]:
    """The numbers in ranges [start, stop)."""
    return {n for start, stop in held for n in range(start, stop)}


def _cells(one: Cell, other: Cell) -> Cell:
    mine, theirs = numbers(one.done), numbers(other.done)
    if mine >= theirs:
        return one
    if theirs >= mine:
        return other
    if common := mine & theirs:
        raise UsageError(
            f"{one.detector}, {one.workload}, {one.dtype}, {one.fault}, seed {one.seed}: two parts "
            f"hold {len(common)} faults in common, number {min(common)} first, and others alone; "
            "they cannot be added. Run disjoint numbers, or continue one file")
    counts = {group: Counter(found) for group, found in one.counts.items()}
    for group, found in other.counts.items():
        counts.setdefault(group, Counter()).update(found)
    examples = tuple(sorted((*one.examples, *other.examples), key=lambda t: t.index))
    if not (_has_all_examples(one) and _has_all_examples(other)):
        examples = examples[:max(len(one.examples), len(other.examples))]
    delays = Counter(one.delays) + Counter(other.delays)
    causes = Counter(one.causes) + Counter(other.causes)
    return msgspec.structs.replace(
        one, done=ranges(mine | theirs), missed=ranges(numbers(one.missed) | numbers(other.missed)),
        counts={group: dict(counts[group]) for group in sorted(counts)},
        delays=dict(sorted(delays.items(), key=lambda item: int(item[0]))),
        causes=dict(sorted(causes.items())),
        not_injected=one.not_injected + other.not_injected, examples=examples)


def _has_all_examples(cell: Cell) -> bool:
    return len(cell.examples) == cell.injected - cell.with_outcome(FIRM)


def _clean(one: CleanCell, other: CleanCell) -> CleanCell:
    return max(other, one, key=lambda c: (c.num_alarms, c.num_steps))


def _harms(one: Harm, other: Harm) -> Harm:
    changes = {**one.changes, **other.changes}
    return msgspec.structs.replace(
        one, noise=max(one.noise, other.noise),
        num_controls=max(one.num_controls, other.num_controls),
        changes={n: changes[n] for n in sorted(changes, key=int)})


def _stamps(stamps: Iterable[Stamp]) -> tuple[Stamp, ...]:
    """One stamp for each place, versions and seed; ``load`` is the highest."""
    found: dict[bytes, Stamp] = {}
    for stamp in stamps:
        where = msgspec.json.encode(
            msgspec.structs.replace(stamp, commands=(), commits=(), load=0.0))
        known = found.get(where, stamp)
        found[where] = msgspec.structs.replace(
            stamp, commands=tuple(dict.fromkeys((*known.commands, *stamp.commands))),
            commits=tuple(dict.fromkeys((*known.commits, *stamp.commits))),
            load=max(known.load, stamp.load))
    return tuple(found[where] for where in sorted(found))


def encoded(file: BenchFile) -> bytes:
    """The document as JSON with one stamp, cell, clean run, cost or harm in a line."""
    parts = []
    for name in BenchFile.__struct_fields__:
        lines = ",\n".join(msgspec.json.encode(item).decode() for item in getattr(file, name))
        parts.append(f'"{name}": [\n{lines}\n]' if lines else f'"{name}": []')
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def read(path: Path) -> BenchFile:
    """The document at ``path``.

    Raises:
        UsageError: if it cannot be read or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is no BenchFile of sdc-guard bench: {error}") from error


def write(path: Path, file: BenchFile) -> None:
    """Write the document, sorted, under a temporary name, and rename it."""
    replace_file(path, encoded(merge(file, BenchFile())))


def replace_file(path: Path, contents: bytes) -> None:
    """Give ``path`` these contents, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(contents)
    temporary.replace(path)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other runs from writing into it until the block ends: each run
    writes all that it knows, and would undo what the other has added.

    Where the system has no ``flock`` only the folder is made.

    Raises:
        UsageError: if the folder cannot be written to, or another run holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: no result can be written there: {error}; give another folder "
                         "with --out") from error
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{folder}: another sdc-guard bench writes there now; wait for its end, or give "
                "this one a folder of its own with --out and add them up later") from None
        yield
    finally:
        os.close(descriptor)
