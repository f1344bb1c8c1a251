"""Sums over any dimensions of any strided tensor, and of absolute values, in a fixed order.

    sum = t_1 + ... + t_R          abs_sum = |t_1| + ... + |t_R|

for each kept element, where a term is x (``value``), |x| (``magnitude``), x^2 (``square``) or x y
(``product``).  Both
come from one pass over memory: ``abs_sum`` is what every bound on the error of a sum is a multiple
of.  Nothing is shared with torch's reductions: the kernels walk the addresses themselves
(:mod:`sdc_guard_kernels.strided`), in 64-bit arithmetic, and torch only allocates.

Order.  A split of an element has L = ``block_reduced`` lanes, each adds at most m = ``iterations``
terms one after the other; the lanes are then added in float64, in the tree of ``tl.sum``.  N splits
are added in float64 by a second launch, in whatever tree its plan has.

Error.  u = 2^-53, gamma_n(v) = n v / (1 - n v), v the unit roundoff of the working format: float64,
or with ``accumulator="compensated"`` float32 where the terms are exact in it (values and magnitudes
up to float32; squares and products of half formats; any others keep float64).  A is the exact
abs_sum of the terms as they are computed.

* A path from a term to a split's result holds at most (m - 1) + (L - 1) additions, and a split of
  n terms has n - 1 of them: ``float64`` errs by c_1 A, c_1 = gamma_{min(n - 1, m + L - 2)}(u)
  (Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, eq. 4.6).
* ``compensated``: a lane keeps s and the sum c of the exact errors of its additions (Knuth's
  TwoSum); s + c errs by g^2 A with g = gamma_{m-1}(v) (Ogita, Rump and Oishi 2005, Lemma 4.2, and
  the same bound for c); then s + c and the lanes are added in float64:
  c_1 = g^2 + gamma_L(u) (1 + g^2).
* ``abs_sum`` is a scale, not a result: its lanes are plain sums in the working format,
  a_1 = gamma_{m-1}(v) + gamma_{L-1}(u) (1 + gamma_{m-1}(v)).
* The second launch multiplies by (1 + gamma_{N-1}(u)).
* A float64 square or product is rounded: one more u in all of them, and 2^-1075 for each term
  that underflows; products of bf16 may underflow in float32, by 2^-150 each.  Others are exact.

:func:`sum_error` returns the three numbers.  Premises: round to nearest, no contraction, subnormals
kept.  A NaN, an infinity or an overflow makes abs_sum non-finite: partial sums of terms are never
larger than those of their absolute values.  A sum of no terms is 0.

Checks.  :class:`SumCheck` compares a held result with ``expected = sum / divisor`` within

    limit = p abs_sum + q |sum| + f,

or, for a 2-norm, with ``sqrt(sum)`` within ``q sqrt(sum) + f + min(l_0, l_1 / sqrt(sum))``, in the
launch that has the sums, and leaves a verdict.  Its user says what p, q, f are: the bound on the
held result plus this kernel's own error.  Nothing is judged where the abs_sum reaches
``largest_scale``, or the expected value and its limit ``largest``.

Traffic: one read of x (and y), 16 bytes for each element and split, one read of the held result.
Grid: kept blocks times splits; see :mod:`sdc_guard_kernels.strided`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.strided import (
    Plan,
    contiguous_strides,
    kept_block,
    normalised,
    offsets,
    plan_reduction,
    widened,
)
from sdc_guard_kernels.verdict import note

ACCUMULATORS = ("float64", "compensated")
PRODUCTS = ("square", "product")
TERMS = ("value", "magnitude", "square", "product")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FLOAT32_ROUNDOFF = 2.0**-24
_FLOAT64_ROUNDOFF = 2.0**-53


class Sums(NamedTuple):
    """Float64 tensors of the kept shape: the sums, and the sums of the absolute values."""

    sum: Tensor
    abs_sum: Tensor


class SumError(NamedTuple):
    """``|sum - exact| <= sum * A + absolute`` and ``|abs_sum - A| <= abs_sum * A + absolute``, A
    the exact sum of the absolute values."""

    sum: float
    abs_sum: float
    absolute: float


class Limit(NamedTuple):
    """What a held result is judged by; see the module's docstring.

    ``scale``: ``abs_sum`` times this is no smaller than the exact one.  ``root``: the result is a
    2-norm.  ``lost``: l_0 and l_1.
    """

    per_abs_sum: float
    per_value: float
    fixed: float
    scale: float
    largest: float
    largest_scale: float
    divisor: float = 1.0
    root: bool = False
    lost: tuple[float, float] = (0.0, 0.0)

    def on(self, device: torch.device) -> Tensor:
        """Float64 numbers on the device, rounded up by more than the kernel's own arithmetic: a
        kernel gets a Python float as float32."""
        up = 1.0 + 2.0**-40
        return torch.tensor(
            [self.divisor, self.per_abs_sum * up, self.per_value * up, self.fixed * up,
             self.scale, self.largest * (1.0 - 2.0**-40), self.lost[0] * up, self.lost[1] * up,
             self.largest_scale * (1.0 - 2.0**-40)],
            dtype=torch.float64, device=device)


@triton.jit  # type: ignore[untyped-decorator]
def _split_sums(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, kept, split, num_kept, num_reduced, kept_sizes, x_kept, y_kept,
    reduced_sizes, x_reduced, y_reduced,
    BLOCK_KEPT: tl.constexpr, BLOCK_REDUCED: tl.constexpr, ITERATIONS: tl.constexpr,
    REDUCED_AXIS: tl.constexpr, INDEX: tl.constexpr, TERM: tl.constexpr,
    COMPENSATED: tl.constexpr, WORK: tl.constexpr,
):
    rows: tl.constexpr = BLOCK_KEPT if REDUCED_AXIS == 1 else BLOCK_REDUCED
    cols: tl.constexpr = BLOCK_REDUCED if REDUCED_AXIS == 1 else BLOCK_KEPT
    total = tl.zeros((rows, cols), dtype=WORK)
    total_error = tl.zeros((rows, cols), dtype=WORK)
    abs_total = tl.zeros((rows, cols), dtype=WORK)

    kept = tl.expand_dims(kept, REDUCED_AXIS)
    lane = tl.expand_dims(tl.arange(0, BLOCK_REDUCED).to(INDEX), 1 - REDUCED_AXIS)
    x_row = x_ptr + offsets(kept, kept_sizes, x_kept)
    if TERM == "product":
        y_row = y_ptr + offsets(kept, kept_sizes, y_kept)
    first = split * (ITERATIONS * BLOCK_REDUCED)
    for step in range(ITERATIONS):
        index = first + step * BLOCK_REDUCED + lane
        exists = (kept < num_kept) & (index < num_reduced)
        # One merged dimension is the rule; the interpreter pays for each call of a function.
        if len(reduced_sizes) == 1:
            place = index.to(tl.int64) * x_reduced[0]
        else:
            place = offsets(index, reduced_sizes, x_reduced)
        term = widened(tl.load(x_row + place, mask=exists, other=0.0)).to(WORK)
        if TERM == "magnitude":
            term = tl.abs(term)
        if TERM == "square":
            term = term * term
        if TERM == "product":
            y_place = offsets(index, reduced_sizes, y_reduced)
            term = term * widened(tl.load(y_row + y_place, mask=exists, other=0.0)).to(WORK)
        new = total + term
        if COMPENSATED:
            part = new - total
            total_error += (total - (new - part)) + (term - part)
        total = new
        abs_total += tl.abs(term)

    lane_sum = total.to(tl.float64) + total_error.to(tl.float64)
    return tl.sum(lane_sum, axis=REDUCED_AXIS), tl.sum(abs_total.to(tl.float64), axis=REDUCED_AXIS)


@triton.jit  # type: ignore[untyped-decorator]
def _sums_kernel(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, out_ptr, num_kept, num_reduced, num_kept_blocks, num_splits,
    kept_sizes, x_kept, y_kept, out_kept, reduced_sizes, x_reduced, y_reduced,
    BLOCK_KEPT: tl.constexpr, BLOCK_REDUCED: tl.constexpr, ITERATIONS: tl.constexpr,
    REDUCED_AXIS: tl.constexpr, INDEX: tl.constexpr, TERM: tl.constexpr,
    COMPENSATED: tl.constexpr, WORK: tl.constexpr,
):
    kept, split = kept_block(num_kept_blocks, BLOCK_KEPT, INDEX)
    total, abs_total = _split_sums(
        x_ptr, y_ptr, kept, split, num_kept, num_reduced, kept_sizes, x_kept, y_kept,
        reduced_sizes, x_reduced, y_reduced,
        BLOCK_KEPT, BLOCK_REDUCED, ITERATIONS, REDUCED_AXIS, INDEX, TERM, COMPENSATED, WORK)
    out = out_ptr + split.to(tl.int64) * num_kept + offsets(kept, kept_sizes, out_kept)
    plane = tl.cast(num_splits, tl.int64) * num_kept
    tl.store(out, total, mask=kept < num_kept)
    tl.store(out + plane, abs_total, mask=kept < num_kept)


@triton.jit  # type: ignore[untyped-decorator]
def _judge(  # type: ignore[no-untyped-def]
    total, abs_total, kept, num_kept, kept_sizes, held_ptr, held_kept, place_kept, limit_ptr,
    record_ptr, ROOT: tl.constexpr,
):
    exists = kept < num_kept
    held = tl.load(held_ptr + offsets(kept, kept_sizes, held_kept), mask=exists, other=0.0)
    scale = abs_total * tl.load(limit_ptr + 4)
    if ROOT:
        expected = tl.sqrt(total)
        least = tl.load(limit_ptr + 6)
        share = tl.load(limit_ptr + 7) / tl.where(expected > 0.0, expected, 1.0)
        limit = tl.where(expected > 0.0, tl.minimum(least, share), least)
    else:
        expected = total / tl.load(limit_ptr)
        limit = tl.load(limit_ptr + 1) * scale
    size = tl.abs(expected)
    limit += tl.load(limit_ptr + 2) * size + tl.load(limit_ptr + 3)
    judged = exists & (scale < tl.load(limit_ptr + 8)) & (size + limit < tl.load(limit_ptr + 5))
    defect = tl.abs(widened(held).to(tl.float64) - expected)
    note(record_ptr, defect, limit, offsets(kept, kept_sizes, place_kept), judged)


@triton.jit  # type: ignore[untyped-decorator]
def _check_kernel(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, held_ptr, limit_ptr, record_ptr, num_kept, num_reduced, num_kept_blocks,
    kept_sizes, x_kept, y_kept, held_kept, place_kept, reduced_sizes, x_reduced, y_reduced,
    BLOCK_KEPT: tl.constexpr, BLOCK_REDUCED: tl.constexpr, ITERATIONS: tl.constexpr,
    REDUCED_AXIS: tl.constexpr, INDEX: tl.constexpr, TERM: tl.constexpr,
    COMPENSATED: tl.constexpr, WORK: tl.constexpr, ROOT: tl.constexpr,
):
    kept, split = kept_block(num_kept_blocks, BLOCK_KEPT, INDEX)
    total, abs_total = _split_sums(
        x_ptr, y_ptr, kept, split, num_kept, num_reduced, kept_sizes, x_kept, y_kept,
        reduced_sizes, x_reduced, y_reduced,
        BLOCK_KEPT, BLOCK_REDUCED, ITERATIONS, REDUCED_AXIS, INDEX, TERM, COMPENSATED, WORK)
    _judge(total, abs_total, kept, num_kept, kept_sizes, held_ptr, held_kept, place_kept,
           limit_ptr, record_ptr, ROOT)


@triton.jit  # type: ignore[untyped-decorator]
def _fold_check_kernel(  # type: ignore[no-untyped-def]
    sums_ptr, held_ptr, limit_ptr, record_ptr, num_kept, num_splits, kept_sizes, held_kept,
    place_kept,
    BLOCK_KEPT: tl.constexpr, BLOCK_SPLITS: tl.constexpr, ITERATIONS: tl.constexpr,
    INDEX: tl.constexpr, ROOT: tl.constexpr,
):
    kept = tl.program_id(0).to(INDEX) * BLOCK_KEPT + tl.arange(0, BLOCK_KEPT).to(INDEX)
    total = tl.zeros((BLOCK_SPLITS, BLOCK_KEPT), dtype=tl.float64)
    abs_total = tl.zeros((BLOCK_SPLITS, BLOCK_KEPT), dtype=tl.float64)
    plane = tl.cast(num_splits, tl.int64) * num_kept
    for step in range(ITERATIONS):
        split = step * BLOCK_SPLITS + tl.arange(0, BLOCK_SPLITS).to(tl.int64)[:, None]
        exists = (split < num_splits) & (kept < num_kept)[None, :]
        place = split * num_kept + kept[None, :]
        total += tl.load(sums_ptr + place, mask=exists, other=0.0)
        abs_total += tl.load(sums_ptr + plane + place, mask=exists, other=0.0)
    _judge(tl.sum(total, axis=0), tl.sum(abs_total, axis=0), kept, num_kept, kept_sizes, held_ptr,
           held_kept, place_kept, limit_ptr, record_ptr, ROOT)


def reduce_sums(
    x: Tensor, dims: Sequence[int] | None = None, *, y: Tensor | None = None, term: str = "value",
    accumulator: str = "float64",
) -> Sums:
    """Sum terms over ``dims`` (all for None); the results have the shape of the kept dimensions.

    Args:
        x: float16, bfloat16, float32 or float64 of any shape and strides, read in place.
        y: the other factor of ``term="product"``, of the shape and dtype of x.
        term: ``"value"``, ``"magnitude"``, ``"square"`` or ``"product"``.
        accumulator: ``"float64"`` or ``"compensated"``, see the module's docstring.

    Raises:
        ValueError: a dimension, ``term`` or ``accumulator`` is unknown, or the shapes differ.
        TypeError: x is no floating tensor of up to 64 bits, or y has another dtype.
    """
    reduced = normalised(x, dims)
    _require(x, y, term, accumulator)
    other = x if y is None else y
    shape = [n for d, n in enumerate(x.shape) if d not in reduced]
    plan = plan_reduction(x.shape, reduced, (x.stride(), other.stride()),
                          (contiguous_strides(shape),))
    # An output that no program writes must not pass as a sum, so it starts as NaN.
    sums = torch.full((2, plan.num_splits, plan.num_kept), torch.nan, dtype=torch.float64,
                      device=x.device)
    if plan.num_kept and plan.num_splits == 1:
        _launch_sums(plan, x, other, sums, plan.kept.strides[2], _options(x.dtype, term,
                                                                          accumulator))
    elif plan.num_kept:
        _launch_sums(plan, x, other, sums, plan.packed, _options(x.dtype, term, accumulator))
        # Still in the order of memory; both sums are sums of what the splits left.
        sizes = plan.kept.sizes[::-1]
        folded = reduce_sums(sums.view(2, plan.num_splits, *sizes), (1,)).sum
        sums = torch.full((2, plan.num_kept), torch.nan, dtype=torch.float64, device=x.device)
        placed = sums.as_strided((2, *sizes), (plan.num_kept, *plan.kept.strides[2][::-1]))
        placed.copy_(folded)
    return Sums(*(part.view(shape) for part in sums.view(2, plan.num_kept)))


def sum_error(
    plan: Plan, dtype: torch.dtype, *, term: str = "value", accumulator: str = "float64"
) -> SumError:
    """The error of :func:`reduce_sums` and of the checks by this plan, derived in the module's
    docstring and rounded up by a relative 2^-40."""
    options = _options(dtype, term, accumulator)
    narrow, lanes = options["WORK"] is tl.float32, plan.block_reduced
    split_terms = min(plan.num_reduced, plan.iterations * lanes)
    lane_terms = -(-split_terms // lanes)
    v = _FLOAT32_ROUNDOFF if narrow else _FLOAT64_ROUNDOFF
    lane = _gamma(lane_terms - 1, v)
    split = _gamma(min(split_terms, lane_terms + lanes - 1) - 1, _FLOAT64_ROUNDOFF)
    if options["COMPENSATED"]:
        split = _then(lane**2, _gamma(lanes, _FLOAT64_ROUNDOFF))
    scale = _then(lane, _gamma(lanes - 1, _FLOAT64_ROUNDOFF))
    fold = _gamma(plan.num_splits - 1, _FLOAT64_ROUNDOFF)
    computed = term in PRODUCTS
    rounded = _FLOAT64_ROUNDOFF if computed and dtype is torch.float64 else 0.0
    absolute = 0.0
    if computed and (narrow or dtype is torch.float64):
        absolute = plan.num_reduced * (2.0**-149 if narrow else 2.0**-1074)
    after = _then(fold, rounded)
    sum_, abs_sum = (_then(first, after) * (1.0 + 2.0**-40) for first in (split, scale))
    return SumError(sum_, abs_sum, absolute)


class SumCheck(NamedTuple):
    """A check of a held reduction, prepared once for a site: operands of the same shapes, strides,
    dtypes and device are then checked by :meth:`launch`."""

    plan: Plan
    options: dict[str, Any]
    limit: Tensor
    root: bool

    @classmethod
    def prepare(
        cls, plan: Plan, dtype: torch.dtype, limit: Limit, device: torch.device, *,
        term: str = "value", accumulator: str = "compensated",
    ) -> SumCheck:
        """``plan``: of the strides of x and y (x again where there is no y) as inputs, and of the
        held result and of C order as outputs."""
        return cls(plan, _options(dtype, term, accumulator), limit.on(device), limit.root)

    def launch(self, x: Tensor, held: Tensor, record: Tensor, *, y: Tensor | None = None) -> None:
        """Judge ``held``; the verdict goes to ``record`` (int64 [2]), its index counts elements of
        the result in C order."""
        plan, other = self.plan, x if y is None else y
        if not plan.num_kept:
            return
        (x_kept, y_kept, held_kept, place), sizes = plan.kept.strides, plan.kept.sizes
        if plan.num_splits == 1:
            _check_kernel[plan.grid](
                x, other, held, self.limit, record, plan.num_kept, plan.num_reduced,
                plan.num_kept_blocks, sizes, x_kept, y_kept, held_kept, place, plan.reduced.sizes,
                *plan.reduced.strides, **plan.constants, **self.options, ROOT=self.root)
            return
        sums = torch.full((2, plan.num_splits, plan.num_kept), torch.nan, dtype=torch.float64,
                          device=x.device)
        _launch_sums(plan, x, other, sums, plan.packed, self.options)
        _fold_check_kernel[plan.fold_grid](
            sums, held, self.limit, record, plan.num_kept, plan.num_splits, sizes, held_kept, place,
            **plan.fold_constants, ROOT=self.root, enable_fp_fusion=False)


def _launch_sums(
    plan: Plan, x: Tensor, y: Tensor, sums: Tensor, out: tuple[int, ...], options: dict[str, Any]
) -> None:
    _sums_kernel[plan.grid](
        x, y, sums, plan.num_kept, plan.num_reduced, plan.num_kept_blocks, plan.num_splits,
        plan.kept.sizes, *plan.kept.strides[:2], out, plan.reduced.sizes, *plan.reduced.strides,
        **plan.constants, **options)


def _options(dtype: torch.dtype, term: str, accumulator: str) -> dict[str, Any]:
    """Whether a lane keeps its errors, and the format of its sums."""
    compensated = accumulator == "compensated"
    exact = (torch.float16, torch.bfloat16) if term in PRODUCTS else FLOATS[:3]
    work = tl.float32 if compensated and dtype in exact else tl.float64
    return {"TERM": term, "COMPENSATED": compensated, "WORK": work, "enable_fp_fusion": False}


def _require(x: Tensor, y: Tensor | None, term: str, accumulator: str) -> None:
    if term not in TERMS:
        raise ValueError(f"term is {term!r}, not one of {TERMS}")
    if accumulator not in ACCUMULATORS:
        raise ValueError(f"accumulator is {accumulator!r}, not one of {ACCUMULATORS}")
    if x.dtype not in FLOATS:
        raise TypeError(f"sums take a floating dtype of up to 64 bits, got {x.dtype}")
    if (y is not None) != (term == "product"):
        raise ValueError(f"y goes with term 'product' and no other, got term {term!r}")
    if y is not None and y.dtype is not x.dtype:
        raise TypeError(f"the factors are {x.dtype} and {y.dtype}")
    if y is not None and y.shape != x.shape:
        raise ValueError(f"the factors have shapes {tuple(x.shape)} and {tuple(y.shape)}")


def _then(first: float, second: float) -> float:
    """``(1 + first)(1 + second) - 1``, which would lose small numbers."""
    return first + second + first * second


def _gamma(num_additions: int, roundoff: float) -> float:
    n = max(0, num_additions)
    return n * roundoff / (1.0 - n * roundoff)
