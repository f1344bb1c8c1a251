"""Batches of matrix products; :mod:`sdc_guard.ops._products` has the bound."""

from __future__ import annotations

import torch

from sdc_guard.ops._kernel_products import product_checks
from sdc_guard.ops._products import PRODUCT, Call, factor, reference_of
from sdc_guard.ops._registry import HostCall, Reference, checked

aten = torch.ops.aten


def bmm_samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    if dtype.is_complex or dtype is torch.bool:
        return []
    a, b = factor(generator, dtype, 5, 17, 24), factor(generator, dtype, 5, 24, 19)
    return [
        (aten.bmm.default, (a, b), {}),
        (aten.bmm.default, (a, factor(generator, dtype, 5, 24, 19, transposed=True)), {}),
        (aten.bmm.default, (factor(generator, dtype, 3, 4, 5), factor(generator, dtype, 3, 5, 6)),
        {}), (aten.bmm.out, (a, b), {"out": torch.empty(5, 17, 19, dtype=dtype)}),
    ]


def baddbmm_samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    if dtype.is_complex or dtype is torch.bool:
        return []
    a, b = factor(generator, dtype, 5, 17, 24), factor(generator, dtype, 5, 24, 19)
    full = factor(generator, dtype, 5, 17, 19)
    return [
        (aten.baddbmm.default, (full, a, b), {}),
        (aten.baddbmm.default, (factor(generator, dtype, 1, 19), a, b), {"beta": 2, "alpha": -3}),
        (aten.baddbmm_.default, (full.clone(), a, b), {}),
        (aten.baddbmm.out, (full, a, b), {"out": torch.empty(5, 17, 19, dtype=dtype)}),
    ]


@checked(aten.bmm, operands=("b m k", "b k n"), outputs=("b m n",), window=("b", "m", "n"),
         samples=bmm_samples, kernel=product_checks(), **PRODUCT)
def bmm(call: HostCall) -> tuple[Reference | None, ...]:
    """|C - AB| <= gamma_k |A||B| + rounding(C) in every batch, any order."""
    return reference_of(call)


@checked(aten.baddbmm, operands=("b m n", "b m k", "b k n"), outputs=("b m n",),
         window=("b", "m", "n"), samples=baddbmm_samples, kernel=product_checks(), **PRODUCT)
def baddbmm(call: HostCall) -> tuple[Reference | None, ...]:
    """|C - beta C0 - alpha A B| <= gamma_{k+5} (|alpha| |A||B| + |beta C0|) + rounding(C)."""
    return reference_of(call)
