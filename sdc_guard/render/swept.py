"""A sweep in words that every format shares: its failures, its units, what a pass could see."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sdc_guard.document.schema import Cell, Entry, Report, Sweep, SweptUnit, WrongElement
from sdc_guard.document.sweeps import host_and_name
from sdc_guard.document.text import counted, one_line, shortened
from sdc_guard.document.verdicts import CLEAN, WORDS
from sdc_guard.records import Attribution
from sdc_guard.render.console import extent, worst_line

SWEEP = "sweep"
WORD_ORDER = ("FAIL", "AMBIGUOUS", "SUSPECT", "TOOL ERROR", "missing", "INVALID", "PASS", "SKIP")
MAX_ELEMENTS = 8
MAX_CONTRASTS = 8
MAX_NAMED_UNITS = 3
MAX_NAME_CHARS = 40
POWER = {
    "exact": "answers known beforehand; sees a unit that is wrong the same way every time",
    "golden": "a digest recorded elsewhere; sees a unit that is wrong the same way every time",
    "peer": "the other units' bits; sees a unit that is wrong the same way every time, unless all "
            "units are",
    "self": "the unit's own bits a moment before; BLIND to what is wrong the same way every time",
    "cross-implementation": "another path on the same unit; blind to what both paths share",
}
"""What a pass could have seen, by the oracle that it rests on."""


_ONE_PEER = ("one other unit's bits; sees that the two differ, not which of them is wrong, and is "
             "blind where both are wrong alike")
_STRONGEST_FIRST = ("exact", "golden", "peer", "cross-implementation", "self")
_COUNTED = re.compile(r"(\d+) peers?")


def oracle_of(text: str) -> tuple[str, int]:
    """The strongest oracle that a cell names, and how many peers: ``3 peers, self`` is ``peer``
    and 3.  One of a later version stands as it is."""
    num_peers, names = 0, []
    for part in (part.strip() for part in text.split(",")):
        counted_peers = _COUNTED.fullmatch(part)
        if counted_peers is not None:
            num_peers = int(counted_peers[1][:9])
            names += ["peer"] if num_peers else []
        elif part:
            names.append(part)
    strongest = next((name for name in _STRONGEST_FIRST if name in names), "")
    return strongest or (names[0] if names else ""), num_peers


def power_of(text: str) -> str:
    """What a pass could have seen, by the strongest oracle that the cell names."""
    name, num_peers = oracle_of(text)
    if name == "peer" and num_peers == 1:
        return _ONE_PEER
    return POWER.get(name, f"oracle {name}" if name else "no oracle")


def is_swept(entry: Entry) -> bool:
    """Whether a sweep found it: then it has a unit, and neither step nor module."""
    return entry.tool == SWEEP


def failure_text(entry: Entry) -> str:
    """A failure in full: what, where, bits, retests, contrast, replay; a line each."""
    finding = entry.finding
    lines = [one_line(f"{entry.word} ({entry.verdict.value}) in {finding.op} on {entry.unit}: "
                      f"{extent(finding.pattern)}")]
    lines += [f"  {name + ':':<10}{one_line(text)}" for name, text in _details(entry)]
    return "\n".join(lines)


def _details(entry: Entry) -> Iterator[tuple[str, str]]:
    finding = entry.finding
    tensor = finding.call.outputs[0] if finding.call.outputs else None
    yield "test", f"{entry.test}, oracle {finding.witness}" + (
        f", case {case_of(entry)}" if case_of(entry) else "") + (
        f", {tensor.dtype} [{', '.join(map(str, tensor.shape))}]" if tensor is not None else "")
    if finding.relation and not finding.relation.startswith(f"{entry.test}: "):
        yield "relation", finding.relation
    if finding.worst is not None:
        yield "bits", worst_line(finding.worst)
    for element in entry.elements[:MAX_ELEMENTS]:
        yield "element", element_text(element)
    if len(entry.elements) > MAX_ELEMENTS:
        yield "element", f"and {len(entry.elements) - MAX_ELEMENTS} more in the document"
    if entry.tried is not None:
        yield "retest", f"wrong in {entry.wrong} of {entry.tried} repetitions on this unit"
    if finding.repeats > 1:
        yield "repeats", f"{finding.repeats} failures of this kind"
    for line in entry.contrast[:MAX_CONTRASTS]:
        yield "contrast", line
    if len(entry.contrast) > MAX_CONTRASTS:
        yield "contrast", f"and {len(entry.contrast) - MAX_CONTRASTS} more in the document"
    if entry.facts:
        yield "facts", facts_text(entry.facts)
    yield "cause", cause_text(finding.attribution)
    if finding.evidence.replay_command:
        yield "replay", finding.evidence.replay_command


def case_of(entry: Entry) -> str:
    """Which of the test's computations it was."""
    return entry.facts.get("case", "") or entry.finding.call.arguments


def cause_text(attribution: Attribution) -> str:
    """The cause, what each other unit gave, and the reason."""
    gave = Counter((v.place, v.result) for v in attribution.votes)
    results = {"held": "the wrong bits", "expected": "the expected bits", "other": "other bits",
               "failed": "no result"}
    parts = [f"{attribution.cause.value} at {attribution.place}" if attribution.place
             else attribution.cause.value,
             *(f"{place} gave {results.get(result, result)}" + (f" {n} times" if n > 1 else "")
               for (place, result), n in gave.items())]
    return "; ".join([*parts, *([attribution.reason] if attribution.reason else [])])


