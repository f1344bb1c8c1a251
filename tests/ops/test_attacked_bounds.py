"""Correct results that once broke a bound, found by ``tests/soundness``: they are judged right.

Most overflow in an intermediate although the definition is finite: where a kernel may do so nothing
can be said, so nothing is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.ops import lookup, lookup_complex

aten = torch.ops.aten
HUGE = 3e38


def _full(*shape: int, value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, value, dtype=dtype)


def _norm_operands() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.linspace(-2, 2, 2 * 6 * 4).reshape(2, 6, 4)
    rows = x.reshape(4, -1)
    mean, rstd = rows.mean(1), 1 / rows.std(1)
    return x, mean.reshape(2, 2), rstd.reshape(2, 2)


def _calls() -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    half = torch.float16
    yield ("a product of two overflows before the third is 0", aten._trilinear.default,
           (_full(2, 3, value=300, dtype=half), _full(4, 3, 2, value=300, dtype=half),
            torch.zeros(2, 2, dtype=half), [1, 3], [0], [1, 2], [2, 3]))
    yield ("v b overflows before c makes it small", aten.addcmul.default,
           (_full(8, value=1.0), _full(8, value=1e30), _full(8, value=1e-30)))
    x = torch.linspace(-0.07, 0.08, 12 * 20).reshape(1, 12, 20)
    yield ("w r overflows before x makes it small", aten.native_group_norm.default,
           (x, _full(12, value=HUGE), None, 1, 12, 20, 3, 1e-5))
    y, mean, rstd = _norm_operands()
    yield ("the gradient's sum overflows before the weight",
           aten.native_group_norm_backward.default,
           (_full(2, 6, 4, value=HUGE), y, mean, rstd, _full(6, value=1e-20), 2, 6, 4, 2,
            [True, True, True]))
    yield ("w r overflows before a small gradient", aten.native_group_norm_backward.default,
           (_full(5, 12, value=1e-9), torch.linspace(-1, 2, 60).reshape(5, 12), torch.zeros(5, 4),
            _full(5, 4, value=9.0), _full(12, value=HUGE), 5, 12, 1, 4, [True, True, True]))
    rows = y.reshape(4, 12)
    yield ("dy x overflows before the weight", aten.native_layer_norm_backward.default,
           (_full(4, 12, value=HUGE), rows, [12], rows.mean(1, keepdim=True),
            1 / rows.std(1, keepdim=True), _full(12, value=0.01), None, [True, False, False]))
    yield ("x r overflows before the weight", aten._native_batch_norm_legit_no_training.default,
           (_full(2, 3, 8, value=HUGE)[..., ::2], _full(3, value=1e-20), None, torch.zeros(3),
            _full(3, value=0.25), 0.1, 1e-5))
    z = torch.tensor([[0.0, 1e20, 5.0]])
    yield ("a squared margin overflows before its weight", aten.multi_margin_loss.default,
           (z, torch.tensor([0]), 2, 1.0, _full(3, value=1e-30), 0))
    yield ("the sum of weights overflows", aten.nll_loss_forward.default,
           (_full(40, 3, value=1e-3, dtype=half), torch.zeros(40, dtype=torch.int64),
            _full(3, value=2048.0, dtype=half), 1, -100))
    yield ("alpha B overflows beside a 0", aten.addbmm.default,
           (torch.zeros(19), torch.zeros(3, 17, 24), _full(3, 24, 19, value=HUGE)))
    yield ("our own share of a subnormal gradient is 0", aten._adaptive_avg_pool3d_backward.default,
           (torch.arange(144, dtype=torch.float64).reshape(2, 3, 2, 4, 3) * 2.0**-1074,
            torch.zeros(2, 3, 5, 6, 7, dtype=torch.float64)))
    yield ("a long prefix is rounded here too", aten.cumsum.default,
           (torch.tensor([1.0] + [2.0**-53 * (1 - 2.0**-50)] * 6, dtype=torch.float64), 0))
    yield ("a last offset that is not the last", aten._embedding_bag.default,
           (torch.rand(9, 5), torch.arange(8), torch.tensor([0, 3, 5]), False, 0, False, None,
            True))
    yield ("an expanded operand is made distinct", aten.as_strided_scatter.default,
           (torch.rand(1, 7).expand(9, 7), torch.rand(4, 3), [4, 3], [7, 2], 3))
    yield ("x log x overflows before x is taken off", aten.lgamma.default,
           (_full(40, value=4.08e36),))
    weight = torch.rand(4, 3, 4, dtype=torch.bfloat16)
    weight[1, 2, 0] = float("nan")
    yield ("0 times NaN where nothing is added", aten.convolution.default,
           (torch.ones(3, 4, 7, dtype=torch.bfloat16), weight, None, [3], [0], [1], True, [0], 2))
    drawn = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0)) - 0.5
    near_max = (drawn + drawn.sign() / 2) * 3.38e38
    yield ("a row overflows before the column's weights", aten.upsample_bicubic2d.default,
           (near_max.bfloat16(), [12, 9], False))
    line = torch.zeros(5, 32)
    line[:, 21], line[:, 23], line[:, 26] = -2.4547e38, 2.0534e37, 7.5363e34
    yield "halves of a real transform overflow", aten._fft_r2c.default, (line, [1], 0, True)
    yield ("the side of a branch cut", aten.log1p.default,
           (torch.complex(_full(9, value=-5.0), _full(9, value=-0.0)),))


CASES = {name: (op, args) for name, op, args in _calls()}
NAMED = {"v b overflows before c makes it small": {"value": 1e30},
         "alpha B overflows beside a 0": {"alpha": -2}}


@pytest.mark.parametrize("name", CASES)
def test_a_correct_result_at_the_edge_is_not_accused(name: str) -> None:
    op, args = CASES[name]
    form = form_of(op)
    call = BoundCall(form, form.bind(args, NAMED.get(name, {})))
    held = call.run_identical()
    tensors = [*(t for t in held if t is not None), *(t for _, t in call.tensors())]
    complex_call = any(t.is_complex() for t in tensors)
    spec = (lookup_complex if complex_call else lookup)(form.packet)
    assert spec is not None
    assert not full_reference(make_plan(spec, call, held), call, held)
