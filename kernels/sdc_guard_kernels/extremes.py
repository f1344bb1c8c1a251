"""Largest and smallest elements over any dimensions and strides, and those of |x|: exact.

    max, min: over x_1 ... x_R        max_abs, min_abs: over |x_1| ... |x_R|

A NaN among the terms is the result.  Nothing is computed: a number becomes an integer *key* that
orders like it, -0 like +0, with NaN above all, and keys are compared.  For a float with bits b as a
signed integer of its width, b where b >= 0 and b XOR (all bits but the sign) elsewhere orders like
the float (IEEE 754-2019, totalOrder); complemented it orders the other way round, for a minimum.
Half formats are widened to float32, which is exact.  So the result is the same in any order, there
is no error to bound, and a held result is right or it is not.

A held result is judged where the extreme is finite, or NaN, and of no terms there is none.

Traffic: one read of x, 4 or 8 bytes for each element and split, one read of the held result.  Grid:
kept blocks times splits, and the second launch's kept blocks; see
:mod:`sdc_guard_kernels.strided`.
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

KINDS = ("max", "min", "max_abs", "min_abs")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@triton.jit  # type: ignore[untyped-decorator]
def _key(x, FLOAT: tl.constexpr, WIDE: tl.constexpr, LEAST: tl.constexpr, ABS: tl.constexpr):  # type: ignore[no-untyped-def]
    # One type on each path to the one return, or the compiler refuses; `where` widens in the
    # interpreter, so types are named after it.
    if FLOAT:
        value = widened(x).to(tl.float64 if WIDE else tl.float32)
        if ABS:
            value = tl.abs(value)
        plain = tl.where(value == 0.0, 0.0, value)
        if WIDE:
            bits = plain.to(tl.float64).to(tl.int64, bitcast=True)
            key = tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits)
            key = ~key if LEAST else key
            key = tl.where(value == value, key, 0x7FFFFFFFFFFFFFFF).to(tl.int64)
        else:
            bits = plain.to(tl.float32).to(tl.int32, bitcast=True)
            key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
            key = ~key if LEAST else key
            key = tl.where(value == value, key, 0x7FFFFFFF).to(tl.int32)
    else:
        key = x.to(tl.int64)
        key = ~key if LEAST else key
    return key


@triton.jit  # type: ignore[untyped-decorator]
def _value(key, FLOAT: tl.constexpr, WIDE: tl.constexpr, LEAST: tl.constexpr):  # type: ignore[no-untyped-def]
    """Float64 or int64 of a key."""
    ordered = ~key if LEAST else key
    if FLOAT:
        if WIDE:
            bits = tl.where(ordered < 0, ordered ^ 0x7FFFFFFFFFFFFFFF, ordered).to(tl.int64)
            value = bits.to(tl.float64, bitcast=True)
            found = tl.where(key == 0x7FFFFFFFFFFFFFFF, float("nan"), value)
        else:
            bits = tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(tl.int32)
            value = bits.to(tl.float32, bitcast=True).to(tl.float64)
            found = tl.where(key == 0x7FFFFFFF, float("nan"), value)
    else:
        found = ordered
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _split_extreme(  # type: ignore[no-untyped-def]
    x_ptr, kept, split, num_kept, num_reduced, kept_sizes, x_kept, reduced_sizes, x_reduced,
    BLOCK_KEPT: tl.constexpr, BLOCK_REDUCED: tl.constexpr, ITERATIONS: tl.constexpr,
    REDUCED_AXIS: tl.constexpr, INDEX: tl.constexpr, FLOAT: tl.constexpr, WIDE: tl.constexpr,
    LEAST: tl.constexpr, ABS: tl.constexpr, KEY: tl.constexpr, LOWEST: tl.constexpr,
):
    rows: tl.constexpr = BLOCK_KEPT if REDUCED_AXIS == 1 else BLOCK_REDUCED
    cols: tl.constexpr = BLOCK_REDUCED if REDUCED_AXIS == 1 else BLOCK_KEPT
    best = tl.full((rows, cols), LOWEST, dtype=KEY)
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
        key = _key(tl.load(x_row + place, mask=exists, other=0), FLOAT, WIDE, LEAST, ABS)
        best = tl.where(exists & (key > best), key, best)
    return tl.max(best, axis=REDUCED_AXIS)


@triton.jit  # type: ignore[untyped-decorator]
def _keys_kernel(  # type: ignore[no-untyped-def]
    x_ptr, keys_ptr, num_kept, num_reduced, num_kept_blocks, kept_sizes, x_kept, reduced_sizes,
    x_reduced,
    BLOCK_KEPT: tl.constexpr, BLOCK_REDUCED: tl.constexpr, ITERATIONS: tl.constexpr,
    REDUCED_AXIS: tl.constexpr, INDEX: tl.constexpr, FLOAT: tl.constexpr, WIDE: tl.constexpr,
    LEAST: tl.constexpr, ABS: tl.constexpr, KEY: tl.constexpr, LOWEST: tl.constexpr,
):
    kept, split = kept_block(num_kept_blocks, BLOCK_KEPT, INDEX)
    best = _split_extreme(
        x_ptr, kept, split, num_kept, num_reduced, kept_sizes, x_kept, reduced_sizes, x_reduced,
        BLOCK_KEPT, BLOCK_REDUCED, ITERATIONS, REDUCED_AXIS, INDEX, FLOAT, WIDE, LEAST, ABS, KEY,
        LOWEST)
    tl.store(keys_ptr + split.to(tl.int64) * num_kept + kept, best, mask=kept < num_kept)


@triton.jit  # type: ignore[untyped-decorator]
def _judge(  # type: ignore[no-untyped-def]
    best, kept, num_kept, kept_sizes, held_ptr, held_kept, place_kept, record_ptr,
    FLOAT: tl.constexpr, WIDE: tl.constexpr, LEAST: tl.constexpr,
):
    exists = kept < num_kept
    held = tl.load(held_ptr + offsets(kept, kept_sizes, held_kept), mask=exists, other=0)
    defect = (best != _key(held, FLOAT, WIDE, LEAST, False)).to(tl.float64)
    judged = exists
    if FLOAT:
        judged = exists & (tl.abs(_value(best, FLOAT, WIDE, LEAST)) != float("inf"))
    note(record_ptr, defect, defect * 0.0, offsets(kept, kept_sizes, place_kept), judged)


@triton.jit  # type: ignore[untyped-decorator]
def _check_kernel(  # type: ignore[no-untyped-def]
    x_ptr, held_ptr, record_ptr, num_kept, num_reduced, num_kept_blocks, kept_sizes, x_kept,
    held_kept, place_kept, reduced_sizes, x_reduced,
    BLOCK_KEPT: tl.constexpr, BLOCK_REDUCED: tl.constexpr, ITERATIONS: tl.constexpr,
    REDUCED_AXIS: tl.constexpr, INDEX: tl.constexpr, FLOAT: tl.constexpr, WIDE: tl.constexpr,
    LEAST: tl.constexpr, ABS: tl.constexpr, KEY: tl.constexpr, LOWEST: tl.constexpr,
):
    kept, split = kept_block(num_kept_blocks, BLOCK_KEPT, INDEX)
    best = _split_extreme(
        x_ptr, kept, split, num_kept, num_reduced, kept_sizes, x_kept, reduced_sizes, x_reduced,
        BLOCK_KEPT, BLOCK_REDUCED, ITERATIONS, REDUCED_AXIS, INDEX, FLOAT, WIDE, LEAST, ABS, KEY,
        LOWEST)
    _judge(best, kept, num_kept, kept_sizes, held_ptr, held_kept, place_kept, record_ptr, FLOAT,
           WIDE, LEAST)


@triton.jit  # type: ignore[untyped-decorator]
def _fold_kernel(  # type: ignore[no-untyped-def]
    keys_ptr, out_ptr, record_ptr, num_kept, num_splits, kept_sizes, out_kept, place_kept,
    BLOCK_KEPT: tl.constexpr, BLOCK_SPLITS: tl.constexpr, ITERATIONS: tl.constexpr,
    INDEX: tl.constexpr, FLOAT: tl.constexpr, WIDE: tl.constexpr, LEAST: tl.constexpr,
    KEY: tl.constexpr, LOWEST: tl.constexpr, JUDGE: tl.constexpr,
):
    """The splits' best key; ``out`` is judged by it, or gets its value."""
    kept = tl.program_id(0).to(INDEX) * BLOCK_KEPT + tl.arange(0, BLOCK_KEPT).to(INDEX)
    best = tl.full((BLOCK_SPLITS, BLOCK_KEPT), LOWEST, dtype=KEY)
    for step in range(ITERATIONS):
        split = step * BLOCK_SPLITS + tl.arange(0, BLOCK_SPLITS).to(tl.int64)[:, None]
        exists = (split < num_splits) & (kept < num_kept)[None, :]
        key = tl.load(keys_ptr + split * num_kept + kept[None, :], mask=exists, other=LOWEST)
        best = tl.where(key > best, key, best)
    found = tl.max(best, axis=0)
    if JUDGE:
        _judge(found, kept, num_kept, kept_sizes, out_ptr, out_kept, place_kept, record_ptr, FLOAT,
               WIDE, LEAST)
    else:
        tl.store(out_ptr + offsets(kept, kept_sizes, out_kept), _value(found, FLOAT, WIDE, LEAST),
                 mask=kept < num_kept)


