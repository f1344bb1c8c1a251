"""Batch norm, forward with its running statistics and backward.

Each channel is normalised by itself; :mod:`sdc_guard.bounds.batch_norm` has the bounds, and which
of ATen's loops adds in which format.  Results are the running statistics, which the op overwrites,
then output, mean and reciprocal deviation.  Only a CPU is judged by a bound: cuDNN's moments are
another algorithm.

*Place.*  Rolled channels keep every bit, and so does the output under a negated input and bias
(seen on CPU in 4 formats and mixed, 1 and 2 threads).  Not in strided loops, which sum columns in
an order of their own, nor in the backward's channels-last loop where some are left over after the
vectors, which rounds those otherwise.  A split of channels or images would choose another loop.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import batch_norm as bounds
from sdc_guard.bounds import norms
from sdc_guard.bounds.gamma import rounding
from sdc_guard.bounds.sums import lane_depth
from sdc_guard.bounds.tracked import Tracked
from sdc_guard.calls import BoundCall, Path
from sdc_guard.formats import (
    FLOAT32,
    FLOAT64,
    Format,
    accumulator_of,
    format_of,
    is_covered_float,
)
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._kernel_norm_samples import Described, batch_norm_kernel
from sdc_guard.ops._places import BODY_MULTIPLE
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll

aten = torch.ops.aten

FORWARD = (aten.native_batch_norm, aten._native_batch_norm_legit,
           aten._native_batch_norm_legit_no_training, aten._batch_norm_with_update,
           aten._batch_norm_no_update)


def trains(call: BoundCall | HostCall) -> bool:
    """True where the moments come from the batch."""
    form = call.form if isinstance(call, BoundCall) else call.call.form
    default = form.packet == "aten._batch_norm_with_update"
    return bool(call.get("training", default))


def _running(call: BoundCall) -> int:
    """Number of running statistics among the results, which come first."""
    names = call.form.argument_names
    return sum(isinstance(call.args[i], Tensor) for i in call.form.overwrites
               if names[i].startswith("running_"))


def _layout(x: Tensor) -> str:
    """Which of ATen's loops runs: ``first``, ``last`` (channels last) or ``strided``; ``last``
    where it may be either."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if last is not None and x.is_contiguous(memory_format=last):
        return "last"
    if not x.is_contiguous():
        return "strided"
    return "first" if math.prod(x.shape[2:]) > 1 else "last"


def _named(call: BoundCall, rank: int) -> dict[Path, tuple[str, ...]]:
    named: dict[Path, tuple[str, ...]] = {}
    for path, tensor in call.tensors():
        full = tensor.dim() == rank and rank > 1
        named[path] = (FIXED, "c", *(FIXED,) * (rank - 2)) if full else ("c",) * tensor.dim()
    return named


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Channels; empty results (moments that evaluation does not make) have none."""
    rank, channels = call["input"].dim(), call["input"].shape[1]

    def labels(tensor: Tensor | None) -> tuple[str, ...]:
        if tensor is None:
            return ()
        if tensor.dim() == rank and rank > 1:
            return (FIXED, "c", *(FIXED,) * (rank - 2))
        return ("c" if tensor.shape == (channels,) else FIXED,) * tensor.dim()

    named = _named(call, rank)
    named = {p: x if call.args[p[0]].shape.numel() else (FIXED,) * len(x)
             for p, x in named.items()}
    return Axes(named, tuple(labels(t) for t in held))


def forward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled channels; the output under negated input and bias (and running mean in evaluation)."""
    signed = ["input"] + [n for n in ("bias",) if isinstance(call[n], Tensor)]
    if not trains(call):
        signed.append("running_mean")
    output = _running(call) if call.form.overwrites else 0
    odd = Symmetry(f"negate {' '.join(signed)}",
                   (Move("negate", operands=tuple(signed), outputs=(output,)),),
                   frozenset({"address", "bits"}), True)
    return (*_rolled(call), odd, RERUN)


def _rolled(call: BoundCall, *, tails: bool = True) -> tuple[Symmetry, ...]:
    """Rolled channels, where the place of a channel does not matter; ``tails``: nor in the scalar
    tail of the channels-last loop."""
    channels = call["input"].shape[1]
    layouts = {_layout(t) for t in (call["input"], call.get("grad_out")) if t is not None}
    lanes = "last" in layouts
    if "strided" in layouts or (lanes and not tails and channels % BODY_MULTIPLE):
        return ()
    return (roll("c", lane=lanes),)


def flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Eight operations per element."""
    return 8 * int(call["input"].numel())


def _rows(array: F64) -> F64:
    """Elements of each channel: [N, C, ...] as [C, N ...]."""
    return np.ascontiguousarray(array.swapaxes(0, 1)).reshape(array.shape[1], -1)


def _column(call: HostCall, name: str, default: float) -> F64:
    value = call.number(name, default)
    return value.reshape(-1, 1) if value.ndim else value


def _is_judged(call: BoundCall) -> bool:
    x = call["input"]
    return (x.device.type == "cpu" and x.numel() > 0
            and all(is_covered_float(t.dtype) for _, t in call.tensors() if t.dim() and t.numel()
                    and t.dtype is not torch.uint8))


def _is_part(result: Tensor | None) -> bool:
    """True for a window of a result, which says nothing about the layout of the whole call."""
    return result is not None and (
        result.untyped_storage().nbytes() > result.numel() * result.element_size())


def _arithmetic(call: BoundCall, result: Tensor | None) -> tuple[Format, Format]:
    """Format of the sums by contract, and of the elementwise part; the coarser of the two for a
    window.

    Half formats compute in fp32 where input and parameters are contiguous, else in their own
    format, operation by operation.  Contiguous fp32 adds in double.
    """
    x = call["input"]
    acc, layout = accumulator_of(x.dtype), _layout(x)
    plain = layout != "strided" and not _is_part(result) and all(
        t.is_contiguous() for _, t in call.tensors() if t.dim() < 2)
    grad = call.get("grad_out")
    if isinstance(grad, Tensor):
        plain = plain and _layout(grad) == layout
    own = format_of(x.dtype)
    # Channels-last takes the terms in the storage format where each thread has one at most.
    few = x.numel() // x.shape[1] <= torch.get_num_threads()
    terms = acc if plain and not (few and layout == "last") else own
    return (FLOAT64 if plain and layout == "first" and acc is FLOAT32 and own is FLOAT32 else acc,
            terms)


def _stored(held: Tensor, formula: str, size: F64, expected: F64, proof: F64, contract: F64
            ) -> Reference:
    shape, out = tuple(held.shape), format_of(held.dtype)
    proof, contract = (
        (e + rounding(np.abs(expected) + e, out) + out.eta).reshape(shape)
        for e in (proof, contract))
    size = np.broadcast_to(size, expected.shape).reshape(shape)
    return Reference(expected.reshape(shape), np.maximum(proof, contract), contract, formula, size)


def _unrowed(rows: F64, like: Tensor) -> F64:
    """[C, N ...] back as [N, C, ...]."""
    num, channels = like.shape[:2]
    spread = np.broadcast_to(rows, (channels, like.numel() // channels))
    return spread.reshape(channels, num, *like.shape[2:]).swapaxes(0, 1)


def samples(packet: Any) -> Any:
    """Representative calls of one of the forward packets."""

    def make(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        calls: SampleList = []
        for x in (draw(6, 5, 7, 3), draw(9, 16), draw(4, 5, 11).transpose(0, 2).contiguous(),
                  draw(3, 17, 4, 5).contiguous(memory_format=torch.channels_last),
                  draw(5, 7, 6).transpose(0, 1)):
            c = x.shape[1]
            w, b, mean, var = draw(c), draw(c), draw(c), draw(c).abs() + 0.5
            name = str(packet)
            if name in ("aten.native_batch_norm", "aten._native_batch_norm_legit"):
                calls += [(packet.default, (x, w, b, mean, var, True, 0.1, 1e-5), {}),
                          (packet.default, (x, w, b, mean, var, False, 0.1, 1e-5), {})]
                if name.endswith("legit"):
                    calls.append((packet.no_stats, (x, w, b, True, 0.1, 1e-5), {}))
                else:
                    calls.append((packet.default, (x, None, None, None, None, True, 0.1, 1e-5),
                                  {}))
            else:
                calls.append((packet.default, (x, w, b, mean, var, 0.1, 1e-5), {}))
        return calls

    return make


def forward(call: HostCall) -> tuple[Reference | None, ...]:
    """``(x - mean) / sqrt(var + eps) w + b`` for each channel, the moments, the running statistics;
    see :mod:`sdc_guard.bounds.batch_norm`."""
    held, bound = call.held, call.call
    references: list[Reference | None] = [None] * len(held)
    if not _is_judged(bound):
        return tuple(references)
    x_tensor = bound["input"]
    x = _rows(call.array("input"))
    eps, first = float(call["eps"]), _running(bound) if bound.form.overwrites else 0
    sums, terms = _arithmetic(bound, held[first])
    weight, bias = _column(call, "weight", 1.0), _column(call, "bias", 0.0)
    training = trains(call)
    with np.errstate(all="ignore"):
        if training:
            stats = format_of(held[first + 1].dtype)
            contract, proof = (bounds.two_pass(x, eps, f, terms, stats)
                               for f in (sums, accumulator_of(x_tensor.dtype)))
            _judge_moments(references, call, contract, proof, first)
            moments = (proof.moments, contract.moments)
        else:
            var, mean = _column(call, "running_var", 1.0), _column(call, "running_mean", 0.0)
            rstd, error = bounds.reciprocal_root(var, np.zeros_like(var), eps, terms)
            given = norms.Moments(mean, rstd, np.zeros_like(mean), error)
            moments = (given, given)
            for i in range(first):
                old = bits.values(bound.args[bound.form.overwrites[i]])
                references[i] = Reference(old, 0.0, 0.0, "unchanged in evaluation")
        m = moments[0]
        y = (x - m.mean) * m.rstd * weight + bias
        u = terms.u + FLOAT64.u
        limits = [norms.forward_error(x, m, weight, y, u) + 2 * u * np.abs(bias)
                  + 4 * terms.eta * (1 + np.abs(m.mean) + np.abs(x)) for m in moments]
        # Kernels scale by ``w r`` first, or x and m by r before the weight makes them small.
        reach = 1 + np.abs(x) + np.abs(m.mean)
        size = (1 + np.abs(weight)) * (1 + np.abs(m.rstd)) * reach + np.abs(bias)
        if training:
            size = size + x.shape[-1] * (proof.var + np.abs(m.mean))
        references[first] = _stored(
            held[first], "|w| (|x - m| D_r + (r + D_r)(D_m + 3 u (|x| + |m|))) + 2 u |.|",
            *(_unrowed(a, x_tensor) for a in (size, y, *limits)))
    return tuple(references)


def _judge_moments(
    references: list[Reference | None], call: HostCall, contract: bounds.Channel,
    proof: bounds.Channel, first: int,
) -> None:
    """References of mean and reciprocal deviation, and of the running statistics."""
    held = call.held
    c, p = contract.moments, proof.moments
    n = call.call["input"].numel() // call.call["input"].shape[1]
    large = np.sqrt(proof.var) + np.abs(p.mean)
    stats = format_of(held[first + 1].dtype)
    # The sum of squares is stored, and the sum may be: both must fit.
    size = n * large * (1 + large)
    if stats.emax < FLOAT32.emax:
        size = n * (np.abs(p.mean) + proof.var)
    references[first + 1] = _stored(held[first + 1], "gamma_n mean|x|", size[:, 0], p.mean[:, 0],
                                    p.mean_error[:, 0], c.mean_error[:, 0])
    references[first + 2] = _stored(held[first + 2], "r at var + eps +- D_var", size[:, 0],
                                    p.rstd[:, 0], p.rstd_error[:, 0], c.rstd_error[:, 0])
    momentum = float(call["momentum"])
    if first != 2 or n < 2:
        return
    fmt = stats  # half formats update them in their own arithmetic
    unbiased = n / (n - 1)
    for i, (name, new, errors) in enumerate((
        ("running_mean", p.mean, (p.mean_error, c.mean_error)),
        ("running_var", unbiased * proof.var,
         (unbiased * proof.var_error, unbiased * contract.var_error)))):
        old = call.array(name).reshape(-1, 1)
        expected = momentum * new + (1 - momentum) * old
        wide, narrow = (bounds.running_error(e, new, old, momentum, fmt)[:, 0] for e in errors)
        references[i] = _stored(held[i], "momentum D + 4 u |.|", size[:, 0], expected[:, 0], wide,
                                narrow)


def _described(call: BoundCall, held: tuple[Tensor, ...]) -> Described | None:
    """What a kernel check of a forward call must know; None where it is not judged."""
    if not _is_judged(call):
        return None
    first = _running(call) if call.form.overwrites else 0
    return Described(first, trains(call), *_arithmetic(call, held[first]))


for _packet in FORWARD:
    # Documented as deterministic: no atomics in any of its kernels.
    checked(_packet, family="norm", axes=_axes, symmetries=forward_symmetries, flops=flops,
            window=("c",), samples=samples(_packet), kernel=batch_norm_kernel(_described))(forward)


def backward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled channels; the negated incoming gradient, in which all results are linear."""
    return (*_rolled(call, tails=False), negate("grad_out"), RERUN)


