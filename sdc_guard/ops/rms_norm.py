"""RMS norm as one fused op, forward (2 results) and backward (2 results).

Only devices have kernels of these: on a CPU the forward is a composite of other ops, which are
checked one by one, and the backward does not exist.  Results are stored in the input's format, all
else is computed in the accumulator's, in which the reciprocal root is kept.  Without an eps that of
the accumulator's format is added.  :mod:`sdc_guard.bounds.norms` has the bounds.

*Source*: ``aten/src/ATen/native/cuda/layer_norm_kernel.cu``.  What rows may be moved is learned:
no CPU could show it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds import norms
from sdc_guard.bounds.gamma import rounding
from sdc_guard.bounds.softmax import with_reference
from sdc_guard.bounds.sums import lane_depth
from sdc_guard.calls import BoundCall, Path
from sdc_guard.formats import FLOAT32, Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, Labels
from sdc_guard.ops._kernel_norms import backward_kernel, eps_of, forward_kernel
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll, split

aten = torch.ops.aten
Held = tuple[Tensor | None, ...]

FORMULAS = ("|g| (|x| D_r + 3 u (r + D_r) |x|) + 4 u |y|",
            "r at mean x^2 (1 +- (10 h + 2) u) + eps")
GRADIENT_FORMULAS = ("r^3 |x| / n (h + 5) u sum|dy g x| + 6 u |beta x| + 8 u r |dy g|",
                     "(H + 4) u sum |dy| r |x|")


def _row_labels(rank: int, num_fixed: int) -> Labels:
    return tuple(f"r{d}" if d < rank - num_fixed else FIXED for d in range(rank))


def _forward_axes(call: BoundCall, held: Held) -> Axes:
    labels = _row_labels(call["input"].dim(), len(call["normalized_shape"]))
    return Axes({(call.form.position("input"),): labels}, (labels,) * 2)


def _backward_axes(call: BoundCall, held: Held) -> Axes:
    rank, normalised = call["input"].dim(), len(call["normalized_shape"])
    rows = _row_labels(rank, normalised)
    named: dict[Path, Labels] = {
        (call.form.position(name),): rows for name in ("grad_out", "input", "rstd")}
    # A weight's gradient sums over the rows, so rows do not name a part of it.
    return Axes(named, (rows if held[0] is not None else (),
                        (FIXED,) * normalised if held[1] is not None else ()))


def _outermost(call: BoundCall) -> str | None:
    """The first axis of rows that is longer than 1.  Narrowed along another one, reciprocal roots
    are not contiguous, as which ATen reads them."""
    rows = call["input"].dim() - len(call["normalized_shape"])
    return next((f"r{d}" for d in range(rows) if call["input"].shape[d] > 1), None)


def _forward_symmetries(call: BoundCall, held: Held) -> tuple[Symmetry, ...]:
    """Each row is computed by itself."""
    axis = _outermost(call)
    return (RERUN,) if axis is None else (split(axis, known=False), roll(axis, known=False), RERUN)


def _backward_symmetries(call: BoundCall, held: Held) -> tuple[Symmetry, ...]:
    """Rows of the input's gradient by themselves; both gradients are linear in the incoming one."""
    axis = _outermost(call)
    rows: tuple[Symmetry, ...] = ()
    if axis is not None and held[0] is not None:
        alone = (("output_mask", [True, False]),)
        rows = (Symmetry("split rows", (Move("split", axis, outputs=(0,), overrides=alone),),
                         frozenset({"address", "core", "tile"}), False),)
    return (*rows, RERUN, negate("grad_out"))


def _forward_flops(call: BoundCall, held: Held) -> int:
    return 6 * int(call["input"].numel())


def _backward_flops(call: BoundCall, held: Held) -> int:
    return 14 * int(call["input"].numel())


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if not is_covered_float(dtype):
        return []
    x = torch.randn(5, 13, 48, generator=generator).to(dtype)
    weight = torch.randn(48, generator=generator).to(dtype)
    wide = 3 + torch.randn(29, 3, 7, generator=generator).to(dtype)
    op = aten._fused_rms_norm.default
    return [
        (op, (x, [48], weight, 1e-5), {}),
        (op, (x.transpose(0, 1), [48], None, None), {}),
        (op, (wide, [3, 7], None, 1e-3), {}),
    ]


def _no_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    return []


def _flat(array: F64, n: int) -> F64:
    return array.reshape(-1, n)


