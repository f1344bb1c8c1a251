"""What a demo run found out, as records: text, page and JSON are made from these alone."""

from __future__ import annotations

import math

from sdc_guard.records import Cause, Coverage, Finding, Record, Verdict

CLEAN, UNGUARDED, GUARDED = "clean", "faulty, unguarded", "faulty, guarded"
VISIBLE_HARM = 1.02
"""The fault did harm if held-out perplexity without a guard is at least so many times the clean."""
SAVED_SHARE = 0.5
"""The run is saved if at least this share of the lost log-likelihood is won back."""


class Rate(Record, frozen=True, kw_only=True):
    """A counted share with its 95 % Clopper-Pearson interval."""

    hits: int
    trials: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.hits / self.trials if self.trials else 0.0


class StepFiring(Record, frozen=True, kw_only=True):
    """A wrong sum, from the broken kernel's own book: the ground truth."""

    step: int
    shape: tuple[int, ...]


class RunReport(Record, frozen=True, kw_only=True):
    """One of the three trainings.  ``step_ms`` is the median over the steps."""

    name: str
    losses: tuple[float, ...]
    perplexity: float
    elapsed_s: float
    step_ms: float
    op_calls: int
    firings: tuple[StepFiring, ...]


class GuardReport(Record, frozen=True, kw_only=True):
    """What the guard did in the third run, and how that compares with the ground truth.

    ``calls_checked`` is the share of the faulty op's calls that were checked, and so the chance
    that a single wrong one is looked at.  ``caught`` counts wrong sums that were found;
    ``unexplained`` counts findings that no wrong sum stands behind, neither the training's nor one
    of the guard's own recomputations, which the broken kernel serves as well.
    """

    findings: tuple[Finding, ...]
    coverage: Coverage
    calls_checked: Rate
    caught: Rate
    caught_steps: tuple[int, ...]
    unexplained: int


class DemoReport(Record, frozen=True, kw_only=True):
    """Everything that the demo shows."""

    version: str
    num_steps: int
    seed: int
    budget: float | str
    model: str
    num_parameters: int
    corpus_bytes: int
    corpus_files: int
    corpus_digest: str
    faulty_op: str
    rarity: int
    torch: str
    num_threads: int
    clean: RunReport
    unguarded: RunReport
    guarded: RunReport
    guard: GuardReport

    @property
    def runs(self) -> tuple[RunReport, RunReport, RunReport]:
        return self.clean, self.unguarded, self.guarded

    @property
    def catch(self) -> Finding | None:
        """The first corrupt result found in the faulty op that training had used."""
        return next((f for f in self.guard.findings if f.op == self.faulty_op
                     and f.verdict is Verdict.CORRUPTION and f.held_is_wrong), None)

    @property
    def saved_share(self) -> float:
        """Share of the log-likelihood lost to the fault that the guard won back; may exceed 1."""
        clean, unguarded, guarded = (math.log(run.perplexity) for run in self.runs)
        lost = unguarded - clean
        if not lost > 0:
            return math.nan
        if math.isinf(lost):
            return 1.0 if math.isfinite(guarded) else 0.0
        return (unguarded - guarded) / lost

    @property
    def wall_overhead(self) -> float:
        """Median step with the guard over the median step without, minus one."""
        return self.guarded.step_ms / self.unguarded.step_ms - 1

    def shortcomings(self) -> list[str]:
        """What this run fails to show of what the demo claims, in words; empty if nothing."""
        found = []
        if not self.unguarded.firings:
            found.append("the fault never struck the unguarded run")
        elif not self.unguarded.perplexity >= VISIBLE_HARM * self.clean.perplexity:
            found.append(
                f"the fault did no visible harm: perplexity {self.unguarded.perplexity:.3f} "
                f"unguarded, {self.clean.perplexity:.3f} clean, and {VISIBLE_HARM} times the clean "
                "one would be visible"
            )
        if self.catch is None:
            found.append(
                f"the guard caught none of {len(self.guarded.firings)} wrong sums at budget "
                f"{self.budget}; it checked {self.guard.calls_checked.share:.2%} of the calls"
            )
        elif self.catch.cause in (Cause.PERSISTENT_HARDWARE, Cause.TRANSIENT):
            found.append(f"the cause is software and was called {self.catch.cause.value}")
        if self.guard.unexplained:
            found.append(f"{self.guard.unexplained} findings have no wrong sum behind them")
        if not found and not self.saved_share >= SAVED_SHARE:
            found.append(
                f"the guarded run was not saved: perplexity {self.guarded.perplexity:.3f} guarded, "
                f"{self.unguarded.perplexity:.3f} unguarded, {self.clean.perplexity:.3f} clean"
            )
        return found
