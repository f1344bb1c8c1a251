"""Fault models that strike once: in one call that the user's code, its backward or its optimizer
makes, and never in a replay of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sdc_guard.formats import is_covered_float
from sdc_guard.inject import choice
from sdc_guard.inject.campaign import OutputShape
from sdc_guard.inject.choice import Chosen
from sdc_guard.inject.composed import OperandFault, ResultFault, StaleResult
from sdc_guard.inject.damage import (
    Damage,
    FlipBits,
    NotFinite,
    Precision,
    Scramble,
    SwapRows,
    Zero,
)
from sdc_guard.inject.flip import num_bits
from sdc_guard.inject.regions import (
    WARP,
    All,
    Element,
    Region,
    Tile,
    Warps,
    rows_and_columns,
)
from sdc_guard.inject.target import FaultModel, Target
from sdc_guard.inject.timing import Once

Generator = np.random.Generator
LOWER = {torch.float64: (24, 11), torch.float32: (11, 8), torch.float16: (8,), torch.bfloat16: (4,)}
"""Significant bits of the formats below: fp32, fp16, bf16, and of an 8-bit format below bf16."""
_SHARE_ZERO, _SHARE_OTHER = 0.51, 0.48


def pick(generator: Generator, *values: int) -> int:
    """One of the values."""
    return int(values[int(generator.integers(len(values)))])


def _result(
    target: Target, generator: Generator,
    fits: Callable[[OutputShape], bool] = lambda out: True,
) -> Chosen[OutputShape]:
    return choice.choose(choice.results(target.calls, fits), generator)


def _once(
    chosen: Chosen[OutputShape], region: Region, damage: Damage, bit: int | None = None
) -> ResultFault:
    return ResultFault(
        chosen.call.op, Once(chosen.call.ordinal), region, damage, output=chosen.place,
        shape=chosen.part.shape, dtype=chosen.part.dtype, bit=bit, device=chosen.device)


def _element(chosen: Chosen[OutputShape], generator: Generator) -> Element:
    return Element(int(generator.integers(chosen.part.numel)))


def _single_bit(target: Target, generator: Generator) -> ResultFault:
    chosen = _result(target, generator)
    region = _element(chosen, generator)
    bit = int(generator.integers(num_bits(chosen.part.dtype)))
    return _once(chosen, region, FlipBits((bit,)), bit)


def _multi_bit(target: Target, generator: Generator) -> ResultFault:
    chosen = _result(target, generator, lambda out: out.dtype is not torch.bool)
    width = num_bits(chosen.part.dtype)
    region = _element(chosen, generator)
    number = int(generator.integers(2, min(8, width) + 1))
    flipped = generator.choice(width, size=number, replace=False)
    return _once(chosen, region, FlipBits(tuple(sorted(int(b) for b in flipped))))


def _last_bit(target: Target, generator: Generator) -> ResultFault:
    chosen = _result(target, generator, lambda out: is_covered_float(out.dtype))
    return _once(chosen, _element(chosen, generator), FlipBits((0,)), 0)


def draw_tile(shape: tuple[int, ...], generator: Generator) -> Tile:
    """An aligned tile of 8, 16, 32 or 64 rows and columns that has elements of ``shape``."""
    rows, columns = rows_and_columns(shape)
    height, width = pick(generator, 8, 16, 32, 64), pick(generator, 8, 16, 32, 64)
    top = int(generator.integers(-(-rows // height))) * height
    left = int(generator.integers(-(-columns // width))) * width
    return Tile(top, left, height, width)


def _warps(numel: int, generator: Generator) -> Warps:
    return Warps(
        first=int(generator.integers(-(-numel // WARP))), num_chunks=pick(generator, 1, 2, 4, 8),
        period=pick(generator, 1, 2, 4, 8, 16), stride=pick(generator, 1, 2, 4, 8, 16, 32))


def _published_mix(target: Target, generator: Generator) -> ResultFault:
    chosen = _result(target, generator)
    region: Region
    if generator.integers(2):
        region = _warps(chosen.part.numel, generator)
    else:
        tile = draw_tile(chosen.part.shape, generator)
        part = int(generator.integers(1, tile.height + 1))
        region = Tile(tile.top, tile.left, part, tile.width)
    share = generator.random()
    damage: Damage
    if share < _SHARE_ZERO:
        damage = Zero()
    elif share < _SHARE_ZERO + _SHARE_OTHER:
        damage = Scramble(int(generator.integers(2**32)))
    else:
        damage = NotFinite(int(generator.integers(3)))
    return _once(chosen, region, damage)


def _zeroed_block(target: Target, generator: Generator) -> ResultFault:
    chosen = _result(target, generator)
    return _once(chosen, draw_tile(chosen.part.shape, generator), Zero())


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and their length; elements of a vector are rows of one element."""
    return (shape[0] if shape else 1, 1) if len(shape) < 2 else rows_and_columns(shape)


