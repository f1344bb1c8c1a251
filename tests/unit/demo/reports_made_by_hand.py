"""A demo report made by hand: caught, and saved."""

from __future__ import annotations

from typing import Any

import msgspec

from sdc_guard.demo.report import (
    CLEAN,
    GUARDED,
    UNGUARDED,
    DemoReport,
    GuardReport,
    Rate,
    RunReport,
    StepFiring,
)
from tests.unit.render.records_made_by_hand import coverage, finding, op_coverage


def run(name: str, perplexity: float, *steps: int) -> RunReport:
    return RunReport(
        name=name, losses=tuple(5.0 - 0.1 * i for i in range(20)), perplexity=perplexity,
        elapsed_s=2.0, step_ms=100.0, op_calls=600,
        firings=tuple(StepFiring(step=step, shape=(4, 64)) for step in steps))


def guard_report(**changes: Any) -> GuardReport:
    made = GuardReport(
        findings=(finding(),), coverage=coverage(op_coverage(calls=600, calls_checked=60)),
        calls_checked=Rate(hits=60, trials=600, low=0.077, high=0.127),
        caught=Rate(hits=1, trials=2, low=0.0126, high=0.9874), caught_steps=(7,), unexplained=0)
    return msgspec.structs.replace(made, **changes)


def report(**changes: Any) -> DemoReport:
    made = DemoReport(
        version="0.1.0", num_steps=20, seed=0, budget=0.1, model="byte-level GPT",
        num_parameters=1_900_000, corpus_bytes=10_000_000, corpus_files=600,
        corpus_digest="ab" * 32, faulty_op="aten.sum.dim_IntList", rarity=300, torch="2.13.0",
        num_threads=2, clean=run(CLEAN, 9.0), unguarded=run(UNGUARDED, 12.0, 3, 7),
        guarded=run(GUARDED, 9.2, 5, 7), guard=guard_report())
    return msgspec.structs.replace(made, **changes)