def reduce_extreme(
    x: Tensor, dims: Sequence[int] | None = None, *, kind: str = "max_abs"
) -> Tensor:
    """The extreme over ``dims``, all for None: float64 of the kept shape, int64 of integers.

    Args:
        x: of any shape and strides, read in place; floating of up to 64 bits, or for ``"max"`` and
            ``"min"`` also integer.

    Raises:
        ValueError: a dimension or ``kind`` is unknown, or there are no terms.
        TypeError: x has another dtype.
    """
    reduced = normalised(x, dims)
    options = _options(x.dtype, kind)
    shape = [n for d, n in enumerate(x.shape) if d not in reduced]
    plan = plan_reduction(x.shape, reduced, (x.stride(),), (contiguous_strides(shape),) * 2)
    if not plan.num_reduced:
        raise ValueError(f"no terms: shape {tuple(x.shape)}, dims {reduced}")
    out = torch.full(shape, torch.nan, dtype=torch.float64, device=x.device)
    if not options["FLOAT"]:
        out = torch.full(shape, -(2**63) + 0x5DC, dtype=torch.int64, device=x.device)
    if plan.num_kept:
        _fold(plan, _keys(plan, x, options), out, out, options, judge=False)
    return out


class ExtremeCheck(NamedTuple):
    """A check of a held extreme, prepared once for a site."""

    plan: Plan
    options: dict[str, Any]

    @classmethod
    def prepare(cls, plan: Plan, dtype: torch.dtype, held_dtype: torch.dtype, *,
                kind: str) -> ExtremeCheck:
        """``plan``: of the strides of x as input, and of the held result and of C order as outputs.

        Raises:
            ValueError: ``kind`` is unknown, or there are no terms.
            TypeError: a dtype is not taken, or the result cannot hold every value of x.
        """
        if not plan.num_reduced:
            raise ValueError("an extreme of no terms")
        if torch.promote_types(dtype, held_dtype) is not held_dtype:
            raise TypeError(f"extremes of {dtype} held as {held_dtype}")
        options = _options(dtype, kind)
        if options["FLOAT"] and held_dtype is torch.float64:
            options.update(_options(held_dtype, kind))
        return cls(plan, options)

    def launch(self, x: Tensor, held: Tensor, record: Tensor) -> None:
        """Judge ``held``; the verdict goes to ``record`` (int64 [2]), its index counts elements of
        the result in C order."""
        plan = self.plan
        if not plan.num_kept:
            return
        if plan.num_splits > 1:
            _fold(plan, _keys(plan, x, self.options), held, record, self.options, judge=True)
            return
        x_kept, held_kept, place = plan.kept.strides
        _check_kernel[plan.grid](
            x, held, record, plan.num_kept, plan.num_reduced, plan.num_kept_blocks, plan.kept.sizes,
            x_kept, held_kept, place, plan.reduced.sizes, plan.reduced.strides[0],
            **plan.constants, **self.options)


