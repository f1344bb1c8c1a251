"""A user's own workload, ``package.module:function``, as the harness needs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sdc_guard import bits
from sdc_guard.bench.workload import Workload
from sdc_guard.bench.workloads.batches import HELD_OUT
from sdc_guard.errors import UsageError

_PARTS = "(model, optimizer, batch, loss)"
_HELP = (f"a Workload of sdc_guard.bench.workload, or a tuple {_PARTS}: batch(n) is the batch of "
         "step n, loss(model, batch) a scalar tensor")


def load_workload(target: str, *, seed: int = 0) -> Callable[[], Workload]:
    """What makes the workload ``package.module:function``, looked for from the current folder on.

    The function takes no argument and returns a :class:`Workload`, or a tuple ``(model, optimizer,
    batch, loss)`` whose ``batch`` and ``loss`` are those of a :class:`Workload`.  It is called with
    torch's global generators at ``seed``, so that each call can give the same numbers; their state
    is put back.  ``batch(n)`` is asked for the same ``n`` several times, and for numbers from
    :data:`~sdc_guard.bench.workloads.batches.HELD_OUT` on, which are not trained on.

    One workload is made here to be looked at, and thrown away.

    Raises:
        UsageError: if there is no such module or function, it returns something else, ``batch(0)``
            gives other numbers when asked again, a held-out batch cannot be made, the loss is no
            scalar with a gradient for the optimizer's parameters, or the optimizer cannot step
            without a closure.
    """
    function = _find(target)

    def build() -> Workload:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            try:
                made = function()
            except Exception as error:
                raise UsageError(
                    f"{target!r} raised {type(error).__name__}: {error}; it must return {_HELP}"
                ) from error
            return _as_workload(target, made)

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        _look_at(target, build())
    return build


def _find(target: str) -> Callable[[], object]:
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UsageError(f"{target!r}: give MODULE:FUNCTION, a function that returns {_HELP}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"{target!r}: {error}; looked for the module {module_name!r} in {here} and on "
            "Python's path; run from the folder that holds it, or set PYTHONPATH"
        ) from error
    except Exception as error:
        raise UsageError(
            f"{target!r}: importing {module_name!r} raised {type(error).__name__}: {error}; it "
            "must import without errors") from error
    found = getattr(module, name, None)
    if not callable(found):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise UsageError(f"{target!r}: {name!r} in {module.__file__} is {what}, not a function; "
                         f"it must be a function that returns {_HELP}")
    return found  # type: ignore[no-any-return]


def _as_workload(target: str, made: object) -> Workload:
    if isinstance(made, Workload):
        workload = made
    elif isinstance(made, tuple) and len(made) == len(_PARTS.split(",")):
        workload = Workload(*made)
    else:
        size = f" of {len(made)}" if isinstance(made, tuple) else ""
        raise UsageError(f"{target!r} returned a {type(made).__name__}{size}; return {_HELP}")
    kinds: tuple[tuple[str, Any, str, bool], ...] = (
        ("model", workload.model, "torch.nn.Module", isinstance(workload.model, nn.Module)),
        ("optimizer", workload.optimizer, "torch.optim.Optimizer",
         isinstance(workload.optimizer, torch.optim.Optimizer)),
        ("batch", workload.batch, "function of the step's number", callable(workload.batch)),
        ("loss", workload.loss, "function of model and batch", callable(workload.loss)),
    )
    for part, value, wanted, is_right in kinds:
        if not is_right:
            raise UsageError(f"{target!r} returned a {type(value).__name__} as {part}, which must "
                             f"be a {wanted}; return {_HELP}")
    return workload


def _look_at(target: str, workload: Workload) -> None:
    """One batch, one backward and one update of a workload that is thrown away."""
    batch = workload.batch(0)
    if not _is_same(batch, workload.batch(0)):
        raise UsageError(
            f"{target!r}: batch(0) gave other numbers when it was asked again; draw them from a "
            "generator that is seeded with the step's number, np.random.default_rng((seed, n))")
    try:
        workload.batch(HELD_OUT)
    except Exception as error:
        raise UsageError(
            f"{target!r}: batch({HELD_OUT}) raised {type(error).__name__}: {error}; batches from "
            "there on are held out of training and measure its loss, so let batch(n) take any n "
            "from 0 on"
        ) from error
    with workload.autocasting():
        loss = workload.loss(workload.model, batch)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = (f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor)
                else f"a {type(loss).__name__}")
        raise UsageError(f"{target!r}: loss(model, batch(0)) is {what}; it must be a tensor with "
                         "one element")
    if not loss.requires_grad:
        raise UsageError(
            f"{target!r}: loss(model, batch(0)) has no gradient; compute it from the model's "
            "parameters, outside of torch.no_grad(), without detach() or item()")
    loss.backward()
    parameters = [p for group in workload.optimizer.param_groups for p in group["params"]]
    if all(p.grad is None for p in parameters):
        raise UsageError(
            f"{target!r}: loss.backward() gave no gradient to any of the optimizer's "
            f"{len(parameters)} parameters; give the optimizer model.parameters()")
    try:
        workload.update()
    except Exception as error:
        raise UsageError(
            f"{target!r}: optimizer.step() raised {type(error).__name__}: {error}; the benchmark "
            "calls it without arguments after one backward, so an optimizer that needs a closure, "
            "as LBFGS does, cannot be measured") from error


def _is_same(first: object, second: object) -> bool:
    """Equal bits in all tensors; what else is in a batch is not compared."""
    ours, theirs = ([leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
                    for batch in (first, second))
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and a.dtype == b.dtype and bits.bits_equal(a, b)
        for a, b in zip(ours, theirs, strict=True))
