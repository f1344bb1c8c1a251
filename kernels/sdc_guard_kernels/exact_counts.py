"""Exact sums of integers and counts of what is not zero, over any dimensions and strides.

    sum = x_1 + ... + x_R  modulo 2^64        count = how many x are not 0 (a NaN is not 0)

Integers are added modulo 2^64 in int64, so any order gives the same bits, and there is no error to
bound: a held result is right or it is not.  A result of b bits is compared modulo 2^b, which is
what a sum in that format gives in any order.  Premise: two's complement with wrap-around, which is
what the device's integer addition does; the interpreter computes with NumPy, which does the same.

``any`` is ``count > 0``, ``all`` is ``count = R``; there the held result is read as "not 0".

Traffic: one read of x, 8 bytes for each element and split, one read of the held result.  Grid: kept
blocks times splits, and the second launch's kept blocks; see :mod:`sdc_guard_kernels.strided`.
Booleans are read as bytes, of which any but 0 is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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

INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
COUNTED = (*INTEGERS, torch.float16, torch.bfloat16, torch.float32, torch.float64)
TERMS = ("value", "nonzero")
RULES = ("equal", "any", "all")


@triton.jit  # type: ignore[untyped-decorator]
def _split_count(  # type: ignore[no-untyped-def]
    x_ptr, kept, split, num_kept, num_reduced, kept_sizes, x_kept, reduced_sizes, x_reduced,
    BLOCK_KEPT: tl.constexpr, BLOCK_REDUCED: tl.constexpr, ITERATIONS: tl.constexpr,
    REDUCED_AXIS: tl.constexpr, INDEX: tl.constexpr, NONZERO: tl.constexpr,
):
    rows: tl.constexpr = BLOCK_KEPT if REDUCED_AXIS == 1 else BLOCK_REDUCED
    cols: tl.constexpr = BLOCK_REDUCED if REDUCED_AXIS == 1 else BLOCK_KEPT
    total = tl.zeros((rows, cols), dtype=tl.int64)
    kept = tl.expand_dims(kept, REDUCED_AXIS)
    lane = tl.expand_dims(tl.arange(0, BLOCK_REDUCED).to(INDEX), 1 - REDUCED_AXIS)
    x_row = x_ptr + offsets(kept, kept_sizes, x_kept)
    first = split * (ITERATIONS * BLOCK_REDUCED)
    for step in range(ITERATIONS):
        index = first + step * BLOCK_REDUCED + lane
        exists = (kept < num_kept) & (index < num_reduced)
        # One merged dimension is the rule; the interpreter pays for each call of a function.
        if len(reduced_sizes) == 1:
            place = index.to(tl.int64) * x_reduced[0]
        else:
            place = offsets(index, reduced_sizes, x_reduced)
        x = widened(tl.load(x_row + place, mask=exists, other=0))
        if NONZERO:
            total += (x != 0).to(tl.int64)
        else:
            total += x.to(tl.int64)
    return tl.sum(total, axis=REDUCED_AXIS)


@triton.jit  # type: ignore[untyped-decorator]
def _counts_kernel(  # type: ignore[no-untyped-def]
    x_ptr, out_ptr, num_kept, num_reduced, num_kept_blocks, kept_sizes, x_kept, out_kept,
    reduced_sizes, x_reduced,
    BLOCK_KEPT: tl.constexpr, BLOCK_REDUCED: tl.constexpr, ITERATIONS: tl.constexpr,
    REDUCED_AXIS: tl.constexpr, INDEX: tl.constexpr, NONZERO: tl.constexpr,
):
    kept, split = kept_block(num_kept_blocks, BLOCK_KEPT, INDEX)
    total = _split_count(
        x_ptr, kept, split, num_kept, num_reduced, kept_sizes, x_kept, reduced_sizes, x_reduced,
        BLOCK_KEPT, BLOCK_REDUCED, ITERATIONS, REDUCED_AXIS, INDEX, NONZERO)
    out = out_ptr + split.to(tl.int64) * num_kept + offsets(kept, kept_sizes, out_kept)
    tl.store(out, total, mask=kept < num_kept)


@triton.jit  # type: ignore[untyped-decorator]
def _judge(  # type: ignore[no-untyped-def]
    total, kept, num_kept, num_reduced, kept_sizes, held_ptr, held_kept, place_kept, record_ptr,
    low_bits, RULE: tl.constexpr,
):
    exists = kept < num_kept
    held = tl.load(held_ptr + offsets(kept, kept_sizes, held_kept), mask=exists, other=0)
    if RULE == "equal":
        wrong = ((total ^ held.to(tl.int64)) & low_bits) != 0
    if RULE == "any":
        wrong = (total > 0) != (held != 0)
    if RULE == "all":
        wrong = (total == num_reduced) != (held != 0)
    defect = wrong.to(tl.float64)
    note(record_ptr, defect, defect * 0.0, offsets(kept, kept_sizes, place_kept), exists)


@triton.jit  # type: ignore[untyped-decorator]
def _check_kernel(  # type: ignore[no-untyped-def]
    x_ptr, held_ptr, record_ptr, num_kept, num_reduced, num_kept_blocks, low_bits, kept_sizes,
    x_kept, held_kept, place_kept, reduced_sizes, x_reduced,
    BLOCK_KEPT: tl.constexpr, BLOCK_REDUCED: tl.constexpr, ITERATIONS: tl.constexpr,
    REDUCED_AXIS: tl.constexpr, INDEX: tl.constexpr, NONZERO: tl.constexpr, RULE: tl.constexpr,
):
    kept, split = kept_block(num_kept_blocks, BLOCK_KEPT, INDEX)
    total = _split_count(
        x_ptr, kept, split, num_kept, num_reduced, kept_sizes, x_kept, reduced_sizes, x_reduced,
        BLOCK_KEPT, BLOCK_REDUCED, ITERATIONS, REDUCED_AXIS, INDEX, NONZERO)
    _judge(total, kept, num_kept, num_reduced, kept_sizes, held_ptr, held_kept, place_kept,
           record_ptr, low_bits, RULE)


@triton.jit  # type: ignore[untyped-decorator]
def _fold_check_kernel(  # type: ignore[no-untyped-def]
    counts_ptr, held_ptr, record_ptr, num_kept, num_reduced, num_splits, low_bits, kept_sizes,
    held_kept, place_kept,
    BLOCK_KEPT: tl.constexpr, BLOCK_SPLITS: tl.constexpr, ITERATIONS: tl.constexpr,
    INDEX: tl.constexpr, RULE: tl.constexpr,
):
    kept = tl.program_id(0).to(INDEX) * BLOCK_KEPT + tl.arange(0, BLOCK_KEPT).to(INDEX)
    total = tl.zeros((BLOCK_SPLITS, BLOCK_KEPT), dtype=tl.int64)
    for step in range(ITERATIONS):
        split = step * BLOCK_SPLITS + tl.arange(0, BLOCK_SPLITS).to(tl.int64)[:, None]
        exists = (split < num_splits) & (kept < num_kept)[None, :]
        total += tl.load(counts_ptr + split * num_kept + kept[None, :], mask=exists, other=0)
    _judge(tl.sum(total, axis=0), kept, num_kept, num_reduced, kept_sizes, held_ptr, held_kept,
           place_kept, record_ptr, low_bits, RULE)


def reduce_counts(x: Tensor, dims: Sequence[int] | None = None, *, term: str = "value") -> Tensor:
    """Exact sums (``term="value"``) or counts (``"nonzero"``) over ``dims``, all for None: int64 of
    the kept shape.

    Args:
        x: of any shape and strides, read in place; integer of up to 64 bits (no wider unsigned one
            than uint8) or bool, and for counts also floating.

    Raises:
        ValueError: a dimension or ``term`` is unknown.
        TypeError: x has another dtype.
    """
    reduced = normalised(x, dims)
    _require(x.dtype, term)
    shape = [n for d, n in enumerate(x.shape) if d not in reduced]
    plan = plan_reduction(x.shape, reduced, (x.stride(),), (contiguous_strides(shape),))
    counts = _unwritten(plan, x.device)
    if plan.num_kept and plan.num_splits == 1:
        _launch(plan, x, counts, plan.kept.strides[1], nonzero=term == "nonzero")
    elif plan.num_kept:
        _launch(plan, x, counts, plan.packed, nonzero=term == "nonzero")
        sizes = plan.kept.sizes[::-1]
        folded = reduce_counts(counts.view(plan.num_splits, *sizes), (0,))
        counts = _unwritten(plan, x.device)[0]
        counts.as_strided(sizes, plan.kept.strides[1][::-1]).copy_(folded)
    return counts.view(shape)


class CountCheck(NamedTuple):
    """A check of a held integer or bool reduction, prepared once for a site."""

    plan: Plan
    nonzero: bool
    rule: str
    low_bits: int

    @classmethod
    def prepare(
        cls, plan: Plan, dtype: torch.dtype, held_dtype: torch.dtype, *, term: str = "value",
        rule: str = "equal",
    ) -> CountCheck:
        """``plan``: of the strides of x as input, and of the held result and of C order as outputs.
        ``rule``: ``"equal"``, modulo the width of the result; ``"any"`` or ``"all"`` of a count.

        Raises:
            ValueError: ``term`` or ``rule`` is unknown.
            TypeError: a dtype is none that is counted.
        """
        _require(dtype, term)
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}, not one of {RULES}")
        if held_dtype not in INTEGERS:
            raise TypeError(f"an exact count is held as an integer or bool, not as {held_dtype}")
        bits = 8 * held_dtype.itemsize
        return cls(plan, term == "nonzero", rule, -1 if bits == 64 else (1 << bits) - 1)

    def launch(self, x: Tensor, held: Tensor, record: Tensor) -> None:
        """Judge ``held``; the verdict goes to ``record`` (int64 [2]), its index counts elements of
        the result in C order."""
        plan = self.plan
        if not plan.num_kept:
            return
        (x_kept, held_kept, place), sizes = plan.kept.strides, plan.kept.sizes
        held = _bytes(held)
        if plan.num_splits == 1:
            _check_kernel[plan.grid](
                _bytes(x), held, record, plan.num_kept, plan.num_reduced, plan.num_kept_blocks,
                self.low_bits, sizes, x_kept, held_kept, place, plan.reduced.sizes,
                plan.reduced.strides[0], **plan.constants, NONZERO=self.nonzero, RULE=self.rule)
            return
        counts = _unwritten(plan, x.device)
        _launch(plan, x, counts, plan.packed, nonzero=self.nonzero)
        _fold_check_kernel[plan.fold_grid](
            counts, held, record, plan.num_kept, plan.num_reduced, plan.num_splits, self.low_bits,
            sizes, held_kept, place, **plan.fold_constants, RULE=self.rule)


def _launch(plan: Plan, x: Tensor, counts: Tensor, out: tuple[int, ...], *, nonzero: bool) -> None:
    _counts_kernel[plan.grid](
        _bytes(x), counts, plan.num_kept, plan.num_reduced, plan.num_kept_blocks, plan.kept.sizes,
        plan.kept.strides[0], out, plan.reduced.sizes, plan.reduced.strides[0], **plan.constants,
        NONZERO=nonzero)


def _unwritten(plan: Plan, device: torch.device) -> Tensor:
    """Counts no program has written: there is no NaN among integers, so a number no count of a
    tensor reaches."""
    return torch.full((plan.num_splits, plan.num_kept), -(2**63) + 0x5DC, dtype=torch.int64,
                      device=device)


def _bytes(x: Tensor) -> Tensor:
    return x.view(torch.uint8) if x.dtype is torch.bool else x


def _require(dtype: torch.dtype, term: str) -> None:
    if term not in TERMS:
        raise ValueError(f"term is {term!r}, not one of {TERMS}")
    if dtype not in (INTEGERS if term == "value" else COUNTED):
        raise TypeError(f"exact {term} reductions do not take {dtype}")
