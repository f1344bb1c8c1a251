"""Fault models that strike no operator: training state and batches."""

from __future__ import annotations

import numpy as np

from sdc_guard.inject.batches import BatchFault
from sdc_guard.inject.state import StateFault, gradients_of, parameters_of, state_of
from sdc_guard.inject.target import FaultModel, Target

Generator = np.random.Generator


def _places(generator: Generator) -> tuple[float, float, float]:
    return generator.random(), generator.random(), generator.random()


def _weight(target: Target, generator: Generator) -> StateFault:
    return StateFault("weight flip", lambda: parameters_of(target.optimizer), _places(generator))


def _gradient(target: Target, generator: Generator) -> StateFault:
    return StateFault("gradient flip", lambda: gradients_of(target.optimizer), _places(generator),
                      before_step=target.optimizer)


def _optimizer_state(target: Target, generator: Generator) -> StateFault:
    return StateFault("optimizer-state flip", lambda: state_of(target.optimizer),
                      _places(generator))


def _duplicated(target: Target, generator: Generator) -> BatchFault:
    return BatchFault(target.batches, "duplicated")


def _dropped(target: Target, generator: Generator) -> BatchFault:
    return BatchFault(target.batches, "dropped")


def _corrupted(target: Target, generator: Generator) -> BatchFault:
    return BatchFault(target.batches, "corrupted", _places(generator))


STATE = (
    FaultModel("weight flip", "state", "one bit of a parameter inverted before a step", _weight),
    FaultModel("gradient flip", "state",
               "one bit of a gradient inverted after backward, before the optimizer's step",
               _gradient),
    FaultModel("optimizer-state flip", "state",
               "one bit of an optimizer's state inverted before a step", _optimizer_state),
    FaultModel("duplicated batch", "data", "the batch of the step before comes again",
               _duplicated),
    FaultModel("dropped batch", "data", "a batch is left out", _dropped),
    FaultModel("corrupted batch", "data", "one bit of a batch inverted", _corrupted),
)
