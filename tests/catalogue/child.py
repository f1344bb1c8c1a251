"""Runs operators of torch's own catalogue, plain and guarded, and prints one JSON line for each.

A process of its own: importing ``op_db`` changes global flags, and a kernel may crash.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import itertools
import json
import logging
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sdc_guard
from sdc_guard import bits
from sdc_guard.calls import form_of
from sdc_guard.inject.campaign import draw_transients, record_calls
from tests.catalogue import faults

ADMITTED = (torch.int64, torch.complex64, torch.complex128, torch.float64, torch.float32,
            torch.bfloat16, torch.float16)


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
    if plain.numel() and not plain.data_ptr():
        return f"zeros without memory {tuple(plain.shape)} {plain.dtype}"
    words = bits.raw(plain)
    return (str(plain.dtype), tuple(plain.shape), words.tobytes())


def compute(op: Any, sample: Any, seed: int) -> list[Tensor]:
    """Results and gradients."""
    torch.manual_seed(seed)
    results = tensors_of(op(sample.input, *sample.args, **sample.kwargs))
    leaves = [t for t in tensors_of([sample.input, sample.args, sample.kwargs]) if t.requires_grad]
    outputs = [t for t in results if t.requires_grad and t.layout is torch.strided]
    if not leaves or not outputs:
        return results
    found = torch.autograd.grad(
        outputs, leaves, [torch.ones_like(t) for t in outputs], allow_unused=True)
    return results + [g for g in found if g is not None]


def run(op: Any, sample: Any, seed: int) -> Any:
    """Bits of results and gradients and the state of the generator, or the exception."""
    try:
        found = compute(op, sample, seed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return [image_of(t) for t in found] + [image_of(torch.get_rng_state())]


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
        if "empty" in op.name or run(op, fresh(sample), i) != plain:
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
        "findings": [f"{f.verdict.value}: {f.message}".replace(f"{Path.cwd()}/", "")[:400]
                     for f in guard.findings],
        "guard_errors": coverage.guard_errors,
        "errors": [t[:300] for t in told if "failed" in t][:3],
        "refused": list(coverage.refused_relations)[:6],
        "checks": coverage.calls_checked, "calls": dict(seen),
    }


def try_faults(op: Any, dtype: torch.dtype, num: int) -> dict[str, Any]:
    """Single transient flips in a call of the operator's first sample, forward or backward: call,
    result, element and bit uniform.  What strikes a call that coverage calls not tested is counted
    apart."""
    counts: collections.Counter[str] = collections.Counter()
    missed: list[str] = []
    sample = next(iter(samples_of(op, dtype, 1)), None)
    if sample is None:
        return {"op": op.formatted_name, "dtype": str(dtype), "samples": 0, "power": {}}
    own = fresh(sample)
    try:
        calls = record_calls(lambda: compute(op, own, 0))
    except Exception:  # the sample is one of an error
        calls = []
    if any(call.drawable for call in calls):
        for fault in draw_transients(calls, num, seed=zlib.crc32(op.formatted_name.encode())):
            guard, own = sdc_guard.Guard(budget="all"), fresh(sample)
            with guard, fault, contextlib.suppress(Exception):  # of a wrong index or a wrong sign
                compute(op, own, 0)
            counts[_outcome(guard, fault, missed)] += 1
    return {"op": op.formatted_name, "dtype": str(dtype).removeprefix("torch."), "samples": 1,
            "power": dict(counts), "missed": missed}


VISITS = 10
"""Runs of a sample in which a repeated fault must be found: relations take turns, and references
are sampled."""


def try_repeated_faults(op: Any, dtype: torch.dtype, num: int) -> dict[str, Any]:
    """``num`` faults of each kind of :data:`tests.catalogue.faults.KINDS` in the calls of the
    operator's first samples, each there in every execution, those of the guard included.  Counted
    apart: faults in calls for which no bound is known, and in calls that are not tested."""
    counts: collections.Counter[str] = collections.Counter()
    missed: list[str] = []
    samples = samples_of(op, dtype, num)
    generator = np.random.default_rng(zlib.crc32(op.formatted_name.encode()))
    for i, sample in enumerate(samples):
        own = fresh(sample)
        try:
            calls = faults.record(lambda own=own: compute(op, own, 0))
        except Exception:  # the sample is one of an error
            continue
        for kind in faults.KINDS if calls else ():
            drawn = faults.draw(calls, kind, generator)
            if drawn is None:
                counts[f"{kind}: no effect above twice the bound"] += 1
                continue
            fault, bounded = drawn
            guard = sdc_guard.Guard(budget="all")
            for _ in range(VISITS):
                own = fresh(sample)
                with guard, fault, contextlib.suppress(Exception):
                    compute(op, own, 0)
                if guard.findings:
                    break
            outcome = _outcome_of_repeated(guard, fault)
            counts[f"{kind}{'' if bounded else ', no bound'}: {outcome}"] += 1
            if outcome.startswith("missed"):
                missed.append(f"{kind} sample {i} {fault!r}{'' if bounded else ', no bound'}: "
                              f"{outcome}")
    return {"op": op.formatted_name, "dtype": str(dtype).removeprefix("torch."),
            "samples": len(samples), "power": dict(counts), "missed": missed}


def _outcome_of_repeated(guard: sdc_guard.Guard, fault: Any) -> str:
    if not fault.injected:
        return "not injected"
    packet = form_of(fault.op).packet
    wrong = [f for f in guard.findings if f.verdict is sdc_guard.Verdict.CORRUPTION]
    if wrong:
        named = any(form_of(_overload(f.op)).packet == packet for f in wrong)
        return "found" if named else "found in an operator that calls it"
    if guard.findings:
        return f"found, {guard.findings[0].verdict.value}"
    counted = next((c for c in guard.coverage.ops if c.op == packet), None)
    if counted is None or not counted.calls_checked:
        return "not tested"
    if guard.coverage.guard_errors:
        return "missed, guard error"
    return "missed"


def _overload(name: str) -> Any:
    namespace, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


def _outcome(guard: sdc_guard.Guard, fault: Any, missed: list[str]) -> str:
    if not fault.injected:
        return "not injected"
    name = str(fault.op)
    if any(f.op == name and f.held_is_wrong for f in guard.findings):
        return "found"
    packet = form_of(fault.op).packet
    counted = next((c for c in guard.coverage.ops if c.op == packet), None)
    if counted is None or not counted.calls_checked:
        reasons = ", ".join(counted.not_tested) if counted is not None else "no numbers"
        return f"not tested: {reasons}"
    hit = fault.injected[0]
    if hit.before.repr == hit.after.repr == "nan":
        return "a NaN became another NaN"
    missed.append(f"{name} output {hit.output} {list(hit.shape)} bit {hit.bit}: "
                  f"{hit.before.repr} -> {hit.after.repr}")
    return "missed"


def main() -> None:
    """Arguments: dtype, samples per operator, index of the first operator; and, for faults, their
    number per operator and ``transient`` or ``repeated``."""
    dtype = getattr(torch, sys.argv[1])
    num, first = int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("sdc_guard").propagate = False
    logging.getLogger("sdc_guard").addHandler(logging.NullHandler())
    from torch.testing._internal.common_methods_invocations import op_db

    trial = None
    if len(sys.argv) > 4:
        trial = {"transient": try_faults, "repeated": try_repeated_faults}[sys.argv[5]]
    ops = sorted(op_db, key=lambda o: o.formatted_name)
    for i in range(first, len(ops)):
        op = ops[i]
        if "jiterator" in op.name or dtype not in op.supported_dtypes("cpu"):
            print(json.dumps({"index": i, "skipped": op.formatted_name}), flush=True)
            continue
        print(json.dumps({"index": i, "starts": op.formatted_name}), flush=True)
        try:
            found = (trial(op, dtype, int(sys.argv[4])) if trial else try_op(op, dtype, num))
        except Exception as error:
            found = {"op": op.formatted_name, "dtype": sys.argv[1],
                     "harness": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps({"index": i, **found}), flush=True)


if __name__ == "__main__":
    main()
