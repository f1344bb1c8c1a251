"""How many injected faults the guard finds: a campaign of trials, counted with intervals.

Fault models (:mod:`sdc_guard.inject.campaign`): *transient*, one bit of one element of one result
of one call inverted; *repeated*, the same in every execution of that op whose result has that shape
and dtype, replays included.  Call, result, element and bit are each drawn uniformly.  A rate
holds for these models and for the workload that it names, for nothing else.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice

import msgspec

from sdc_guard.bench.trial import CORRUPTION, NOT_INJECTED, SOFTER, Rig, Trial
from sdc_guard.bench.workload import Build, intra_op_threads
from sdc_guard.errors import UsageError
from sdc_guard.inject.campaign import draw_repeated, draw_transients, record_calls
from sdc_guard.inject.faults import Fault
from sdc_guard.intervals import Interval, proportion
from sdc_guard.records import Record

WARMUP_STEPS = 12
"""Enough for every relation of a site that is visited once a step to be admitted."""
STEPS_REPEATED = 3
"""Guarded steps that a repeated fault may take until it is found."""
CHUNK = 25
CLEAN_EVERY = 50
"""A clean step after so many trials: the run goes on, and a lasting trace of a fault would show."""
MODELS = ("transient", "repeated")


class Rate(Record, frozen=True, kw_only=True):
    """``detected`` of ``injected`` faults with Clopper and Pearson's interval; None for none."""

    detected: int
    injected: int
    interval: Interval | None


class Campaign(Record, frozen=True, kw_only=True):
    """A campaign so far.  ``done`` holds the numbers of the faults tried, as ranges [start, stop).

    ``steps_repeated``: guarded steps that a repeated fault may take until it is found.
    ``outcomes`` counts trials by outcome, also per op; ``found_in_step`` counts detected faults by
    the step, from 1, in which they were found; ``causes`` counts the findings that name the faulty
    op; ``not_detected`` are all trials without ``corruption``.
    """

    label: str
    model: str
    seed: int
    warmup_steps: int
    steps_repeated: int
    done: tuple[tuple[int, int], ...] = ()
    outcomes: dict[str, int] = msgspec.field(default_factory=dict)
    outcomes_by_op: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    found_in_step: dict[str, int] = msgspec.field(default_factory=dict)
    causes: dict[str, int] = msgspec.field(default_factory=dict)
    not_detected: tuple[Trial, ...] = ()
    false_alarms: tuple[str, ...] = ()

    @property
    def corruption(self) -> Rate:
        """Faults for which a finding of verdict ``corruption`` names the op."""
        return self._rate(CORRUPTION)

    @property
    def named(self) -> Rate:
        """Faults for which any finding names the op."""
        return self._rate(CORRUPTION, SOFTER)

    def _rate(self, *outcomes: str) -> Rate:
        injected = sum(self.outcomes.values()) - self.outcomes.get(NOT_INJECTED, 0)
        detected = sum(self.outcomes.get(outcome, 0) for outcome in outcomes)
        return Rate(detected=detected, injected=injected,
                    interval=proportion(detected, injected) if injected else None)

    def with_trials(self, trials: Sequence[Trial], false_alarms: Sequence[str]) -> Campaign:
        """The campaign after more trials."""
        outcomes, causes = Counter(self.outcomes), Counter(self.causes)
        found = Counter(self.found_in_step)
        by_op = {op: Counter(counts) for op, counts in self.outcomes_by_op.items()}
        for trial in trials:
            outcomes[trial.outcome] += 1
            causes.update(trial.causes)
            if trial.outcome == CORRUPTION:
                found[str(trial.num_steps)] += 1
            by_op.setdefault(trial.op, Counter())[trial.outcome] += 1
        numbers = {n for start, stop in self.done for n in range(start, stop)}
        numbers |= {trial.index for trial in trials}
        return Campaign(
            label=self.label, model=self.model, seed=self.seed, warmup_steps=self.warmup_steps,
            steps_repeated=self.steps_repeated, found_in_step=dict(found),
            done=_ranges(numbers), outcomes=dict(outcomes),
            outcomes_by_op={op: dict(by_op[op]) for op in sorted(by_op)}, causes=dict(causes),
            not_detected=(*self.not_detected, *(t for t in trials if t.outcome != CORRUPTION)),
            false_alarms=(*self.false_alarms, *false_alarms))


def _ranges(numbers: set[int]) -> tuple[tuple[int, int], ...]:
    ranges: list[tuple[int, int]] = []
    for n in sorted(numbers):
        if ranges and ranges[-1][1] == n:
            ranges[-1] = (ranges[-1][0], n + 1)
        else:
            ranges.append((n, n + 1))
    return tuple(ranges)


def new_campaign(
    label: str, model: str, *, seed: int, warmup_steps: int = WARMUP_STEPS,
    steps_repeated: int = STEPS_REPEATED,
) -> Campaign:
    """An empty campaign.

    Raises:
        UsageError: if ``model`` is not one of :data:`MODELS`.
    """
    if model not in MODELS:
        raise UsageError(f"fault model {model!r}: choose one of {', '.join(MODELS)}")
    return Campaign(label=label, model=model, seed=seed, warmup_steps=warmup_steps,
                    steps_repeated=steps_repeated)


