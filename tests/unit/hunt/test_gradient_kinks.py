"""Central differences across a jump, or where a step is lost to rounding, say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.trial import Literal, Operand, Trial

KINK, LOST = "a kink or a jump is near", "differences of two steps disagree"


def _operand(*values: float) -> Operand:
    return Operand(dtype="float64", shape=(len(values),), requires_grad=True,
                   values=Literal.of(np.array(values).tobytes()))


def _told(target: str, *operands: Operand) -> tuple[list[str], set[str]]:
    """Messages, and why nothing was judged."""
    trial, session = Trial(target=target, args=operands, backward=True), Session()
    found = chosen(("gradient",))[0].check(session, trial, execute(trial))
    return [d.message for d in found], {reason for _, _, reason in session.not_judged}


@pytest.mark.parametrize(("target", "operands"), [
    ("torch.frac", (_operand(-1.1e22),)),
    ("torch.remainder", (_operand(2.0**24), _operand(1.0))),
    ("torch.remainder", (_operand(2.5e13), _operand(1.0))),
    ("torch.nn.functional.triplet_margin_loss", (_operand(1e37), _operand(1.0), _operand(1.0))),
])
def test_a_step_that_is_lost_is_no_difference(target: str, operands: tuple[Operand, ...]) -> None:
    messages, reasons = _told(target, *operands)
    assert not messages
    assert LOST in reasons


def test_many_small_teeth_have_a_slope_that_none_of_them_has() -> None:
    """The teeth of ``fmod`` are shorter than a step: the average slope is the same at two steps."""
    messages, reasons = _told("torch.fmod", _operand(*[3000.0] * 64), _operand(*[0.003] * 64))
    assert not messages
    assert reasons & {KINK, LOST}


@pytest.mark.parametrize("target", ["torch.frac", "torch.fmod", "torch.remainder"])
def test_between_jumps_they_are_judged(target: str) -> None:
    operands = (_operand(1.3, 2.6, 5.2), _operand(0.7, 1.9, 4.1))
    messages, reasons = _told(target, *operands[:1 if target == "torch.frac" else 2])
    assert (messages, reasons) == ([], set())


@pytest.mark.parametrize("target", [
    "torch.Tensor.bfloat16", "torch.Tensor.half", "torch.Tensor.float"])
def test_a_cast_that_rounds_is_a_staircase(target: str) -> None:
    messages, reasons = _told(target, _operand(1.0, -0.3, 5.2))
    assert not messages
    assert "rounds to a narrower dtype: a staircase" in reasons


def test_a_cast_that_does_not_round_is_judged() -> None:
    assert _told("torch.Tensor.double", _operand(1.0, -0.3, 5.2)) == ([], set())