def draw_two(number: int, generator: Generator) -> tuple[int, int]:
    """Two different numbers below ``number``."""
    first, second = generator.choice(number, size=2, replace=False)
    return int(first), int(second)


def _swapped_rows(target: Target, generator: Generator) -> ResultFault:
    chosen = _result(target, generator, lambda out: matrix(out.shape)[0] > 1)
    rows, length = matrix(chosen.part.shape)
    return _once(chosen, All(), SwapRows(*draw_two(rows, generator), length))


def _stale_buffer(target: Target, generator: Generator) -> StaleResult:
    chosen = _result(target, generator)
    return StaleResult(
        chosen.call.op, Once(chosen.call.ordinal), shape=chosen.part.shape,
        dtype=chosen.part.dtype, output=chosen.place, device=chosen.device)


def _wrong_operand_read(target: Target, generator: Generator) -> OperandFault:
    chosen = choice.choose(choice.operands(target.calls), generator)
    part = chosen.part
    region = Element(int(generator.integers(part.numel)))
    bit = int(generator.integers(num_bits(part.dtype)))
    return OperandFault(
        chosen.call.op, Once(chosen.call.ordinal), part.path, region, FlipBits((bit,)),
        shape=part.shape, dtype=part.dtype, device=chosen.device)


def _lower_precision(target: Target, generator: Generator) -> ResultFault:
    chosen = _result(target, generator, lambda out: out.dtype in LOWER)
    region = All() if generator.integers(2) else draw_tile(chosen.part.shape, generator)
    return _once(chosen, region, Precision(pick(generator, *LOWER[chosen.part.dtype])))


TRANSIENT = (
    FaultModel("single bit", "transient",
               "one bit of one element of one result inverted, bit and element uniform",
               _single_bit),
    FaultModel("multi-bit", "transient", "2 to 8 bits of one element inverted", _multi_bit),
    FaultModel("low mantissa bit", "transient",
               "the last bit of one floating element inverted", _last_bit),
    FaultModel("published mix", "transient",
               "after NVIDIA's Anatomy of SDC (arXiv 2605.04213): of the faults 51 % zero, 48 % "
               "change bits at random, 1 % store NaN or infinity, in aligned chunks of 32 elements "
               "with a period, or in part of a tile", _published_mix),
    FaultModel("zeroed block", "transient", "one aligned block of a result is zero",
               _zeroed_block),
    FaultModel("swapped rows", "transient", "two rows of a result exchanged", _swapped_rows),
    FaultModel("stale buffer", "transient",
               "a result keeps what its memory held before", _stale_buffer),
    FaultModel("wrong operand read", "transient",
               "a kernel reads one element of an operand with one bit inverted",
               _wrong_operand_read),
    FaultModel("lower precision", "transient",
               "a result, or an aligned block of it, is rounded to the significant bits of a lower "
               "format", _lower_precision),
)
