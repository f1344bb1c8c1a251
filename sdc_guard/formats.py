"""Floating-point formats: unit roundoff, exponent range, ulp.

``u`` is the unit roundoff 2^-p of a format with p significand bits (Higham 2002, section 2.1):
fp64 2^-53, fp32 2^-24, fp16 2^-11, bf16 2^-8.  ``tiny`` is the smallest positive normal number,
``eta`` the smallest positive subnormal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sdc_guard.errors import UsageError


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format with ``precision`` significand bits (hidden bit included)."""

    name: str
    precision: int
    emin: int
    emax: int

    @property
    def u(self) -> float:
        """Unit roundoff, 2^-p: the relative error of one rounding to nearest."""
        return 2.0**-self.precision

    @property
    def tiny(self) -> float:
        return 2.0**self.emin

    @property
    def eta(self) -> float:
        """Smallest positive subnormal; half of it bounds a rounding that underflows."""
        return 2.0 ** max(self.emin - self.precision + 1, -1074)

    @property
    def max(self) -> float:
        return (2.0 - 2.0 ** (1 - self.precision)) * 2.0**self.emax

    def ulp(self, value: np.ndarray) -> np.ndarray:
        """Spacing of the format's numbers at ``|value|`` (float64 array, any shape).

        Infinite and NaN values have the spacing of the largest finite number.
        """
        magnitude = np.abs(np.nan_to_num(value, nan=self.max, posinf=self.max, neginf=self.max))
        _, exponent = np.frexp(np.clip(magnitude, self.tiny, self.max))
        smallest = self.emin - self.precision + 1
        return np.asarray(np.ldexp(1.0, np.maximum(exponent - self.precision, smallest)))


FLOAT64 = Format("float64", 53, -1022, 1023)
FLOAT32 = Format("float32", 24, -126, 127)
TFLOAT32 = Format("tfloat32", 11, -126, 127)
FLOAT16 = Format("float16", 11, -14, 15)
BFLOAT16 = Format("bfloat16", 8, -126, 127)

_BY_DTYPE: dict[torch.dtype, Format] = {
    torch.float64: FLOAT64,
    torch.float32: FLOAT32,
    torch.float16: FLOAT16,
    torch.bfloat16: BFLOAT16,
}
_PARTS: dict[torch.dtype, torch.dtype] = {
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


def format_of(dtype: torch.dtype) -> Format:
    """The format of a real floating dtype, or of either part of a complex one.

    Raises:
        UsageError: for any other dtype; ask :func:`is_covered_float` first.
    """
    try:
        return _BY_DTYPE[_PARTS.get(dtype, dtype)]
    except KeyError:
        known = ", ".join(str(d).removeprefix("torch.") for d in _BY_DTYPE)
        raise UsageError(f"no floating-point format is known for {dtype}; known: {known}") from None


def is_covered_float(dtype: torch.dtype) -> bool:
    """True for the dtypes that :func:`format_of` knows."""
    return dtype in _BY_DTYPE


def is_covered_complex(dtype: torch.dtype) -> bool:
    """True for the complex dtypes whose parts have such a format."""
    return dtype in _PARTS


def part_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the parts of a complex dtype; any other dtype itself."""
    return _PARTS.get(dtype, dtype)


def accumulator_of(dtype: torch.dtype) -> Format:
    """The format in which torch accumulates sums and products of ``dtype`` on CPU and CUDA:
    fp32 for the two half formats, else the format itself (``acc_type`` in ATen)."""
    own = format_of(dtype)
    return FLOAT32 if own.precision < FLOAT32.precision else own
