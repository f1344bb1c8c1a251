"""One recorded operator against its reference: a divergence, and how near it came to the bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from sdc_guard import bits
from sdc_guard.attribute.describe import tensor_meta, worst_element
from sdc_guard.calls import without
from sdc_guard.check.plan import Plan, make_plan, reference_plan, spec_for
from sdc_guard.check.reference import checksum, full_reference, sampled_reference
from sdc_guard.document.fingerprint import layout_class
from sdc_guard.formats import format_of, is_covered_complex, is_covered_float
from sdc_guard.hunt.divergence import Divergence, dtype_class, magnitude_class
from sdc_guard.hunt.execution import as_recorded
from sdc_guard.hunt.oracles._registry import Session
from sdc_guard.observe.classify import Entry
from sdc_guard.ops import Reference
from sdc_guard.records import Observation, Suspicion, Worst

FULL_WORK = 1 << 25
"""Operations of a reference that sees every element; larger calls are judged in part."""
NO_REFERENCE = "no reference"


@dataclass(slots=True)
class Verdict:
    """What the bounds say of one operator that ran.  ``reason``: why they say nothing, empty where
    they do.  ``score``: log2 of the worst error over its limit, None where no error is limited.
    The observation is held, so that its ``id`` stays its own; ``plan``, which has no relations, is
    None where making it failed, or the operator is not checked."""

    observation: Observation
    divergences: tuple[Divergence, ...] = ()
    reason: str = ""
    score: float | None = None
    plan: Plan | None = None
    _moved: Plan | None = None

    def with_relations(self) -> Plan | None:
        """The plan with the relations of the call; None where there is none, or where they cannot
        be compiled for it."""
        if self._moved is None and self.plan is not None:
            seen = self.observation
            try:
                self._moved = make_plan(self.plan.spec, seen.call, seen.held)
            except Exception:  # a form that the op's file does not expect
                self.plan = None
        return self._moved


def plan_of(observation: Observation, entry: Entry) -> Plan | None:
    """What can be said of a call, relations left out; None for operators that are not checked.

    ``observation.held`` loses the results that hold no numbers.
    """
    if entry.spec is None:
        return None
    if entry.spec.scratch:
        observation.held = without(observation.held, entry.spec.scratch)
    spec = spec_for(entry.spec, observation.call, observation.held, flushes=False)
    return reference_plan(spec, observation.call, observation.held)


def judged(
    session: Session, oracle: str, observation: Observation, entry: Entry
) -> Iterator[Divergence]:
    """What the operator's own reference and residual say of its results; nothing where another
    oracle has reported it of the same trial."""
    packet = observation.call.form.packet
    verdict = verdict_of(session, observation, entry)
    if verdict.reason:
        session.not_judged[oracle, packet, verdict.reason] += 1
        return
    session.checked[oracle, packet] += 1
    if id(observation) not in session.told and verdict.divergences:
        session.told.add(id(observation))
        for divergence in verdict.divergences:
            yield replace(divergence, oracle=oracle)


def verdict_of(session: Session, observation: Observation, entry: Entry) -> Verdict:
    """What the bounds say of an operator that ran, worked out once for each trial, under the
    switches that it ran under."""
    known: Verdict | None = session.verdicts.get(id(observation))
    if known is None:
        with as_recorded(observation):
            known = session.verdicts[id(observation)] = _verdict(observation, entry)
    return known


def _verdict(observation: Observation, entry: Entry) -> Verdict:
    call, plan = observation.call, None
    try:
        plan = plan_of(observation, entry)
        if plan is None or not plan.spec.judged:
            return Verdict(observation, reason=NO_REFERENCE, plan=plan)
        scores: list[float] = []

        def seen(got: Tensor, expectation: Reference) -> None:
            score = nearness(got, expectation)
            if score is not None:
                scores.append(score)

        if plan.reference_work <= FULL_WORK:
            found = full_reference(plan, call, observation.held, seen)
        else:
            found = checksum(plan, call, observation.held) or sampled_reference(
                plan, call, observation.held, np.random.default_rng(0), FULL_WORK)[1]
    except Exception as error:  # a check that fails is counted, and the hunt goes on
        return Verdict(observation, reason=f"its reference failed: {type(error).__name__}",
                       plan=plan)
    return Verdict(observation, tuple(divergence_of("", observation, s) for s in found),
                   score=max(scores, default=None), plan=plan)


def nearness(got: Tensor, expectation: Reference) -> float | None:
    """log2 of the worst error over the narrower of proof and contract; None where nothing finite is
    limited."""
    if expectation.parts is not None or not is_covered_float(got.dtype):
        return None
    limit = np.asarray(expectation.contract)
    if expectation.proof is not None:
        limit = np.minimum(limit, expectation.proof)
    with np.errstate(all="ignore"):
        share = np.abs(bits.values(got) - expectation.expected) / limit
        share = share[np.isfinite(share)]
    worst = float(share.max()) if share.size else 0.0
    return float(np.log2(worst)) if worst > 0 else None


def divergence_of(oracle: str, observation: Observation, suspicion: Suspicion) -> Divergence:
    """A suspicion in the words of a hunt."""
    call, held = observation.call, observation.held
    got = held[suspicion.output]
    worst = worst_element(got, suspicion.output, suspicion.wrong, suspicion.expected,
                          suspicion.limit, suspicion.formula, suspicion.exceeds)
    first = next((t for _, t in call.tensors()), got)
    return Divergence(
        oracle=oracle, op=call.form.name,
        word="precision" if suspicion.exceeds == "contract" else "corruption",
        message=_told(call.form.name, suspicion, worst),
        dtype_class=dtype_class(str(got.dtype).removeprefix("torch.")),
        layout_class=layout_class(tensor_meta("", first)),
        magnitude_class=_magnitude(got, suspicion, worst),
        worst=worst, formula=suspicion.formula, observation=observation,
        expected=suspicion.expected)


def _magnitude(got: Tensor, suspicion: Suspicion, worst: Worst | None) -> str:
    """Results that are exact by definition, and broken equations, have no ulps: any error of theirs
    is gross."""
    if not (is_covered_float(got.dtype) or is_covered_complex(got.dtype)):
        return "gross"
    if suspicion.expected is None or worst is None:
        return "gross"
    if float(worst.error.repr) == np.inf:
        return "not finite"
    return magnitude_class(worst.error_ulps, format_of(got.dtype).precision)


def _told(op: str, suspicion: Suspicion, worst: Worst | None) -> str:
    num_wrong = int(np.count_nonzero(suspicion.wrong))
    if worst is None:
        return f"{op}: {num_wrong} of {suspicion.wrong.size} elements"
    if suspicion.expected is None:
        return (f"{op}: {num_wrong} of {suspicion.wrong.size} elements; the first is "
                f"{list(worst.index)}, {worst.got.repr} ({suspicion.formula})")
    limit = "" if worst.bound is None else f", limit {worst.bound.limit:.3g}"
    return (f"{op}: {num_wrong} of {suspicion.wrong.size} elements; {list(worst.index)} is "
            f"{worst.got.repr}, expected {worst.expected.repr}{limit} ({suspicion.formula})")