def continue_campaign(
    campaign: Campaign, build: Build, num: int, *, num_processes: int = 1,
    progress: Callable[[Campaign], None] | None = None,
) -> Campaign:
    """Try the faults with numbers below ``num`` that have not been tried; one torch thread each.

    Fault number i depends on the seed and the calls alone, so campaigns can be continued and
    shared out.  With more than one process ``build`` must be picklable.  ``progress`` gets the
    campaign after every ``CHUNK`` trials.

    Raises:
        UsageError: if ``num`` or ``num_processes`` is below 1.
    """
    if num < 1 or num_processes < 1:
        raise UsageError(f"num={num}, num_processes={num_processes}: both must be at least 1")
    done = {n for start, stop in campaign.done for n in range(start, stop)}
    todo = [n for n in range(num) if n not in done]
    for trials, false_alarms in _run(campaign, build, todo, num_processes):
        campaign = campaign.with_trials(trials, false_alarms)
        if progress is not None:
            progress(campaign)
    return campaign


Batch = tuple[list[Trial], list[str]]


def _run(
    campaign: Campaign, build: Build, todo: list[int], num_processes: int
) -> Iterator[Batch]:
    if num_processes == 1:
        yield from run_trials(campaign, build, todo)
        return
    spawn = multiprocessing.get_context("spawn")
    shares = [todo[i : i + 8 * CHUNK] for i in range(0, len(todo), 8 * CHUNK)]
    if len(shares) < num_processes:
        shares = [share for i in range(num_processes) if (share := todo[i::num_processes])]
    with ProcessPoolExecutor(num_processes, mp_context=spawn) as pool:
        level = logging.getLogger("sdc_guard").level
        futures = [pool.submit(_run_share, campaign, build, share, level) for share in shares]
        for future in as_completed(futures):
            yield from future.result()


def _run_share(
    campaign: Campaign, build: Build, numbers: list[int], log_level: int
) -> list[Batch]:
    logging.getLogger("sdc_guard").setLevel(log_level)
    return list(run_trials(campaign, build, numbers))


def run_trials(campaign: Campaign, build: Build, numbers: Sequence[int]) -> Iterator[Batch]:
    """Try the faults with these numbers; yields trials and false alarms in chunks."""
    if not numbers:
        return
    with intra_op_threads(1):
        rig = Rig(build(), warmup_steps=campaign.warmup_steps, seed=campaign.seed)
        calls = record_calls(rig.training.step)
        draw: Callable[..., Sequence[Fault]] = (
            draw_transients if campaign.model == "transient" else draw_repeated)
        faults = draw(calls, max(numbers) + 1, campaign.seed)
        remaining = iter(numbers)
        num_tried = 0
        while chunk := list(islice(remaining, CHUNK)):
            trials = []
            for number in chunk:
                trials.append(rig.try_fault(number, faults[number],
                                            max_steps=campaign.steps_repeated))
                num_tried += 1
                if num_tried % CLEAN_EVERY == 0:
                    rig.clean_step()
            false_alarms, rig.false_alarms = rig.false_alarms, []
            yield trials, false_alarms


class CleanRun(Record, frozen=True, kw_only=True):
    """Guarded steps without a fault.  Every finding, of any verdict, is a false alarm.

    ``alarms_per_check``: its interval is that of independent checks, each with the same chance.
    """

    label: str
    seed: int
    num_steps: int
    num_findings: int
    messages: tuple[str, ...]
    calls: int
    calls_checked: int
    checks_by_witness: dict[str, int]
    alarms_per_check: Interval
    refused_relations: tuple[str, ...]
    call_share: float
    flop_share: float
    guard_errors: int


def clean_run(
    build: Build, label: str, *, num_steps: int, seed: int = 0, num_threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> CleanRun:
    """``num_steps`` guarded steps of training from the start, the first included.

    Raises:
        UsageError: if ``num_steps`` is below 1.
    """
    if num_steps < 1:
        raise UsageError(f"num_steps={num_steps}: must be at least 1")
    with intra_op_threads(num_threads):
        rig = Rig(build(), warmup_steps=0, seed=seed)
        for step in range(num_steps):
            rig.clean_step()
            if progress is not None:
                progress(step + 1)
    coverage = rig.guard.coverage
    witnesses: Counter[str] = Counter()
    for op in coverage.ops:
        witnesses.update(op.witnesses)
    num_checks = max(1, sum(witnesses.values()))
    return CleanRun(
        label=label, seed=seed, num_steps=num_steps, num_findings=len(rig.false_alarms),
        messages=tuple(rig.false_alarms[:20]), calls=coverage.calls,
        calls_checked=coverage.calls_checked, checks_by_witness=dict(witnesses),
        alarms_per_check=proportion(min(len(rig.false_alarms), num_checks), num_checks),
        refused_relations=coverage.refused_relations, call_share=coverage.call_share,
        flop_share=coverage.flop_share, guard_errors=coverage.guard_errors)


