"""Coverage of many guards added up to one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sdc_guard.records import Coverage, OpCoverage

_COUNTED = ("calls", "calls_checked", "elements", "elements_checked", "flops", "flops_checked")
_NUMBERS = ("steps", "steps_skipped", "steps_unwatched", "guard_errors")


class Totals:
    """What all tests of this process covered."""

    def __init__(self) -> None:
        self._ops: dict[str, Counter[str]] = {}
        self._witnesses: dict[str, Counter[str]] = {}
        self._not_tested: dict[str, Counter[str]] = {}
        self._words: dict[str, set[str]] = {"gaps": set(), "dead_witnesses": set(),
                                            "refused_relations": set()}
        self._numbers: Counter[str] = Counter()
        self._seconds = {"overhead_s": 0.0, "elapsed_s": 0.0}

    def add(self, coverage: Coverage) -> None:
        for op in coverage.ops:
            counts = self._ops.setdefault(op.op, Counter())
            counts.update({name: getattr(op, name) for name in _COUNTED})
            self._witnesses.setdefault(op.op, Counter()).update(op.witnesses)
            self._not_tested.setdefault(op.op, Counter()).update(op.not_tested)
        for name, words in self._words.items():
            words.update(getattr(coverage, name))
        for name in self._seconds:
            self._seconds[name] += getattr(coverage, name)
        self._numbers.update({name: getattr(coverage, name) for name in _NUMBERS})

    def add_errors(self, num_errors: int) -> None:
        """Failures of what surrounds the guards."""
        self._numbers["guard_errors"] += num_errors

    def coverage(self) -> Coverage:
        return Coverage(
            ops=tuple(self._op(name) for name in sorted(self._ops)),
            gaps=_sorted(self._words["gaps"]),
            dead_witnesses=_sorted(self._words["dead_witnesses"]),
            refused_relations=_sorted(self._words["refused_relations"]),
            overhead_s=self._seconds["overhead_s"],
            elapsed_s=self._seconds["elapsed_s"],
            **{name: self._numbers[name] for name in _NUMBERS},
        )

    def _op(self, name: str) -> OpCoverage:
        counts = self._ops[name]
        return OpCoverage(op=name, **{field: counts[field] for field in _COUNTED},
                          witnesses=dict(self._witnesses[name]),
                          not_tested=dict(self._not_tested[name]))


def _sorted(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(words))
