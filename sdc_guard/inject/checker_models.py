"""Fault models of the checker itself: they strike executions that a detector makes (replays,
references, recomputations), never the user's own.

A detector that makes none is not struck.  One that repeats a whole step through the user's code
cannot be told from the user, and is not struck either.
"""

from __future__ import annotations

import numpy as np

from sdc_guard.calls import form_of
from sdc_guard.inject import choice
from sdc_guard.inject.composed import ResultFault
from sdc_guard.inject.damage import FlipBits
from sdc_guard.inject.flip import num_bits
from sdc_guard.inject.override import refusal
from sdc_guard.inject.regions import Wrapped
from sdc_guard.inject.target import FaultModel, Target
from sdc_guard.inject.timing import Checking

Generator = np.random.Generator


def _draw(target: Target, generator: Generator, once: bool) -> ResultFault:
    chosen = choice.choose(choice.results(target.calls), generator)
    call, part = chosen.call, chosen.part
    functional = form_of(call.op).functional
    # What is done in place is repeated by the overload that writes to no operand.
    repeated = functional is not None and not refusal(functional, chosen.device)
    place = int(generator.integers(part.numel))
    bit = int(generator.integers(num_bits(part.dtype)))
    return ResultFault(
        functional if repeated else call.op, Checking(call.ordinal if once else 0, once),
        Wrapped(place), FlipBits((bit,)), output=chosen.place, bit=bit, counted=call.op,
        device=chosen.device)


def _flip(target: Target, generator: Generator) -> ResultFault:
    return _draw(target, generator, once=True)


def _stuck(target: Target, generator: Generator) -> ResultFault:
    return _draw(target, generator, once=False)


CHECKER = (
    FaultModel("checker flip", "checker",
               "one bit inverted in one execution that a detector makes", _flip),
    FaultModel("checker stuck", "checker",
               "one bit inverted in every execution of one operator that a detector makes",
               _stuck),
)
