"""What a detector costs: plain and watched steps in turn, in one process, on one training run."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from sdc_guard.bench.cells import Cost
from sdc_guard.bench.detectors.base import Detector
from sdc_guard.bench.workload import Workload, intra_op_threads
from sdc_guard.errors import UsageError
from sdc_guard.intervals import median, ratio_of_totals


def measure_cost(
    detector: Detector, build: Callable[[], Workload], *, label: str, dtype: str,
    device: str = "cpu", seed: int = 0, num_threads: int = 1, num_pairs: int = 12, name: str,
) -> Cost:
    """Time ``num_pairs`` pairs of turns after the watched steps in which a detector learns.  Every
    other pair begins with the watched turn, so that a drift of the machine's speed cancels.  The
    detector is entered once a turn, which is not timed.  ``name`` is the detector's in the table,
    ``label`` the workload's.

    Raises:
        UsageError: if ``num_pairs`` is below 1.
    """
    if num_pairs < 1:
        raise UsageError(f"num_pairs={num_pairs}: must be at least 1")
    steps_per_turn = detector.steps_per_turn

    def finish() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def plain_turn_s() -> float:
        started_s = time.perf_counter()
        for _ in range(steps_per_turn):
            workload.step()
        finish()
        return time.perf_counter() - started_s

    def watched_turn_s(num_steps: int = steps_per_turn) -> float:
        with detector.watching():
            started_s = time.perf_counter()
            for _ in range(num_steps):
                detector.step(workload)
            finish()
            return time.perf_counter() - started_s

    with intra_op_threads(num_threads):
        workload = build()
        detector.begin(workload)
        watched_turn_s(detector.steps_to_learn)
        detector.mark()
        plain_turn_s()
        plain_s: list[float] = []
        watched_s: list[float] = []
        for pair in range(num_pairs):
            if pair % 2:
                watched_s.append(watched_turn_s())
            plain_s.append(plain_turn_s())
            if not pair % 2:
                watched_s.append(watched_turn_s())
        detector.end()
    ratios = [w / p for w, p in zip(watched_s, plain_s, strict=True)]
    return Cost(
        detector=name, workload=label, dtype=dtype, device=device, seed=seed,
        num_threads=num_threads, num_pairs=num_pairs, steps_per_turn=steps_per_turn,
        plain_ms=1e3 * sum(plain_s) / (num_pairs * steps_per_turn), ratio=median(ratios),
        total_ratio=ratio_of_totals(watched_s, plain_s, seed=seed))
