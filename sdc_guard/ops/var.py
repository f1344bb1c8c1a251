"""Variance and standard deviation over any dimensions, alone or with the mean.

Bounds: :mod:`sdc_guard.bounds.moments`.  The proof takes fp32 (fp64 for fp64) in any merging order.
The contract on a CPU takes fp64: ``WelfordOps`` there holds ``double`` for every dtype
(``std_var_kernel_impl`` in ``aten/src/ATen/native/cpu/ReduceOpsKernel.cpp``).  A result of one
element is computed in two passes about ``self.mean()``, which has the dtype's own precision
(``std_var_all_cpu`` in ``ReduceOps.cpp``): there the mean's contract is that of a sum.

Place: negation keeps the deviation and negates the mean; kept rows split and roll.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds import moments, sums
from sdc_guard.bounds.gamma import rounding, stored
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, Format, accumulator_of, is_covered_float
from sdc_guard.ops._axes import FIXED
from sdc_guard.ops._lines import selection_axes
from sdc_guard.ops._places import GRAIN_SIZE, negated
from sdc_guard.ops._reductions import input_flops, num_runs, num_terms, reduced_dims
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, roll, split

aten = torch.ops.aten

FORMULA = "4 E sqrt(W M) + 4 E^2 W + gamma_{n+8} M, E = 2 gamma_{n+1} (max|x| + 4 range)"


def _correction(call: BoundCall) -> float:
    """What is taken off n in the divisor; 1 unless given."""
    unbiased = call.get("unbiased")
    if unbiased is not None:
        return 1.0 if unbiased else 0.0
    value = call.get("correction")
    return 1.0 if value is None else float(value)


def _negated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The same deviation, and the other mean."""
    deviation, *mean = call.replaced(self=negated(call["self"])).run()
    return (deviation, *(m.neg() for m in mean))


NEGATED = Symmetry("negate self, same deviation",
                   (Move("custom", function=_negated, outputs=(0,)),),
                   frozenset({"address", "bits"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rows are known to keep their bits where no thread gets a part of one."""
    labels = selection_axes(call, held).outputs[0]
    sizes = {x: int(held[0].shape[d]) for d, x in enumerate(labels) if x != FIXED}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    if not longest or sizes[longest] < 2:
        return (NEGATED, RERUN)
    whole = call["self"].numel() < GRAIN_SIZE
    # A split may leave one row, which is computed in two passes.
    many = held[0].numel() // sizes[longest] > 1
    return (roll(longest, lane=True, known=whole), split(longest, known=whole and many), NEGATED)


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")
        x = draw(5, 33, 17)
        calls: SampleList = [
            (op.correction, (x, [2]), {}),
            (op.correction, (x, [0, 2]), {"correction": 0, "keepdim": True}),
            (op.correction, (x[:, 1:, 3:].transpose(0, 2), [-1]), {"correction": 0.5}),
            (op.correction, (draw(700),), {}),
            (op.correction, (draw(33000), [0]), {}),
            (op.correction, (draw(1, 9).expand(40, 9), [1]), {}),
        ]
        if op in (aten.var, aten.std):
            calls.append((op.correction_out, (x, [1]), {"out": draw(5, 17)}))
        return calls

    return samples


def _register(op: Any, root: bool) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        return _judge(call, root)

    reference.__doc__ = ("Square root of t" if root else "T") + (
        "he sum of squares about the mean over n less the correction.")
    reference.__module__ = __name__
    checked(op, family="reduction", axes=selection_axes, symmetries=_symmetries,
            flops=input_flops, reduction=True, window=("d0", "d1", "d2", "d3"),
            samples=_samples(op))(reference)


def _judge(call: HostCall, root: bool) -> tuple[Reference | None, ...]:
    held, x_given = call.held[0], call["self"]
    n = num_terms(call.call)
    divisor = n - _correction(call.call)
    if not is_covered_float(held.dtype) or x_given.dtype is not held.dtype or n == 0:
        return tuple(None for _ in call.held)
    acc = accumulator_of(held.dtype)
    wide = np.longdouble if acc is FLOAT64 else np.float64
    own = float(np.finfo(wide).eps) / 2
    dims = reduced_dims(call.call)
    keepdim = held.dim() == x_given.dim() and bool(x_given.dim())
    x = call.array("self").astype(wide, copy=False)
    with np.errstate(all="ignore"):
        mean = np.asarray(x.mean(axis=dims, keepdims=True))
        squares = np.asarray(((x - mean) ** 2).sum(axis=dims, keepdims=keepdim)).astype(np.float64)
        mean = np.asarray(mean if keepdim else mean.reshape(squares.shape)).astype(np.float64)
        size = np.abs(x, dtype=np.float64) if wide is np.float64 else np.abs(x).astype(np.float64)
        largest = np.asarray(size.max(axis=dims, keepdims=keepdim))
        spread = np.asarray((x.max(axis=dims, keepdims=keepdim)
                             - x.min(axis=dims, keepdims=keepdim)).astype(np.float64))
        small = moments.mean_error(n, largest, spread, own, FLOAT64.eta)
        loose = moments.mean_error(n, largest, spread, acc.u, acc.eta) + small
        inner = FLOAT64 if held.device.type == "cpu" else acc
        tight = moments.mean_error(n, largest, spread, inner.u, inner.eta) + small
        if held.numel() == 1 or held.device.type != "cpu":
            parts = torch.get_num_threads() if n >= sums.PARALLEL_FROM else 0
            total = np.asarray(size.sum(axis=dims, keepdims=keepdim))
            # The runs of an expanded operand are not known: any order.
            added = (sums.any_order(n, total, acc) if 0 in x_given.stride()
                     else sums.cascade(n, total, acc, num_runs(call.call), parts)) / n
            tight = tight + stored(added + 3 * rounding(np.abs(mean) + added, acc), mean, acc)
        magnitude = np.where(n * (largest + spread) ** 2 >= acc.max, np.inf, 0.0)
        found: list[Reference | None] = [None]
        if divisor > 0:
            limits = []
            for mean_off, fmt in ((loose, acc), (tight, inner)):
                error = moments.square_sum_error(n, squares, mean_off, fmt.u + own, fmt.eta)
                limits.append(_finished(squares, error, divisor, fmt, call.out_format(), root))
            expected = squares / divisor
            found = [Reference(np.sqrt(expected) if root else expected, limits[0], limits[1],
                               FORMULA, magnitude)]
        if len(call.held) > 1:
            out = call.out_format(1)
            found.append(Reference(mean, stored(loose, mean, out), stored(tight, mean, out),
                                   "2 gamma_{n+1} (max|x| + 4 range)", magnitude))
    return tuple(found)


def _finished(
    squares: Any, error: Any, divisor: float, fmt: Format, out: Format, root: bool
) -> Any:
    """The limit after the division, the root and the store."""
    value = squares / divisor
    error = error / divisor
    error = error + 3 * rounding(value + error, fmt) + 2 * FLOAT64.eta
    if root:
        error = moments.root_error(value, error)
        value = np.sqrt(value)
        error = error + 3 * rounding(value + error, fmt)
    if out.precision < fmt.precision:
        error = stored(error, value, out)
    return error


_register(aten.var, root=False)
_register(aten.std, root=True)
_register(aten.var_mean, root=False)
_register(aten.std_mean, root=True)
