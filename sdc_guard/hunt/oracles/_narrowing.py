"""An operator on a part of an axis that it does not mix, judged by its own bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from sdc_guard.check.plan import Plan
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import REFUSALS, Execution, Recorder
from sdc_guard.hunt.judging import judged, verdict_of
from sdc_guard.hunt.oracles._compare import alike
from sdc_guard.hunt.oracles._registry import Session
from sdc_guard.hunt.promises import is_public
from sdc_guard.ops._axes import narrow, narrow_call, size_of
from sdc_guard.ops._determinism import RACING
from sdc_guard.ops._symmetry import OUTERMOST
from sdc_guard.records import Observation

HOLDS_SIZES = frozenset({"recurrent"})
"""Families whose operands hold what was packed for the sizes of the whole."""


def splittable(session: Session, base: Execution) -> Iterator[tuple[Observation, Plan, str, int]]:
    """Operators that ran, with each axis of at least two items that they do not mix."""
    for observation, entry in zip(base.observations, base.entries, strict=True):
        plan = verdict_of(session, observation, entry).with_relations()
        if plan is None or not plan.replayable or observation.call.form.packet in RACING:
            continue
        if plan.spec.family in HOLDS_SIZES:
            continue
        for axis in _axes(plan):
            size = size_of(plan.axes, observation.held, axis)
            if size > 1:
                yield observation, plan, axis, size


def _axes(plan: Plan) -> list[str]:
    """Axes along which the operator's file splits the call, or evaluates its reference in part."""
    moves = [m.axis for r in plan.relations for m in r.symmetry.moves if m.how == "split"]
    labels = plan.axes.outputs[0] if plan.axes.outputs else ()
    return [a for a in dict.fromkeys([*moves, *plan.spec.window])
            if a != OUTERMOST and a in labels]


def part(
    session: Session, oracle: str, seen: Observation, plan: Plan, axis: str, start: int,
    length: int, sides: tuple[str, str],
) -> Iterator[Divergence]:
    """The call on ``[start, start + length)`` of the axis; where its bits are not those of the
    whole the operators that ran for it are judged."""
    packet, held = seen.call.form.packet, seen.held
    overrides = next((dict(m.overrides) for r in plan.relations for m in r.symmetry.moves
                      if m.how == "split" and m.axis == axis), {})
    call = seen.call.replaced(**overrides) if overrides else seen.call
    recorder = Recorder()
    try:
        narrowed = narrow_call(call, plan.axes, axis, start, length)
        if not is_public(packet):
            # Callers of kernels behind public functions hand over dense operands, no views.
            narrowed = narrowed.mapped(lambda _, t: t.contiguous())
        with torch.no_grad(), recorder:
            results = narrowed.run()
    except REFUSALS as error:
        session.not_judged[oracle, packet, f"not taken: {type(error).__name__}"] += 1
        return
    session.compared(oracle, packet)
    covered = [i for i, labels in enumerate(plan.axes.outputs)
               if axis in labels and i < len(held) and held[i] is not None]
    if all(alike(results[i], narrow(held[i], plan.axes.outputs[i], axis, start, length))
           for i in covered if results[i] is not None):
        return
    for observation, entry in zip(recorder.observations, recorder.entries, strict=True):
        for divergence in judged(session, oracle, observation, entry):
            yield replace(divergence, sides=sides)
