"""Faults that strike no operator: parameters, gradients, optimizer state and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.inject.batches import BatchFault, leaves
from sdc_guard.inject.state import StateFault, gradients_of, parameters_of, state_of

PLACES = (0.99, 0.5, 0.97)


def training(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).to(dtype)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    x = torch.ones(2, 4, dtype=next(model.parameters()).dtype)
    model(x).square().sum().backward()
    optimizer.step()


def differing(a: Tensor, b: Tensor) -> list[int]:
    return [int(i) for i in np.flatnonzero(bits.wrong_mask(a.detach(), b.detach()))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_weight_loses_one_bit_on_the_first_entry_alone(dtype: torch.dtype) -> None:
    model, optimizer = training(dtype)
    before = [p.detach().clone() for p in model.parameters()]
    version = model.bias._version
    fault = StateFault("weight flip", lambda: parameters_of(optimizer), PLACES)
    for _ in range(2):
        with fault:
            assert len(_get_current_dispatch_mode_stack()) == 1
    assert not _get_current_dispatch_mode_stack()
    (record,) = fault.injected
    after = list(model.parameters())
    assert [differing(a, b) for a, b in zip(before, after, strict=True)] == [[], [1]]
    xor = bits.raw(before[1]) ^ bits.raw(after[1].detach())
    assert record.bit is not None
    assert int(xor[1]) == 1 << record.bit == 1 << int(0.97 * 8 * dtype.itemsize)
    assert (record.model, record.op, record.output) == ("weight flip", "", 1)
    assert (fault.op, fault.masked, model.bias._version) == (None, 0, version)


def test_a_gradient_loses_one_bit_before_the_optimizer_uses_it() -> None:
    seen: list[list[Tensor]] = []
    model, optimizer = training()
    fault = StateFault("gradient flip", lambda: gradients_of(optimizer), PLACES,
                       before_step=optimizer)
    for _ in range(2):
        with fault:
            hook = optimizer.register_step_pre_hook(
                lambda *_: seen.append([p.grad.clone() for p in model.parameters()]))  # type: ignore[union-attr]
            step(model, optimizer)
            hook.remove()
        optimizer.zero_grad()
    plain, its = training()
    step(plain, its)
    right = [p.grad for p in plain.parameters() if p.grad is not None]
    assert [differing(a, b) for a, b in zip(seen[0], right, strict=True)] == [[], [1]]
    assert len(fault.injected) == 1
    assert not optimizer._optimizer_step_pre_hooks
    missing = StateFault("gradient flip", lambda: gradients_of(optimizer), PLACES,
                         before_step=optimizer)
    with missing:
        optimizer.step()
    assert (missing.injected, missing.masked) == ([], 1)


def test_an_optimizers_state_loses_one_bit_once_there_is_some() -> None:
    model, optimizer = training()
    fault = StateFault("optimizer-state flip", lambda: state_of(optimizer), PLACES)
    with fault:
        step(model, optimizer)
    assert (fault.injected, fault.masked) == ([], 0)
    before = [t.clone() for t in state_of(optimizer)]
    with fault:
        changed = [differing(a, b) for a, b in zip(before, state_of(optimizer), strict=True)]
    assert changed == [[]] * 5 + [[1]]
    assert len(fault.injected) == 1


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Source:
    """Ten different batches of nested tensors."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.batch = make
        self.step_number = 0


def nested(number: int) -> dict[str, Any]:
    return {"pair": Pair(torch.full((2, 3), float(number)), torch.arange(3) + number),
            "more": [torch.tensor([True, False])], "name": "n"}


def numbers(source: Source, *which: int) -> list[float]:
    return [source.batch(n)["pair"].x[0, 0].item() for n in which]


def test_a_batch_comes_twice_and_the_others_one_late() -> None:
    source = Source(nested)
    fault = BatchFault(source, "duplicated")
    with fault:
        assert numbers(source, 0, 1, 2, 3) == [0, 0, 1, 2]
    assert source.batch is nested
    assert numbers(source, 4) == [4]
    with fault:
        assert numbers(source, 5) == [4]
    (record,) = fault.injected
    assert (record.call_number, record.num_wrong, fault.masked) == (1, 6, 1)


def test_a_batch_is_left_out() -> None:
    source = Source(nested)
    with BatchFault(source, "dropped") as fault:
        assert numbers(source, 5, 6) == [6, 7]
    assert (len(fault.injected), fault.masked) == (1, 0)
    assert fault.injected[0].before.repr == "5.0"


@pytest.mark.parametrize(("place", "output"), [(0.0, 0), (0.4, 1), (0.9, 2)])
def test_one_bit_of_one_tensor_of_a_batch_is_wrong_once(place: float, output: int) -> None:
    kept = {n: nested(n) for n in range(3)}
    source = Source(kept.__getitem__)
    fault = BatchFault(source, "corrupted", (place, 0.5, 0.5))
    with fault:
        wrong, later = source.batch(1), source.batch(2)
    assert type(wrong["pair"]) is Pair
    assert later is kept[2]
    counts = [len(differing(a, b)) for a, b in zip(leaves(wrong), leaves(nested(1)), strict=True)]
    assert counts == [int(i == output) for i in range(3)]
    assert [differing(a, b) for a, b in zip(leaves(kept[1]), leaves(nested(1)), strict=True)] == [
        [], [], []]
    (record,) = fault.injected
    assert (record.output, record.num_wrong) == (output, 1)
    assert int(record.before.bits, 16) ^ int(record.after.bits, 16) == 1 << (record.bit or 0)


def test_a_method_of_a_source_comes_back() -> None:
    class Loader:
        step_number = 0

        def batch(self, number: int) -> Tensor:
            return torch.tensor([number])

    source: Any = Loader()

    def fails() -> None:
        with BatchFault(source, "dropped"):
            assert source.batch(1) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert "batch" not in vars(source)
    assert source.batch(1) == 1


def test_batches_without_tensors_are_masked_and_other_words_refused() -> None:
    source = Source(lambda n: "text")
    with BatchFault(source, "corrupted") as fault:
        assert source.batch(0) == "text"
    assert (fault.injected, fault.masked) == ([], 1)
    with pytest.raises(UsageError, match="how is 'lost', must be one of duplicated"):
        BatchFault(source, "lost")
