"""Fault models tied to a place: they strike in every execution of an operator that reaches the
place, a checker's replays included."""

from __future__ import annotations

import numpy as np
import torch

from sdc_guard.inject import choice
from sdc_guard.inject.campaign import OutputShape
from sdc_guard.inject.choice import Chosen
from sdc_guard.inject.composed import ResultFault
from sdc_guard.inject.damage import FlipBits, SetBit
from sdc_guard.inject.flip import num_bits
from sdc_guard.inject.regions import Chunk, Element, Lane, Region, num_filled
from sdc_guard.inject.target import FaultModel, Target
from sdc_guard.inject.timing import Always
from sdc_guard.inject.transient_models import draw_tile, pick

Generator = np.random.Generator
RATES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def _choose(target: Target, generator: Generator) -> Chosen[OutputShape]:
    # A bool has one bit and is often a flag: stuck, it is a constant and no fault of one number.
    candidates = choice.results(target.calls, lambda out: out.dtype is not torch.bool)
    return choice.choose(candidates, generator)


def _at_place(chosen: Chosen[OutputShape], generator: Generator, rate: float) -> ResultFault:
    part = chosen.part
    place = int(generator.integers(part.numel))
    bit = int(generator.integers(num_bits(part.dtype)))
    return ResultFault(
        chosen.call.op, Always(rate), Element(place), FlipBits((bit,)), output=chosen.place,
        shape=part.shape, dtype=part.dtype, bit=bit, seed=int(generator.integers(2**32)),
        device=chosen.device)


def _flipped_place(target: Target, generator: Generator) -> ResultFault:
    return _at_place(_choose(target, generator), generator, 1.0)


def _rare(target: Target, generator: Generator) -> ResultFault:
    rate = RATES[int(generator.integers(len(RATES)))]
    fault = _at_place(_choose(target, generator), generator, rate)
    fault.rate = rate
    return fault


def _stuck(chosen: Chosen[OutputShape], region: Region, generator: Generator) -> ResultFault:
    bit = int(generator.integers(num_bits(chosen.part.dtype)))
    damage = SetBit(bit, int(generator.integers(2)))
    return ResultFault(
        chosen.call.op, Always(), region, damage, output=chosen.place, dtype=chosen.part.dtype,
        bit=bit, device=chosen.device)


def _stuck_lane(target: Target, generator: Generator) -> ResultFault:
    chosen = _choose(target, generator)
    lanes = pick(generator, 4, 8, 16, 32)
    return _stuck(chosen, Lane(int(generator.integers(lanes)), lanes), generator)


def _stuck_tile(target: Target, generator: Generator) -> ResultFault:
    chosen = _choose(target, generator)
    return _stuck(chosen, draw_tile(chosen.part.shape, generator), generator)


def _stuck_core(target: Target, generator: Generator) -> ResultFault:
    chosen = _choose(target, generator)
    parts = pick(generator, 2, 4, 8, 16)
    number = int(generator.integers(num_filled(chosen.part.numel, parts)))
    return _stuck(chosen, Chunk(number, parts), generator)


REPEATED = (
    FaultModel("stuck bit", "repeated",
               "one bit of one element inverted in every result of that shape and dtype",
               _flipped_place),
    FaultModel("stuck lane", "repeated",
               "every 4th, 8th, 16th or 32nd element of an operator's results has a stuck bit",
               _stuck_lane),
    FaultModel("stuck tile", "repeated",
               "one tile of an operator's results, taken as matrices, has a stuck bit",
               _stuck_tile),
    FaultModel("stuck core", "repeated",
               "one of 2 to 16 equal parts of an operator's results, as a static split among "
               "threads gives them, has a stuck bit; small results are split too", _stuck_core),
    FaultModel("rare flip", "repeated",
               "a stuck bit that shows in an execution with probability 1 to 1e-6", _rare),
)
