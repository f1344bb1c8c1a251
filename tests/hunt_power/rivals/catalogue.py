"""Rival: the samples of torch's own catalogue, each once, with default tolerances; every form that
torch's own tests of the catalogue make: as sampled, non-contiguous, in place, with out=."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.catalogue.child import ADMITTED, fresh, tensors_of
from tests.hunt_power.mutant import Mutant, planted
from tests.hunt_power.outcome import Outcome
from tests.hunt_power.rivals.comparing import REFUSALS, difference

Made = tuple[Callable[..., Any], Any, Any]
DTYPES = (*ADMITTED, torch.int32, torch.uint8, torch.bool)


def search(mutant: Mutant, seconds: float, seed: int) -> Outcome:
    """All samples once; ``seconds`` and ``seed`` are of no use."""
    from torch.testing._internal.common_methods_invocations import op_db

    started_s, calls = time.monotonic(), 0
    entries = [op for op in op_db if op.name == mutant.catalogue]
    if not entries:
        return Outcome(reason=f"the catalogue has no {mutant.catalogue}")
    with planted(mutant) as state:
        for op in entries:
            for make in _calls(op):
                calls += 1
                message = difference(state, make)
                if message:
                    elapsed_s = time.monotonic() - started_s
                    return Outcome(is_found=True, found_s=elapsed_s, elapsed_s=elapsed_s,
                                   calls=calls, wrong_calls=state.num_wrong, message=message)
        return Outcome(elapsed_s=time.monotonic() - started_s, calls=calls,
                       wrong_calls=state.num_wrong)


def _calls(op: Any) -> Iterator[Callable[[], Made]]:
    for dtype in DTYPES:
        if dtype not in op.supported_dtypes("cpu"):
            continue
        grad = op.supports_autograd and (dtype.is_floating_point or dtype.is_complex)
        torch.manual_seed(0)
        for sample in op.sample_inputs("cpu", dtype, requires_grad=grad):
            yield lambda sample=sample: _made(op.op, fresh(sample))
            if any(t.layout is not torch.strided for t in tensors_of([sample.input, sample.args])):
                continue
            yield lambda sample=sample: _made(op.op, sample.noncontiguous())
            plain = sample.transform(
                lambda x: x.detach() if isinstance(x, torch.Tensor) else x)
            if op.inplace_variant is not None:
                yield lambda plain=plain: _made(op.inplace_variant, fresh(plain))
            if op.supports_out:
                yield lambda plain=plain: _with_out(op.op, fresh(plain))


def _made(function: Callable[..., Any], sample: Any) -> Made:
    return function, (sample.input, *sample.args), sample.kwargs


def _with_out(function: Callable[..., Any], sample: Any) -> Made:
    """The same with fresh results to write into."""
    _, args, kwargs = _made(function, sample)
    try:
        results = function(*args, **kwargs)
    except REFUSALS:
        return function, args, kwargs
    out = torch.empty_like(results) if isinstance(results, torch.Tensor) else tuple(
        torch.empty_like(r) for r in results)
    return function, args, {**kwargs, "out": out}
