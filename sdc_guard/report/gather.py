"""Runs on disk to one report document.  Nothing here imports torch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from sdc_guard.document.operators import packet_of
from sdc_guard.document.reading import read_document_file
from sdc_guard.document.schema import SCHEMA_VERSION, Cell, Entry, Report, Run
from sdc_guard.document.sweeps import joined
from sdc_guard.document.verdicts import CLEAN, SEVERITY
from sdc_guard.errors import UsageError
from sdc_guard.plain_json import dumps, loads
from sdc_guard.records import OpCoverage
from sdc_guard.report.benches import bench_report, is_bench
from sdc_guard.report.bundles import bundle_report
from sdc_guard.report.eventlogs import log_report
from sdc_guard.report.sources import files_in
from sdc_guard.report.text import sound
from sdc_guard.version import __version__

_Item = TypeVar("_Item")

SWEEP = "sweep"
MAX_ENTRIES_PER_KIND = 20
"""Entries kept of one divergence in one run; further ones are counted in the last one kept."""


def gather(sources: Sequence[Path], *, root: Path | None = None, title: str = "") -> Report:
    """One document of all that the sources hold.

    A source is a run's folder (searched for event logs, and for bundles where there is none), an
    event log, a bundle (``.sdcz``), a report document or a benchmark's results (``.json``).
    ``root`` is the folder that paths are shown relative to, by default the current one.

    Raises:
        UsageError: if a source does not exist, or holds nothing to report.
    """
    base = Path.cwd() if root is None else root
    parts = [part for source in sources for part in _parts(source, base.resolve())]
    runs = _distinct((run for part in parts for run in part.runs), lambda r: (r.id, r.source))
    findings, num_cut = _thinned(
        _distinct((e for part in parts for e in part.findings), _key_of_entry))
    names = tuple(sound(str(source)) for source in sources)
    cut: Counter[str] = Counter()
    for part in parts:
        cut.update(part.cut)
    if num_cut:
        cut["findings that are counted and not shown"] += num_cut
    return Report(
        schema_version=SCHEMA_VERSION,
        tool_version=__version__,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        title=title or f"sdc_guard: {', '.join(names[:3])}",
        sources=names,
        runs=tuple(runs),
        findings=tuple(findings),
        cells=tuple(_cells(runs, findings, [c for part in parts for c in part.cells])),
        problems=tuple(dict.fromkeys(p for part in parts for p in part.problems)),
        cut=dict(cut),
        sweep=joined(_distinct((p.sweep for p in parts if p.sweep is not None), dumps)),
    )


def _parts(source: Path, root: Path) -> Iterator[Report]:
    if not _exists(source):
        raise UsageError(f"{source} does not exist")
    if source.is_dir():
        yield from _of_folder(source, root)
    elif source.suffix == ".jsonl":
        yield log_report(source, root)
    elif source.suffix == ".sdcz":
        yield bundle_report(source, root)
    else:
        yield _document(source)


def _document(path: Path) -> Report:
    """A report, or the results of a benchmark."""
    try:
        value = loads(path.read_bytes())
    except (OSError, ValueError):
        value = None
    return bench_report(value, str(path)) if is_bench(value) else read_document_file(path)


def _of_folder(folder: Path, root: Path) -> Iterator[Report]:
    """A file that cannot be read costs that file, unless none can."""
    files, problems = files_in(folder)
    num_read = 0
    for path in files:
        try:
            if not path.is_file():
                raise UsageError(f"{path} is no file that can be read")
            parts = [*_parts(path, root)]
        except UsageError as error:
            problems = (*problems, str(error))
            continue
        num_read += 1
        yield from parts
    if not num_read:
        raise UsageError("\n  ".join(problems[:10]))
    yield _nothing_but(problems)


def _nothing_but(problems: tuple[str, ...]) -> Report:
    return Report(schema_version=SCHEMA_VERSION, tool_version=__version__, created_utc="",
                  title="", sources=(), problems=tuple(sound(problem) for problem in problems))


def _exists(source: Path) -> bool:
    try:
        return source.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _distinct(items: Iterable[_Item], key: Callable[[_Item], Hashable]) -> list[_Item]:
    """Without the repeats that come of naming a source twice."""
    seen: dict[Hashable, _Item] = {}
    for item in items:
        seen.setdefault(key(item), item)
    return list(seen.values())


def _key_of_entry(entry: Entry) -> Hashable:
    return entry.id, entry.run, entry.time_s, entry.finding.call.call_index


def _thinned(entries: list[Entry]) -> tuple[list[Entry], int]:
    """The first entries of each kind in each run, and how many are only counted."""
    kept: list[Entry] = []
    places: dict[tuple[str, str, str], list[int]] = {}
    num_cut = 0
    for entry in entries:
        found = places.setdefault((entry.run, entry.id, entry.verdict.value), [])
        if len(found) < MAX_ENTRIES_PER_KIND:
            found.append(len(kept))
            kept.append(entry)
            continue
        num_cut += 1
        last = kept[found[-1]]
        repeats = last.finding.repeats + entry.finding.repeats
        kept[found[-1]] = msgspec.structs.replace(
            last, finding=msgspec.structs.replace(last.finding, repeats=repeats))
    return kept, num_cut


def _cells(runs: list[Run], entries: list[Entry], given: list[Cell]) -> Iterator[Cell]:
    """One cell for each operator on each watched process, beside the cells that documents bring."""
    yield from dict.fromkeys(given)
    have = {(c.unit, c.test) for c in given}
    by_unit: dict[str, list[Run]] = {}
    for run in runs:
        by_unit.setdefault(unit_of(run), []).append(run)
    for unit, here in by_unit.items():
        ids = {run.id for run in here}
        ops: dict[str, list[OpCoverage]] = {}
        for op in itertools.chain(*(r.coverage.ops for r in here if r.coverage is not None)):
            ops.setdefault(op.op, []).append(op)
        found: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.run in ids and entry.tool != SWEEP:  # its units are pieces of hardware
                name = entry.finding.op if entry.finding.op in ops else packet_of(entry.finding.op)
                found.setdefault(name, []).append(entry)
                ops.setdefault(name, [])
        for name in sorted(ops):
            if (unit, name) not in have:
                yield _cell(unit, name, ops[name], found.get(name, []))


def unit_of(run: Run) -> str:
    """``host, rank 3``: the process that a run's operators ran in."""
    return run.process


def _cell(unit: str, op: str, covered: list[OpCoverage], found: list[Entry]) -> Cell:
    checked = sum(c.calls_checked for c in covered)
    reasons = Counter({reason: n for c in covered for reason, n in c.not_tested.items()})
    num = sum(e.finding.repeats for e in found)
    if found:
        verdict = min((e.verdict.value for e in found), key=SEVERITY.index)
    else:
        verdict = CLEAN if checked else "not tested"
    reason = reasons.most_common(1)[0][0] if reasons and not checked else ""
    return Cell(unit=unit, test=op, word=verdict, verdict=verdict, checks=checked, findings=num,
                reason=reason)
