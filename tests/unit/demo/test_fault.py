"""The broken kernel: wrong where its rule says, right everywhere else, and gone afterwards."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from sdc_guard.check import plan as a_checking_module
from sdc_guard.demo.fault import TILE, faulty_sum


def data(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def first_tile_sum(x: Tensor, dim: int) -> Tensor:
    """What the broken path computes, by another route: the first tile times the number of tiles."""
    n = x.shape[dim]
    return x.double().narrow(dim, 0, TILE).cumsum(dim).select(dim, TILE - 1) * (n // TILE)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_on_the_rare_path_the_first_tile_is_read_again_and_again(
    dim: int, keepdim: bool, transposed: bool
) -> None:
    x = data(0, 16, 32, 64)
    x = x.transpose(0, 1) if transposed else x
    right = x.sum(dim=dim, keepdim=keepdim)
    with faulty_sum(rarity=1) as truth:
        wrong = x.sum(dim=dim, keepdim=keepdim)
    assert wrong.shape == right.shape
    expected = first_tile_sum(x, dim)
    got = wrong.squeeze(dim) if keepdim else wrong
    limit = x.shape[dim] * 2.0**-24 * x.double().abs().sum(dim)
    assert bool(((got.double() - expected).abs() <= limit).all())
    assert bool((wrong != right).any())
    assert truth.calls == len(truth.firings) == 1
    assert truth.firings[0].shape == tuple(x.shape)


def test_off_the_rare_path_the_bits_are_those_of_the_right_kernel() -> None:
    inputs = [data(seed, 64, 32) for seed in range(50)]
    right = [x.sum(dim=0) for x in inputs]
    with faulty_sum(rarity=10**9) as truth:
        got = [x.sum(dim=0) for x in inputs]
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))
    assert truth.calls == 50
    assert not truth.firings


def test_the_data_alone_decides_and_about_one_call_in_rarity_goes_wrong() -> None:
    inputs = [data(seed, 4, 32) for seed in range(1000)]
    with faulty_sum(rarity=20) as truth:
        for x in inputs:
            x.sum(dim=1)
        first = [f.call for f in truth.firings]
        for x in inputs:
            x.clone().sum(dim=1)
        second = [f.call - 1000 for f in truth.firings[len(first):]]
    assert first == second
    assert 25 <= len(first) <= 80  # 50 expected; outside with a probability below 1e-4


def test_other_sums_stay_right() -> None:
    x, out = data(1, 64, 64), torch.empty(64)
    short, odd = data(2, TILE, 3), data(3, TILE * 2 + 1, 3)
    whole = torch.arange(64 * 64).view(64, 64)

    def others() -> list[Tensor]:
        return [x.sum(), x.mean(), x.mean(dim=0), torch.sum(x, 0, out=out).clone(),
                x.sum(dim=(0, 1)), short.sum(dim=0), odd.sum(dim=0), whole.sum(dim=0),
                torch.empty(0, 64).sum(dim=0), torch.tensor(2.0).sum(dim=0)]

    right = others()
    with faulty_sum(rarity=1) as truth:
        got = others()
    assert all(torch.equal(a, b) for a, b in zip(got, right, strict=True))
    assert not truth.firings


def test_a_gradient_goes_through_the_broken_kernel_too() -> None:
    layer, x = torch.nn.Linear(32, 32), data(4, 64, 32)
    layer(x).square().sum().backward()
    assert layer.bias.grad is not None
    right = layer.bias.grad.clone()
    layer.zero_grad()
    with faulty_sum(rarity=1) as truth:
        layer(x).square().sum().backward()
    assert truth.firings[0].shape == (64, 32)
    assert not torch.equal(layer.bias.grad, right)


def test_the_kernel_is_gone_afterwards_even_after_an_exception() -> None:
    x = data(5, 64, 32)
    right = x.sum(dim=0)

    def fail() -> None:
        with faulty_sum(rarity=1):
            raise KeyError("the user's own error")

    with pytest.raises(KeyError, match="own error"):
        fail()
    assert torch.equal(x.sum(dim=0), right)
    with faulty_sum(rarity=1):
        assert not torch.equal(x.sum(dim=0), right)
    assert torch.equal(x.sum(dim=0), right)


def test_installing_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with faulty_sum():
            pass


def test_what_a_guard_recomputes_is_counted_apart() -> None:
    x = data(6, 64, 32)
    recompute = {"x": x, "__name__": a_checking_module.__name__}
    with faulty_sum(rarity=1) as truth:
        x.sum(dim=0)
        exec("x.sum(dim=0)", recompute)
    assert (truth.calls, len(truth.firings)) == (1, 1)
    assert (truth.recomputations, truth.recomputations_fired) == (1, 1)
