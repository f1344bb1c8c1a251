"""An override whose transform does nothing leaves every bit of every result as it was."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch

from sdc_guard import bits
from sdc_guard.calls import flatten, form_of
from sdc_guard.inject.campaign import record_calls
from sdc_guard.inject.override import CallInfo, KernelOverride, Results
from tests.unit.inject.op_calls import CALLS, NUMBER_CALLS
from tests.unit.inject.tiny_gpt import make_step


def do_nothing(info: CallInfo, results: Results) -> None:
    pass


def outcome(op: Any, make: Any) -> tuple[Any, list[Any], list[Any]]:
    """Returned value, its tensors, and the overwritten operands, from the same seed."""
    torch.manual_seed(0)
    args, kwargs = make()
    returned = op(*args, **kwargs)
    form = form_of(op)
    bound = form.bind(args, kwargs)
    return returned, flatten(returned), [t for i in form.overwrites for t in flatten(bound[i])]


def assert_same(got: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    if got is None or expected is None:
        assert got is expected
        return
    assert got.dtype is expected.dtype
    assert got.shape == expected.shape
    assert got.stride() == expected.stride()
    assert got.requires_grad == expected.requires_grad
    if got.is_complex():
        got, expected = torch.view_as_real(got), torch.view_as_real(expected)
    assert bits.bits_equal(got, expected)


def structure(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value).__name__, [structure(v) for v in value]
    return type(value).__name__


@pytest.mark.parametrize(("op", "make"), CALLS, ids=[f"{i}-{c[0]}" for i, c in enumerate(CALLS)])
def test_idle_override_changes_nothing(op: Any, make: Any) -> None:
    plain, plain_results, plain_written = outcome(op, make)
    with KernelOverride(op, do_nothing) as override:
        ours, our_results, our_written = outcome(op, make)
        assert override.num_calls >= 1
    assert structure(ours) == structure(plain)
    pairs = [*zip(our_results, plain_results, strict=True),
             *zip(our_written, plain_written, strict=True)]
    assert pairs
    for got, expected in pairs:
        assert_same(got, expected)
    if not form_of(op).is_out and plain_written and plain_results:
        assert our_results[0] is our_written[0]


@pytest.mark.parametrize(
    ("op", "function", "make"), NUMBER_CALLS,
    ids=[f"{i}-{c[0]}" for i, c in enumerate(NUMBER_CALLS)],
)
def test_idle_override_keeps_numbers_numbers(op: Any, function: Any, make: Any) -> None:
    plain = function(*make())
    operands = make()
    with KernelOverride(op, do_nothing) as override:
        got = function(*operands)
        assert override.num_calls == 1
    assert_same(got, plain)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("adamw", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_training_is_bit_equal_with_every_op_overridden(autocast: bool, adamw: Any) -> None:
    def train() -> list[torch.Tensor]:
        step, model = make_step(autocast=autocast, **adamw)
        for _ in range(3):
            step()
        return [p.detach() for p in model.parameters()]

    step, _ = make_step(autocast=autocast, **adamw)
    ops = {c.op for c in record_calls(step) if c.drawable}
    plain = train()
    with ExitStack() as stack:
        overrides = [stack.enter_context(KernelOverride(op, do_nothing)) for op in ops]
        overridden = train()
        idle = [o.op for o in overrides if not o.num_calls]
    assert len(overrides) > 25
    assert not idle
    for got, expected in zip(overridden, plain, strict=True):
        assert_same(got, expected)
