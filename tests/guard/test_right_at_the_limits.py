"""Right calls at the limits of their definitions, found by drawing programs at random: equal bits,
nothing found, nothing failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.guard.test_strange_inputs import compare, numbers


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adagrad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_fused_step_with_squares_that_overflow(name: str, dtype: torch.dtype) -> None:
    def step() -> Tensor:
        weight = torch.nn.Parameter(numbers(33, dtype=dtype))
        optimizer = getattr(torch.optim, name)([weight], lr=0.1, fused=True)
        weight.grad = numbers(33, seed=1, dtype=dtype) * torch.finfo(dtype).max ** 0.55
        optimizer.step()
        return weight.detach()

    compare(step)


def _singular() -> Tensor:
    matrix = torch.randint(-3, 4, (8, 8), generator=torch.Generator().manual_seed(1)).float()
    matrix[:, -1] = matrix[:, 0]
    return matrix


@pytest.mark.parametrize("solve", [
    lambda a: torch.linalg.inv_ex(a), lambda a: torch.linalg.solve_ex(a, torch.eye(8, 2))])
def test_an_infinity_of_a_pivot_that_cancels_keeps_its_sign(solve: Callable[[Tensor], Any]) -> None:
    guard = compare(lambda: solve(_singular()))
    assert not guard.coverage.refused_relations


def test_the_inverse_of_an_expanded_matrix() -> None:
    compare(lambda: torch.linalg.inv_ex(numbers(1, 4, 1).expand(1, 4, 4)))


def _gradient(loss: Callable[[Tensor], Tensor], operand: Tensor) -> Tensor:
    leaf = operand.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


def test_ctc_loss_of_classes_without_a_chance() -> None:
    def loss(probs: Tensor) -> Tensor:
        return F.ctc_loss(probs, torch.tensor([[1, 2]]), torch.tensor([9]), torch.tensor([2]))

    probs = numbers(9, 1, 5).log_softmax(-1)
    probs[2, 0, 4] = -torch.inf
    compare(lambda: _gradient(loss, probs))


def test_ctc_loss_of_a_blank_among_the_labels() -> None:
    def loss(probs: Tensor) -> Tensor:
        return F.ctc_loss(probs, torch.zeros(2, 3, dtype=torch.int64), torch.tensor([12, 8]),
                          torch.tensor([3, 1]), reduction="none")

    compare(lambda: _gradient(loss, numbers(12, 2, 1).double()))


@pytest.mark.parametrize("size", [3e37, 1e19, 1e12])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_with_huge_scores(size: float, causal: bool) -> None:
    key = numbers(1, 2, 8, 8, seed=1)

    def loss(query: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, key, is_causal=causal)

    compare(lambda: _gradient(loss, numbers(1, 2, 8, 8) * size))


def test_buckets_without_boundaries() -> None:
    compare(lambda: (torch.bucketize(numbers(5), torch.empty(0)),
                     torch.searchsorted(torch.empty(3, 0), numbers(3, 5))))


@pytest.mark.parametrize("write", [
    lambda t: t.triu_(1), lambda t: torch._foreach_sub_([t], 2.0),
    lambda t: torch._amp_foreach_non_finite_check_and_unscale_(
        [t], torch.zeros(1), torch.tensor([0.25]))])
def test_operands_that_overlap_themselves_are_repeated_and_no_more(
    write: Callable[[Tensor], Any]
) -> None:
    def run() -> Tensor:
        memory = numbers(40)
        write(memory.as_strided((17, 4), (1, 1)))
        return memory

    compare(run)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64])
def test_ldexp_of_doubles_takes_the_power_in_the_other_format(dtype: torch.dtype) -> None:
    compare(lambda: [torch.ldexp(numbers(33, dtype=torch.float64), (size * numbers(33)).to(dtype))
                     for size in (3, 17, 200)])


def test_a_number_into_an_empty_result() -> None:
    three = torch.tensor(3)
    compare(lambda: (torch.minimum(three, three + 2, out=torch.empty(0, dtype=torch.int64)),
                     torch.add(three, 2, out=torch.empty(0, dtype=torch.int64))))
