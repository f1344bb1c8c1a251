"""Vector norms: ``linalg_vector_norm`` and ``_foreach_norm``, for gradient clipping.

2-norm, ``s = sum x^2``: a square, at most h additions on the longest path and a square root, so

    |computed - norm| <= norm ((h + 1) u / 2 (1 + (h + 1) u) + 2u) + min(sqrt(n eta), n eta / norm),

the last term for squares that underflow (``sqrt(s + d) - sqrt(s) <= d / (2 sqrt(s))`` and
``<= sqrt(d)``). ATen's CPU kernel adds one term after the other (``NormTwoOps`` in
``aten/src/ATen/native/SharedReduceOps.h``), in 8 lanes where contiguous fp32 or half values are
reduced as a whole or along the last dimension (``norm_two_reduce_step`` in
``ReduceOpsKernel.cpp``): h is n, or ``n / 8 + 64`` in the contract.  Seen:
``|error| = 0.15 n u / 2`` for 2e7 equal terms after a large one.  1-norm: ``h u sum|x|``; infinity
norms are exact.

Place: a negated operand gives the same norm, bit for bit; rows split and roll where each is reduced
alone.  A norm over all elements has no other relation: any other order is another sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import own_rounding, stored
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._kernel_vector_norms import list_run, norm_check, run_of
from sdc_guard.ops._kernels import KernelRun
from sdc_guard.ops._lists import list_axes
from sdc_guard.ops._places import GRAIN_SIZE, negated
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, reverse, roll, split

aten = torch.ops.aten
Array = NDArray[Any]

FORMULA = "(h + 1) u / 2 + 2u, relative"
LANES = 8
LANE_TAIL = 64


def reduced(call: BoundCall) -> tuple[int, ...]:
    """The reduced dimensions, all of them for None."""
    rank = call["self"].dim()
    dims = call["dim"]
    if isinstance(dims, int):
        dims = [dims]
    if not rank:
        return ()
    return tuple(sorted({d % rank for d in dims})) if dims else tuple(range(rank))


def norm_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Kept dimensions; with ``keepdim`` the reduced ones stay as fixed size 1."""
    rank, gone = call["self"].dim(), reduced(call)
    operand = tuple(FIXED if d in gone else f"d{d}" for d in range(rank))
    kept = tuple(x for d, x in enumerate(operand) if d not in gone)
    named = {path: (FIXED,) * t.dim() for path, t in call.tensors()}
    output = operand if held[0].dim() == rank else kept
    named[0,] = operand
    if call.form.is_out and call["out"].dim() == len(output):
        named[call.form.position("out"),] = output
    return Axes(named, (output,))


def _negated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    return call.mapped(lambda path, t: negated(t) if path[0] == 0 else t).run()


NEGATED = Symmetry("negate self, same norm", (Move("custom", function=_negated),),
                   frozenset({"address", "bits"}), True)


