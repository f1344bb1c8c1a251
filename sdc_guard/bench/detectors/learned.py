"""What a guard's plans have learned, as it was at one moment, so that one trial teaches the next
nothing."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

from sdc_guard.guard import Guard


class Learned:
    """What the guard's plans hold now, field by field, and which findings it knows: a cause is
    sought for the first findings of a kind only, and would be copied into the next trials.

    With ``visits_go_on`` only what is known about the relations is put back: which of them passed
    and which were refused.  Visits and references are counted on, and plans made since are kept,
    with relations that know nothing.  A guard that checks a share of the calls needs that: else
    each trial would begin at the same turn of each site, and a site's first visit, which always
    meets its reference, would come again and again.
    """

    def __init__(self, guard: Guard, *, visits_go_on: bool = False) -> None:
        pipeline = guard._pipeline
        self._visits_go_on = visits_go_on
        self._refused = set(pipeline.refused)
        self._num_findings = len(pipeline.findings)
        self._known = copy.deepcopy(pipeline._known)
        self._plans = {
            key: (plan, _fields(plan), [(r, _fields(r)) for r in plan.relations])
            for key, plan in pipeline._plans.items()}

    def put_back(self, guard: Guard) -> None:
        """Make it so again."""
        pipeline = guard._pipeline
        pipeline.refused = set(self._refused)
        del pipeline.findings[self._num_findings:]
        pipeline._known = copy.deepcopy(self._known)
        if self._visits_go_on:
            known = {id(plan) for plan, _, _ in self._plans.values()}
            for plan in pipeline._plans.values():
                if id(plan) not in known:
                    for relation in plan.relations:
                        relation.passes, relation.refused = 0, False
        else:
            pipeline._plans.clear()
            for key, (plan, fields, _) in self._plans.items():
                pipeline._plans[key] = plan
                _set_fields(plan, fields)
        for _, _, relations in self._plans.values():
            for relation, fields in relations:
                _set_fields(relation, fields)


def _fields(record: Any) -> dict[str, Any]:
    return {
        f.name: list(value) if isinstance(value := getattr(record, f.name), list) else value
        for f in dataclasses.fields(record)}


def _set_fields(record: Any, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        setattr(record, name, list(value) if isinstance(value, list) else value)


def write_off(guard: Guard) -> None:
    """Begin the guard's ledger of time spent and time allowed anew; rates and prices stay."""
    scheduler = guard._scheduler
    scheduler.check_s = scheduler._watch_s = scheduler._active_s = 0.0
    scheduler._num_priced = scheduler.num_dispatched
    scheduler._at_step = (scheduler.num_dispatched, 0.0)
    scheduler._started_s = time.perf_counter()
