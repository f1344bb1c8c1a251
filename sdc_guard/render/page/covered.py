"""What was checked and what was not, over all runs of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdc_guard.document.schema import Report
from sdc_guard.records import OpCoverage
from sdc_guard.render.page.text import percent


@dataclass(frozen=True)
class OpRow:
    """An operator over all runs."""

    op: str
    calls: int
    calls_checked: int
    flops: int
    flops_checked: int
    witnesses: dict[str, int]
    not_tested: dict[str, int]

    @property
    def share(self) -> float:
        return self.calls_checked / self.calls if self.calls else 0.0

    @property
    def share_words(self) -> str:
        return percent(self.calls_checked, self.calls)

    @property
    def flop_words(self) -> str:
        return percent(self.flops_checked, self.flops)


@dataclass(frozen=True)
class ReasonRow:
    """A reason why calls were not tested, with the operators that it met most."""

    reason: str
    calls: int
    ops: list[str]


@dataclass(frozen=True)
class Covered:
    """``ops`` by unchecked calls, most first; the ``num_more`` counts did not fit."""

    ops: tuple[OpRow, ...]
    num_ops: int
    num_more_ops: int
    reasons: tuple[ReasonRow, ...]
    num_more_reasons: int
    gaps: tuple[str, ...]
    dead: tuple[str, ...]
    refused: tuple[str, ...]
    guard_errors: int
    steps_skipped: int


def covered_of(report: Report, *, max_rows: int) -> Covered | None:
    """The sum over all runs; None where no run tells what it covered."""
    coverages = report.coverages
    if not coverages:
        return None
    by_op: dict[str, list[OpCoverage]] = {}
    for coverage in coverages:
        for op in coverage.ops:
            by_op.setdefault(op.op, []).append(op)
    rows = sorted((_row(name, ops) for name, ops in by_op.items()),
                  key=lambda r: (r.calls_checked - r.calls, -r.calls, r.op))
    reasons = _reasons(rows)
    return Covered(
        ops=tuple(rows[:max_rows]), num_ops=len(rows), num_more_ops=max(0, len(rows) - max_rows),
        reasons=tuple(reasons[:max_rows]), num_more_reasons=max(0, len(reasons) - max_rows),
        gaps=_texts(c.gaps for c in coverages)[:max_rows],
        dead=_texts(c.dead_witnesses for c in coverages)[:max_rows],
        refused=_texts(c.refused_relations for c in coverages)[:max_rows],
        guard_errors=sum(c.guard_errors for c in coverages),
        steps_skipped=sum(c.steps_skipped for c in coverages))


def _row(name: str, ops: Sequence[OpCoverage]) -> OpRow:
    return OpRow(
        op=name, calls=sum(o.calls for o in ops), calls_checked=sum(o.calls_checked for o in ops),
        flops=sum(o.flops for o in ops), flops_checked=sum(o.flops_checked for o in ops),
        witnesses=_summed([o.witnesses for o in ops]),
        not_tested=_summed([o.not_tested for o in ops]))


def _summed(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return dict(total.most_common())


def _reasons(rows: Sequence[OpRow]) -> list[ReasonRow]:
    found: dict[str, Counter[str]] = {}
    for row in rows:
        for reason, count in row.not_tested.items():
            found.setdefault(reason, Counter())[row.op] += count
    reasons = [ReasonRow(reason, ops.total(), [op for op, _ in ops.most_common()])
               for reason, ops in found.items()]
    return sorted(reasons, key=lambda r: (-r.calls, r.reason))


def _texts(groups: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The distinct texts, as first met."""
    return tuple(dict.fromkeys(text for group in groups for text in group))