def norm_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Relations of kept rows, known to hold where no thread gets a part of a row."""
    output = norm_axes(call, held).outputs[0]
    sizes = {x: int(held[0].shape[d]) for d, x in enumerate(output) if x != FIXED}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    if not longest or sizes[longest] < 2:
        return (NEGATED, RERUN)
    whole = call["self"].numel() < GRAIN_SIZE
    return (split(longest, known=whole), roll(longest, lane=True, known=whole), NEGATED)


def depth(x: Tensor, dims: tuple[int, ...], n: int, order: float) -> int:
    """Additions on the longest path of ATen's kernel; only the 2-norm has lanes."""
    trailing = dims == tuple(range(x.dim() - len(dims), x.dim()))
    whole = len(dims) in (1, x.dim())
    if order == 2 and x.is_contiguous() and trailing and whole and x.dtype is not torch.float64:
        return min(n, -(-n // LANES) + LANE_TAIL)
    return n


def relative_error(additions: int, order: float, acc: Format) -> float:
    """Of a norm of order 1 or 2 with so many additions on the longest path, before it is rounded to
    the result's format and without what squares lose that underflow."""
    relative = (additions + 1) * acc.u
    return relative / 2 * (1 + relative) + 2 * acc.u if order == 2 else relative


def norm_reference(
    x: Array, held: Tensor, order: float, dims: tuple[int, ...], keepdim: bool, h: int
) -> Reference | None:
    """The norm of order 1, 2 or infinity over ``dims``, with h additions on the longest path."""
    if not is_covered_float(held.dtype):
        return None
    acc = accumulator_of(held.dtype)
    n = math.prod(x.shape[d] for d in dims)
    size = np.abs(x)
    if math.isinf(order):
        if n == 0:
            return None
        extreme = (size.max if order > 0 else size.min)(axis=dims, keepdims=keepdim)
        return Reference(np.asarray(extreme), 0.0, 0.0, "exact")
    if order not in (1, 2):
        return None
    total = np.asarray((size if order == 1 else x * x).sum(axis=dims, keepdims=keepdim))
    expected = total if order == 1 else np.sqrt(total)
    limits = []
    for additions in (n, h):
        error = expected * relative_error(additions, order, acc)
        if order == 2:
            lost = np.minimum(np.sqrt(n * acc.eta), n * acc.eta / expected)
            error = error + np.nan_to_num(lost)
        error = error + own_rounding(n + 2, expected)
        if held.element_size() == 2:
            error = stored(error, expected, format_of(held.dtype))
        limits.append(np.asarray(error))
    magnitude = np.where(total >= acc.max, np.inf, expected)
    return Reference(expected, limits[0], limits[1], FORMULA, magnitude)


def _norm_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    op = aten.linalg_vector_norm
    operands = (draw(700), draw(9, 37), draw(37, 9).t(), draw(8, 70)[1:7, 3:67], draw())
    calls: SampleList = [(op.default, (x, order), {})
                         for x in operands for order in (2, 1, math.inf, -math.inf)]
    calls += [(op.default, (draw(9, 37), 2, [d], keep), {})
              for d in (0, 1) for keep in (False, True)]
    if dtype is not torch.float64:
        calls.append((op.default, (draw(9, 37), 2, [1]), {"dtype": torch.float64}))
    calls.append((op.out, (draw(9, 37), 2, [1]), {"out": draw(9)}))
    return calls


def _input_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """A product and an addition per element read."""
    return 2 * sum(t.numel() for path, t in call.tensors() if path[0] == 0)


def _kernel_check(x: Tensor, held: Tensor, dims: tuple[int, ...], order: float) -> Any:
    n = math.prod(int(x.shape[d]) for d in dims)
    return norm_check(x, held, dims, order, lambda: relative_error(
        depth(x, dims, n, order), order, accumulator_of(held.dtype)))


def _kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    check = _kernel_check(call["self"], held[0], reduced(call), float(call["ord"]))
    return run_of(check, FORMULA)


def _list_kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    order = float(call["ord"])
    return list_run([_kernel_check(x, result, tuple(range(x.dim())), order)
                     for x, result in zip(call["self"], held, strict=True)], FORMULA)


@checked(aten.linalg_vector_norm, family="reduction", axes=norm_axes, symmetries=norm_symmetries,
         flops=_input_flops, reduction=True, window=("d0", "d1", "d2", "d3"),
         samples=_norm_samples, kernel=_kernel)
def linalg_vector_norm(call: HostCall) -> tuple[Reference | None, ...]:
    """``(sum |x|^p)^(1/p)`` for p of 1, 2 and both infinities."""
    x, dims = call["self"], reduced(call.call)
    n = math.prod(int(x.shape[d]) for d in dims)
    keepdim = call.held[0].dim() == x.dim() and bool(x.dim())
    return (norm_reference(call.array("self"), call.held[0], float(call["ord"]), dims, keepdim,
                           depth(x, dims, n, float(call["ord"]))),)


def _list_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    tensors = [draw(9, 40), draw(40, 13).t(), draw(), draw(700)]
    return [(aten._foreach_norm.Scalar, (part, order), {})
            for part in (tensors, tensors[:1]) for order in (2, 1, math.inf)]


def _list_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (NEGATED, *((reverse(),) if len(held) > 1 else ()))


@checked(aten._foreach_norm, family="foreach", axes=list_axes, symmetries=_list_symmetries,
         flops=_input_flops, reduction=True, samples=_list_samples, kernel=_list_kernel)
def foreach_norm(call: HostCall) -> tuple[Reference | None, ...]:
    """The norm of each list element."""
    found = []
    for x, held in zip(call["self"], call.held, strict=True):
        dims = tuple(range(x.dim()))
        found.append(norm_reference(bits.values(x), held, float(call["ord"]), dims, False,
                                    depth(x, dims, x.numel(), float(call["ord"]))))
    return tuple(found)
