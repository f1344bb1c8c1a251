"""Small tests of a sweep: one with answers that are known, one that only repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from sdc_guard.sweep.declared import CORE, Case, Made, Oracle, Place, SweepTest
from sdc_guard.sweep.exact import encode, tensor_of

CORE_0 = Place(kind=CORE, name="core 0", device="cpu")
SIZE = 260


def _make(
    dtype: str, is_known: bool, key: str, random: np.random.Generator, place: Place
) -> Made:
    bits = encode(random.integers(-100, 100, SIZE), dtype)
    source = tensor_of(bits, dtype)
    return Made(run=lambda: (source.clone(),), expected=(bits,) if is_known else None,
                inputs=(bits,), golden_key=key)


def small_test(name: str, *, is_known: bool, key: str = "") -> SweepTest:
    """Copies of integers in two formats."""
    def cases(place: Place) -> Sequence[Case]:
        return [Case(label=dtype, op=f"copy {dtype}", dtype=dtype, shape=(SIZE,),
                     make=partial(_make, dtype, is_known, key and f"{key} {dtype}"))
                for dtype in ("float32", "bfloat16")]

    return SweepTest(
        name=name, family="F1" if is_known else "F3",
        oracles=(Oracle.EXACT if is_known else Oracle.SELF,), kinds=(CORE,), blames="core",
        dtypes=("float32", "bfloat16"), dwell_s=1.0, proves="Copies are copies.",
        cannot_prove="Anything else.", cases=cases)
