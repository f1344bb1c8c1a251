"""Group norm, forward (3 results) and backward.

A group of D channels of one image is a row of ``D * H * W`` elements, normalised like a row of
layer norm (:mod:`sdc_guard.bounds.norms`, whose moments and gradients ATen's contiguous kernels
share).  Channels-last kernels add x and x^2 and subtract the squared mean, and CUDA's merge as
their threads are laid out: the generous form of the moments, for proof and contract.  Gradients are
judged on a CPU alone.  Half formats keep mean and reciprocal deviation in the format of
the parameters.

*Place.*  Images are computed by themselves, and so are groups: rolled images, and channels rolled
by whole groups, keep every bit (seen on CPU in 4 formats and mixed, 1 and 2 threads).  The output
is odd in input and bias, all gradients in the incoming one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import norms
from sdc_guard.bounds.gamma import rounding
from sdc_guard.bounds.softmax import with_reference
from sdc_guard.calls import BoundCall, Path
from sdc_guard.formats import accumulator_of, format_of
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._kernel_norm_samples import (
    adds_in_any_order,
    group_norm_kernel,
    is_judged,
)
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll

aten = torch.ops.aten
CHANNELS = frozenset({"input", "grad_out", "mean", "rstd"})
"""Operands whose second axis is that of channels or groups; a weight's is its only one."""


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Images.  Parameter gradients sum over them."""
    names = call.form.argument_names
    named: dict[Path, tuple[str, ...]] = {
        path: ("n", *(FIXED,) * (t.dim() - 1)) if names[path[0]] in CHANNELS
        else (FIXED,) * t.dim() for path, t in call.tensors()}
    forward = "mean" not in names

    def labels(i: int, tensor: Tensor | None) -> tuple[str, ...]:
        if tensor is None:
            return ()
        if forward or i == 0:
            return ("n", *(FIXED,) * (tensor.dim() - 1))
        return (FIXED,) * tensor.dim()

    return Axes(named, tuple(labels(i, t) for i, t in enumerate(held)))


def _rolled(tensor: Tensor, dim: int, shift: int) -> Tensor:
    """A copy in the tensor's own layout, rolled towards the front."""
    image = bits.empty_image(tensor)
    rest = tensor.shape[dim] - shift
    image.narrow(dim, 0, rest).copy_(tensor.narrow(dim, shift, rest))
    image.narrow(dim, rest, shift).copy_(tensor.narrow(dim, 0, shift))
    return image


