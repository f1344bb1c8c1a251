"""Numbers that a format does not hold, in the place of an operand: some kernels of half formats
round them first and others do not, and either is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdc_guard
from sdc_guard.inject.override import KernelOverride

aten = torch.ops.aten
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SINGLE = torch.tensor(0.7)

CALLS: dict[str, Callable[[Tensor], object]] = {
    "mul.Scalar": lambda x: aten.mul.Scalar(x, 0.9),
    "mul_.Scalar": lambda x: aten.mul_.Scalar(x, 0.9),
    "mul": lambda x: x * 0.9,
    "single first": lambda x: SINGLE * x,
    "single over": lambda x: SINGLE / x,
    "addcmul": lambda x: torch.addcmul(x, x, SINGLE, value=0.3),
    "addcdiv": lambda x: torch.addcdiv(x, SINGLE, x, value=0.3),
    "trunc": lambda x: torch.div(x, x.flip(0), rounding_mode="trunc"),
    "floor single": lambda x: torch.div(SINGLE, x, rounding_mode="floor"),
    "foreach_mul_": lambda x: torch._foreach_mul_([x], 0.9),
    "foreach_mul_ list": lambda x: torch._foreach_mul_([x, x.clone()], [0.9, 0.3]),
    "foreach_mul singles": lambda x: torch._foreach_mul([SINGLE, x], [x, SINGLE]),
    "foreach_maximum_": lambda x: torch._foreach_maximum_([x], 0.7),
    "foreach_minimum": lambda x: torch._foreach_minimum([x], [0.7]),
    "foreach_addcmul_": lambda x: torch._foreach_addcmul_([x], [x.clone()], [SINGLE], 0.3),
    "wide out": lambda x: torch.mul(x, 0.9, out=torch.empty(x.shape, dtype=torch.float64)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_no_false_alarm(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    with sdc_guard.Guard(budget="all") as guard:
        for size in (1, 7, 33, 240, 700):
            for spread in (1.0, 0.003):
                x = spread * torch.randn(size, generator=generator, dtype=torch.float64)
                CALLS[name](x.to(dtype))
    assert not guard.findings
    assert guard.coverage.guard_errors == 0


@pytest.mark.parametrize("name", ["mul", "single first", "foreach_mul_"])
def test_an_error_of_two_ulps_is_still_found(name: str) -> None:
    target: Any = aten._foreach_mul_.Scalar if name == "foreach_mul_" else aten.mul.Tensor

    def spoil(info: Any, results: tuple[Tensor, ...]) -> None:
        results[0].view(torch.int16)[3] += 2

    with KernelOverride(target, spoil), sdc_guard.Guard(budget="all") as guard:
        CALLS[name](torch.linspace(1.0, 2.0, 33, dtype=torch.bfloat16))
    assert any(f.held_is_wrong for f in guard.findings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inner", [0, 1, 2, 5, 33])
def test_factors_of_an_affine_product(inner: int, dtype: torch.dtype) -> None:
    """Without an inner dimension ``beta`` is rounded to the half format first."""
    generator = torch.Generator().manual_seed(inner)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    guard = sdc_guard.Guard(budget="all")
    for alpha, beta in ((0.6, 0.2), (0.3, 1), (1, 0.7), (-0.1, 0)):
        for rows, columns in ((5, 10), (1, 7), (17, 1), (40, 33)):
            a, b, c = draw(rows, inner), draw(inner, columns), draw(columns)
            with guard:
                torch.addmm(c, a, b, alpha=alpha, beta=beta)
                torch.baddbmm(c, a[None], b[None], alpha=alpha, beta=beta)
                torch.addmv(draw(rows), a, draw(inner), alpha=alpha, beta=beta)
                torch.addr(draw(rows, columns), draw(rows), draw(columns), alpha=alpha, beta=beta)
    assert [f.message for f in guard.findings] == []
    assert guard.coverage.guard_errors == 0
