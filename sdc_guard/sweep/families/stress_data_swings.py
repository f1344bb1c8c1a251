"""F8: products of zeros, which toggle no bit, in turn with products of full mantissas: the data
alone move the power of a matrix product by up to 40 % (Gregersen et al., SC24 workshops)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import cycle

import numpy as np
import torch

from sdc_guard.sweep.declared import (
    CORE,
    GPU,
    HOST,
    Case,
    Made,
    Oracle,
    Pace,
    Place,
    SweepTest,
)
from sdc_guard.sweep.exact import UNSIGNED
from sdc_guard.sweep.families._borrowed import PRODUCTS, in_turn
from sdc_guard.sweep.families._exact_case import exact
from sdc_guard.sweep.families.exact_product import multiply

DTYPES = ("float32", "bfloat16", "float64", "float16")
SIZE_CORE, SIZE_GPU = 256, 2048
SWING_S = 0.02


def _zeros(dtype: str, size: int, random: np.random.Generator, place: Place) -> Made:
    kind: torch.dtype = getattr(torch, dtype)
    a = torch.zeros(size, size, dtype=kind, device=place.device)
    run = multiply(dtype)
    expected = np.zeros((size, size), UNSIGNED[kind.itemsize])
    return exact(lambda: (run(a, a),), (expected,), flops=2 * size**3)


def cases(place: Place) -> Sequence[Case]:
    """Light, heavy, light, heavy."""
    size = SIZE_GPU if place.kind == GPU else SIZE_CORE
    heavy = in_turn(PRODUCTS, place, 12)
    found = []
    for number, (case, dtype) in enumerate(zip(heavy, cycle(DTYPES), strict=False)):
        found += [Case(label=f"zeros {number} {dtype} {size}x{size}x{size}", op="aten.mm",
                       dtype=dtype, shape=(size, size), make=partial(_zeros, dtype, size)), case]
    return found


TESTS = (SweepTest(
    name="stress_data_swings", family="F8", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU",
    dtypes=tuple(dict.fromkeys((*DTYPES, *(d for t in PRODUCTS for d in t.dtypes)))), dwell_s=5.0,
    proves="Products were right to the bit while light and heavy data took turns every 20 ms.",
    cannot_prove="How far the power swings is not measured here; sensors beside a failure show "
    "what the system reports.",
    cases=cases, pace=Pace(busy_s=SWING_S, does_alternate=True)),)
