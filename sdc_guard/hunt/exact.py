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
from sdc_guard.hunt.divergence import OUTSIDE, Divergence
from sdc_guard.hunt.exact_copies import copied
from sdc_guard.hunt.exact_factors import factors_miss
from sdc_guard.hunt.exact_lines import along
from sdc_guard.hunt.exact_losses import lost
from sdc_guard.hunt.exact_norms import normalised
from sdc_guard.hunt.exact_numbers import Number, Reader, is_readable, rounded, told, wrapped
from sdc_guard.hunt.exact_pointwise import pointwise
from sdc_guard.hunt.exact_resizes import resized
from sdc_guard.hunt.exact_scatters import scattered
from sdc_guard.hunt.exact_windows import windowed
from sdc_guard.records import Observation, Worst

CONFIRMED, CONTRADICTED, UNKNOWN = "confirmed", "contradicted", "not available"
BY_BITS = "memory beside the results was compared bit for bit"
"""What stands for a number where none was computed: guard values were there, and are not."""
BY_COUNT = "a count is a whole number, at least 0, and 0 where the rate is 0"
"""What stands for a number where many are right: the definition that this one does not meet."""
BY_PRODUCT = "the parts, multiplied in rational arithmetic, miss the matrix by more than that"
"""What stands for a number where parts of a matrix are judged by their product."""
WITHOUT_A_NUMBER = frozenset({BY_BITS, BY_COUNT, BY_PRODUCT})
_DRAWN = "draws are counts"
_FAMILIES = (scattered, along, windowed, resized, normalised, lost)


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
        """The digits of the exact value; of one that is too small for its dtype, what it rounds
        to: how small it is may not be known."""
        return "0, rounded" if self.value and not self.nearest else told(self.value)

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
            known = (find(call, output, index) for find in _FAMILIES)
            value = next((v for v in known if v is not None), None)
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
    it was found to break (0 for exact results), and contradicted where it is not.  Memory beside
    the results that was overwritten is confirmed as it is seen, bit for bit, a drawn count by what
    a count is, and parts of a matrix by their product; none of them has a value.
    """
    if divergence.formula == OUTSIDE:
        return CONFIRMED, None
    seen, worst = divergence.observation, divergence.worst
    if seen is None or worst is None:
        return UNKNOWN, None
    held: Any = seen.held[worst.output]
    if held is None or not bits.has_numbers(held.dtype):
        return UNKNOWN, None
    if divergence.formula == _DRAWN:
        return _counted(seen.call, held, worst.index), None
    limit = worst.bound.limit if worst.bound is not None else 0.0
    if seen.call.form.packet == "aten.linalg_lu":
        return _multiplied(seen, worst, limit), None
    found = exact_element(seen.call, held, worst.output, worst.index)
    if found is None:
        return UNKNOWN, None
    return (CONFIRMED if found.breaks(limit) else CONTRADICTED), found


def _counted(call: BoundCall, held: Tensor, index: tuple[int, ...]) -> str:
    """Whether a draw of Poisson's distribution is what such draws are; one that is too large for
    its format is infinite."""
    if call.form.packet != "aten.poisson" or not is_readable(held.dtype):
        return UNKNOWN
    drawn, rate = Reader(held)[index], Reader(call["self"]).broadcast(index)
    is_whole = drawn == math.inf or (isinstance(drawn, Fraction) and drawn.denominator == 1)
    is_right = is_whole and drawn >= 0 and (drawn == 0 or rate != 0)
    return CONTRADICTED if is_right else CONFIRMED


def _multiplied(seen: Observation, worst: Worst, limit: float) -> str:
    """Whether the parts of a matrix miss it."""
    if worst.bound is None or not all(
            is_readable(t.dtype) for t in (*seen.held, seen.call["A"]) if t is not None):
        return UNKNOWN
    call = resolved(seen.call)
    misses = factors_miss(call, seen.held, worst.index[:-2], limit)
    return UNKNOWN if misses is None else CONFIRMED if misses else CONTRADICTED


def text_of(divergence: Divergence, said: str, exact: Exact | None) -> str:
    """What stands behind the word that :func:`checked` said: the digits of the exact value, or
    one of :data:`WITHOUT_A_NUMBER`; empty for ``not available``."""
    if exact is not None:
        return exact.text
    if said != CONFIRMED:
        return ""
    return {OUTSIDE: BY_BITS, _DRAWN: BY_COUNT}.get(divergence.formula, BY_PRODUCT)
