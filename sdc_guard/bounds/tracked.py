"""Numbers with an error: running error analysis of a formula, elementwise.

A :class:`Tracked` holds the exact value ``x`` of an expression (float64) and a bound ``e`` on how
far a kernel's value may be from it.  With ``fl(a op b) = (a op b)(1 + d) + t``, ``|d| <= u``,
``|t| <= eta / 2`` (Higham 2002, section 2.2, underflow included; section 3.3, running error
analysis):

    e(a + b) = e_a + e_b + r,                    r = u (|result| + e) + eta / 2, the rounding,
    e(a b)   = |a| e_b + |b| e_a + e_a e_b + r,
    e(a / b) = (e_a + |a/b| e_b) / (|b| - e_b) + r,    infinite where e_b >= |b|,
    e(sqrt a) = min(e_a / sqrt(a), sqrt(e_a)) + 2 r    (a kernel's root may err by an ulp).

Where ``|x| + e`` is beyond the format's largest number a kernel may have an infinity, and e is
infinite: a gradient of 1e20 has a square of infinity in fp32, and a step of 0.

A fused multiply-add only drops a rounding.  The reference's own float64 rounding is covered because
u is that of the computing format plus 2^-52, and a whole eta stands for an underflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.formats import FLOAT64, Format

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tracked:
    """An exact value, a bound on a kernel's error in it, and the format that the kernel computes
    in."""

    value: Array
    error: Array
    fmt: Format

    @classmethod
    def exact(cls, value: Any, fmt: Format) -> Tracked:
        """An operand that the format holds."""
        array = np.asarray(value, dtype=np.float64)
        return cls(array, np.zeros_like(array), fmt)

    @classmethod
    def scalar(cls, value: float, fmt: Format) -> Tracked:
        """A Python number, rounded to the format on its way into the kernel."""
        array = np.asarray(value, dtype=np.float64)
        return cls(array, np.abs(array) * fmt.u, fmt)

    def _rounded(self, value: Array, error: Array, count: int = 1) -> Tracked:
        u = self.fmt.u + 2 * FLOAT64.u
        rounding = u * (np.abs(value) + error) + self.fmt.eta
        return Tracked(value, _unless_overflow(value, error + count * rounding, self.fmt), self.fmt)

    def __neg__(self) -> Tracked:
        return Tracked(-self.value, self.error, self.fmt)

    def __add__(self, other: Tracked) -> Tracked:
        return self._rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other: Tracked) -> Tracked:
        return self + -other

    def __mul__(self, other: Tracked) -> Tracked:
        a, b = np.abs(self.value), np.abs(other.value)
        error = a * other.error + b * self.error + self.error * other.error
        return self._rounded(self.value * other.value, error)

    def __truediv__(self, other: Tracked) -> Tracked:
        quotient = self.value / other.value
        room = np.abs(other.value) - other.error
        error = (self.error + np.abs(quotient) * other.error) / np.where(room > 0, room, np.nan)
        return self._rounded(quotient, np.where(room > 0, error, np.inf))

    def sqrt(self) -> Tracked:
        """Square root, within an ulp."""
        root = np.sqrt(self.value)
        error = np.minimum(self.error / np.where(root > 0, root, np.nan), np.sqrt(self.error))
        return self._rounded(root, np.where(root > 0, error, np.sqrt(self.error)), 2)

    def maximum(self, other: Tracked) -> Tracked:
        """The larger one: exact but for its operands' errors."""
        return Tracked(np.maximum(self.value, other.value), np.maximum(self.error, other.error),
                       self.fmt)

    def stored(self, fmt: Format) -> Tracked:
        """The value after rounding to a narrower format."""
        if fmt.precision >= self.fmt.precision:
            return self
        rounding = fmt.u * (np.abs(self.value) + self.error) + 0.5 * fmt.eta
        return Tracked(self.value, _unless_overflow(self.value, self.error + rounding, fmt),
                       self.fmt)


def _unless_overflow(value: Array, error: Array, fmt: Format) -> Array:
    """The error; infinite where the kernel's value may be."""
    return np.where(np.abs(value) + error <= fmt.max, error, np.inf)