def backward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Twelve operations per element."""
    return 12 * int(call["input"].numel())


def backward_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    """Representative calls for a dtype; none where the op does not take it."""
    calls: SampleList = []
    op = aten.native_batch_norm_backward.default
    for _, (x, w, b, mean, var, training, _, eps), _ in samples(aten.native_batch_norm)(
            generator, dtype):
        saved = aten.native_batch_norm.default(x, w, b, None, None, True, 0.1, eps)[1:]
        grad = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)
        grad = torch.empty_like(x).copy_(grad)
        calls.append((op, (grad, x, w, mean, var, *saved, training, eps,
                           [True, w is not None, w is not None]), {}))
    if calls:
        args = calls[0][1]
        calls += [(op, (*args[:-1], mask), {}) for mask in (
            [True, False, False], [False, True, True])]
    return calls


def reserved_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    """The same for the form that takes a reserve, empty on a CPU, and no optional weight."""
    reserve = torch.empty(0, dtype=torch.uint8)
    return [(aten.batch_norm_backward.default, (*args, reserve), {})
            for _, args, _ in backward_samples(generator, dtype) if args[2] is not None]


BACKWARD: dict[str, Any] = {"family": "norm", "axes": _axes, "symmetries": backward_symmetries,
                            "flops": backward_flops, "window": ("c",)}


@checked(aten.batch_norm_backward, samples=reserved_samples, **BACKWARD)
@checked(aten.native_batch_norm_backward, samples=backward_samples, **BACKWARD)
def backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Gradients with given moments; see :mod:`sdc_guard.bounds.batch_norm`."""
    held, bound = call.held, call.call
    references: list[Reference | None] = [None] * len(held)
    if not _is_judged(bound):
        return tuple(references)
    x_tensor = bound["input"]
    x, grad = _rows(call.array("input")), _rows(call.array("grad_out"))
    training = bool(call.get("train", call.get("update", True)))
    sums, terms = _arithmetic(bound, next((t for t in held if t is not None), None))
    acc, n = accumulator_of(x_tensor.dtype), x.shape[-1]
    depth = n + 1
    if sums is FLOAT64:  # contiguous fp32: each image by vectors, images in double
        depth = lane_depth(max(math.prod(x_tensor.shape[2:]), 1), acc) + 2
    with np.errstate(all="ignore"):
        if training:
            variance = "save_var" if "save_var" in bound.form.argument_names else "save_invstd"
            mean = _column(call, "save_mean", 0.0)
            rstd = Tracked.exact(_column(call, variance, 1.0), terms)
        else:
            mean, var = _column(call, "running_mean", 0.0), _column(call, "running_var", 1.0)
            rstd = Tracked(*bounds.reciprocal_root(var, np.zeros_like(var), float(call["eps"]),
                                                   terms), terms)
        weight = _column(call, "weight", 1.0)
        contract, proof = (
            bounds.gradients(grad, x, mean, rstd, weight, d, acc, terms, training=training)
            for d in (depth, n + 1))
        if held[0] is not None:
            size = (contract.magnitude + np.abs(grad)) * (1 + np.abs(rstd.value)) * (
                1 + np.abs(weight))
            references[0] = _stored(
                held[0], "running error analysis of (dy - mean(dy) - (x - m) k) r w",
                *(_unrowed(a, x_tensor) for a in (
                    size, contract.x.value, proof.x.error, contract.x.error)))
        for i, (c, p) in enumerate(((contract.weight, proof.weight),
                                    (contract.bias, proof.bias)), 1):
            tensor = held[i]
            if tensor is not None and tensor.numel():
                references[i] = _stored(
                    tensor, "(gamma_H + 3 u) sum|.|", contract.magnitude[:, 0], c.value[:, 0],
                    p.error[:, 0], c.error[:, 0])
    return tuple(references)