def element_text(element: WrongElement) -> str:
    """``[3, 1] got 0x41c80000 (0x1.9p+4), expected 0x41880000 (0x1.1p+4), xor 0x00400000, 1
    bit``."""
    return (f"[{', '.join(map(str, element.index))}] got {_with(element.got, element.got_hexfloat)}"
            f", expected {_with(element.expected, element.expected_hexfloat)}, xor {element.xor}, "
            f"{counted(element.popcount, 'bit')}")


def _with(bits: str, hexfloat: str) -> str:
    return f"{bits} ({hexfloat})" if hexfloat else bits


def facts_text(facts: dict[str, str]) -> str:
    """``model AMD EPYC 7763, stepping 1``."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def words(cells: Iterable[Cell]) -> dict[str, int]:
    """Tests by the sweep's word, the worst word first; one of a later version before all."""
    counts = Counter(cell.word for cell in cells)
    return dict(sorted(counts.items(), key=lambda item: (word_rank(item[0]), item[0])))


def word_rank(word: str) -> int:
    """The worst word first; one of a later version before all."""
    return WORD_ORDER.index(word) if word in WORD_ORDER else -1


def swept_cells(report: Report) -> list[Cell]:
    """The cells that a sweep made; in a document of several tools the others have no family."""
    if report.sweep is None:
        return []
    return [c for c in report.cells if c.family or c.word in WORDS[SWEEP]]


def totals(sweep: Sweep) -> str:
    """``1,204,551 checks, 9.64 MB and 241 MFLOP compared``."""
    flops = f" and {quantity(sweep.flops, 'FLOP')}" if sweep.flops else ""
    return f"{counted(sweep.checks, 'check')}, {quantity(sweep.num_bytes, 'B')}{flops} compared"


def quantity(count: float, unit: str) -> str:
    """``9.64 MB``: three digits and a decimal prefix."""
    if not math.isfinite(count):
        return f"an unknown number of {unit}"
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}"


def compact(count: int) -> str:
    """``1.2 M`` for a small space."""
    return quantity(count, "").strip()


def facts_of_units(units: Sequence[SweptUnit]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What all units of one kind share, and for each what it does not."""
    if not units:
        return {}, []
    shared = {name: value for name, value in units[0].facts.items()
              if len(units) > 1 and all(u.facts.get(name) == value for u in units)}
    return shared, [{n: v for n, v in u.facts.items() if n not in shared} for u in units]


def weak_passes(cells: Iterable[Cell]) -> list[Cell]:
    """Passes that could not have seen a unit which is wrong the same way every time."""
    return [c for c in cells if c.verdict == CLEAN and oracle_of(c.oracle)[0] in ("self", "")]


@dataclass(frozen=True)
class TestRow:
    """A test on all units: ``parts`` are (word, units in words, reason)."""

    test: str
    checks: int
    verdict: str
    parts: tuple[tuple[str, str, str], ...]

    @property
    def text(self) -> str:
        """``FAIL on node-7/core 1; PASS on 3 units``."""
        return one_line("; ".join(f"{word} on {units}" + (f" ({reason})" if reason else "")
                                  for word, units, reason in self.parts))


def test_rows(cells: Iterable[Cell]) -> list[TestRow]:
    """Each test once, those with the worst word first.  Units of one host go without its name."""
    by_test: dict[str, list[Cell]] = {}
    hosts = set()
    for cell in cells:
        by_test.setdefault(cell.test, []).append(cell)
        hosts.add(host_and_name(cell.unit)[0])
    order = sorted(by_test, key=lambda t: (min(word_rank(c.word) for c in by_test[t]), t))
    rows = []
    for test in order:
        here = by_test[test]
        groups: dict[tuple[str, str], list[str]] = {}
        for cell in sorted(here, key=lambda c: word_rank(c.word)):
            groups.setdefault((cell.word, cell.reason), []).append(cell.unit)
        worst = min(here, key=lambda c: word_rank(c.word))
        parts = tuple((word, _named(units, is_one_host=len(hosts) < 2), reason)
                      for (word, reason), units in groups.items())
        rows.append(TestRow(test, sum(c.checks for c in here), worst.verdict, parts))
    return rows


def _named(units: Iterable[str], *, is_one_host: bool) -> str:
    """By name where they are few, ``node-7/core 3`` in a fleet: the list has commas of its own."""
    names = list(dict.fromkeys(
        name if is_one_host else f"{host}/{name}" if host else name
        for host, name in map(host_and_name, units)))
    if len(names) > MAX_NAMED_UNITS:
        return counted(len(names), "unit")
    return ", ".join(shortened(one_line(name), MAX_NAME_CHARS) for name in names)


def summary(report: Report, sweep: Sweep) -> list[str]:
    """The sweep in a few lines, for a head of a page or the end of a text."""
    cells = swept_cells(report)
    kinds = Counter(unit.kind for unit in sweep.units)
    lines = [f"{totals(sweep)}; seed {sweep.seed}; on "
             + (", ".join(counted(n, kind) for kind, n in kinds.items()) or "no unit")]
    if cells:
        lines.append(", ".join(f"{n:,} {word}" for word, n in words(cells).items()))
    weak = weak_passes(cells)
    if weak:
        lines.append(f"{counted(len(weak), 'pass', 'passes')} by self-comparison alone: "
                     + POWER["self"])
    missed = sorted(name for name, word in sweep.canaries.items() if word == "missed")
    if missed:
        lines.append(f"a planted wrong bit was not seen by {', '.join(missed)}: what these tests "
                     "say counts for nothing")
    if sweep.is_partial:
        lines.append("partial: the sweep ended before its time")
    if sweep.cursor:
        lines.append(f"the next short sweep goes on at {sweep.cursor}")
    return [one_line(line) for line in lines]
