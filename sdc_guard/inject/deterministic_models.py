"""Fault models of software: kernels that are wrong in each execution, wherever it runs, for some
place, data, layout or value."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, Path, form_of
from sdc_guard.inject import choice
from sdc_guard.inject.campaign import CallShape, OperandShape
from sdc_guard.inject.choice import Chosen
from sdc_guard.inject.classes import op_class
from sdc_guard.inject.composed import OperandFault, ResultFault
from sdc_guard.inject.damage import FlipBits, Precision
from sdc_guard.inject.flip import num_bits, position, read_element
from sdc_guard.inject.kernel_bugs import WrongLayout
from sdc_guard.inject.misread import MisreadElement, MisreadNumber
from sdc_guard.inject.operand_bugs import DroppedBlock, SwappedOperandRows
from sdc_guard.inject.predicates import Condition, is_transposed
from sdc_guard.inject.regions import All, Wrapped
from sdc_guard.inject.target import FaultModel, Target
from sdc_guard.inject.timing import Always
from sdc_guard.inject.transient_models import LOWER, draw_two, matrix, pick

Generator = np.random.Generator
ADDS_UP = frozenset({"product", "convolution", "attention", "softmax and loss", "norm",
                     "reduction"})
"""Operator classes whose kernels accumulate."""
_FACTORS = ("mat1", "batch1", "mat", "vec1", "query", "input", "self")


def _read(
    target: Target, generator: Generator, how: str
) -> MisreadElement:
    """Half of them are tied to a place, half to the last bits of a number."""
    chosen = choice.choose(choice.operands(target.calls), generator)
    part = chosen.part
    model = MisreadElement if generator.integers(2) else MisreadNumber
    fault = model(chosen.call.op, part.path, how, shape=part.shape,
                  flat_index=int(generator.integers(part.numel)), device=chosen.device)
    fault.under_mode = True
    return fault


def _wrong_offset(target: Target, generator: Generator) -> MisreadElement:
    return _read(target, generator, "offset")


def _dropped_element(target: Target, generator: Generator) -> MisreadElement:
    return _read(target, generator, "dropped")


def _is_factor(call: CallShape, operand: OperandShape) -> bool:
    """The operand over which the call adds up: of a product the left factor, else the first."""
    if op_class(call.op) not in ADDS_UP or not operand.shape:
        return False
    names = form_of(call.op).argument_names
    name = next((n for n in _FACTORS if n in names), None)
    place = operand.path[0]
    return name == names[place] if name else place == min(o.path[0] for o in call.operands)


def _dropped_block(target: Target, generator: Generator) -> DroppedBlock:
    chosen = choice.choose(choice.operands(target.calls, _is_factor), generator)
    parts = pick(generator, 2, 4, 8, 16)
    return DroppedBlock(chosen.call.op, chosen.part.path, int(generator.integers(parts)), parts,
                        dtype=chosen.part.dtype, device=chosen.device)


def _swapped_rows(target: Target, generator: Generator) -> SwappedOperandRows:
    chosen = choice.choose(
        choice.operands(target.calls, lambda call, part: matrix(part.shape)[0] > 1), generator)
    first, second = draw_two(matrix(chosen.part.shape)[0], generator)
    return SwappedOperandRows(chosen.call.op, chosen.part.path, first, second,
                              dtype=chosen.part.dtype, device=chosen.device)


def _low_accumulation(target: Target, generator: Generator) -> OperandFault:
    chosen = choice.choose(
        choice.operands(target.calls, lambda call, part: op_class(call.op) in ADDS_UP
                        and part.dtype in LOWER), generator)
    dtype = chosen.part.dtype
    half = dtype in (torch.bfloat16, torch.float16)
    significant = pick(generator, 7, 6, 4) if half else pick(generator, *LOWER[dtype])
    return OperandFault(chosen.call.op, Always(), None, All(), Precision(significant, half),
                        dtype=dtype, device=chosen.device)


def _operand_at(call: BoundCall, path: Path) -> Tensor | None:
    return next((t for p, t in call.tensors() if p == path), None)


def magnitude_in(path: Path, low: float, high: float) -> Condition:
    """Holds if an element of the operand at ``path`` has a magnitude in [low, high)."""

    def holds(call: BoundCall) -> bool:
        operand = _operand_at(call, path)
        if operand is None or not bits.has_values(operand.dtype):
            return False
        size = np.abs(bits.values(operand))
        return bool(((size >= low) & (size < high)).any())

    return holds


def bit_is_set(path: Path, flat_index: int, bit: int) -> Condition:
    """Holds if that bit of element ``flat_index`` (modulo its elements) of the operand at ``path``
    is 1."""

    def holds(call: BoundCall) -> bool:
        operand = _operand_at(call, path)
        if operand is None or not operand.numel():
            return False
        pattern = read_element(operand, position(operand, flat_index % operand.numel()))
        return bool(pattern >> bit & 1)

    return holds


def _struck_result(chosen: Chosen[OperandShape], generator: Generator) -> tuple[int, torch.dtype]:
    """A result of the call with numbers, and its dtype."""
    found = [(i, out.dtype) for i, out in enumerate(chosen.call.outputs)
             if out is not None and out.numel and bits.has_values(out.dtype)]
    return found[int(generator.integers(len(found)))]


def _has_result(call: CallShape, operand: OperandShape) -> bool:
    return any(out is not None and out.numel and bits.has_values(out.dtype)
               for out in call.outputs)


def _value_triggered(target: Target, generator: Generator) -> ResultFault:
    chosen = choice.choose(choice.operands(target.calls, _has_result), generator)
    part = chosen.part
    if generator.integers(2):
        low = 2.0 ** generator.uniform(-12.0, 2.0)
        width = 2.0 ** generator.uniform(-12.0, 0.0)
        condition = magnitude_in(part.path, low, low * (1.0 + width))
    else:
        condition = bit_is_set(part.path, int(generator.integers(part.numel)),
                               int(generator.integers(num_bits(part.dtype))))
    output, dtype = _struck_result(chosen, generator)
    bit = int(generator.integers(num_bits(dtype)))
    return ResultFault(
        chosen.call.op, Always(), Wrapped(int(generator.integers(2**31))), FlipBits((bit,)),
        output=output, dtype=dtype, bit=bit, condition=condition, device=chosen.device)


def _is_misplaced(call: CallShape, operand: OperandShape) -> bool:
    """Another layout than C order, in an operand that the call only reads."""
    return (len(operand.path) == 1 and is_transposed(operand.shape, operand.strides)
            and operand.path[0] not in form_of(call.op).overwrites)


def _wrong_layout(target: Target, generator: Generator) -> WrongLayout:
    chosen = choice.choose(choice.operands(target.calls, _is_misplaced), generator)
    name = form_of(chosen.call.op).argument_names[chosen.part.path[0]]
    fault = WrongLayout(chosen.call.op, is_transposed, operand=name, device=chosen.device)
    fault.under_mode = True
    return fault


DETERMINISTIC = (
    FaultModel("wrong offset", "deterministic",
               "one element of an operand, or each that ends in the same six bits, is read as its "
               "neighbour",
               _wrong_offset),
    FaultModel("dropped element", "deterministic",
               "one element of an operand, or each that ends in the same six bits, is read as zero",
               _dropped_element),
    FaultModel("dropped block", "deterministic",
               "one of 2 to 16 equal parts of the axis that a kernel adds up over is left out",
               _dropped_block),
    FaultModel("swapped operand rows", "deterministic",
               "two rows of an operand are read in each other's place", _swapped_rows),
    FaultModel("lower-precision accumulation", "deterministic",
               "a kernel that accumulates reads its operands with the significant bits of a lower "
               "format", _low_accumulation),
    FaultModel("value-triggered", "deterministic",
               "one bit of a result is inverted where an operand holds a magnitude in some range, "
               "or where one bit of it is 1", _value_triggered),
    FaultModel("wrong layout", "deterministic",
               "a kernel ignores the strides of a transposed operand", _wrong_layout),
)
