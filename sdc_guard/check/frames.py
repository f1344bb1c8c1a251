"""The part of a large call that is looked into once something is wrong with it.

Arbitration compares whole results several times over and evaluates a reference of every element, in
float64 on the host.  Of a result of 10^9 elements that is time and memory that a training run does
not have, so there all of it happens in a *frame*: a window of one axis around a wrong element,
``LARGE_ELEMENTS`` results at most.  The identical call is still made in full; only what it
gives is looked at through the frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.check.plan import Plan
from sdc_guard.ops._axes import FIXED, Axes, narrow, narrow_call
from sdc_guard.records import Suspicion

LARGE_ELEMENTS = 2**24
"""Elements of a result from which on it is looked at in part: 128 MB in float64."""
LARGE_WORK = 2**28
"""Operations of a reference from which on it is evaluated in part: seconds of NumPy."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A window of the axis ``label``; see the module docstring."""

    axes: Axes
    label: str
    start: int
    length: int

    def call(self, call: BoundCall) -> BoundCall:
        """The call that computes the frame alone."""
        return narrow_call(call, self.axes, self.label, self.start, self.length)

    def view(self, results: tuple[Any, ...]) -> tuple[Any, ...]:
        """The frame of full results."""
        return tuple(
            None if t is None else narrow(t, labels, self.label, self.start, self.length)
            for t, labels in zip(results, self.axes.outputs, strict=True)
        )

    def offset(self, output: int) -> tuple[int, ...]:
        """Index of the frame's first element in the full result."""
        return tuple(self.start if x == self.label else 0 for x in self.axes.outputs[output])

    def array(self, array: NDArray[Any], output: int) -> NDArray[Any]:
        """A private copy of the frame of an array that has the full result's shape."""
        where = tuple(
            slice(self.start, self.start + self.length) if x == self.label else slice(None)
            for x in self.axes.outputs[output]
        )
        return np.array(array[where])


def is_large(plan: Plan, held: tuple[Tensor, ...], output: int) -> bool:
    """True if arbitration takes place in a frame."""
    return held[output].numel() > LARGE_ELEMENTS or plan.reference_work > LARGE_WORK


def frame_of(plan: Plan, held: tuple[Tensor, ...], suspicion: Suspicion) -> Frame | None:
    """The frame around the first wrong element; None where the call is small, or no axis of it can
    be cut."""
    output = suspicion.output
    if isinstance(suspicion.frame, Frame):
        return suspicion.frame
    if not is_large(plan, held, output):
        return None
    labels, shape = plan.axes.outputs[output], tuple(held[output].shape)
    window = plan.window(held)
    cuttable = [window[0]] if window is not None and window[0] in labels else [
        x for x in sorted(labels, key=lambda x: -shape[labels.index(x)]) if x != FIXED]
    if not cuttable:
        return None
    label = cuttable[0]
    size = shape[labels.index(label)]
    num_parts = max(math.ceil(held[output].numel() / LARGE_ELEMENTS),
                    math.ceil(plan.reference_work / LARGE_WORK))
    length = max(1, size // num_parts)
    first = np.unravel_index(int(np.argmax(suspicion.wrong)), shape)[labels.index(label)]
    start = min(max(0, int(first) - length // 2), size - length)
    return Frame(plan.axes, label, start, length)


def framed(suspicion: Suspicion, frame: Frame) -> Suspicion:
    """The suspicion about the frame alone."""
    output = suspicion.output

    def cut(value: object) -> object:
        if isinstance(value, Tensor):
            part = narrow(value, frame.axes.outputs[output], frame.label, frame.start, frame.length)
            return part.clone()
        return frame.array(value, output) if isinstance(value, np.ndarray) else value

    return replace(
        suspicion, wrong=cut(suspicion.wrong), expected=cut(suspicion.expected),
        limit=cut(suspicion.limit), frame=frame)
