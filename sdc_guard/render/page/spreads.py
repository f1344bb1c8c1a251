"""What the wrong elements of several findings have in common, added up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sdc_guard.records import Finding, Spread, Worst

_Key = TypeVar("_Key")
MAX_POWER = 1000
"""Of two, in an error or a bound in ulps; nothing of a float64 reaches it."""
MAX_BITS = 128


@dataclass(frozen=True)
class Total:
    """The sum of the spreads of ``num_findings`` findings in numbers of one ``dtype``.

    ``bounds_log2`` holds log2 of each finding's bound in ulps, where it is known.
    """

    dtype: str
    num_findings: int
    num_wrong: int
    num_elements: int
    num_not_finite: int
    bit_flips: tuple[int, ...]
    masks: tuple[tuple[str, int], ...]
    ulps_log2: tuple[tuple[int, int], ...]
    map_shape: tuple[int, int]
    map: dict[tuple[int, int], int]
    lanes: dict[int, tuple[int, ...]]
    bounds_log2: tuple[float, ...]


def dtype_of(finding: Finding) -> str:
    """The dtype that a finding's bits are of, "" where it is not known."""
    if finding.worst is not None:
        return finding.worst.got.dtype
    return finding.call.outputs[0].dtype if finding.call.outputs else ""


def total_of(findings: Iterable[Finding]) -> Total | None:
    """The sum over those findings that have a spread and the first one's dtype; None without any.

    Maps are added where their shape is that of the first.
    """
    with_spread = [(f, f.spread) for f in findings if f.spread is not None]
    if not with_spread:
        return None
    dtype = dtype_of(with_spread[0][0])
    chosen = [(f, s) for f, s in with_spread if dtype_of(f) == dtype]
    spreads = [s for _, s in chosen]
    shape = next((s.map_shape for s in spreads if s.map), (0, 0))
    bounds = [bound_log2(f.worst) for f, _ in chosen if f.worst is not None]
    return Total(
        dtype=dtype, num_findings=len(chosen),
        num_wrong=sum(f.pattern.num_wrong for f, _ in chosen if f.pattern is not None),
        num_elements=sum(f.pattern.num_elements for f, _ in chosen if f.pattern is not None),
        num_not_finite=sum(s.num_not_finite for s in spreads),
        bit_flips=_added([s.bit_flips for s in spreads]),
        masks=tuple(_counted(s.masks for s in spreads).most_common()),
        ulps_log2=tuple(sorted(_counted(s.ulps_log2 for s in spreads).items())),
        map_shape=shape, map=_map(spreads, shape), lanes=_lanes(spreads),
        bounds_log2=tuple(b for b in bounds if b is not None))


def bound_log2(worst: Worst) -> float | None:
    """log2 of the bound in ulps of the worst element; None where it cannot be told."""
    ulps, bound = worst.error_ulps, worst.bound
    if bound is None or not (ulps > 0 and math.isfinite(ulps)):
        return None
    error = number_of(worst.error.repr)
    if not (error > 0 and math.isfinite(error) and 0 < bound.limit < math.inf):
        return None
    power = math.log2(bound.limit) + math.log2(ulps) - math.log2(error)
    return power if abs(power) < MAX_POWER else None


def number_of(text: str) -> float:
    """A number as it is written in a record, NaN for anything else."""
    try:
        return abs(float(text))
    except ValueError:
        return math.nan


def _added(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    width = min(max(map(len, rows)), MAX_BITS)
    return tuple(sum(max(row[i], 0) for row in rows if i < len(row)) for i in range(width))


def _counted(pairs: Iterable[Iterable[tuple[_Key, int]]]) -> Counter[_Key]:
    counts: Counter[_Key] = Counter()
    for some in pairs:
        for key, count in some:
            counts[key] += max(count, 0)
    return counts


def _map(spreads: Sequence[Spread], shape: tuple[int, int]) -> dict[tuple[int, int], int]:
    cells: Counter[tuple[int, int]] = Counter()
    for spread in spreads:
        if spread.map_shape == shape:
            for row, column, count in spread.map:
                if 0 <= row < shape[0] and 0 <= column < shape[1] and count > 0:
                    cells[row, column] += count
    return cells


def _lanes(spreads: Sequence[Spread]) -> dict[int, tuple[int, ...]]:
    widths = {name: int(name) for s in spreads for name in s.lanes
              if name.isascii() and name.isdigit() and len(name) <= 3 and 1 < int(name) <= MAX_BITS}
    return {width: _added([s.lanes.get(name, ())[:width] for s in spreads])
            for name, width in sorted(widths.items(), key=lambda item: item[1])}
