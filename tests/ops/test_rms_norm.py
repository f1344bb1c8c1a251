"""The fused RMS norm: results in the orders of CUDA's kernels stand in for a device's."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.ops import lookup
from sdc_guard.ops._registry import HostCall, Reference
from tests.kernels.fused_rms_norm import backward

aten = torch.ops.aten
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
Held = tuple[Tensor | None, ...]


def bound(op: Any, *args: Any) -> BoundCall:
    form = form_of(op.default)
    return BoundCall(form, form.bind(args, {}))


def judge(call: BoundCall, held: Held) -> list[int]:
    spec = lookup(call.form.packet)
    assert spec is not None
    plan = make_plan(spec, call, held)  # type: ignore[arg-type]
    return [s.output for s in full_reference(plan, call, held)]  # type: ignore[arg-type]


def reference(call: BoundCall, held: Held) -> tuple[Reference | None, ...]:
    spec = lookup(call.form.packet)
    assert spec is not None
    assert spec.reference is not None
    return spec.reference(HostCall(call, held))  # type: ignore[arg-type]


def updated_root(row: Tensor, eps: float) -> Tensor:
    """Mean and squared deviations updated one by one, as CUDA's unaligned rows are."""
    mean, squares = torch.zeros((), dtype=row.dtype), torch.zeros((), dtype=row.dtype)
    for count, x in enumerate(row, 1):
        delta = x - mean
        mean = mean + delta / count
        squares = squares + delta * (x - mean)
    return torch.rsqrt(squares / len(row) + mean * mean + torch.tensor(eps, dtype=row.dtype))


@pytest.mark.parametrize("shift", [0.0, 50.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_updated_moments_are_inside_the_contract(dtype: torch.dtype, shift: float) -> None:
    x = (shift + torch.randn(4, 30, generator=torch.Generator().manual_seed(1))).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    rstd = torch.stack([updated_root(row, 1e-5) for row in x.to(wide)])[:, None]
    y = (x.to(wide) * rstd).to(dtype)
    call = bound(aten._fused_rms_norm, x, [30], None, 1e-5)
    assert judge(call, (y, rstd)) == []
    wrong = y.clone()
    wrong[2, 7] *= 1.05
    assert judge(call, (wrong, rstd)) == [0]
    assert judge(call, (y, rstd * 1.001)) == [1]


def test_the_reference_is_the_definition() -> None:
    x = torch.randn(3, 11, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(11, generator=torch.Generator().manual_seed(3))
    call = bound(aten._fused_rms_norm, x, [11], weight, None)
    y, rstd = reference(call, call.run())
    assert y is not None
    assert rstd is not None
    for i, row in enumerate(x.tolist()):
        square = sum((Fraction(v) ** 2 for v in row), Fraction(0)) / 11 + Fraction(2) ** -23
        root = 1 / math.sqrt(square)
        exact = [float(Fraction(v) * Fraction(w)) * root
                 for v, w in zip(row, weight.tolist(), strict=True)]
        np.testing.assert_array_max_ulp(rstd.expected[i, 0], root, 8)
        np.testing.assert_array_max_ulp(y.expected[i], np.array(exact), 16)


def decomposed(*args: Any) -> Held:
    function = torch._decomp.decomposition_table[aten._fused_rms_norm_backward.default]
    found = function(*args)
    return tuple(found)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", [backward, decomposed])
def test_gradients_in_either_order_are_right(
    order: Any, dtype: torch.dtype, scale: float
) -> None:
    generator = torch.Generator().manual_seed(5)
    x, grad = (scale * torch.randn(2, 6, 3, 40, generator=generator)[0].to(dtype)
               for _ in range(2))
    weight = torch.randn(3, 40, generator=generator).to(dtype)
    rstd = aten._fused_rms_norm(x, [3, 40], weight, 1e-6)[1]
    operands = (grad, x, [3, 40], rstd, weight, [True, True])
    call = bound(aten._fused_rms_norm_backward, *operands)
    held = order(*operands)
    assert judge(call, held) == []
    for output, tensor in enumerate(held):
        wrong = tensor.clone()
        place = int(wrong.abs().argmax())
        wrong.view(-1)[place] *= 1.1 if dtype.itemsize == 2 else 1.001
        assert judge(call, (*held[:output], wrong, *held[output + 1:])) == [output]
    # The whole of the input's gradient without the term that all elements of a row share.
    a = grad.double() * weight.double()
    assert 0 in judge(call, ((a * rstd.double()).to(dtype), held[1]))


def test_a_missing_result_and_a_call_that_cannot_be_judged() -> None:
    x = torch.full((2, 8), 3e38)
    call = bound(aten._fused_rms_norm, x, [8], None, 1e-6)
    assert judge(call, (torch.ones(2, 8), torch.zeros(2, 1))) == []
    rstd = torch.ones(2, 1)
    masked = bound(aten._fused_rms_norm_backward, x, x, [8], rstd, None, [True, True])
    assert reference(masked, (torch.zeros(2, 8), None))[1] is None
