"""Draws of random numbers under the guard: same numbers, same state of the generator afterwards, no
false alarm; and draws that are no draws are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

import sdc_guard
from sdc_guard import bits
from sdc_guard.inject.override import KernelOverride

aten = torch.ops.aten
SHAPES = ((), (1,), (33,), (9, 37), (0, 3), (300, 301))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

Draw = Callable[[Tensor, "Generator | None"], Tensor]

DRAWS: dict[str, Draw] = {
    "bernoulli": lambda x, g: torch.bernoulli(x, generator=g),
    "bernoulli p": lambda x, g: torch.bernoulli(x, 0.3, generator=g),
    "bernoulli_": lambda x, g: x.clone().bernoulli_(0.999, generator=g),
    "bernoulli_ tensor": lambda x, g: x.clone().bernoulli_(x, generator=g),
    "uniform_": lambda x, g: x.clone().uniform_(-3.0, 4.0, generator=g),
    "normal_": lambda x, g: x.clone().normal_(5.0, 0.01, generator=g),
    "normal": lambda x, g: torch.normal(x, x, generator=g),
    "exponential_": lambda x, g: x.clone().exponential_(0.5, generator=g),
    "geometric_": lambda x, g: x.clone().geometric_(0.2, generator=g),
    "log_normal_": lambda x, g: x.clone().log_normal_(0.5, 0.7, generator=g),
    "cauchy_": lambda x, g: x.clone().cauchy_(1.0, 2.0, generator=g),
    "random_": lambda x, g: x.clone().random_(-7, 90, generator=g),
    "poisson": lambda x, g: torch.poisson(x * 20, generator=g),
    "rand": lambda x, g: torch.rand(x.shape, generator=g, dtype=x.dtype),
    "randn": lambda x, g: torch.randn(x.shape, generator=g, dtype=x.dtype),
    "randint": lambda x, g: torch.randint(-5, 70, x.shape, generator=g),
    "randperm": lambda x, g: torch.randperm(x.numel(), generator=g),
}
DEFAULT_ONLY: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "native_dropout": lambda x: aten.native_dropout(x, 0.3, True)[0],
    "rrelu": lambda x: F.rrelu(x - 0.5, training=True),
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "randint_like": lambda x: torch.randint_like(x, -3, 40),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x.reshape(1, -1)) if x.numel() else x,
}

def operand(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.rand(shape, generator=Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def bits_of(tensor: Tensor) -> Any:
    return tuple(tensor.shape), tensor.dtype, bits.raw(tensor.contiguous()).tobytes()


def compared(draw: Callable[[], Tensor], state: Callable[[], Tensor], seed: Callable[[], Any],
             ) -> sdc_guard.Coverage:
    seed()
    plain, plain_state = bits_of(draw()), bits_of(state())
    seed()
    with sdc_guard.Guard(budget="all") as guard:
        watched = bits_of(draw())
        watched_state = bits_of(state())
    assert watched == plain
    assert watched_state == plain_state
    assert not guard.findings
    assert guard.coverage.guard_errors == 0
    return guard.coverage


@pytest.mark.parametrize("explicit", [
    False, pytest.param(True, marks=pytest.mark.slow)], ids=["default", "explicit"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DRAWS)
def test_draws_and_the_generator_are_as_without_a_guard(
    name: str, dtype: torch.dtype, explicit: bool
) -> None:
    for shape in SHAPES:
        x = operand(shape, dtype)
        own = Generator().manual_seed(1)
        generator = own if explicit else None
        state = own.get_state if explicit else torch.get_rng_state
        seed = (lambda own=own: own.manual_seed(3)) if explicit else (lambda: torch.manual_seed(3))
        compared(lambda x=x, g=generator: DRAWS[name](x, g), state, seed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DEFAULT_ONLY)
def test_ops_that_draw_inside_are_as_without_a_guard(name: str, dtype: torch.dtype) -> None:
    if name == "rrelu" and dtype is torch.float16:
        pytest.skip("torch has no such kernel")
    for shape in SHAPES:
        x = operand(shape, dtype)
        compared(lambda x=x: DEFAULT_ONLY[name](x), torch.get_rng_state,
                 lambda: torch.manual_seed(3))


@pytest.mark.parametrize("replacement", [True, False])
def test_multinomial_and_binomial(replacement: bool) -> None:
    weights = operand((5, 40), torch.float32)
    weights[:, ::3] = 0
    for draw in (lambda: torch.multinomial(weights, 20, replacement),
                 lambda: torch.binomial(torch.full((40,), 9.0), weights[0])):
        coverage = compared(draw, torch.get_rng_state, lambda: torch.manual_seed(3))
        assert coverage.calls_checked == coverage.calls - 1


def test_draws_that_overflow_are_no_false_alarm() -> None:
    huge = torch.full((33,), 3e38)
    for draw in (lambda: torch.normal(huge, huge), lambda: torch.normal(-huge, 1e38),
                 lambda: torch.empty(33, dtype=torch.float16).exponential_(1e-6),
                 lambda: torch.empty(33).log_normal_(80.0, 9.0)):
        compared(draw, torch.get_rng_state, lambda: torch.manual_seed(3))


def test_draws_count_as_not_tested() -> None:
    with sdc_guard.Guard(budget="all") as guard:
        torch.rand(100)
    (op,) = guard.coverage.ops
    assert op.calls_checked == 0
    assert dict(op.not_tested) == {"random draws: only their range and mean are checked": 1}


@pytest.mark.parametrize(("op", "draw", "change"), [
    (aten.rand.default, lambda: torch.rand(5000), lambda t: t.mul_(0.8)),
    (aten.rand.default, lambda: torch.rand(50), lambda t: t[3].fill_(1.0)),
    (aten.randn.default, lambda: torch.randn(5000), lambda t: t.abs_()),
    (aten.randn.default, lambda: torch.randn(50), lambda t: t[7].fill_(12.0)),
    (aten.randperm.default, lambda: torch.randperm(50), lambda t: t[0].copy_(t[1])),
    (aten.bernoulli_.float, lambda: torch.empty(5000).bernoulli_(0.5), lambda t: t.zero_()),
    (aten.randint.low, lambda: torch.randint(-5, 70, (5000,)), lambda t: t.clamp_(max=20)),
    (aten.uniform_.default, lambda: torch.empty(5000).uniform_(2, 3), lambda t: t.fill_(2.0)),
    (aten.poisson.default, lambda: torch.poisson(torch.ones(50)), lambda t: t[0].fill_(-1.0)),
], ids=["rand mean", "rand range", "randn mean", "randn range", "randperm", "bernoulli_", "randint",
        "uniform_", "poisson"])
def test_what_is_no_draw_is_found(
    op: Any, draw: Callable[[], Tensor], change: Callable[[Tensor], Any]
) -> None:
    def spoil(info: Any, results: tuple[Tensor, ...]) -> None:
        change(results[0])

    with KernelOverride(op, spoil), sdc_guard.Guard(budget="all") as guard:
        draw()
    assert any(f.held_is_wrong for f in guard.findings)
