"""Layer norm, forward (3 results) and backward; :mod:`sdc_guard.bounds.norms` has the bounds."""

from __future__ import annotations

import math
from typing import Any

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
from sdc_guard.ops._kernel_norms import backward_kernel, forward_kernel
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll, split

aten = torch.ops.aten
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]

FORMULAS = ("|g| (|x - m| D_r + (r + D_r)(D_m + 3 u (|x| + |m|))) + 2 u |.|",
            "2 h u mean|x| + u t max|x|", "r at var + eps +- (3 h u (s R + var) + ...)")
GRADIENT_FORMULAS = ("D_beta |x - m| + 6 u |beta| (|x| + |m|) + 4 u r |dy g| + ...",
                     "(H + 4) u sum |dy| r (|x| + |m|)", "H u sum |dy|")


def _row_labels(rank: int, num_fixed: int) -> Labels:
    return tuple(f"r{d}" if d < rank - num_fixed else FIXED for d in range(rank))


def _column_labels(rank: int, first: int) -> Labels:
    return tuple(f"c{d}" if d >= first else FIXED for d in range(rank))


def forward_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Rows are movable; the normalised dimensions are not."""
    rank, normalised = call["input"].dim(), len(call["normalized_shape"])
    labels = _row_labels(rank, normalised)
    return Axes({(call.form.position("input"),): labels}, (labels,) * 3)


def _outermost(held: Tensor, labels: Labels) -> str | None:
    """The first movable axis longer than 1.  No other will do for the backward: ATen reads mean and
    rstd as if they were contiguous, and narrowed along a later axis they are not (wrong numbers,
    without an error)."""
    return next((x for d, x in enumerate(labels) if x != FIXED and held.shape[d] > 1), None)


def forward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Each row is computed by itself, so rows may be split and rolled.  Seen bit-exact on CPU in
    all four formats, 1 and 2 threads, for contiguous, transposed, sliced and expanded input, with
    and without weight and bias."""
    axis = _outermost(held[0], forward_axes(call, held).outputs[0])
    return (split(axis), roll(axis)) if axis is not None else (RERUN,)


def backward_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Rows for the input gradient; columns for the parameter gradients, which sum over rows."""
    rank, normalised = call["input"].dim(), len(call["normalized_shape"])
    first = rank - normalised
    full = tuple(f"r{d}" if d < first else f"c{d - first}" for d in range(rank))
    rows = _row_labels(rank, normalised)
    columns = tuple(f"c{d}" for d in range(normalised))
    labels = {"grad_out": full, "input": full, "mean": rows, "rstd": rows,
              "weight": columns, "bias": columns}
    named: dict[Path, Labels] = {
        (call.form.position(name),): value
        for name, value in labels.items() if isinstance(call[name], Tensor)
    }
    outputs = tuple(
        labels if wanted else ()
        for labels, wanted in zip((rows, columns, columns), call["output_mask"],
                                  strict=True)
    )
    return Axes(named, outputs)


def _masked(call: BoundCall, *keep: int) -> tuple[tuple[str, Any], ...]:
    mask = [bool(w) and i in keep for i, w in enumerate(call["output_mask"])]
    return (("output_mask", mask),)


def backward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """The input gradient by split rows, the parameter gradients by rolled columns (a sum over rows
    does not see their order); and all by the negated incoming gradient, in which they are linear.
    Seen bit-exact on CPU in all four formats, 1 and 2 threads."""
    axes = backward_axes(call, held)
    parameters = tuple(i for i in (1, 2) if call["output_mask"][i])
    moves: list[Move] = []
    if call["output_mask"][0]:
        axis = _outermost(held[0], axes.outputs[0])
        if axis is None:
            return (RERUN, negate("grad_out"))
        moves.append(Move("split", axis, outputs=(0,), overrides=_masked(call, 0)))
    if parameters:
        axis = _outermost(held[parameters[0]], axes.outputs[parameters[0]])
        if axis is None:
            return (RERUN, negate("grad_out"))
        moves.append(Move("roll", axis, outputs=parameters, overrides=_masked(call, 1, 2)))
    if not moves:
        return ()
    places = {"address", "core", "tile"} | ({"lane"} if parameters else set())
    return (Symmetry("split rows, roll columns", tuple(moves), frozenset(places), True),
            negate("grad_out"))


def forward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Eight operations per element."""
    return 8 * held[0].numel()


