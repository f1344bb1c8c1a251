"""One case under the oracles: what failed, what was only noted, what was not tested."""

from __future__ import annotations

import warnings
import zlib
from collections import Counter
from dataclasses import dataclass, field

from sdc_guard.conformance.cases import Asked, Case
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.findings import Finder
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.oracles._registry import Session
from sdc_guard.hunt.search import search
from sdc_guard.hunt.trial import Trial, encode

FAILS = ("corruption", "crash", "hang", "semantic difference")
"""Words of divergences that fail a test; the others are listed below the results."""
MAX_SHOWN = 2
MAX_TRIES = 100
REDUCE_S = 5.0
"""Trials, and seconds, that may be spent on making what failed smaller."""
MAX_TRIAL_BYTES = 2000


@dataclass(slots=True)
class Outcome:
    """``judged`` counts calls by oracle, ``not_tested`` calls by reason."""

    calls: int = 0
    judged: Counter[str] = field(default_factory=Counter)
    not_tested: Counter[str] = field(default_factory=Counter)
    failures: list[FoundDivergence] = field(default_factory=list)
    notes: list[FoundDivergence] = field(default_factory=list)


def examined(case: Case, asked: Asked) -> Outcome:
    """Make the case's calls; the same ones for the same seed."""
    session, smallest = Session(), dict[str, tuple[Trial, Divergence]]()

    def take(trial: Trial, divergence: Divergence) -> None:
        known = smallest.get(divergence.fingerprint)
        if known is None or trial.num_elements < known[0].num_elements:
            smallest[divergence.fingerprint] = trial, divergence

    tally = search(session, asked.oracles, case.templates, examples=asked.examples,
                   seed=zlib.crc32(f"{asked.seed} {case.id}".encode()), on_divergence=take)
    outcome = Outcome(calls=tally.trials)
    for (oracle, _), count in session.checked.items():
        outcome.judged[oracle] += count
    for (oracle, packet, reason), count in session.not_judged.items():
        outcome.not_tested[f"{case.id}, {oracle}: {packet}: {reason}"] += count
    if tally.refused:
        outcome.not_tested[f"{case.id}: the operator refused the call"] += tally.refused
    idle = [o.name for o in asked.oracles if not outcome.judged[o.name]]
    if idle:
        outcome.not_tested[f"{case.id}: no call was judged by {', '.join(idle)}"] += tally.trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what operators warn of is no matter of the suite
        outcome.failures, outcome.notes = _written_up(list(smallest.values()), asked)
    return outcome


def _written_up(
    diverged: list[tuple[Trial, Divergence]], asked: Asked
) -> tuple[list[FoundDivergence], list[FoundDivergence]]:
    """What fails and what does not, the most severe first; of each a few kinds, made again and
    reduced."""
    finder = Finder(asked.oracles, max_tries=MAX_TRIES, reduce_s=REDUCE_S, runs_scripts=False)
    diverged.sort(key=lambda pair: (pair[1].word not in FAILS, pair[0].num_elements))
    found: dict[str, FoundDivergence] = {}
    for trial, divergence in diverged:
        if len([f for f in found.values() if f.word in FAILS]) < MAX_SHOWN:
            one = finder.take(trial, divergence)
            found[one.fingerprint] = one
    ranked = sorted(found.values(), key=lambda f: (f.severity, f.fingerprint))
    return [f for f in ranked if f.word in FAILS], [f for f in ranked if f.word not in FAILS]


def told(failures: list[FoundDivergence]) -> str:
    """The failures of a test in words, each with the smallest call that shows it."""
    return "\n\n".join(
        f"{one.message}\nfound by the oracle {one.oracle}\n"
        f"{one.script or _cut(encode(one.trial).decode())}" for one in failures)


def _cut(text: str) -> str:
    if len(text) <= MAX_TRIAL_BYTES:
        return f"the call: {text}"
    return f"the call: {text[:MAX_TRIAL_BYTES]}... ({len(text)} bytes)"
