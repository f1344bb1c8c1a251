"""Matrix product ``C = A B``."""

from __future__ import annotations

import torch

from sdc_guard.ops._kernel_products import product_checks
from sdc_guard.ops._products import PRODUCT, Call, factor, reference_of
from sdc_guard.ops._registry import HostCall, Reference, checked

aten = torch.ops.aten


def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    if dtype.is_complex or dtype is torch.bool:
        return []
    a, b = factor(generator, dtype, 33, 48), factor(generator, dtype, 48, 40)
    return [
        (aten.mm.default, (a, b), {}),
        (aten.mm.default, (factor(generator, dtype, 24, 65, transposed=True),
                           factor(generator, dtype, 65, 40)), {}),
        (aten.mm.default, (a, factor(generator, dtype, 48, 17, transposed=True)), {}),
        (aten.mm.default, (a, factor(generator, dtype, 48, 1)), {}),
        (aten.mm.out, (a, b), {"out": torch.empty(33, 40, dtype=dtype)}),
    ]


@checked(aten.mm, operands=("m k", "k n"), outputs=("m n",), window=("m", "n"), samples=samples,
         kernel=product_checks(), **PRODUCT)
def mm(call: HostCall) -> tuple[Reference | None, ...]:
    """|C - AB| <= gamma_k |A||B| + rounding(C), any order (Higham 2002, section 3.5)."""
    return reference_of(call)
