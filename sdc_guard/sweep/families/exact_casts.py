"""F12: casts, over every value of the 16-bit formats, and from float32 at every exponent with the
ties of the target's rounding.  Expected bits come from integers (``sweep/exact_casts.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sdc_guard.sweep.declared import (
    CORE,
    GPU,
    HOST,
    Bits,
    Case,
    Made,
    Oracle,
    Place,
    SweepTest,
)
from sdc_guard.sweep.exact import LAYOUTS, UNSIGNED, encode, encode_integers, tensor_of
from sdc_guard.sweep.exact_casts import cast, decode, truncated
from sdc_guard.sweep.families._exact_case import Make, exact

SIXTEEN = ("bfloat16", "float16")
EIGHT = ("float8_e4m3fn", "float8_e5m2")
LARGEST = {"float8_e4m3fn": 448, "int8": 2**7 - 1, "int16": 2**15 - 1, "int32": 2**31 - 1,
           "int64": 2**61}
VALUE_BITS = {"int64": 62, "int32": 31, "int16": 15, "int8": 7}
PER_EXPONENT, PER_LENGTH = 32, 512
SIZES = {**dict.fromkeys(SIXTEEN, 1 << 16), **dict.fromkeys(EIGHT, 1 << 8),
         "float32": 2 * 255 * PER_EXPONENT, "float64": 1 << 14,
         **{name: bits * PER_LENGTH for name, bits in VALUE_BITS.items()}}
"""Numbers cast from each format."""


def all_patterns(dtype: str) -> Bits:
    """Every bit pattern of a format of at most 16 bits."""
    num_bits = LAYOUTS[dtype].num_bits
    return np.arange(1 << num_bits, dtype=np.uint64).astype(UNSIGNED[num_bits // 8])


def all_exponents(random: np.random.Generator, target: str) -> Bits:
    """float32 patterns at every exponent, subnormals too, of either sign: fractions drawn, and
    those around the ties of ``target``."""
    fractions = random.integers(0, 1 << 23, (255, PER_EXPONENT), dtype=np.uint32)
    cut = 24 - LAYOUTS[target].precision
    if cut > 0:
        # Exactly half way, one less and one more, above an even and an odd kept fraction.
        tie = (fractions[:, :12] >> np.uint32(cut) << np.uint32(cut)) | np.uint32(1 << (cut - 1))
        tie[:, 1::3] -= np.uint32(1)
        tie[:, 2::3] += np.uint32(1)
        fractions[:, :12] = tie
        fractions[:, 12] = (1 << 23) - 1  # carries into the next binade
    fields = np.arange(255, dtype=np.uint32)[:, None] << np.uint32(23)
    bits = (fields | fractions).reshape(-1)
    return np.concatenate([bits, bits | np.uint32(1 << 31)])


def within(bits: Bits, dtype: str, largest: int | None, *, is_integer: bool = False) -> Bits:
    """The patterns, +0 in the place of those whose numbers no cast defines: NaNs, and what may be
    larger than ``largest``."""
    parts = decode(bits, dtype)
    is_defined = ~parts.is_nan
    if largest is not None:
        limit = largest.bit_length() if is_integer else largest.bit_length() - 1
        length = np.where(parts.size > 0, parts.exponent + LAYOUTS[dtype].precision, 0)
        # Numbers below 2^limit: all are in range, whatever their rounding.
        is_defined &= (length <= limit) & ~parts.is_infinite
    return np.where(is_defined, bits, bits.dtype.type(0))


def _made(bits: Bits, source: str, target: str, expected: Bits, place: Place) -> Made:
    held: Tensor = tensor_of(bits, source, place.device)
    to: torch.dtype = getattr(torch, target)
    return exact(lambda: (held.to(to),), (expected,), (bits,))


def _between_floats(
    source: str, target: str, random: np.random.Generator, place: Place
) -> Made:
    whole = all_exponents(random, target) if source == "float32" else all_patterns(source)
    bits = within(whole, source, LARGEST.get(target))
    return _made(bits, source, target, cast(bits, source, target), place)


def _to_integer(source: str, target: str, random: np.random.Generator, place: Place) -> Made:
    whole = all_exponents(random, "float32") if source == "float32" else all_patterns(source)
    bits = within(whole, source, LARGEST[target], is_integer=True)
    return _made(bits, source, target, encode_integers(truncated(bits, source), target), place)


def _narrowed(random: np.random.Generator, place: Place) -> Made:
    """float64 to float32: drawn numbers, and ties of float32's rounding."""
    size = random.integers(1 << 52, 1 << 53, SIZES["float64"], dtype=np.int64)
    size[::2] = size[::2] >> 29 << 29 | 1 << 28
    exponent = random.integers(-210, 80, size.shape, dtype=np.int64)
    bits = encode(np.where(random.integers(0, 2, size.shape) > 0, size, -size), "float64", exponent)
    return _made(bits, "float64", "float32", cast(bits, "float64", "float32"), place)


