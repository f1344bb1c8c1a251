"""``aten.norm`` and ``aten.dist``: the norm behind ``pairwise_distance``, and that of a difference.

``norm`` runs the kernels of ``linalg_vector_norm`` and has its bounds
(:mod:`sdc_guard.ops.norm`), any order in proof and contract.  ``dist`` first stores ``a - b`` in
the format of the operands: each difference is off by a relative u and an underflow, which changes
a norm by ``u norm + n^(1/p) eta``.

Place: a negated operand (or both) gives the same norm; kept rows split and roll.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.gamma import own_rounding, rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import accumulator_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._kernel_vector_norms import norm_check, run_of
from sdc_guard.ops._kernels import KernelRun
from sdc_guard.ops._lines import selection_axes
from sdc_guard.ops._places import GRAIN_SIZE
from sdc_guard.ops._reductions import input_flops, num_terms, reduced_dims
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, roll, split
from sdc_guard.ops.norm import FORMULA, norm_reference, relative_error

aten = torch.ops.aten


def _order(call: BoundCall) -> float:
    """The order of the norm; 2 unless given."""
    p = call.get("p")
    return 2.0 if p is None else float(p)


def _negated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """Every operand with the other sign: the same norm."""
    return call.mapped(lambda path, t: t.neg()).run()


NEGATED = Symmetry("negate operands, same norm", (Move("custom", function=_negated),),
                   frozenset({"address", "bits"}), False)


def _norm_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    labels = selection_axes(call, held).outputs[0]
    sizes = {x: int(held[0].shape[d]) for d, x in enumerate(labels) if x != FIXED}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    if not longest or sizes[longest] < 2 or call["self"].numel() >= GRAIN_SIZE:
        return (NEGATED, RERUN)
    return (split(longest, known=False), roll(longest, lane=True, known=False), NEGATED, RERUN)


def _norm_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    op = aten.norm
    calls: SampleList = [(op.ScalarOpt_dim, (draw(9, 37), p, [d], keep), {})
                         for p in (2, 1, math.inf) for d in (0, 1) for keep in (False, True)]
    return [*calls, (op.ScalarOpt_dim, (draw(37, 9).t(), None, [0, 1]), {}),
            (op.Scalar, (draw(8, 70)[1:7, 3:67], 2), {}),
            (op.out, (draw(9, 37), 2, [1]), {"out": draw(9)})]


def _norm_kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    n, order = num_terms(call), _order(call)
    if not n or not call["self"].dim():
        return None
    check = norm_check(call["self"], held[0], reduced_dims(call), order,
                       lambda: relative_error(n, order, accumulator_of(held[0].dtype)))
    return run_of(check, FORMULA)


@checked(aten.norm, family="reduction", axes=selection_axes, symmetries=_norm_symmetries,
         flops=input_flops, reduction=True, window=("d0", "d1", "d2", "d3"), samples=_norm_samples,
         kernel=_norm_kernel)
def norm(call: HostCall) -> tuple[Reference | None, ...]:
    """``(sum |x|^p)^(1/p)`` for p of 1, 2 and both infinities."""
    x, held = call["self"], call.held[0]
    if not is_covered_float(x.dtype) or not is_covered_float(held.dtype) or not x.dim():
        return (None,)
    n, dims = num_terms(call.call), reduced_dims(call.call)
    keepdim = held.dim() == x.dim()
    if n == 0:
        return (None,)
    return (norm_reference(call.array("self"), held, _order(call.call), dims, keepdim, n),)


def _dist_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()}, ((),))


def _dist_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return NEGATED, RERUN


def _dist_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    operands: list[Any] = [(draw(700), draw(700)), (draw(9, 37), draw(37, 9).t()),
                           (draw(9, 37), draw(37))]
    return [(aten.dist.default, (a, b, p), {}) for a, b in operands for p in (2, 1, math.inf)]


@checked(aten.dist, family="reduction", axes=_dist_axes, symmetries=_dist_symmetries,
         flops=input_flops, reduction=True, samples=_dist_samples)
def dist(call: HostCall) -> tuple[Reference | None, ...]:
    """The norm of ``a - b``."""
    held = call.held[0]
    if any(call[n].dtype is not held.dtype for n in ("self", "other")):
        return (None,)
    if not is_covered_float(held.dtype):
        return (None,)
    out, p = call.out_format(), _order(call.call)
    with np.errstate(all="ignore"):
        difference = np.asarray(call.array("self") - call.array("other"))
        n = difference.size
        if n == 0 or p not in (1, 2, math.inf):
            return (None,)
        found = norm_reference(difference.reshape(-1), held, p, (0,), False, n)
        assert found is not None
        value, root = found.expected, 1.0 if math.isinf(p) else n ** (1 / p)
        stored = rounding(value, out) * (1 + (n + 4) * out.u) + (root + 1) * out.eta
        stored = stored + own_rounding(n + 2, value)
        proof, contract = (np.asarray(limit) + stored for limit in (found.proof, found.contract))
        size = np.asarray(np.maximum(found.magnitude, np.abs(difference).max()))
    return (Reference(value, proof, contract, "the norm's bound + u norm", size),)
