"""What the indexing, loss and activation files find, and what they must leave alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdc_guard import Guard
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.ops import lookup
from sdc_guard.ops._indexing import scalar_bits
from sdc_guard.ops._scatter_sums import Sent, sent_reference

aten = torch.ops.aten


def bound(op: Any, *args: Any, **kwargs: Any) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def is_wrong(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    spec = lookup(call.form.packet)
    assert spec is not None
    if spec.invariant is not None and spec.invariant(call, held) is not None:
        return True
    return bool(full_reference(make_plan(spec, call, held), call, held))


@contextmanager
def broken_kernel(name: str, kernel: Any) -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():  # torch warns of the first override in a process alone
            warnings.simplefilter("ignore", UserWarning)
            library.impl(name, kernel, "CPU")
        yield
    finally:
        library._destroy()


def test_a_row_from_the_wrong_place_is_found() -> None:
    table, index = torch.randn(9, 5), torch.tensor([3, 3, 8])
    call = bound(aten.index_select.default, table, 0, index)
    held = call.run()
    assert not is_wrong(call, held)
    assert is_wrong(call, (table[torch.tensor([3, 2, 8])],))


def test_a_gather_kernel_that_is_broken_is_seen() -> None:
    table, index = torch.randn(9, 5), torch.randint(0, 5, (9, 3))
    call = bound(aten.gather.default, table, 1, index)

    def wrong(x: Tensor, dim: int, i: Tensor, sparse_grad: bool = False) -> Tensor:
        rows = torch.arange(x.shape[0])[:, None]
        return x[rows, (i + 1) % x.shape[1]]

    with broken_kernel("gather", wrong):
        assert is_wrong(call, call.run())
    assert not is_wrong(call, call.run())


def test_any_written_value_is_allowed_at_a_duplicate_and_no_other() -> None:
    x, index, source = torch.zeros(4), torch.tensor([1, 1, 3]), torch.tensor([5.0, 6.0, 7.0])
    call = bound(aten.scatter.src, x, 0, index, source)
    assert not is_wrong(call, (torch.tensor([0.0, 5.0, 0.0, 7.0]),))
    assert not is_wrong(call, (torch.tensor([0.0, 6.0, 0.0, 7.0]),))
    assert is_wrong(call, (torch.tensor([0.0, 11.0, 0.0, 7.0]),))
    assert is_wrong(call, (torch.tensor([0.0, 6.0, 1.0, 7.0]),))
    assert is_wrong(call, (torch.tensor([0.0, 6.0, -0.0, 7.0]),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_dropped_term_and_a_touched_row_are_found(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 33, generator=generator).to(dtype)
    index = torch.tensor([0, 0, 2, 4, 4, 4])
    source = torch.randn(6, 33, generator=generator).to(dtype)
    call = bound(aten.index_add.default, x, 0, index, source)
    held = call.run()
    assert not full_reference(make_plan(lookup("aten.index_add"), call, held), call, held) or (
        dtype.itemsize == 2)
    dropped = bound(aten.index_add.default, x, 0, index[1:], source[1:]).run()
    assert is_wrong(call, dropped)
    touched = held[0].clone()
    touched[1, 0] += touched[1, 0] * torch.finfo(dtype).eps * 2
    assert is_wrong(call, (touched,))


def test_a_sum_at_one_place_is_bounded_against_exact_arithmetic() -> None:
    rng = np.random.default_rng(5)
    before = rng.standard_normal(3).astype(np.float32).astype(np.float64)
    terms = (rng.standard_normal(40) * 2.0 ** rng.integers(-9, 9, 40)).astype(np.float32)
    place = rng.integers(0, 3, 40)
    held = torch.zeros(3)
    found = sent_reference(Sent(before, place, terms.astype(np.float64)), "sum", True, held)
    assert found is not None
    computed = before.astype(np.float32)
    for where, term in zip(place, terms, strict=True):
        computed[where] = computed[where] + term
    for where in range(3):
        exact = Fraction(before[where]) + sum(
            (Fraction(float(t)) for t in terms[place == where]), Fraction(0))
        limit = Fraction(float(np.asarray(found.contract)[where]))
        assert abs(Fraction(float(computed[where])) - exact) <= limit
        assert limit <= Fraction(41, 2**24) * sum(
            (abs(Fraction(float(t))) for t in terms[place == where]), abs(Fraction(before[where])))


def test_the_bits_of_a_number() -> None:
    assert scalar_bits(0.1, torch.float32).tolist() == [0x3DCCCCCD]
    assert scalar_bits(-1, torch.int16).tolist() == [0xFFFF]
    assert scalar_bits(1.0, torch.bfloat16).tolist() == [0x3F80]
    assert scalar_bits(1.0, torch.complex64) is None


@pytest.mark.parametrize("activation", [
    F.softplus, F.mish, F.elu, F.celu, F.logsigmoid, F.hardswish, F.hardsigmoid, F.softshrink,
    F.hardshrink, F.hardtanh, lambda x: F.glu(x, 1), lambda x: F.threshold(x, 0.1, 0.3),
])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_and_their_gradients_are_checked_and_clean(
    activation: Any, dtype: torch.dtype
) -> None:
    x = torch.linspace(-30, 30, 40 * 34).view(40, 34).to(dtype).requires_grad_()
    with Guard(budget="all", on_finding="record") as guard:
        for _ in range(3):
            y = activation(x)
            y.backward(torch.full_like(y, 0.3))
    assert guard.findings == []
    assert guard.coverage.guard_errors == 0


@pytest.mark.parametrize("loss", [
    F.mse_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits,
])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_wrong_loss_and_a_wrong_gradient_are_found(loss: Any, reduction: str) -> None:
    x, y = torch.randn(7, 65, requires_grad=True), torch.rand(7, 65)
    with Guard(budget="all", on_finding="record") as guard:
        z = loss(x, y, reduction=reduction)
        z.backward(torch.ones_like(z))
    assert guard.findings == []
    name = loss.__name__
    number = {"none": 0, "mean": 1, "sum": 2}[reduction]
    rest = (0.7,) if name in ("smooth_l1_loss", "huber_loss") else ()
    args = (None, None) if name.startswith("binary") else ()
    call = bound(getattr(aten, name).default, x.detach(), y, *args, number, *rest)
    held = call.run()
    assert not is_wrong(call, held)
    shifted = held[0] * (1 + 2.0**-12)
    assert is_wrong(call, (shifted,))


def test_a_frequency_of_another_index_is_found() -> None:
    """Issue 190063 of pytorch: the gradient of index 3 is divided by the count of index 1."""
    table = torch.ones(4, 3, requires_grad=True)
    index, start = torch.tensor([1, 1, 3]), torch.tensor([0])
    with Guard(budget="all", on_finding="record") as guard:
        F.embedding_bag(index, table, start, mode="sum", scale_grad_by_freq=True).sum().backward()
    assert table.grad is not None
    is_fixed = table.grad[3].tolist() == [1.0, 1.0, 1.0]
    assert bool(guard.findings) != is_fixed
    assert is_fixed or "_embedding_bag_backward" in guard.findings[0].op


@pytest.mark.parametrize(("weight", "incoming", "total"), [(2.0**-100, 2.0**100, 2.0**-60),
                                                           (2.0**100, 2.0**-100, 2.0**60)])
def test_a_gradient_may_leave_the_range_when_it_is_divided_and_come_back_with_the_weight(
    weight: float, incoming: float, total: float
) -> None:
    call = bound(aten.nll_loss_backward.default, torch.tensor(incoming), torch.zeros(1, 2),
                 torch.tensor([1]), torch.tensor([1.0, weight]), 1, -100, torch.tensor(total))
    held = call.run()
    assert float(held[0][0, 1]) != -weight * incoming / total
    assert not is_wrong(call, held)
    held[0][0, 0] = 1.0
    assert is_wrong(call, held)