def _from_integer(source: str, target: str, random: np.random.Generator, place: Place) -> Made:
    """Integers of every length; those longer than the format's precision round."""
    limit = VALUE_BITS[source]
    values = random.integers(-(1 << limit), 1 << limit, (limit, PER_LENGTH), dtype=np.int64)
    values >>= np.arange(limit)[:, None]
    values[:, ::4] |= 1
    bits = encode_integers(values.reshape(-1), source)
    return _made(bits, source, target, encode_integers(values.reshape(-1), target), place)


def _nans(source: str, target: str, random: np.random.Generator, place: Place) -> Made:
    """NaNs stay NaNs, whatever their payload; all other patterns stay numbers."""
    bits = all_patterns(source)
    held = tensor_of(bits, source, place.device)
    to: torch.dtype = getattr(torch, target)
    expected = decode(bits, source).is_nan.astype(np.uint8)
    return exact(lambda: (torch.isnan(held.to(to)).view(torch.uint8),), (expected,), (bits,))


def _case(label: str, source: str, target: str, make: Make, dtype: str = "") -> Case:
    return Case(label=label, op="aten._to_copy", dtype=dtype or target, shape=(SIZES[source],),
                make=make)


def cases(place: Place) -> Sequence[Case]:
    """Exhaustive from 16 and 8 bits, at all exponents from float32, ties from float64, integers
    both ways."""
    found: list[Case] = []
    pairs = [(s, t) for s in SIXTEEN for t in (*SIXTEEN, "float32", "float64", *EIGHT) if s != t]
    pairs += [(s, t) for s in EIGHT for t in ("float32", *SIXTEEN)]
    for source, target in pairs:
        found.append(_case(f"every {source} to {target}", source, target,
                           partial(_between_floats, source, target)))
    found += [_case(f"float32 at every exponent to {target}", "float32", target,
                    partial(_between_floats, "float32", target))
              for target in (*SIXTEEN, "float64", *EIGHT)]
    found.append(_case("float64 to float32 with ties", "float64", "float32", _narrowed))
    found += [_case(f"every {s} in range to {t}", s, t, partial(_to_integer, s, t))
              for s in SIXTEEN for t in ("int8", "int16", "int32", "int64")]
    found += [_case(f"float32 at every exponent to {t}", "float32", t,
                    partial(_to_integer, "float32", t)) for t in ("int32", "int64")]
    found += [_case(f"{s} of every length to {t}", s, t, partial(_from_integer, s, t))
              for s, t in (("int64", "float64"), ("int64", "float32"), ("int32", "float32"),
                           ("int32", "float64"), ("int16", "bfloat16"), ("int16", "float16"),
                           ("int8", "bfloat16"), ("int8", "float16"))]
    found += [_case(f"NaNs of {s} in {t}", s, t, partial(_nans, s, t), "uint8")
              for s, t in (("bfloat16", "float32"), ("float16", "float32"),
                           ("bfloat16", "float16"), ("float16", "bfloat16"))]
    return found


TESTS = (SweepTest(
    name="exact_casts", family="F12", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU",
    dtypes=("float64", "float32", *SIXTEEN, *EIGHT, "int64", "int32", "int16", "int8"),
    dwell_s=1.0,
    proves="Every value of the 16-bit and 8-bit formats, and float32 numbers at every exponent "
    "with the ties of rounding, was converted to the bits that integer arithmetic gives.",
    cannot_prove="Of the 32-bit and 64-bit values a sample was converted; payloads of NaNs are not "
    "compared, since no standard decides them.",
    cases=cases),)
