"""Scaled dot-product attention: every fused variant of CPU and CUDA, forward and backward.

The unfused variant (``_scaled_dot_product_attention_math``) is made of products and a softmax that
are checked one by one.  The reference is evaluated on windows of the batch or of the heads.  Calls
with dropout have no reference: their mask is drawn inside the kernel.
:mod:`sdc_guard.bounds.attention` has the bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds import attention as bounds
from sdc_guard.bounds.gamma import rounding
from sdc_guard.bounds.products import input_rounding
from sdc_guard.calls import BoundCall, Path
from sdc_guard.formats import Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, Labels
from sdc_guard.ops._kernel_attention import (
    MASK_NAMES,
    attention_backward_kernel,
    attention_kernel,
    mask_name,
)
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll, split

aten = torch.ops.aten
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]

NUM_FORWARD = 2
"""Results of a forward that are numbers: the output and the log-sum-exp.  The others are seeds,
sequence lengths and a debug mask."""


def draws_random_numbers(call: BoundCall) -> bool:
    """True where the kernel draws a dropout mask."""
    return float(call.get("dropout_p", 0.0)) > 0.0


def _labels(tensor: Tensor, heads: int, batch: int) -> Labels:
    """Batch and head axis of an operand with at least two dimensions before the last two; a
    broadcast dimension and one with other heads (grouped queries) are fixed."""
    rank = tensor.dim()
    names = [FIXED] * rank
    if rank >= 3 and tensor.shape[0] == batch:
        names[0] = "b"
    if rank >= 3 and tensor.shape[1] == heads:
        names[1] = "h"
    return tuple(names)


def attention_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Batch and heads are movable; heads are not where queries share keys."""
    query, key = call["query"], call["key"]
    batch, heads = query.shape[0], query.shape[1]
    shared = key.shape[1] != heads
    named: dict[Path, Labels] = {}
    backward = "grad_out" in call.form.argument_names or "grad_out_" in call.form.argument_names
    for path, tensor in call.tensors():
        name = call.form.argument_names[path[0]]
        if name in MASK_NAMES:
            if tensor.dim() == 4:
                named[path] = _labels(tensor, 0 if shared else heads, batch)
        elif name in ("query", "key", "value", "out", "logsumexp") or name.startswith("grad_out"):
            named[path] = _labels(tensor, 0 if shared else heads, batch)
    numbers = len(held) if backward else NUM_FORWARD
    outputs = tuple(
        _labels(t, 0 if shared else heads, batch) if t is not None and i < numbers else ()
        for i, t in enumerate(held)
    )
    return Axes(named, outputs)


def _axis(call: BoundCall, held: tuple[Tensor, ...]) -> str | None:
    sizes = dict(zip(attention_axes(call, held).outputs[0][:2], held[0].shape[:2], strict=False))
    sizes.pop(FIXED, None)
    longest = max(sizes, key=lambda x: sizes[x], default=None)
    return longest if longest is not None and sizes[longest] > 1 else None


def _aligned(call: BoundCall) -> bool:
    """Heads of whole 16 bytes: seen bit-exact on CPU in all four formats, 1 and 2 threads, with
    and without mask, heads before or after the sequence.  With heads of 17 the fp32 and fp64
    products of a head depend on its alignment, and splits and rolls broke; half formats held."""
    query = call["query"]
    half = query.dtype in (torch.float16, torch.bfloat16)
    return half or query.shape[3] * query.element_size() % 16 == 0


def forward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Split and roll heads or batch; negate the values (the log-sum-exp, which does not depend on
    them, is then covered by the split)."""
    if draws_random_numbers(call):
        return ()
    axis, known = _axis(call, held), _aligned(call)
    if axis is None:
        return (RERUN,)
    numbers = (0, 1)
    signed = Symmetry(
        "negate value",
        (Move("negate", operands=("value",), outputs=(0,)), Move("split", axis, outputs=(1,))),
        frozenset({"address", "bits"}), known)
    split_numbers = Symmetry(f"split {axis}", (Move("split", axis, outputs=numbers),),
                             split(axis).places, known)
    roll_numbers = Symmetry(f"roll {axis}", (Move("roll", axis, outputs=numbers),),
                            roll(axis).places, known)
    return (split_numbers, roll_numbers, signed)


def backward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Split and roll heads or batch; negate the incoming gradient, in which all are linear."""
    if draws_random_numbers(call):
        return ()
    grad = "grad_out_" if "grad_out_" in call.form.argument_names else "grad_out"
    axis, known = _axis(call, held), _aligned(call)
    if axis is None:
        return (negate(grad), RERUN)
    return (split(axis, known=known), roll(axis, known=known), negate(grad))


