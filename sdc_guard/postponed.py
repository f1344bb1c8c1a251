"""Calls that are judged at the end of an optimizer's step: who may wait, and what comes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sdc_guard.cases import suspect
from sdc_guard.check.batches import Batches, Slot, Wrong
from sdc_guard.check.plan import Plan
from sdc_guard.check.relations import Piece
from sdc_guard.observe.tally import Tally
from sdc_guard.records import Observation

if TYPE_CHECKING:
    from sdc_guard.pipeline import Pipeline


class Postponed:
    """The small calls of one optimizer step, see :mod:`sdc_guard.check.batches`."""

    def __init__(self, pipeline: Pipeline, count_checked: Callable[..., None]) -> None:
        self._pipeline = pipeline
        self._count_checked = count_checked
        self._batches = Batches()

    def reserve(self, plan: Plan, args: tuple[Any, ...], tally: Tally) -> Slot | None:
        """A place for a call that is to be replayed at the end of the optimizer's step; None where
        it shall be checked at once: the site is new, or it is the turn of a relation that changes
        the bits, or of a reference."""
        form, relations, pipeline = plan.batch, plan.relations, self._pipeline
        if form is None or plan.visits < 2 * len(relations) or plan.owes_reference:
            return None
        next_relation = relations[(plan.visits + 1) % len(relations)]
        if next_relation.symmetry.moves[0].how == "negate" or "replay" in pipeline.dead_witnesses:
            return None
        if plan.spec.judged and pipeline.scheduler.wants_reference(
                tally, plan.referenced, plan.visits + 1):
            plan.owes_reference = True
            return None
        slot = self._batches.reserve(form, args)
        if slot is not None:
            plan.visits += 1
        return slot

    def finish(self) -> None:
        """Judge the calls that wait."""
        if not self._batches:
            return
        pipeline, started_s = self._pipeline, time.perf_counter()
        try:
            for fine, wrong in self._batches.finish():
                for kept in fine:
                    plan, tally = kept.note.plan, kept.note.watch.tally
                    tally.measure(plan.elements, plan.flops)
                    self._count_checked(plan, tally, ("replay",))
                for one in wrong:
                    self._check_alone(one)
        except Exception as error:
            pipeline.on_error("while replaying the small calls of an optimizer", error)
        pipeline.scheduler.check_s += time.perf_counter() - started_s

    def _check_alone(self, wrong: Wrong) -> None:
        """A call that came out with other bits among others: alone it may be found wrong; where it
        is not, the recomputation is on trial."""
        note, pipeline = wrong.kept.note, self._pipeline
        plan, watch, held = note.plan, note.watch, (wrong.held,)
        observation = Observation(wrong.call, held)
        num_findings = len(pipeline.pending)
        pipeline.check(observation, note.key, plan, watch)
        piece = Piece(0, wrong.got, wrong.held, None)
        if len(pipeline.pending) == num_findings and not piece.agrees():
            pipeline.investigate(
                plan, observation, suspect(plan.rerun, [piece], held), plan.rerun, watch)
