"""A divergence made again: how often it comes, and what that makes of its word."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sdc_guard.calls import BoundCall
from sdc_guard.document.operators import packet_of
from sdc_guard.hunt.divergence import LOST, SEVERITY, Divergence
from sdc_guard.hunt.documented import marked
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.judging import judged
from sdc_guard.hunt.oracles._registry import Oracle, Session
from sdc_guard.hunt.trial import Trial
from sdc_guard.observe.classify import classify

LOUD = frozenset({"crash", "hang", LOST})
"""Words of calls that must not be made in this process again."""
_MAGNITUDES = ("few ulps", "many ulps", "gross")
MISSED_AT_MOST = 0.01
"""Chance at which a reduction may miss a divergence that is there."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """``wrong`` of ``tried`` equal calls diverged; ``last`` is one that did."""

    wrong: int
    tried: int
    last: Divergence | None

    @property
    def always(self) -> bool:
        return 0 < self.tried == self.wrong

    @property
    def attempts(self) -> int:
        """Calls after which a divergence of this rate has shown itself, but for a chance of
        ``MISSED_AT_MOST``; 1 where it always does, at most 50."""
        if self.always:
            return 1
        rate = max(self.wrong, 0.5) / max(self.tried, 1)
        return min(50, math.ceil(math.log(MISSED_AT_MOST) / math.log1p(-rate)))


def is_same(one: Divergence, other: Divergence) -> bool:
    """The same packet and dtype class, an error of at least the same order of magnitude, and a word
    at least as severe.  Layouts may differ: what shows in plain memory too is not about layouts."""
    return (packet_of(one.op) == packet_of(other.op) and one.dtype_class == other.dtype_class
            and _is_as_large(one.magnitude_class, other.magnitude_class)
            and _rank(other.word) <= _rank(one.word))


def _is_as_large(one: str, other: str) -> bool:
    if one not in _MAGNITUDES or other not in _MAGNITUDES:
        return one == other
    return _MAGNITUDES.index(other) >= _MAGNITUDES.index(one)


def _rank(word: str) -> int:
    return SEVERITY.index(word) if word in SEVERITY else len(SEVERITY)


def divergences(oracle: Oracle, trial: Trial, session: Session) -> Iterator[Divergence]:
    """What one oracle says of a trial that is made once, whether or not it would be due, under the
    words that stand after what is documented, as in a search."""
    session.begin()
    base = execute(trial)
    if not base.refusal:
        for divergence in oracle.check(session, trial, base):
            yield marked(trial, divergence)


def shows(oracle: Oracle, trial: Trial, wanted: Divergence, session: Session) -> Divergence | None:
    """The wanted divergence, if it comes when the trial is made once more."""
    return next((d for d in divergences(oracle, trial, session) if is_same(wanted, d)), None)


def repeat(
    oracle: Oracle, trial: Trial, wanted: Divergence, session: Session, *,
    times: int, limit_s: float, on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Repeats:
    """Make a trial ``times`` times more, or as often as ``limit_s`` allows, at least twice;
    ``on_trial`` is told of it each time before."""
    began_s, wrong, tried, last = time.monotonic(), 0, 0, None
    while tried < times and (tried < 2 or time.monotonic() - began_s < limit_s):
        tried += 1
        on_trial(trial)
        found = shows(oracle, trial, wanted, session)
        if found is not None:
            wrong, last = wrong + 1, found
    return Repeats(wrong, tried, last)


def is_condemned_again(divergence: Divergence) -> bool | None:
    """Whether the recorded operands and results are judged wrong a second time; None where no call
    was recorded, or its operator has no reference."""
    seen = divergence.observation
    if seen is None:
        return None
    entry = classify(seen.call.form.op)
    if entry.spec is None:
        return None
    images = replace(seen, call=BoundCall(seen.call.form, seen.call.args))
    return any(is_same(divergence, d)
               for d in judged(Session(), divergence.oracle, images, entry))


def word_of(divergence: Divergence, repeats: Repeats) -> tuple[str, str]:
    """The word that stands after repetition, and why, in a clause.

    A broken proof stays broken though it does not come again, as long as the recorded numbers are
    condemned a second time; where they are not, the check itself gave two answers and nothing is
    decided.  What stays inside the proof and comes and goes is ``nondeterminism``.
    """
    word, tally = divergence.word, f"{repeats.wrong} of {repeats.tried} repetitions"
    if repeats.always:
        return word, f"diverges in {tally}"
    if is_condemned_again(divergence) is False:
        return "inconclusive", (f"diverges in {tally}, and the recorded numbers pass when judged "
                                "again: the check may be at fault, or the memory it reads")
    if word == "precision" and repeats.wrong:
        return "nondeterminism", f"outside the contract in {tally}, always inside the proof"
    if repeats.wrong:
        return word, f"comes and goes, in {tally}: a race, memory that was not set, or hardware"
    return word, (f"did not come again, {tally}: is the hardware sound? a sweep of this machine "
                  "would tell")