def _pairs(call: BoundCall) -> int:
    query, key = call["query"], call["key"]
    return int(query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2])


def forward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Two products over all pairs, as :mod:`torch.utils.flop_counter` counts (causal or not)."""
    return 2 * _pairs(call) * int(call["query"].shape[3] + call["value"].shape[3])


def backward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Five products over all pairs."""
    return 2 * _pairs(call) * int(3 * call["query"].shape[3] + 2 * call["value"].shape[3])


MOST_DELTA = 12.0
"""Score errors up to which the limits hold: sums of exponentials are then off by a factor of less
than 2^20, and exponentials that underflow here stay below what the limits grant to underflow."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Operands with one head of keys per head of queries, and the masked scores."""

    query: F64
    key: F64
    value: F64
    scale: float
    scores: F64
    delta: F64
    groups: int
    reach: F64
    """0 for the queries that are judged: no product overflows before it is scaled, and no score
    errs by more than ``MOST_DELTA``; infinite for others."""


def _scores(call: HostCall, k: bounds.Machine) -> Scores:
    query, key, value = (call.array(n) for n in ("query", "key", "value"))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (np.repeat(x, groups, axis=1) for x in (key, value))
    scale = call.get("scale")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    turned = np.swapaxes(key, -1, -2)
    scores = scale * (query @ turned)
    products = np.abs(query) @ np.abs(turned)
    abs_scores = abs(scale) * products
    name = mask_name(call.call)
    if name is not None:
        scores = scores + call.array(name)
    if call["is_causal"]:
        seen = np.tri(query.shape[2], key.shape[2], dtype=bool)
        scores = np.where(seen, scores, -np.inf)
    delta = bounds.score_error(abs_scores, scores, query.shape[-1], k)
    partial = np.maximum(products, abs_scores).max(-1, keepdims=True)
    far = ~(scores >= scores.max(-1, keepdims=True) - 2 * delta - 1500.0)  # no kernel sees e^-1500
    vague = np.where(np.isneginf(scores) | far, 0.0, delta).max(-1, keepdims=True)
    reach = np.where((partial < k.acc.max / 2) & (vague <= MOST_DELTA), 0.0, np.inf)
    return Scores(query, key, value, scale, scores, delta, groups, reach)


def _machine(call: BoundCall) -> bounds.Machine | None:
    """The arithmetic, or None where the call has no reference."""
    dtype = call["query"].dtype
    name = mask_name(call)
    boolean = name is not None and call[name].dtype is torch.bool
    if not is_covered_float(dtype) or draws_random_numbers(call) or boolean:
        return None
    if not call["query"].numel() or not call["key"].numel():
        return None
    device = call["query"].device.type
    return bounds.machine(format_of(dtype), accumulator_of(dtype), input_rounding(dtype, device),
                          device, dtype)


def _stored(limit: F64, expected: F64, out: Format, acc: Format) -> F64:
    if out.precision < acc.precision:
        limit = limit + rounding(np.abs(expected) + limit, out)
    return np.asarray(limit + 16 * acc.eta)


def _unbounded(*operands: F64) -> float:
    """Infinite where an operand is not finite: kernels skip blocks that are masked out, where the
    definition has ``0 * inf``."""
    return 0.0 if all(np.isfinite(x).all() for x in operands) else np.inf


def _reference(
    tensor: Tensor, expected: F64, limits: bounds.Limits, k: bounds.Machine, formula: str,
    size: F64 | float,
) -> Reference:
    out = format_of(tensor.dtype)
    size = size + np.where(np.isfinite(limits.contract), limits.contract, 0.0)
    return Reference(expected, _stored(limits.proof, expected, out, k.acc),
                     _stored(limits.contract, expected, out, k.acc), formula, size)


