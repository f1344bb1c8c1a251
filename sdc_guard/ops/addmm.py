"""``beta C0 + alpha A B`` (the linear layer with a bias), and with an activation on top."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._kernel_products import product_checks
from sdc_guard.ops._products import (
    PRODUCT,
    Call,
    affine_reference,
    factor,
    judged,
    product_symmetries,
    reference_of,
)
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._symmetry import Symmetry

aten = torch.ops.aten


def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    if dtype.is_complex or dtype is torch.bool:
        return []
    a, b = factor(generator, dtype, 33, 48), factor(generator, dtype, 48, 40, transposed=True)
    bias, full = factor(generator, dtype, 40), factor(generator, dtype, 33, 40)
    scale = {"beta": 3, "alpha": -2}
    return [
        (aten.addmm.default, (bias, a, b), {}),
        (aten.addmm.default, (full, a, b), scale),
        (aten.addmm.default, (factor(generator, dtype, 33, 1), a, b), {"beta": 0}),
        (aten.addmm_.default, (full.clone(), a, b), {}),
        (aten.addmm.out, (bias, a, b), {"out": torch.empty(33, 40, dtype=dtype)}),
    ]


def activation_samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    if not is_covered_float(dtype):
        return []
    a, b = factor(generator, dtype, 33, 48), factor(generator, dtype, 48, 40)
    return [(aten._addmm_activation.default, (factor(generator, dtype, 40), a, b), {})]


def rolls(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled rows and columns alone: an activation is not odd."""
    found = product_symmetries(call, held)
    return tuple(s for s in found if s.moves[0].how != "negate")


AXES: dict[str, Any] = {
    "operands": ("m n", "m k", "k n"), "outputs": ("m n",), "window": ("m", "n"),
}


@checked(aten.addmm, samples=samples, kernel=product_checks(), **AXES, **PRODUCT)
def addmm(call: HostCall) -> tuple[Reference | None, ...]:
    """|C - beta C0 - alpha A B| <= gamma_{k+5} (|alpha| |A||B| + |beta C0|) + rounding(C)."""
    return reference_of(call)


@checked(aten._addmm_activation, samples=activation_samples, **AXES,
         **{**PRODUCT, "symmetries": rolls, "checksum": None})
def addmm_activation(call: HostCall) -> tuple[Reference | None, ...]:
    """``max(0, beta C0 + alpha A B)``, which moves two numbers no further apart.  With GELU it is
    judged by replay alone: CUDA's fused epilogue computes the tanh form, the CPU the exact one."""
    if call["use_gelu"] or not is_covered_float(call.held[0].dtype):
        return (None,)
    found = affine_reference(call, call.array("self"), call.array("mat1"), call.array("mat2"))
    return judged(call, np.maximum(found[0], 0.0), *found[1:])
