"""The hunt on one mutant: what ``sdc-guard hunt --ops OP`` does in one worker, on one core."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections import Counter
from pathlib import Path

from sdc_guard.errors import UsageError
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.hunting import ROUND_LIMIT_S
from sdc_guard.hunt.loading import load_templates
from sdc_guard.hunt.oracles._registry import Oracle, Session, chosen
from sdc_guard.hunt.schedule import rounds
from sdc_guard.hunt.search import examine, search
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import Trial
from sdc_guard.hunt.worker import seed_of
from tests.hunt_power.mutant import Mutant, Planted, planted
from tests.hunt_power.outcome import Outcome

SOFT = frozenset({"inconclusive", "documented"})
"""Words that fail nobody's build, so they find nothing here."""
NOT_FAIR = frozenset({"isa"})
"""The processes at other ISA levels have the right kernels: against them every bug would show."""


class _Stop(BaseException):
    """Ends a search of Hypothesis, which catches every Exception."""


def templates_of(mutant: Mutant, cache: Path) -> dict[str, tuple[Template, ...]]:
    """What is near the mutant's operator, under its aten name and under its public one."""
    found: dict[str, tuple[Template, ...]] = {}
    for pattern in (mutant.ops, mutant.catalogue):
        with contextlib.suppress(UsageError):  # one of the names means nothing here
            found |= load_templates(cache, ops=(pattern,)).by_target
    return found


def hunt(mutant: Mutant, seconds: float, seed: int, cache: Path) -> Outcome:
    """Hunt until the mutant is found, or ``seconds`` are over; reading the templates is not
    counted."""
    by_target = templates_of(mutant, cache)
    if not by_target:
        return Outcome(reason=f"nothing to call for {mutant.ops}")
    oracles = tuple(o for o in chosen(()) if o.name not in NOT_FAIR)
    importlib.import_module("torch._dynamo")  # seconds, once in a process: gradients pull it in
    with planted(mutant) as state:
        return _Hunt(state, oracles, seconds).run(by_target, seed)


class _Hunt:
    """One hunt; ``found`` is the first trial, and its divergence, that the right kernel does not
    have."""

    def __init__(self, state: Planted, oracles: tuple[Oracle, ...], seconds: float) -> None:
        self.state = state
        self.oracles = oracles
        self.session = Session()
        self.started_s = time.monotonic()
        self.deadline_s = self.started_s + seconds
        self.calls = 0
        self.also_without = 0
        self.soft: Counter[str] = Counter()
        self.found: tuple[Trial, Divergence] | None = None

    def run(self, by_target: dict[str, tuple[Template, ...]], seed: int) -> Outcome:
        """The rounds that a worker of the hunt makes, one after the other."""
        with contextlib.suppress(_Stop):
            for target, number, examples in rounds(list(by_target), seed, None):
                try:
                    search(self.session, self.oracles, by_target[target], examples=examples,
                           seed=seed_of(seed, target, number), on_divergence=self.look,
                           on_trial=self.count, deadline_s=time.monotonic() + ROUND_LIMIT_S)
                except Exception as error:  # as in a worker: the round is lost, the hunt goes on
                    self.soft[f"round lost to {type(error).__name__}: {error}"[:200]] += 1
                self.count(None)
        elapsed_s = time.monotonic() - self.started_s
        common = {"elapsed_s": elapsed_s, "calls": self.calls, "also_without": self.also_without,
                  "wrong_calls": self.state.num_wrong}
        if self.found is None:
            soft = ", ".join(f"{n} {word}" for word, n in self.soft.items())
            return Outcome(**common, message=f"only {soft}" if soft else "")
        divergence = self.found[1]
        return Outcome(is_found=True, found_s=elapsed_s, word=divergence.word,
                       by=divergence.oracle, message=divergence.message[:300], **common)

    def count(self, trial: Trial | None) -> None:
        if time.monotonic() > self.deadline_s:
            raise _Stop
        self.calls += trial is not None

    def look(self, trial: Trial, divergence: Divergence) -> None:
        """Is it the mutant's?  The same trial with the right kernel must not diverge alike."""
        oracle = tuple(o for o in self.oracles if o.name == divergence.oracle)
        aside = Session()
        with self.state.off():
            without = {d.fingerprint for d in examine(aside, oracle, trial)}
        if divergence.fingerprint in without:
            self.also_without += 1
        elif divergence.word in SOFT:
            self.soft[divergence.word] += 1
        else:
            self.found = trial, divergence
            raise _Stop
