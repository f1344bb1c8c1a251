"""The flow for one observation: check, arbitrate, attribute, keep evidence.

Composes the rooms and holds what has been learned: plans per site, findings, failures.  It decides
nothing about the run; ``guard.py`` reads :attr:`Pipeline.pending`, and ``evaluated``, what is read
late of calls without gradients, and applies the policy.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
from torch import Tensor

from sdc_guard import ranks
from sdc_guard.attribute.arbitrate import Ruling, arbitrate, undecided
from sdc_guard.attribute.places import find_cause, unattributed
from sdc_guard.calls import BoundCall
from sdc_guard.cases import make_case, suspect
from sdc_guard.check.device import DeviceChecks
from sdc_guard.check.frames import Frame, frame_of, framed
from sdc_guard.check.plan import Plan, new_plan
from sdc_guard.check.reference import REFERENCE_WORK, checksum, sampled_reference
from sdc_guard.check.relations import Relation
from sdc_guard.check.variants import variant_suspicions
from sdc_guard.device_witness import DeviceWitness
from sdc_guard.evidence.bundle import BundleWriter
from sdc_guard.evidence.eventlog import EventLog
from sdc_guard.evidence.redaction import without_values
from sdc_guard.interruptions import raise_if_users
from sdc_guard.observe.classify import Entry
from sdc_guard.observe.mode import Watch
from sdc_guard.observe.sampling import Scheduler
from sdc_guard.ops import GENERATOR, GENERIC, copied
from sdc_guard.records import (
    Attribution,
    Evidence,
    Finding,
    Observation,
    OpCall,
    Suspicion,
    Verdict,
)
from sdc_guard.wording import describe, message, places, reduced

log = logging.getLogger("sdc_guard")

MAX_PLANS = 8192
MAX_STORED_PER_KIND = 3
CHEAP_REFERENCE_WORK = 300_000
"""A reference of so many operations takes less than a millisecond."""


@dataclass(slots=True)
class _Known:
    """An earlier finding of the same kind: its places in the list, and its cause."""

    indices: list[int]
    attribution: Attribution


class Pipeline:
    """See the module docstring.  Not thread-safe; the mode calls it under its lock."""

    def __init__(
        self,
        scheduler: Scheduler,
        events: EventLog,
        bundles: BundleWriter,
        dead_witnesses: frozenset[str],
        memory_budget_bytes: int,
        kernels: str = "auto",
        unused_witnesses: frozenset[str] = frozenset(),
    ) -> None:
        self.scheduler = scheduler
        self.events = events
        self.bundles = bundles
        self.dead_witnesses = dead_witnesses
        self._silent = dead_witnesses | unused_witnesses
        self.memory_budget_bytes = memory_budget_bytes
        self.findings: list[Finding] = []
        self.pending: list[Finding] = []
        self.evaluated: list[Finding] = []
        self.step = 0
        self.guard_errors = 0
        self.gaps: set[str] = set()
        self.refused: set[str] = set()
        self._plans: dict[Any, Plan] = {}
        self._known: dict[tuple[str, ...], _Known] = {}
        self._errors_logged: Counter[str] = Counter()
        self.device = DeviceWitness(
            DeviceChecks("never" if "kernel" in unused_witnesses else kernels, scheduler.generator,
                         memory_budget_bytes),
            scheduler, self._investigate, self.on_error, self.gaps.add)

    def find_plan(self, key: Any) -> Plan | None:
        """The plan of a site that was looked at before."""
        return self._plans.get(key)

    def is_idle_for(self, entry: Entry) -> bool:
        """True if none of the witnesses that may be used can say anything about an operator."""
        if entry.spec is None:
            return False
        able = {"reference" if w == "sample" else w for w in entry.spec.witnesses}
        silent = self._silent if self.device.checks.is_usable else self._silent | {"kernel"}
        return not able - silent

    def on_error(self, where: str, error: BaseException) -> None:
        """Record a failure of the guard's own work; training goes on."""
        raise_if_users(error)
        self.guard_errors += 1
        text = f"{type(error).__name__}: {error}"[:500]
        self._errors_logged[where] += 1
        if self._errors_logged[where] <= 3:
            log.warning("sdc_guard failed %s and goes on: %s", where, text)
            self.events.write("guard_error", where=where, error=text, step=self.step)

    def check(self, observation: Observation, key: Any, plan: Plan | None, watch: Watch) -> None:
        """Run the witnesses that are due on one observation."""
        started_s = perf_counter()
        tally, call, held = watch.tally, observation.call, observation.held
        if plan is None:
            plan = self._new_plan(key, watch, call, held)
        plan.visits += 1
        if self.scheduler.budget == "all" or tally.num_measured < 64:
            tally.measure(plan.elements, plan.flops)
        witnesses: list[str] = []
        failed = False
        if plan.visits == 1 and plan.spec.variants is not None:
            self._try_variants(plan, observation, watch)
        for run in self._witnesses_of(plan):
            try:
                witness, suspicion, relation = run(plan, call, held, watch)
            except Exception as error:  # out of memory in one of them: the others still speak
                self.on_error(f"while checking {call.form.name}", error)
                failed = True
                continue
            if witness:
                witnesses.append(witness)
            if suspicion is not None and self._investigate(
                    plan, observation, suspicion, relation, watch):
                break
        if plan.spec.family == GENERATOR:
            tally.not_tested["random draws: only their range and mean are checked"] += 1
        elif witnesses:
            tally.calls_checked += 1
            tally.elements_checked += plan.elements
            tally.flops_checked += plan.flops
            for witness in witnesses:
                tally.witnesses[witness] += 1
        elif failed:
            tally.not_tested["guard error"] += 1
        else:
            tally.not_tested["no witness applies" if plan.fits else "memory budget"] += 1
        spent_s = perf_counter() - started_s
        plan.cost_s = spent_s if not plan.cost_s else plan.cost_s + 0.2 * (spent_s - plan.cost_s)

    def _try_variants(self, plan: Plan, observation: Observation, watch: Watch) -> None:
        """Judge every implementation that the op may choose, once at each site."""
        started_s = perf_counter()
        call, held = observation.call, observation.held
        try:
            for variant in variant_suspicions(plan, call, held, self.scheduler.generator):
                watch.tally.witnesses["variant"] += 1
                if variant.suspicion is not None:
                    self._investigate(plan, variant.observation, variant.suspicion, None, watch)
        except Exception as error:
            self.on_error(f"while trying the variants of {call.form.name}", error)
        self.scheduler.excuse(perf_counter() - started_s)

    def _witnesses_of(self, plan: Plan) -> tuple[Callable[..., Any], ...]:
        if plan.spec.invariant is None:
            return self._replay, self._reference
        if plan.proven and "invariant" not in self._silent:
            return (self._invariant,)
        return self._invariant, self._replay, self._reference

    def _new_plan(self, key: Any, watch: Watch, call: BoundCall, held: tuple[Tensor, ...]) -> Plan:
        assert watch.entry.spec is not None
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        flushes = watch.conditions.flushes_subnormals
        plan, gaps = new_plan(
            watch.entry.spec, call, held, self.memory_budget_bytes, flushes=flushes,
            on_error=self.on_error)
        still = plan.gaps() if "replay" not in self._silent else ()
        if still:
            gaps.add(f"{plan.spec.packet}: no relation moves {', '.join(sorted(still))}")
        self.gaps |= gaps
        self._plans[key] = plan
        return plan

    def _invariant(
        self, plan: Plan, call: BoundCall, held: tuple[Tensor, ...], watch: Watch
    ) -> tuple[str, Suspicion | None, Relation | None]:
        invariant = plan.spec.invariant
        if invariant is None or "invariant" in self._silent:
            return "", None, None
        broken = invariant(call, held)
        if broken is None:
            return "invariant", None, None
        output, wrong, text = broken
        return (
            "invariant",
            Suspicion(
                witness="invariant",
                relation="",
                output=output,
                wrong=np.asarray(wrong),
                expected=None,
                limit=None,
                exceeds="bits",
                formula=text,
            ),
            None,
        )

    def _replay(
        self, plan: Plan, call: BoundCall, held: tuple[Tensor, ...], watch: Watch
    ) -> tuple[str, Suspicion | None, Relation | None]:
        relation = plan.next_relation()
        if relation is None or "replay" in self._silent:
            return "", None, None
        present = {i for i, t in enumerate(held) if t is not None}
        broken = [p for p in relation.run(call, held, plan.visits) if not p.agrees()]
        if not broken and plan.fits and not present <= relation.covers:
            relation_of_rest = plan.rerun
            broken = [
                p
                for p in relation_of_rest.run(call, held, plan.visits)
                if p.output not in relation.covers and not p.agrees()
            ]
            if broken:
                relation = relation_of_rest
        if not broken:
            relation.passes += 1
            return ("rerun" if plan.spec.family == GENERIC else "replay"), None, None
        return "replay", suspect(relation, broken, held), relation

    def _reference(
        self, plan: Plan, call: BoundCall, held: tuple[Tensor, ...], watch: Watch
    ) -> tuple[str, Suspicion | None, Relation | None]:
        spec, dead = plan.spec, self._silent
        by_kernels = () if spec.kernel is None else self.device.launch(
            plan, Observation(call, held), watch)
        if by_kernels:
            for witness in by_kernels[1:]:
                watch.tally.witnesses[witness] += 1
            return by_kernels[0], None, None
        if not spec.judged or "reference" in dead or (spec.residual and "residual" in dead):
            return "", None, None
        needs_it = plan.stays_in_place or watch.tally.reduction
        always = needs_it and plan.reference_work <= CHEAP_REFERENCE_WORK
        wants = self.scheduler.wants_reference
        if not always and not wants(watch.tally, plan.referenced, plan.visits):
            return "", None, None
        plan.referenced, started_s = plan.referenced + 1, perf_counter()
        work = REFERENCE_WORK if self.scheduler.budget == "all" else CHEAP_REFERENCE_WORK
        witness, found = sampled_reference(plan, call, held, self.scheduler.generator, work)
        if not found and witness == "sample" and "checksum" not in self._silent:
            found = checksum(plan, call, held)
            if plan.spec.checksum is not None:
                watch.tally.witnesses["checksum"] += 1
        self.scheduler.reference_s += perf_counter() - started_s
        return witness, found[0] if found else None, None

    def _investigate(
        self,
        plan: Plan,
        observation: Observation,
        suspicion: Suspicion,
        relation: Relation | None,
        watch: Watch,
        ruling: Ruling | None = None,
    ) -> bool:
        """Arbitrate, unless that is done, and keep a finding; False if there is none, and other
        witnesses may speak."""
        call, held = observation.call, observation.held
        if plan.spec.family == GENERIC:  # and arbitration shall not write to what no schema names
            call = copied(call)
            observation = Observation(call, held)
        frame = suspicion.frame
        try:
            seen = frame_of(plan, held, suspicion)
            if seen is not None and suspicion.frame is None:
                suspicion = framed(suspicion, seen)
            frame = seen
            ruling = ruling or arbitrate(
                make_case(plan, observation, suspicion, relation, frame))
        except Exception as error:  # out of memory, or an operand that a reference does not take
            self.on_error(f"while arbitrating {call.form.name}", error)
            ruling = undecided(suspicion, f"arbitration failed: {type(error).__name__}: {error}")
        if ruling.refuse and relation is not None:
            relation.refused = True
            known = " although it holds elsewhere" if relation.symmetry.known else ""
            self.refused.add(f"{call.form.name}: {relation.name} does not hold here{known}")
        if ruling.verdict is None:
            return False
        origin = watch.origin()
        op_call = describe(call, held, watch, plan, self.step, origin)
        place = (op_call.module, op_call.source)
        kind = (call.form.name, *place, ruling.verdict.value, str(ruling.held_is_wrong))
        known_finding = self._known.get(kind)
        attribution = self._attribute(ruling, call, held, known_finding)
        finding = self._finding(ruling, suspicion, op_call, attribution, held, frame)
        if known_finding is not None and len(known_finding.indices) >= MAX_STORED_PER_KIND:
            last = known_finding.indices[-1]
            self.findings[last] = msgspec.structs.replace(
                self.findings[last], repeats=self.findings[last].repeats + 1
            )
        else:
            finding = self._with_evidence(finding, plan, call, held, ruling, frame)
            self._known.setdefault(kind, _Known([], attribution)).indices.append(len(self.findings))
            self.findings.append(finding)
        told = without_values(finding) if self.bundles.level == "stats" else finding
        self.events.write("finding", finding=told)
        (self.evaluated if self.device.reads_evaluation else self.pending).append(finding)
        return True

    def _attribute(
        self, ruling: Ruling, call: BoundCall, held: tuple[Tensor, ...], known: _Known | None
    ) -> Attribution:
        place = str(held[ruling.output].device)
        if ruling.verdict is not Verdict.CORRUPTION or not ruling.held_is_wrong:
            return unattributed(ruling.votes, ruling.reason, place)
        if known is not None and len(known.indices) >= MAX_STORED_PER_KIND:
            return known.attribution
        try:
            return find_cause(
                call, held, ruling.output, ruling.repeatable, ruling.votes, ruling.reason)
        except Exception as error:  # the finding stands without its cause
            self.on_error(f"while seeking the cause in {call.form.name}", error)
            reason = f"{ruling.reason}; the search for the cause failed: {type(error).__name__}"
            return unattributed(ruling.votes, reason, place)

    def _finding(
        self,
        ruling: Ruling,
        suspicion: Suspicion,
        op_call: OpCall,
        attribution: Attribution,
        held: tuple[Tensor, ...],
        frame: Frame | None,
    ) -> Finding:
        assert ruling.verdict is not None
        worst, pattern, spread = None, None, None
        try:
            worst, pattern, spread = places(ruling, held, frame)
        except Exception as error:  # the finding stands without them
            self.on_error(f"while describing a finding in {op_call.op}", error)
        return Finding(
            verdict=ruling.verdict,
            call=op_call,
            witness=suspicion.witness,
            relation=suspicion.relation,
            worst=worst,
            pattern=pattern,
            attribution=attribution,
            evidence=Evidence(bundle="", replay_command="", note=""),
            held_is_wrong=ruling.held_is_wrong,
            message=message(ruling, op_call, worst),
            rank=ranks.rank(),
            spread=spread,
        )

    def _with_evidence(
        self,
        finding: Finding,
        plan: Plan,
        call: BoundCall,
        held: tuple[Tensor, ...],
        ruling: Ruling,
        frame: Frame | None,
    ) -> Finding:
        expected: list[Tensor | None] = [None] * len(held)
        if isinstance(ruling.expected, Tensor):
            expected[ruling.output] = ruling.expected
        part = None
        try:
            cut, seen = (call, held) if frame is None else (frame.call(call), frame.view(held))
            part = reduced(plan, cut, seen, tuple(expected), ruling)
        except Exception as error:  # the whole call may still be small enough
            self.on_error(f"while reducing a call of {call.form.name}", error)
        evidence = self.bundles.write(
            call,
            held,
            tuple(expected) if frame is None else tuple(None for _ in held),
            finding,
            site=f"{finding.op} {finding.module} {finding.held_is_wrong}",
            reduced=part,
        )
        return msgspec.structs.replace(finding, evidence=evidence)
