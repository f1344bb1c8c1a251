"""What the guard costs: plain and guarded steps in turn, in one process, on one training run.

Both kinds of step see the same caches, clock rates and neighbours, so their ratio is stable
where either time alone is not.  Entering and leaving the guard is not timed, and plans that it has
learned are kept.
"""

from __future__ import annotations

import time
from statistics import median

from sdc_guard.bench.workload import Build, TrainingStep, intra_op_threads
from sdc_guard.errors import UsageError
from sdc_guard.guard import Guard
from sdc_guard.intervals import Interval, ratio_of_totals
from sdc_guard.intervals import median as median_interval
from sdc_guard.records import Record


class Overhead(Record, frozen=True, kw_only=True):
    """One measurement.  ``label`` names the workload.

    ``ratio``: median of guarded over plain time of a pair of turns, each ``steps_per_turn`` steps
    long.  ``total_ratio``: all guarded over all plain time, which counts the rare expensive steps
    of a small budget in full.  ``own_overhead_share``: what the guard itself says it costs.
    """

    label: str
    budget: float | str
    num_threads: int
    num_pairs: int
    steps_per_turn: int
    warmup_steps: int
    seed: int
    plain_ms: float
    guarded_ms: float
    ratio: Interval
    total_ratio: Interval
    own_overhead_share: float
    call_share: float
    flop_share: float
    num_findings: int
    guard_errors: int


def measure_overhead(
    build: Build, label: str, *, budget: float | str = "all", num_threads: int = 1,
    num_pairs: int = 20, steps_per_turn: int = 1, warmup_steps: int = 8, seed: int = 0,
) -> Overhead:
    """Time ``num_pairs`` pairs of turns after ``warmup_steps`` plain and as many guarded steps.

    Every other pair begins with the guarded turn, so that a drift of the machine's speed cancels.

    Raises:
        UsageError: if ``num_pairs`` or ``steps_per_turn`` is below 1.
    """
    if num_pairs < 1 or steps_per_turn < 1:
        raise UsageError(f"num_pairs={num_pairs}, steps_per_turn={steps_per_turn}: both must be at "
                         "least 1")
    with intra_op_threads(num_threads):
        training = build()
        guard = Guard(budget=budget, seed=seed)
        for _ in range(warmup_steps):
            training.step()
        _guarded_s(training, guard, warmup_steps)
        plain_s: list[float] = []
        guarded_s: list[float] = []
        for pair in range(num_pairs):
            if pair % 2:
                guarded_s.append(_guarded_s(training, guard, steps_per_turn))
            plain_s.append(_plain_s(training, steps_per_turn))
            if not pair % 2:
                guarded_s.append(_guarded_s(training, guard, steps_per_turn))
    coverage = guard.coverage
    per_step_ms = 1e3 / steps_per_turn
    return Overhead(
        label=label, budget=budget, num_threads=num_threads, num_pairs=num_pairs,
        steps_per_turn=steps_per_turn, warmup_steps=warmup_steps, seed=seed,
        plain_ms=median(plain_s) * per_step_ms, guarded_ms=median(guarded_s) * per_step_ms,
        ratio=median_interval([g / p for g, p in zip(guarded_s, plain_s, strict=True)]),
        total_ratio=ratio_of_totals(guarded_s, plain_s, seed=seed),
        own_overhead_share=coverage.overhead_share, call_share=coverage.call_share,
        flop_share=coverage.flop_share, num_findings=len(guard.findings),
        guard_errors=coverage.guard_errors)


def _plain_s(training: TrainingStep, num_steps: int) -> float:
    started_s = time.perf_counter()
    for _ in range(num_steps):
        float(training.step())  # waits for the device
    return time.perf_counter() - started_s


def _guarded_s(training: TrainingStep, guard: Guard, num_steps: int) -> float:
    with guard:
        return _plain_s(training, num_steps)


def render_overhead(results: list[Overhead]) -> str:
    """The measurements as a table."""
    rows = [["workload", "budget", "threads", "pairs", "plain ms", "guarded ms", "median ratio",
             "ratio of totals", "guard's own", "calls", "FLOPs", "findings"]]
    for r in results:
        rows.append([
            r.label, str(r.budget), str(r.num_threads), f"{r.num_pairs} x {r.steps_per_turn}",
            f"{r.plain_ms:.2f}", f"{r.guarded_ms:.2f}", _interval(r.ratio),
            _interval(r.total_ratio), f"{1 + r.own_overhead_share:.3f}",
            f"{100 * r.call_share:.1f} %", f"{100 * r.flop_share:.2f} %", str(r.num_findings)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