def _judged(
    tensor: Tensor, expected: F64, errors: tuple[F64, F64], formula: str, size: F64, acc: Format
) -> Reference:
    """``errors``: proof and contract, before the result is stored.  What is computed on the way is
    in the accumulator's format, so it is that which must hold ``size``."""
    out, shape = format_of(tensor.dtype), tensor.shape

    def limit(error: F64) -> F64:
        if out.precision < acc.precision:
            error = error + rounding(np.abs(expected) + error, out)
        return np.asarray(error + 16 * acc.eta).reshape(shape)

    reach = np.broadcast_to(np.where(size < acc.max, 0.0, np.inf), expected.shape)
    return Reference(expected.reshape(shape), limit(errors[0]), limit(errors[1]), formula,
                     reach.reshape(shape))


@checked(
    aten._fused_rms_norm,
    family="norm",
    axes=_forward_axes,
    symmetries=_forward_symmetries,
    flops=_forward_flops,
    kernel=forward_kernel(FORMULAS),
    window=("r0", "r1", "r2"),
    samples=_samples,
)
def rms_norm(call: HostCall) -> tuple[Reference | None, ...]:
    """``x / sqrt(mean x^2 + eps) * weight``; see :mod:`sdc_guard.bounds.norms`."""
    held = call.held
    dtype = call["input"].dtype
    if not is_covered_float(dtype) or call["input"].numel() == 0:
        return (None,) * len(held)
    x = _flat(call.array("input"), math.prod(call["normalized_shape"]))
    weight = call.number("weight", 1.0).reshape(-1)
    acc = accumulator_of(dtype)
    u = with_reference(acc)
    elements: list[F64] = []
    roots: list[F64] = []
    with np.errstate(all="ignore"):
        for proof in (True, False):
            m = norms.root_mean_square(x, eps_of(call.call), u, acc.eta, proof=proof)
            y = x * m.rstd * weight
            elements.append(norms.forward_error(x, m, weight, y, u) + acc.eta * np.abs(weight))
            roots.append(m.rstd_error)
        lost = np.logical_or(*norms.out_of_range(x, acc.max))
        size = np.where(lost, np.inf, 0.0)
        return (_judged(held[0], y, (elements[0], elements[1]), FORMULAS[0], size, acc),
                _judged(held[1], m.rstd, (roots[0], roots[1]), FORMULAS[1], size, acc))


@checked(
    aten._fused_rms_norm_backward,
    family="norm",
    axes=_backward_axes,
    symmetries=_backward_symmetries,
    flops=_backward_flops,
    # The order in which CUDA adds rows depends on the size alone: no atomics in its kernels.
    deterministic=True,
    kernel=backward_kernel(GRADIENT_FORMULAS),
    samples=_no_samples,
)
def rms_norm_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Gradients with the given reciprocal root; see :mod:`sdc_guard.bounds.norms`."""
    held = call.held
    dtype = call["input"].dtype
    if not is_covered_float(dtype) or call["input"].numel() == 0:
        return (None,) * len(held)
    n = math.prod(call["normalized_shape"])
    x, grad = _flat(call.array("input"), n), _flat(call.array("grad_out"), n)
    rstd = _flat(call.array("rstd"), 1)
    acc, own = accumulator_of(dtype), call.format("input")
    u = with_reference(acc)
    found: list[Reference | None] = [None, None]
    with np.errstate(all="ignore"):
        if held[0] is not None:
            a = grad * call.number("weight", 1.0).reshape(-1)
            expected = rstd * (a - x * rstd**2 * (a * x).sum(-1, keepdims=True) / n)
            error, few = (norms.rms_input_gradient_error(a, x, rstd, depth, u, acc.eta)
                          for depth in (n, lane_depth(n, acc)))
            size = np.maximum(*(norms.rms_input_gradient_size(g, x, rstd) for g in (grad, a)))
            found[0] = _judged(held[0], expected, (error, few), GRADIENT_FORMULAS[0], size, acc)
        if held[1] is not None:
            terms, depth = grad * (x * rstd), norms.row_depth(x.shape[0])
            # The proof also holds for partial sums that are kept in the storage format.
            half = own.precision < FLOAT32.precision
            formats: tuple[tuple[float, float], ...] = (
                (own.u, own.eta) if half else (u, acc.eta), (u, acc.eta))
            lost = 2 * np.abs(rstd).sum()
            error, few = (norms.weight_gradient_error(grad, x, np.zeros(()), rstd, depth, v, eta)
                          + eta * lost for v, eta in formats)
            size = np.abs(grad).sum(0) + np.abs(terms).sum(0) + few
            found[1] = _judged(held[1], terms.sum(0), (error, few), GRADIENT_FORMULAS[1],
                               np.where(size < own.max, size, np.inf), acc)
    return tuple(found)
