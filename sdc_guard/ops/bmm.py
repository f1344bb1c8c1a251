"""Batches of matrix products; :mod:`sdc_guard.ops.mm` has the bound."""

from __future__ import annotations

import numpy as np
import torch

from sdc_guard.formats import is_covered_float
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops.mm import (
    Call,
    affine_reference,
    checksums,
    exact_integers,
    factor,
    judged,
    product_flops,
    product_reference,
    product_symmetries,
)

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


@checked(
    aten.bmm,
    family="product",
    operands=("b m k", "b k n"),
    outputs=("b m n",),
    symmetries=product_symmetries,
    flops=product_flops,
    window=("b", "m", "n"),
    checksum=lambda call: checksums(call, call.array("self"), call.array("mat2")),
    samples=bmm_samples,
)
def bmm(call: HostCall) -> tuple[Reference | None, ...]:
    """|C - AB| <= gamma_k |A||B| + rounding(C) in every batch, any order."""
    a, b = call.array("self"), call.array("mat2")
    if not call.held[0].is_floating_point():
        return exact_integers(call, a.astype(np.int64) @ b.astype(np.int64))
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    return judged(call, *product_reference(call, a, b))


@checked(
    aten.baddbmm,
    family="product",
    operands=("b m n", "b m k", "b k n"),
    outputs=("b m n",),
    symmetries=product_symmetries,
    flops=product_flops,
    window=("b", "m", "n"),
    checksum=lambda call: checksums(
        call, call.array("batch1"), call.array("batch2"), call.array("self")),
    samples=baddbmm_samples,
)
def baddbmm(call: HostCall) -> tuple[Reference | None, ...]:
    """|C - beta C0 - alpha A B| <= gamma_{k+5} (|alpha| |A||B| + |beta C0|) + rounding(C)."""
    a, b = call.array("batch1"), call.array("batch2")
    if not call.held[0].is_floating_point():
        product = int(call["alpha"]) * (a.astype(np.int64) @ b.astype(np.int64))
        return exact_integers(call, int(call["beta"]) * call.array("self").astype(np.int64)
                              + product)
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    return judged(call, *affine_reference(call, call.array("self"), a, b))
