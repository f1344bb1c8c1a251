"""Matrix units in software: blocks of products aligned, cut off and added, in exact integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sdc_guard.bounds.accumulators import AccumulatorModel

SCALE = 320
"""Numbers are integers times 2^-SCALE."""


def scaled(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return (numerator << SCALE) // denominator


def exponent_of(value: int) -> int:
    """Of the leading bit of a scaled number that is not 0."""
    return abs(value).bit_length() - 1 - SCALE


@dataclass(frozen=True)
class BlockAdder:
    """A unit of this ``model``.

    Attributes:
        emin: smallest exponent with which an operand enters the alignment.
        floors: terms are cut off towards minus infinity, as in two's complement.
        splits: the places are shared out to this many accumulators, which are added in fp32.
    """

    model: AccumulatorModel
    emin: int = -200
    floors: bool = False
    splits: int = 1

    def dot(self, terms: Sequence[tuple[int, float, float]], length: int) -> float:
        """The sum of ``a b`` over (place, a, b); all other places hold zeros."""
        share = -(-length // self.splits)
        parts = []
        for first in range(0, length, share):
            parts.append(self._chain([t for t in terms if first <= t[0] < first + share], first,
                                     min(length, first + share)))
        total = parts[0]
        for part in parts[1:]:
            total = fitted(total + part, 24, truncates=False)
        return float(Fraction(total, 1 << SCALE))

    def _chain(self, terms: Sequence[tuple[int, float, float]], first: int, last: int) -> int:
        blocks: dict[int, list[tuple[float, float]]] = {}
        for place, a, b in terms:
            if a and b:
                blocks.setdefault((place - first) // self.model.block, []).append((a, b))
        total = 0
        width = self.model.width
        # An accumulator wider than the alignment is cut off again by a step that adds nothing.
        for block in range(-(-(last - first) // self.model.block)):
            if block in blocks or (width is not None and width < self.model.precision - 1):
                total = self._step(total, blocks.get(block, []))
        return total

    def _step(self, total: int, pairs: list[tuple[float, float]]) -> int:
        terms = [(self._exponent(a) + self._exponent(b), scaled(a) * scaled(b) >> SCALE)
                 for a, b in pairs]
        if total:
            terms.append((max(exponent_of(total), -126), total))
        if not terms:
            return 0
        if self.model.width is None:
            summed = sum(value for _, value in terms)
        else:
            low = max(e for e, _ in terms) - self.model.width + SCALE
            summed = sum(self._cut(value, low) for _, value in terms)
        return fitted(summed, self.model.precision, truncates=self.model.truncates)

    def _exponent(self, operand: float) -> int:
        return max(math.frexp(operand)[1] - 1, self.emin)

    def _cut(self, value: int, low: int) -> int:
        if self.floors or value >= 0:
            return (value >> low) << low
        return -((-value >> low) << low)


def fitted(value: int, precision: int, *, truncates: bool) -> int:
    """A scaled number with ``precision`` bits, in the range of fp32."""
    if value == 0:
        return 0
    low = max(exponent_of(value) - precision + 1, -149) + SCALE
    if low <= 0:
        return value
    size, rest = abs(value) >> low, abs(value) & ((1 << low) - 1)
    if not truncates and (2 * rest, size & 1) > (1 << low, 0):
        size += 1
    return (size << low) * (1 if value > 0 else -1)


def unit(
    precision: int, extra_bits: int | None, block: int, *, truncates: bool = True
) -> BlockAdder:
    return BlockAdder(AccumulatorModel(precision, extra_bits, block, truncates))


UNITS = {
    **{f"cut, {x} extra bits, blocks of {b}": unit(24, x, b)
       for x in (0, 1, 2, 3) for b in (1, 4, 8, 16)},
    "fp8: 14 bits": unit(14, 0, 32),
    "fp8: aligned to 14 bits, 24 in the accumulator": unit(24, -10, 32),
    **{f"rounded, exact, blocks of {b}": unit(24, None, b, truncates=False) for b in (1, 4, 16)},
    "rounded, no extra bit, blocks of 4": unit(24, 0, 4, truncates=False),
    "rounded, 2 extra bits, blocks of 8": unit(24, 2, 8, truncates=False),
    "cut, exact, blocks of 8": unit(24, None, 8),
}
"""As in the literature, and others."""