def _keys(plan: Plan, x: Tensor, options: dict[str, Any]) -> Tensor:
    # A key that no program writes is that of a NaN.
    dtype = torch.int32 if options["KEY"] is tl.int32 else torch.int64
    keys = torch.full((plan.num_splits, plan.num_kept), torch.iinfo(dtype).max, dtype=dtype,
                      device=x.device)
    _keys_kernel[plan.grid](
        x, keys, plan.num_kept, plan.num_reduced, plan.num_kept_blocks, plan.kept.sizes,
        plan.kept.strides[0], plan.reduced.sizes, plan.reduced.strides[0], **plan.constants,
        **options)
    return keys


def _fold(
    plan: Plan, keys: Tensor, out: Tensor, record: Tensor, options: dict[str, Any], *, judge: bool
) -> None:
    _, out_kept, place = plan.kept.strides
    rest = {name: value for name, value in options.items() if name != "ABS"}
    _fold_kernel[plan.fold_grid](
        keys, out, record, plan.num_kept, plan.num_splits, plan.kept.sizes, out_kept, place,
        **plan.fold_constants, **rest, JUDGE=judge)


def _options(dtype: torch.dtype, kind: str) -> dict[str, Any]:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, not one of {KINDS}")
    if dtype not in FLOATS and (dtype not in INTEGERS or kind.endswith("_abs")):
        raise TypeError(f"{kind} does not take {dtype}")
    wide = dtype not in FLOATS[:3]
    return {"FLOAT": dtype in FLOATS, "WIDE": wide, "LEAST": kind.startswith("min"),
            "ABS": kind.endswith("_abs"), "KEY": tl.int64 if wide else tl.int32,
            "LOWEST": -(2**63) if wide else -(2**31)}
