"""Calls that torch makes as it should, or that nobody promised a result for, are no findings; the
same operator broken is one."""

from __future__ import annotations

import math

import pytest
import torch

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.promises import may_resize
from sdc_guard.hunt.trial import (
    Alias,
    Argument,
    Layout,
    Literal,
    Modes,
    Operand,
    Trial,
    scalar,
)
from sdc_guard.inject import KernelOverride

aten = torch.ops.aten


def _operand(values: torch.Tensor) -> Operand:
    held = Literal.of(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return Operand(dtype=str(values.dtype).removeprefix("torch."), shape=tuple(values.shape),
                   values=held, layout=Layout())


def _trial(target: str, *args: object, modes: Modes | None = None, **kwargs: object) -> Trial:
    def taken(value: object) -> Argument:
        if isinstance(value, torch.Tensor):
            return _operand(value)
        return value if isinstance(value, Alias) else scalar(value)

    return Trial(target=target, args=tuple(taken(a) for a in args), modes=modes or Modes(),
                 kwargs={k: taken(v) for k, v in kwargs.items()})


def _found(oracle: str, trial: Trial) -> list[Divergence]:
    session, base = Session(), execute(trial)
    assert not base.refusal
    found = list(chosen((oracle,))[0].check(session, trial, base))
    assert session.checked or found, dict(session.not_judged)
    return found


def _broken(info: object, results: tuple[torch.Tensor, ...]) -> None:
    results[0].fill_(77)


THRESHOLD = _trial("aten.threshold.default", torch.tensor([1, 254, 255], dtype=torch.uint8), -2, 2)
NEXT = _trial("torch.Tensor.nextafter_", torch.tensor([[1.0, -3.0]], dtype=torch.bfloat16),
              torch.tensor([2.0**24], dtype=torch.float64))
NEXT_SAME = _trial("torch.Tensor.nextafter_", torch.tensor([1.0, -3.0], dtype=torch.bfloat16),
                   torch.tensor([2.0**24], dtype=torch.bfloat16))
NARROW_OUT = _trial("torch.fmax", torch.ones(2, dtype=torch.float16),
                    torch.tensor([0.0, 1.7114252490054556], dtype=torch.float64),
                    out=torch.zeros(2, dtype=torch.float16))
WIDE_OUT = _trial("torch.atan2", torch.ones(3, dtype=torch.bool),
                  torch.tensor(-1.0, dtype=torch.bfloat16), out=torch.zeros(3))
PAIRS = [_trial(name, torch.tensor([0.0, 3.0]), torch.tensor([1.5, -1.0]),
                modes=Modes(inference=True)) for name in ("torch.max", "torch.min")]


@pytest.mark.parametrize(("oracle", "trial", "op"), [
    ("exact", THRESHOLD, aten.threshold.default),
    ("bound", NEXT, aten.nextafter_.default),
    ("bound", NEXT_SAME, aten.nextafter_.default),
    ("bound", NARROW_OUT, aten.fmax.out),
    ("bound", WIDE_OUT, aten.atan2.out),
    ("bound", PAIRS[0], aten.maximum.default),
    ("bound", PAIRS[1], aten.minimum.default),
])
def test_operands_are_converted_as_aten_converts_them(
    oracle: str, trial: Trial, op: torch._ops.OpOverload
) -> None:
    assert not _found(oracle, trial)
    with KernelOverride(op, _broken):
        assert _found(oracle, trial)[0].word == "corruption"


def test_a_sum_of_attention_gradients_may_leave_the_range_on_its_way() -> None:
    op = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    one = torch.ones(1, 1, 3, 1)

    def found(key: list[float], scale: float = 1.0) -> list[Divergence]:
        k = torch.tensor(key).reshape(1, 1, 3, 1)
        grad, out = torch.ones(1, 1, 3, 1), torch.zeros(1, 1, 3, 1)
        return _found("bound", _trial(
            str(op), grad, 0 * one, k, one, out, math.log(3) * torch.ones(1, 1, 3), 0.0, False,
            scale=scale))

    with KernelOverride(op, lambda info, results: results[0].fill_(math.inf)):
        assert found([0.0, 0.0, 0.0])[0].word == "corruption"
        assert not found([-3e38, 3e38, -3e38])
        assert not found([3e38, 3e38, 3e38], scale=2.0**-10)


def test_the_gradient_of_a_loss_that_refuses_its_beta_is_not_judged() -> None:
    x = torch.ones(3)
    refused, taken = (
        _trial("aten.smooth_l1_loss_backward.default", x, x, torch.zeros(3), 0, beta)
        for beta in (-1.0, 0.5))
    assert not _found("bound", refused)
    assert not _found("bound", taken)
    with KernelOverride(aten.smooth_l1_loss_backward.default, _broken):
        assert _found("bound", taken)[0].word == "corruption"


def test_segments_outside_of_the_data_are_not_judged_and_rows_keep_their_number() -> None:
    session = Session()
    trial = _trial("aten.segment_reduce.default", torch.ones(13, 2), "sum",
                   offsets=torch.tensor([0, 4, 4, 13]))
    assert not list(chosen(("bound",))[0].check(session, trial, execute(trial)))
    assert not session.not_judged
    made = execute(trial)
    held = made.observations[0]
    held.call = held.call.replaced(data=torch.ones(1, 2))
    assert not list(chosen(("bound",))[0].check(session, trial, made))
    assert not may_resize("aten.segment_reduce", "reduction")


def test_an_operand_that_out_would_resize_is_refused() -> None:
    x = torch.ones(1, 2, 2, 2, dtype=torch.int64)
    trial = _trial("torch.nn.functional.avg_pool2d", x, 2, 1, 1, out=Alias(of=0))
    assert "another shape" in execute(trial).refusal
