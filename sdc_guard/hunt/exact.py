"""The right value of one element, from exact arithmetic that shares nothing with torch.

This is what a finding is checked by before anybody is told of it, and what a script and an issue
text call ``expected``: neither our bounds nor our float64 references come into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, resolved
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.exact_copies import copied
from sdc_guard.hunt.exact_lines import along
from sdc_guard.hunt.exact_numbers import Number, Reader, is_readable, rounded, told, wrapped
from sdc_guard.hunt.exact_pointwise import pointwise

CONFIRMED, CONTRADICTED, UNKNOWN = "confirmed", "contradicted", "not available"


@dataclass(frozen=True, slots=True)
class Exact:
    """``value`` is the exact result, ``nearest`` the number of the result's dtype next to it (the
    correctly rounded one); ``error`` is the distance of what was got from the nearer of the two,
    so 0 for a correctly rounded result, and infinite where one is no finite number and the other
    something else."""

    value: Number
    nearest: Number
    got: Number
    error: Number

    @property
    def text(self) -> str:
        """The digits of the exact value."""
        return told(self.value)

    def breaks(self, limit: float) -> bool:
        """True if what was got is further off than ``limit``."""
        return self.error > limit


def exact_element(call: BoundCall, held: Tensor, output: int, index: tuple[int, ...]
                  ) -> Exact | None:
    """The exact value of element ``index`` of flat result ``output``; None where the operator, its
    form or its dtypes are not known here."""
    tensors = [t for _, t in call.tensors()]
    if not all(is_readable(t.dtype) for t in (held, *tensors)):
        return None
    call = resolved(call)
    try:
        value = copied(call, index)
        if value is None:
            value = along(call, output, index)
        if value is None and not output:
            value = pointwise(call, held.dtype, index)
    except (OverflowError, ValueError, IndexError, TypeError):
        return None  # a form of the call that is not foreseen: nothing is said of it
    if value is None:
        return None
    value = wrapped(value, held.dtype)
    nearest = rounded(value, format_of(held.dtype)) if is_covered_float(held.dtype) else value
    got = Reader(held)[index]
    return Exact(value, nearest, got, _error(got, value, nearest))


def _error(got: Number, value: Number, nearest: Number) -> Number:
    if isinstance(got, Fraction) and isinstance(value, Fraction):
        return min(abs(got - value), abs(got - nearest)) if isinstance(
            nearest, Fraction) else abs(got - value)
    is_equal = got == nearest or (got != got and nearest != nearest)
    return Fraction(0) if is_equal else math.inf


def checked(divergence: Divergence) -> tuple[str, Exact | None]:
    """``confirmed``, ``contradicted`` or ``not available``, and the value.

    A wrong number is confirmed where its distance from the exact value is more than the limit that
    it was found to break (0 for exact results), and contradicted where it is not.
    """
    seen, worst = divergence.observation, divergence.worst
    if seen is None or worst is None:
        return UNKNOWN, None
    held: Any = seen.held[worst.output]
    if held is None or not bits.has_numbers(held.dtype):
        return UNKNOWN, None
    found = exact_element(seen.call, held, worst.output, worst.index)
    if found is None:
        return UNKNOWN, None
    limit = worst.bound.limit if worst.bound is not None else 0.0
    return (CONFIRMED if found.breaks(limit) else CONTRADICTED), found