def backward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Sixteen operations per element of the input."""
    return 16 * int(call["input"].numel())


def _finish(error: F64, expected: F64, out: Format, acc: Format) -> F64:
    """Limit on the stored result: the last rounding where the format is narrower, underflow."""
    if out.precision < acc.precision:
        error = error + rounding(np.abs(expected) + error, out)
    return np.asarray(error + 16 * acc.eta)


def _reference(
    tensor: Tensor, expected: F64, proof: F64, contract: F64, formula: str, size: F64, acc: Format
) -> Reference:
    out = format_of(tensor.dtype)
    shape = tensor.shape
    return Reference(
        expected.reshape(shape),
        _finish(proof, expected, out, acc).reshape(shape),
        _finish(contract, expected, out, acc).reshape(shape),
        formula,
        np.broadcast_to(size, expected.shape).reshape(shape),
    )


def _storable(size: F64, own: Format) -> F64:
    """Infinite where a sum kept in the storage format may overflow."""
    return np.where(size < own.max, size, np.inf)


def _flat(array: F64, n: int) -> F64:
    """Rows of n normalised elements."""
    return array.reshape(-1, n)


def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    if not is_covered_float(dtype):
        return []
    x = torch.randn(5, 13, 48, generator=generator).to(dtype)
    weight, bias = (torch.randn(48, generator=generator).to(dtype) for _ in range(2))
    wide = torch.randn(29, 3, 7, generator=generator).to(dtype)
    op = aten.native_layer_norm
    outs = {f"out{i}": t for i, t in enumerate(op.default(x, [48], weight, bias, 1e-5))}
    return [
        (op.default, (x, [48], weight, bias, 1e-5), {}),
        (op.default, (x.transpose(0, 1), [48], None, None, 1e-5), {}),
        (op.default, (wide, [3, 7], None, None, 1e-3), {}),
        (op.out, (x, [48], weight, bias, 1e-5),
         {name: torch.empty_like(t) for name, t in outs.items()}),
    ]


def backward_samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """For half formats the parameter gradients come from one row: ATen adds rows up in bf16."""
    if not is_covered_float(dtype):
        return []
    op = aten.native_layer_norm_backward.default
    calls: list[Call] = []
    half = format_of(dtype).precision < FLOAT32.precision
    for _, (x, shape, weight, bias, eps), kwargs in samples(generator, dtype):
        if kwargs:
            continue
        parameters = weight is not None
        if half and parameters:
            x = x[0, :1]
        _, mean, rstd = aten.native_layer_norm.default(x, shape, weight, bias, eps)
        grad = torch.randn(x.shape, generator=generator).to(dtype)
        masks = [[True, True, True], [False, True, True]] if parameters else [[True, False, False]]
        calls += [(op, (grad, x, shape, mean, rstd, weight, bias, mask), {}) for mask in masks]
    return calls


@checked(
    aten.native_layer_norm,
    family="norm",
    axes=forward_axes,
    symmetries=forward_symmetries,
    flops=forward_flops,
    kernel=forward_kernel(FORMULAS),
    window=("r0", "r1", "r2"),
    samples=samples,
)
def layer_norm(call: HostCall) -> tuple[Reference | None, ...]:
    """``(x - mean) / sqrt(var + eps) * weight + bias``; see :mod:`sdc_guard.bounds.norms`."""
    held = call.held
    if not is_covered_float(held[0].dtype) or held[0].numel() == 0:
        return (None,) * len(held)
    n = math.prod(call["normalized_shape"])
    x = _flat(call.array("input"), n)
    weight = call.number("weight", 1.0).reshape(-1)
    bias = call.number("bias", 0.0).reshape(-1)
    acc = accumulator_of(call["input"].dtype)
    u = with_reference(acc)
    eps = float(call["eps"])
    results: list[list[tuple[F64, F64]]] = []
    with np.errstate(all="ignore"):
        for proof in (True, False):
            m = norms.moments(x, eps, u, acc.eta, proof=proof)
            if proof:
                proof_mean_error = m.mean_error
            y = (x - m.mean) * m.rstd * weight + bias
            results.append([(y, norms.forward_error(x, m, weight, y, u)),
                            (m.mean, m.mean_error), (m.rstd, m.rstd_error)])
        # Squared deviations are the largest intermediates, but ATen sums them in the accumulator:
        # what must fit the format of the results is their root.
        root = np.sqrt((x * x).sum(-1, keepdims=True))
        lost_mean, lost_square = norms.out_of_range(x, acc.max)
        first = np.where(np.logical_or(lost_mean, lost_square), np.inf, root)
        sizes = [np.where(norms.is_any(x - m.mean, proof_mean_error, weight), np.inf, first),
                 np.where(lost_mean, np.inf, 0.0),
                 np.where(np.logical_or(lost_mean, lost_square), np.inf, 0.0)]
    return tuple(
        _reference(tensor, proof[0], proof[1], contract[1], formula, size, acc)
        for tensor, proof, contract, formula, size in zip(
            held, results[0], results[1], FORMULAS, sizes, strict=True)
    )


@checked(
    aten.native_layer_norm_backward,
    family="norm",
    axes=backward_axes,
    symmetries=backward_symmetries,
    flops=backward_flops,
    # The order in which CUDA adds rows depends on the size alone: no atomics in its kernels.
    deterministic=True,
    kernel=backward_kernel(GRADIENT_FORMULAS),
    samples=backward_samples,
)
def layer_norm_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Gradients with the given mean and rstd; see :mod:`sdc_guard.bounds.norms`."""
    held = call.held
    if not is_covered_float(call["input"].dtype) or call["input"].numel() == 0:
        return (None,) * len(held)
    n = math.prod(call["normalized_shape"])
    x, grad = _flat(call.array("input"), n), _flat(call.array("grad_out"), n)
    mean, rstd = _flat(call.array("mean"), 1), _flat(call.array("rstd"), 1)
    weight = call.number("weight", 1.0).reshape(-1)
    acc = accumulator_of(call["input"].dtype)
    u = with_reference(acc)
    own = call.format("input")
    found: dict[int, tuple[F64, F64, F64, str, F64]] = {}
    with np.errstate(all="ignore"):
        centred = x - mean
        if call["output_mask"][0]:
            weighted = grad * weight
            s = (weighted * centred).sum(-1, keepdims=True) * rstd * rstd
            expected = rstd * (weighted - (weighted.sum(-1, keepdims=True) + centred * s) / n)
            proof, contract = (
                norms.input_gradient_error(weighted, x, mean, rstd, depth, u, acc.eta)
                for depth in (n, lane_depth(n, acc)))
            size = np.abs(expected) + np.maximum(
                *(norms.input_gradient_size(g, x, mean, rstd) for g in (grad, weighted)))
            found[0] = (expected, proof, contract,
                        GRADIENT_FORMULAS[0], size)
        depth = norms.row_depth(x.shape[0])
        # The proof holds for parameter gradients that are added up in the storage format, as ATen's
        # CPU kernel does for the half formats; the contract does not.
        half = own.precision < FLOAT32.precision
        formats = ((own.u, own.eta) if half else (u, acc.eta), (u, acc.eta))
        if call["output_mask"][1]:
            terms = grad * (centred * rstd)
            proof, contract = (norms.weight_gradient_error(grad, x, mean, rstd, depth, v, eta)
                               for v, eta in formats)
            found[1] = (terms.sum(0), proof, contract, GRADIENT_FORMULAS[1],
                        _storable(np.abs(terms).sum(0) + contract, own))
        if call["output_mask"][2]:
            proof, contract = (norms.bias_gradient_error(grad, depth, v, eta)
                               for v, eta in formats)
            found[2] = (grad.sum(0), proof, contract, GRADIENT_FORMULAS[2],
                        _storable(np.abs(grad).sum(0) + contract, own))
    return tuple(
        _reference(tensor, *found[i], acc) if i in found else None
        for i, tensor in enumerate(held)
    )
