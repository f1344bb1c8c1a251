"""The interface of a detector, and what it says: an :class:`Alarm`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from sdc_guard.bench.workload import Workload
from sdc_guard.records import Record


class Alarm(Record, frozen=True, kw_only=True):
    """A detector says that something is wrong.

    ``op`` is the operator as ``str(overload)`` gives it, empty where the detector names none.
    ``verdict`` is the detector's own word; ``firm`` tells that it accuses the result of being
    corrupt (for ours ``corruption``; softer words are not firm).  ``cause`` is empty where the
    detector names none.  ``of_result``: it accuses the result in use, not a recomputation of its
    own.
    """

    op: str
    verdict: str
    firm: bool
    cause: str
    detail: str
    of_result: bool = True


class Detector:
    """Runs a workload's training steps and watches them in its own way.

    Life: :meth:`begin` once, :meth:`step` through a warm-up without faults, :meth:`mark`; then for
    each trial any number of :meth:`step`, and :meth:`reset`.  The harness puts parameters, buffers,
    optimizer state, gradients and random state back by itself; ``reset`` puts back what the
    detector has learned since ``mark``, so that one trial teaches the next nothing.

    ``name`` is unique and is what tables print; ``description`` is one line: what it does, after
    which published description.  ``exhaustive``: it looks at everything in each step, so that a
    repeated fault that it misses in three steps it misses for good.  ``steps_after_one``: steps,
    the struck one included, in which it may still notice a fault that struck once;
    ``steps_of_repeated``: steps after which a repeated fault counts as missed.
    ``steps_to_learn``: steps before its cost is measured, then in turns of ``steps_per_turn``
    steps: as many as it takes for all that it does to come round.  ``num_checks``: comparisons made
    so far that could have raised an alarm, of a call or of a number per step.
    ``names_first_difference``: an alarm names the first operator whose result it has seen differ,
    which may come after the struck one.  ``changes_training``: why the numbers of the training
    differ while it watches, empty where they do not.
    """

    name: str
    description: str
    exhaustive: bool = True
    steps_after_one: int = 1
    steps_of_repeated: int = 3
    changes_training: str = ""
    steps_to_learn: int = 3
    steps_per_turn: int = 1
    num_checks: int = 0
    names_first_difference: bool = False
    alarms: tuple[Alarm, ...] = ()
    """What was found in the last step; all there is of a step that an exception ended."""

    def begin(self, workload: Workload) -> None:
        """Prepare for this workload, whose numbers are those of step 0."""

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        """One training step, and what was found in it.

        An exception of the step itself goes through.
        """
        raise NotImplementedError

    def watching(self) -> AbstractContextManager[object]:
        """Around a run of steps, as a user enters the detector around a training, so that what
        entering costs does not fall on each step."""
        return nullcontext()

    def mark(self) -> None:
        """The warm-up is over: remember what was learned."""

    def reset(self) -> None:
        """Return to what was known at :meth:`mark`."""

    def explain(self, op: str) -> str:
        """Why nothing was said of ``op`` in the steps since the last :meth:`reset`, if it knows."""
        return ""

    def end(self) -> None:
        """Leave nothing behind on the process."""
