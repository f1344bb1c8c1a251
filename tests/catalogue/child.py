"""Runs operators of torch's own catalogue, plain and guarded, and prints one JSON line for each.

A process of its own: importing ``op_db`` changes global flags, and a kernel may crash.
"""

from __future__ import annotations

import collections
import copy
import itertools
import json
import logging
import sys
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sdc_guard
from sdc_guard import bits

ADMITTED = (torch.int64, torch.complex64, torch.float64, torch.float32, torch.bfloat16,
            torch.float16)


class EmptyMode(TorchDispatchMode):
    """Does nothing: what changes under it changes under every dispatch mode."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors_of(v)]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors_of(v)]
    return []


def image_of(tensor: Tensor) -> Any:
    """Bits of a strided tensor; a description of any other."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return f"{tensor.layout} {tuple(tensor.shape)} {tensor.dtype}"
    plain = tensor.detach().resolve_conj().resolve_neg()
    words = bits.raw(plain)
    return (str(plain.dtype), tuple(plain.shape), words.tobytes())


def run(op: Any, sample: Any, seed: int) -> Any:
    """Bits of results and gradients, or the exception."""
    torch.manual_seed(seed)
    try:
        result = op(sample.input, *sample.args, **sample.kwargs)
        results = tensors_of(result)
        leaves = [t for t in tensors_of([sample.input, sample.args, sample.kwargs])
                  if t.requires_grad]
        outputs = [t for t in results if t.requires_grad and t.layout is torch.strided]
        gradients: list[Tensor] = []
        if leaves and outputs:
            found = torch.autograd.grad(
                outputs, leaves, [torch.ones_like(t) for t in outputs], allow_unused=True)
            gradients = [g for g in found if g is not None]
        return [image_of(t) for t in (*results, *gradients)] + [torch.get_rng_state().sum().item()]
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]


def fresh(sample: Any) -> Any:
    """A copy with the strides and the sharing of the original; sparse tensors cannot be deep-copied
    in every layout."""
    if all(t.layout is torch.strided for t in tensors_of(
            [sample.input, sample.args, sample.kwargs])):
        return copy.deepcopy(sample)
    return sample.transform(
        lambda x: x.detach().clone().requires_grad_(x.requires_grad)
        if isinstance(x, Tensor) else x)


def samples_of(op: Any, dtype: torch.dtype, num: int) -> list[Any]:
    grad = op.supports_autograd and (dtype.is_floating_point or dtype.is_complex)
    torch.manual_seed(0)
    return list(itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=grad), num))


def try_op(op: Any, dtype: torch.dtype, num: int) -> dict[str, Any]:
    """All samples of an operator: what changed, what was found, what was checked."""
    guard = sdc_guard.Guard(budget="all")
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("sdc_guard").addHandler(handler)
    changed: list[dict[str, Any]] = []
    samples = samples_of(op, dtype, num)
    for i, sample in enumerate(samples):
        plain = run(op, fresh(sample), i)
        if run(op, fresh(sample), i) != plain:
            changed.append({"sample": i, "why": "differs without a guard"})
            continue
        with guard:
            guarded = run(op, fresh(sample), i)
        if guarded != plain:
            with EmptyMode():
                under_mode = run(op, fresh(sample), i)
            why = "an empty mode changes it too" if under_mode != plain else "guard"
            texts = [x for x in (plain, guarded) if isinstance(x, str)]
            changed.append({"sample": i, "why": why, "exceptions": texts})
    logging.getLogger("sdc_guard").removeHandler(handler)
    coverage = guard.coverage
    seen: collections.Counter[str] = collections.Counter()
    for entry in coverage.ops:
        beyond = entry.calls_checked - entry.witnesses.get("rerun", 0)
        seen[f"{entry.op} calls"] += entry.calls
        seen[f"{entry.op} checked"] += entry.calls_checked
        seen[f"{entry.op} beyond rerun"] += max(beyond, 0)
        for reason, count in entry.not_tested.items():
            seen[f"{entry.op} not tested: {reason}"] += count
    return {
        "op": op.formatted_name, "dtype": str(dtype).removeprefix("torch."),
        "samples": len(samples), "changed": changed,
        "findings": [f"{f.verdict.value}: {f.message}"[:400] for f in guard.findings],
        "guard_errors": coverage.guard_errors,
        "errors": [t[:300] for t in told if "failed" in t][:3],
        "refused": list(coverage.refused_relations)[:6],
        "checks": coverage.calls_checked, "calls": dict(seen),
    }


def main() -> None:
    """Arguments: dtype, samples per operator, index of the first operator."""
    dtype = getattr(torch, sys.argv[1])
    num, first = int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("sdc_guard").propagate = False
    from torch.testing._internal.common_methods_invocations import op_db

    ops = sorted(op_db, key=lambda o: o.formatted_name)
    for i in range(first, len(ops)):
        op = ops[i]
        if "jiterator" in op.name or dtype not in op.supported_dtypes("cpu"):
            print(json.dumps({"index": i, "skipped": op.formatted_name}), flush=True)
            continue
        print(json.dumps({"index": i, "starts": op.formatted_name}), flush=True)
        try:
            found = try_op(op, dtype, num)
        except Exception as error:
            found = {"op": op.formatted_name, "dtype": sys.argv[1],
                     "harness": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps({"index": i, **found}), flush=True)


if __name__ == "__main__":
    main()