def forward(call: HostCall) -> tuple[Reference | None, ...]:
    """``softmax(c q k^T + mask) v`` and the log of the softmax's denominator."""
    held = call.held
    k = _machine(call.call)
    if k is None:
        return (None,) * len(held)
    with np.errstate(all="ignore"):
        s = _scores(call, k)
        top = s.scores.max(-1, keepdims=True)
        empty = np.isneginf(top)
        top = np.where(empty, 0.0, top)
        distance = top - s.scores
        p = np.exp(-distance)
        total = np.where(empty, 1.0, p.sum(-1, keepdims=True))
        out = p @ s.value / total
        g = bounds.shift_growth(s.delta, distance, k.u)
        out_limits, lse_limits = bounds.forward_limits(p, g, total, s.value, out, top, k)
        size = np.abs(s.value).max(-2, keepdims=True) * total
        size = size + s.reach + _unbounded(s.query, s.key, s.value)
        lse = np.where(empty, 0.0, top + np.log(total))
        # A row with a score of inf: inf - inf in the definition, inf in kernels that add last.
        endless = np.where(np.isposinf(top[..., 0]), np.inf, 0.0)
        # Rows without a key: the output is zero everywhere, the log-sum-exp is each kernel's own.
        out_limits = bounds.Limits(out_limits.proof + s.reach, out_limits.contract + s.reach)
        ends = [np.where(empty, np.inf if held[0].device.type != "cpu" else 0.0, x + s.reach)
                for x in (lse_limits.proof, lse_limits.contract)]
    shape = tuple(held[0].shape)
    formula = "sum p |v| (r + gamma_N + v) / l + |o| r_l"
    found: list[Reference | None] = [
        _reference(held[0], out, out_limits, k, formula, np.broadcast_to(size, shape))]
    if len(held) > 1:
        found.append(_log_sum(held[1], lse[..., 0],
                              bounds.Limits(ends[0][..., 0], ends[1][..., 0]), k,
                              endless + s.reach[..., 0] + _unbounded(s.query, s.key)))
    return (*found, *(None for _ in held[2:]))


def _log_sum(
    tensor: Tensor | None, lse: F64, limits: bounds.Limits, k: bounds.Machine, size: F64
) -> Reference | None:
    """The log-sum-exp in the layout of the result: CUDA pads the queries, cuDNN adds a dimension;
    it is not asked for in inference."""
    if tensor is None or tensor.numel() < lse.size or not is_covered_float(tensor.dtype):
        return None
    if tensor.dim() == 4:
        lse, size = lse[..., None], size[..., None]
        limits = bounds.Limits(limits.proof[..., None], limits.contract[..., None])
    pad = tensor.shape[2] - lse.shape[2]
    widths = [(0, 0), (0, 0), (0, pad), (0, 0)][: lse.ndim]
    expected = np.pad(lse, widths)
    padded = bounds.Limits(*(np.pad(x, widths, constant_values=np.inf)
                             for x in (limits.proof, limits.contract)))
    return _reference(tensor, expected, padded, k, "r_l + phi |log l| + 3 u (|m| + |lse|)",
                      np.pad(size, widths))


def backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``P = exp(s - lse)``, ``dS = P (do v^T - sum do o)``, then three products."""
    held = call.held
    k = _machine(call.call)
    if k is None:
        return (None,) * len(held)
    grad = call.array("grad_out_" if call.get("grad_out_") is not None else "grad_out")
    with np.errstate(all="ignore"):
        s = _scores(call, k)
        lse = call.array("logsumexp")[:, :, : s.query.shape[2]].reshape(*s.query.shape[:3], 1)
        out = call.array("out")
        distance = np.where(np.isneginf(s.scores), np.inf, lse - s.scores)
        p = np.exp(-distance)
        g = bounds.shift_growth(s.delta, np.abs(distance), k.u)
        turned = np.swapaxes(s.value, -1, -2)
        difference = grad @ turned - (grad * out).sum(-1, keepdims=True)
        abs_difference = np.abs(grad) @ np.abs(turned) + np.abs(grad * out).sum(-1, keepdims=True)
        ds = s.scale * p * difference
        results = (ds @ s.key, np.swapaxes(ds, -1, -2) @ s.query, np.swapaxes(p, -1, -2) @ grad)
        limits = bounds.backward_limits(p, g, difference, abs_difference, s.query, s.key, grad,
                                        s.scale, k)
        unbounded = _unbounded(grad, s.query, s.key, s.value, out, lse)
        if not (abs_difference < k.acc.max / 2).all():
            unbounded = np.inf
    found: list[Reference | None] = []
    for i, tensor in enumerate(held):
        if i >= len(results) or tensor is None or not tensor.numel():
            found.append(None)
            continue
        groups = s.groups if i else 1
        open_end = unbounded + (s.reach.max() if i else s.reach)
        # Parts of a sum, or what is still to be scaled, may leave the range that it comes back to.
        most = min(1.0, abs(s.scale)) * k.acc.max / 2
        open_end = open_end + np.where(limits[i][1] < most, 0.0, np.inf)
        expected, proof, contract, size = (
            _grouped(x, groups)
            for x in (results[i], limits[i][0].proof + open_end, limits[i][0].contract + open_end,
                      limits[i][1]))
        found.append(_reference(tensor, expected, bounds.Limits(proof, contract), k,
                                "P (r |dP - d| + ...) and gamma of the product", size + unbounded))
    return tuple(found)


def _grouped(array: F64, groups: int) -> F64:
    """Gradients of shared keys are the sums over the heads that share them."""
    if groups == 1:
        return array
    batch, heads = array.shape[:2]
    return np.asarray(array.reshape(batch, heads // groups, groups, *array.shape[2:]).sum(2))


def _operands(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> list[Tensor]:
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]


def forward_samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Calls of the CPU variant; the others need their device."""
    if not is_covered_float(dtype):
        return []
    op = aten._scaled_dot_product_flash_attention_for_cpu.default
    q, k, v = _operands(generator, dtype, 2, 3, 40, 16)
    head_last = [x.transpose(1, 2) for x in _operands(generator, dtype, 2, 33, 4, 24)]
    mask = torch.randn(40, 40, generator=generator).to(dtype)
    return [
        (op, (q, k, v, 0.0, True), {}),
        (op, tuple(head_last), {}),
        (op, (q, k[:, :, :23], v[:, :, :23]), {"scale": 0.5}),
        (op, (q, k, v), {"attn_mask": mask}),
    ]


def backward_samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    op = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    calls: list[Call] = []
    for forward_op, args, kwargs in forward_samples(generator, dtype):
        out, lse = forward_op(*args, **kwargs)
        grad = torch.randn(out.shape, generator=generator).to(dtype)
        causal = len(args) > 4 and bool(args[4])
        calls.append((op, (grad, *args[:3], out, lse, 0.0, causal), kwargs))
    return calls


FORWARD: dict[str, Any] = {
    "family": "attention", "axes": attention_axes, "symmetries": forward_symmetries,
    "flops": forward_flops, "window": ("b", "h"), "kernel": attention_kernel(_machine),
}
BACKWARD: dict[str, Any] = {
    "family": "attention", "axes": attention_axes, "symmetries": backward_symmetries,
    "flops": backward_flops, "window": ("b", "h"), "kernel": attention_backward_kernel(_machine),
}

checked(aten._scaled_dot_product_flash_attention_for_cpu, samples=forward_samples, **FORWARD)(
    forward
)
checked(
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
    **FORWARD,
)(forward)
checked(aten._scaled_dot_product_flash_attention_for_cpu_backward, samples=backward_samples,
        **BACKWARD)(backward)
# CUDA's backward kernels add the query gradient up with atomics unless asked to be deterministic.
checked(
    aten._scaled_dot_product_flash_attention_backward,
    aten._scaled_dot_product_efficient_attention_backward,
    aten._scaled_dot_product_cudnn_attention_backward,
    aten._scaled_dot_product_fused_attention_overrideable_backward,
    deterministic=False,
    **BACKWARD,
)(backward)
