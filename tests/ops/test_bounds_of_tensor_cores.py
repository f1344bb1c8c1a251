"""Products on CUDA are judged by what tensor cores keep, in every op and in checksums."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard.bounds import accumulators
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.ops import lookup
from sdc_guard.ops._registry import HostCall

aten = torch.ops.aten
K = 96


class OnCuda(Tensor):
    """A result that says it lies on a CUDA device."""

    device = property(lambda self: SimpleNamespace(type="cuda"))  # type: ignore[assignment]


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(torch.bfloat16)


CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mm": (aten.mm.default, (drawn(20, K), drawn(K, 24))),
    "bmm": (aten.bmm.default, (drawn(2, 20, K), drawn(2, K, 24))),
    "addmm": (aten.addmm.default, (drawn(24), drawn(20, K), drawn(K, 24))),
    "baddbmm": (aten.baddbmm.default, (drawn(2, 20, 24), drawn(2, 20, K), drawn(2, K, 24))),
    "mv": (aten.mv.default, (drawn(20, K), drawn(K))),
    "addmv": (aten.addmv.default, (drawn(20), drawn(20, K), drawn(K))),
}


def held_by(call: BoundCall, on_cuda: bool) -> HostCall:
    held = call.run()
    return HostCall(call, tuple(h.as_subclass(OnCuda) for h in held) if on_cuda else held)


def references(name: str, on_cuda: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The bound of each element and the limit of the checksums."""
    op, args = CALLS[name]
    spec = lookup(f"aten.{name}")
    assert spec is not None
    assert spec.reference is not None
    host = held_by(BoundCall(form_of(op), form_of(op).bind(args, {})), on_cuda)
    (found,) = spec.reference(host)
    assert found is not None
    sums = spec.checksum(host) if spec.checksum is not None else None
    return np.asarray(found.proof), None if sums is None else np.asarray(sums[1])


@pytest.mark.parametrize("name", CALLS)
def test_the_model_of_the_device_enters_every_bound(name: str) -> None:
    accumulators.forget()
    try:
        on_cpu, default = references(name, False), references(name, True)
        rough = accumulators.AccumulatorModel(14, 0, 4, truncates=True)
        accumulators.learn("cuda", "bfloat16", frozenset({rough}))
        probed, still_cpu = references(name, True), references(name, False)
    finally:
        accumulators.forget()
    for cpu, unprobed, coarse, again in zip(on_cpu, default, probed, still_cpu, strict=True):
        if cpu is None or unprobed is None or coarse is None or again is None:
            continue
        assert (unprobed > cpu).all()
        assert (coarse > unprobed).all()
        assert np.array_equal(cpu, again)
        # Not the constant alone: what the model says of K terms.
        step = rough.coefficient(K) - accumulators.UNPROBED.coefficient(K)
        assert (coarse - unprobed).max() > step


def test_the_addend_may_be_cut_off_with_the_sum() -> None:
    """With factors of 0 only the addend is left, and it is cut off step by step."""
    zero = torch.zeros(4, K, dtype=torch.bfloat16)
    spec = lookup("aten.addmm")
    assert spec is not None
    assert spec.reference is not None
    form = form_of(aten.addmm.default)
    args = (torch.ones(4, 4, dtype=torch.bfloat16), zero, zero.t())
    host = held_by(BoundCall(form, form.bind(args, {})), True)
    (found,) = spec.reference(host)
    assert found is not None
    rounding = 2.0**-8
    assert (np.asarray(found.proof) > rounding + accumulators.UNPROBED.coefficient(K)).all()
