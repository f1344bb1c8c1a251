"""What elementwise losses share: the step from terms to their sum or mean, and relations.

ATen computes the terms of ``mse_loss`` and its kin, stores them in the operands' dtype, and reduces
them by the ``sum`` or ``mean`` of :mod:`sdc_guard.bounds.sums`.  With errors ``e_i`` of the terms,

    |computed - exact| <= sum e_i + h u sum(|t_i| + e_i),

h the depth of ATen's cascade (contract) or n - 1 (proof, any order), and for the mean a division.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import sums
from sdc_guard.bounds.gamma import own_rounding, rounding, stored
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, accumulator_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, broadcast_axes
from sdc_guard.ops._indexing import fixed
from sdc_guard.ops._places import odd_in, pointwise_symmetries
from sdc_guard.ops._pointwise import compute_format
from sdc_guard.ops._registry import HostCall, Reference
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry
from sdc_guard.ops.mean import DIVISION_ROUNDINGS

Array = NDArray[Any]

NONE, MEAN, SUM = 0, 1, 2

Terms = Callable[[HostCall, Format], tuple[Array, Array, Array]]
"""Expected values, error before the store, largest intermediate; in the format computed in."""


def loss_reference(call: HostCall, evaluate: Terms, formula: str, premise: bool = False
                   ) -> tuple[Reference | None, ...]:
    """The reference of a loss: its terms, their sum or their mean.

    ``premise``: elementary functions are inside, whose proof is half the significand of the
    largest intermediate.
    """
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    out = call.out_format()
    compute = compute_format(out)
    with np.errstate(all="ignore"):
        terms, error, size = np.broadcast_arrays(*evaluate(call, compute))
        error = error + own_rounding(8, size)
        loose = error
        if premise:
            loose = np.maximum(error, 2.0 ** (-compute.precision / 2) * size + 2 * compute.tiny)
        if compute is not out:
            error, loose = (stored(e, terms, out) for e in (error, loose))
        if call["reduction"] == NONE:
            return (Reference(terms, loose, error, formula, size),)
        if not terms.size:
            return (None,)
        return (_reduced(call, terms, error, loose, formula, size),)


def _reduced(call: HostCall, terms: Array, error: Array, loose: Array, formula: str,
             size: Array) -> Reference:
    held, n = call.held[0], terms.size
    out, acc = call.out_format(), accumulator_of(held.dtype)
    total, abs_sum = np.asarray(terms.sum()), np.abs(terms).sum()
    parts = torch.get_num_threads() if n >= sums.PARALLEL_FROM else 0
    common = sums.reference_error(n, abs_sum)
    if parts and acc is not out:
        common = common + out.u * (abs_sum + error.sum()) + parts * out.eta
    limits = []
    for terms_error, bound in ((loose, sums.any_order(n, 1.0, acc)),
                               (error, sums.cascade(n, 1.0, acc, 1, parts))):
        lost = terms_error.sum()
        limit = lost + bound * (abs_sum + lost) + common
        if acc is not out:
            limit = stored(limit, total, out)
        if call["reduction"] == MEAN:
            limit = limit / n
            limit = limit + DIVISION_ROUNDINGS * rounding(np.abs(total) / n + limit, acc)
            if acc is not out:
                limit = stored(limit, total / n, out)
        limits.append(np.asarray(limit + own_rounding(2, total)))
    expected = total / n if call["reduction"] == MEAN else total
    largest = np.maximum(abs_sum, np.max(size))
    return Reference(expected, limits[0], limits[1], formula + ", and a sum", largest)


def loss_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Those of an elementwise op without a reduction; none with one."""
    if call["reduction"] == NONE:
        return broadcast_axes(call, held)
    return Axes(fixed(call), ((FIXED,) * held[0].dim(),))


def gradient_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Those of an elementwise op, but where a mean divides by the number of elements."""
    if call["reduction"] != MEAN:
        return broadcast_axes(call, held)
    return Axes(fixed(call), ((FIXED,) * held[0].dim(),))


def _alike(call: BoundCall, change: Callable[[Tensor], Tensor], shape: Any) -> BoundCall:
    return call.mapped(lambda _, t: change(t) if t.shape == shape else t)


def _rolled(tensor: Tensor, dim: int, shift: int) -> Tensor:
    if not tensor.stride(dim):
        return tensor
    return bits.empty_image(tensor).copy_(tensor.roll(shift, dim)) if bits.is_dense(
        tensor) else tensor.roll(shift, dim)


def _gradient_rolled(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """All operands rolled together along the longest dimension, and the gradient back."""
    x = call["self"]
    dim = max(range(x.dim()), key=lambda d: x.shape[d])
    shift = 1 + (visit * 2654435761 >> 7) % (x.shape[dim] - 1)
    got = _alike(call, lambda t: _rolled(t, dim, shift), x.shape).run()[0]
    return (got.roll(-shift, dim),)


def _both_negated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    return call.replaced(self=torch.neg(call["self"]), target=torch.neg(call["target"])).run()


def _swapped(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    return call.replaced(self=call["target"], target=call["self"]).run()


ROLLED = Symmetry("roll all operands", (Move("custom", function=_gradient_rolled),),
                  frozenset({"address", "core", "tile", "lane"}), True)
BOTH_NEGATED = Symmetry("negate self target, same loss", (Move("custom", function=_both_negated),),
                        frozenset({"address", "bits"}), True)
SWAPPED = Symmetry("swap self and target", (Move("custom", function=_swapped),),
                   frozenset({"address", "bits"}), True)


def loss_symmetries(*more: Symmetry, sensitive: bool = False) -> Any:
    """Relations of a loss: those of ``more`` and, without a reduction, places.  Operands of two
    layouts are not swapped: the layout of the terms, and so the order of their sum, follows the
    first."""

    def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
        alike = call["self"].stride() == call["target"].stride()
        own = tuple(s for s in more if alike or s is not SWAPPED)
        if call["reduction"] == NONE:
            return (*pointwise_symmetries(call, held, tail_sensitive=sensitive), *own)
        return own or (RERUN,)

    return symmetries


def gradient_symmetries(*odd: str, sensitive: bool = False) -> Any:
    """Relations of a loss's backward: places, and negation of the gradient."""
    names = odd or ("grad_output",)

    def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
        if call["reduction"] != MEAN:
            return pointwise_symmetries(call, held, odd=names, tail_sensitive=sensitive)
        x = call["self"]
        movable = x.dim() and max(x.shape) > 1 and x.shape == held[0].shape and not sensitive
        return (*((ROLLED,) if movable else (RERUN,)), *odd_in(call, *names))

    return symmetries


def samples_of(op: Any, backward: bool, *rest: Any, domain: str = "any",
               target: str | None = None, weight: bool = False) -> Any:
    """Losses of all three reductions over several layouts; ``rest`` follows the reduction."""

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, domain)
        aim = draw_values(generator, dtype, target or domain)
        free = draw_values(generator, dtype, "any")
        calls: SampleList = []
        for reduction in (NONE, MEAN, SUM):
            for x, y in ((draw(211), aim(211)), (draw(9, 37).t(), aim(37, 9)),
                         (draw(8, 70)[1:7, 3:67], aim(6, 64)), (draw(5, 13), aim(5, 13))):
                g = (free(*x.shape) if reduction == NONE else free(),) if backward else ()
                factor = ((aim(*x.shape),) if x.dim() == 1 else (None,)) if weight else ()
                calls.append((op.default, (*g, x, y, *factor, reduction, *rest), {}))
        return calls

    return samples