def _groups_rolled(call: BoundCall, visit: int) -> tuple[Tensor | None, ...]:
    """The call on channels rolled by whole groups, undone."""
    groups, channels = int(call["group"]), int(call["C"])
    places = 1 + visit % (groups - 1)
    size = channels // groups
    names = call.form.argument_names

    def moved(path: Path, tensor: Tensor) -> Tensor:
        if not all(tensor.stride()):
            tensor = tensor.contiguous()
        dim = 1 if names[path[0]] in CHANNELS else 0
        return _rolled(tensor, dim, places * (size if tensor.shape[dim] == channels else 1))

    def undone(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        dim = min(tensor.dim() - 1, 1)
        shift = places * (size if tensor.shape[dim] == channels else 1)
        return _rolled(tensor, dim, tensor.shape[dim] - shift)

    return tuple(undone(t) for t in call.mapped(moved).run())


ROLL_GROUPS = Symmetry("roll groups", (Move("custom", function=_groups_rolled),),
                       frozenset({"address", "core", "tile"}), True)


def _places(call: BoundCall) -> tuple[Symmetry, ...]:
    whole = all(all(t.stride()) for _, t in call.tensors())
    return (ROLL_GROUPS,) if int(call["group"]) > 1 and whole else ()


def forward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled images, rolled groups, negated input and bias."""
    signed = ("input", "bias") if isinstance(call["bias"], Tensor) else ("input",)
    odd = Symmetry(f"negate {' '.join(signed)}", (Move("negate", operands=signed, outputs=(0, 1)),),
                   frozenset({"address", "bits"}), True)
    images = (roll("n"),) if held[0].shape[0] > 1 else ()
    return (*images, *_places(call), odd, RERUN)


def backward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled groups; rolled images, for the input's gradient; the negated incoming gradient."""
    images: tuple[Symmetry, ...] = ()
    if call["output_mask"][0] and call["input"].shape[0] > 1:
        images = (Symmetry("roll n", (Move("roll", "n", outputs=(0,), overrides=(
            ("output_mask", [True, False, False]),)),),
            frozenset({"address", "core", "tile"}), True),)
    return (*_places(call), *images, negate("grad_out"), RERUN)


def forward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Eight operations per element."""
    return 8 * int(call["input"].numel())


def backward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Sixteen operations per element."""
    return 16 * int(call["input"].numel())


def _drawn(generator: torch.Generator, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    found: list[tuple[Any, ...]] = []
    for x, groups in ((draw(3, 6, 5, 7), 3), (draw(2, 8, 33), 1), (draw(5, 12), 4),
                      (draw(2, 12, 4, 5).contiguous(memory_format=torch.channels_last), 3)):
        n, c = x.shape[:2]
        rest = (n, c, math.prod(x.shape[2:]), groups)
        found.append((x, draw(c), draw(c), *rest))
        found.append((x, None, None, *rest))
    return found


def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    """Representative calls for a dtype; none where the op does not take it."""
    if dtype not in FLOATS:
        return []
    op = aten.native_group_norm
    return [(op.default, (*args, 1e-5), {}) for args in _drawn(generator, dtype)]


def backward_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    """Representative calls for a dtype; none where the op does not take it."""
    if dtype not in FLOATS:
        return []
    calls: SampleList = []
    op = aten.native_group_norm_backward.default
    for x, weight, bias, *rest in _drawn(generator, dtype):
        _, mean, rstd = aten.native_group_norm.default(x, weight, bias, *rest, 1e-5)
        grad = torch.empty_like(x).copy_(
            torch.randn(x.shape, generator=generator, dtype=torch.float64))
        affine = weight is not None
        calls.append((op, (grad, x, mean, rstd, weight, *rest, [True, affine, affine]), {}))
    args = calls[0][1]
    return [*calls, (op, (*args[:-1], [False, True, True]), {})]


def _lines(array: F64, groups: int) -> F64:
    """[N, C, ...] as rows [N G, D H W]."""
    return array.reshape(array.shape[0] * groups, -1)


def _per_channel(value: F64, shape: tuple[int, ...]) -> F64:
    """A vector of channels spread over [N, C, ...]."""
    if not value.ndim:
        return np.broadcast_to(value, shape)
    return np.broadcast_to(value.reshape(1, -1, *(1,) * (len(shape) - 2)), shape)


def _stored(held: Tensor, expected: F64, proof: F64, contract: F64, formula: str,
            size: F64) -> Reference:
    out, shape = format_of(held.dtype), tuple(held.shape)
    limits = [(e + rounding(np.abs(expected) + e, out) + 16 * out.eta).reshape(shape)
              for e in (proof, contract)]
    return Reference(expected.reshape(shape), np.maximum(*limits), limits[1], formula,
                     np.broadcast_to(size, expected.shape).reshape(shape))


@checked(aten.native_group_norm, family="norm", axes=_axes, symmetries=forward_symmetries,
         flops=forward_flops, window=("n",), samples=samples, kernel=group_norm_kernel)
def group_norm(call: HostCall) -> tuple[Reference | None, ...]:
    """``(x - mean) / sqrt(var + eps) w + b`` with the moments of each group; see the module."""
    held = call.held
    if not is_judged(call.call, "cpu", "cuda"):
        return (None,) * len(held)
    x_tensor, groups, eps = call["input"], int(call["group"]), float(call["eps"])
    shape = tuple(x_tensor.shape)
    x = _lines(call.array("input"), groups)
    weight, bias = (_lines(_per_channel(call.number(n, d), shape), groups)
                    for n, d in (("weight", 1.0), ("bias", 0.0)))
    acc, stats = accumulator_of(x_tensor.dtype), format_of(held[1].dtype)
    u = with_reference(acc)
    results: list[tuple[norms.Moments, F64]] = []
    with np.errstate(all="ignore"):
        for proof in (True, adds_in_any_order(x_tensor)):
            m = norms.moments(x, eps, u, acc.eta, proof=proof)
            if stats.precision < acc.precision:
                m = norms.Moments(m.mean, m.rstd,
                                  m.mean_error + rounding(np.abs(m.mean) + m.mean_error, stats),
                                  m.rstd_error + rounding(m.rstd + m.rstd_error, stats))
            y = (x - m.mean) * m.rstd * weight + bias
            error = norms.forward_error(x, m, weight, y, u) + 2 * u * np.abs(bias)
            results.append((m, error + 4 * acc.eta * (1 + np.abs(m.mean) + np.abs(x))))
        (p, p_error), (c, c_error) = results
        # Squares are added in the accumulator and must fit it, not the format of the results.
        lost_mean, lost_square = norms.out_of_range(x, acc.max)
        root = np.sqrt((x * x).sum(-1, keepdims=True))
        root = np.where(np.logical_or(lost_mean, lost_square), np.inf, root)
        # Kernels scale by ``w r`` first, and may scale x and m before they subtract them.
        size = root + (1 + np.abs(weight)) * p.rstd * (1 + np.abs(x) + np.abs(p.mean))
        size = size + np.abs(bias)
    return (
        _stored(held[0], y, p_error, c_error,
                "|w| (|x - m| D_r + (r + D_r)(D_m + 3 u (|x| + |m|))) + 2 u |.|", size),
        _stored(held[1], p.mean, p.mean_error, c.mean_error, "2 h u mean|x| + u t max|x|", root),
        _stored(held[2], p.rstd, p.rstd_error, c.rstd_error, "r at var + eps +- D_var", root),
    )


@checked(aten.native_group_norm_backward, family="norm", axes=_axes,
         symmetries=backward_symmetries, flops=backward_flops, samples=backward_samples)
def group_norm_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Gradients with the given moments, as for layer norm; see :mod:`sdc_guard.bounds.norms`."""
    held = call.held
    references: list[Reference | None] = [None] * len(held)
    if not is_judged(call.call, "cpu"):
        return tuple(references)
    x_tensor, groups = call["input"], int(call["group"])
    shape = tuple(x_tensor.shape)
    grad_full, x_full = call.array("grad_out"), call.array("input")
    mean, rstd = call.array("mean").reshape(-1, 1), call.array("rstd").reshape(-1, 1)
    acc = accumulator_of(x_tensor.dtype)
    u, eta = with_reference(acc), acc.eta
    with np.errstate(all="ignore"):
        x, grad = _lines(x_full, groups), _lines(grad_full, groups)
        n = x.shape[-1]
        if held[0] is not None:
            weight = _lines(_per_channel(call.number("weight", 1.0), shape), groups)
            weighted = grad * weight
            centred = x - mean
            s = (weighted * centred).sum(-1, keepdims=True) * rstd * rstd
            expected = rstd * (weighted - (weighted.sum(-1, keepdims=True) + centred * s) / n)
            error = norms.input_gradient_error(weighted, x, mean, rstd, n, u, eta)
            error = error + eta * np.abs(grad)  # ``r w``, which is multiplied by dy, may underflow
            size = np.abs(expected) + np.maximum(
                *(norms.input_gradient_size(g, x, mean, rstd) for g in (grad, weighted)))
            size = size + (1 + np.abs(weight)) * (1 + np.abs(rstd))
            references[0] = _stored(held[0], expected, error, error,
                                    "D_beta |x - m| + 6 u |beta| (|x| + |m|) + ...", size)
        num, channels = shape[:2]
        depth = num * n + groups

        def columns(array: F64) -> F64:
            """[N, C, ...] as terms of each channel [N H W, C]."""
            full = np.broadcast_to(array, (num * groups, n)).reshape(num, channels, -1)
            return np.ascontiguousarray(full.swapaxes(1, 2)).reshape(-1, channels)

        if any(held[i] is not None for i in (1, 2)):
            grads, xs, means, rstds = (columns(a) for a in (grad, x, mean, rstd))
            moment = (np.abs(grads) * (np.abs(xs) + np.abs(means)) * (1 + np.abs(rstds))).sum(0)
        if held[1] is not None:
            error = norms.weight_gradient_error(grads, xs, means, rstds, depth, u, eta)
            references[1] = _stored(held[1], (grads * (xs - means) * rstds).sum(0), error, error,
                                    "(H + 4) u sum |dy| r (|x| + |m|)", moment)
        if held[2] is not None:
            error = norms.bias_gradient_error(grads, depth, u, eta)
            references[2] = _stored(held[2], grads.sum(0), error, error, "H u sum |dy|",
                                    np.abs(grads).sum(0))
    return tuple(references)
