"""Coverage of a guard: what its parts have counted, put together, and what is not covered."""

from __future__ import annotations

from collections import Counter

from sdc_guard.observe.compiled import CompiledRegions
from sdc_guard.observe.mode import GuardMode
from sdc_guard.pipeline import Pipeline
from sdc_guard.records import Coverage


def coverage_of(
    pipeline: Pipeline, mode: GuardMode, compiled: CompiledRegions, *, unwatched: Counter[str],
    steps_skipped: int, num_log_failures: int,
) -> Coverage:
    """Calls, elements and FLOPs checked and not, per op, with reasons.

    Args:
        unwatched: number of steps, and of optimizer steps, that were not watched.
    """
    ops = [mode.tallies[name].coverage() for name in sorted(mode.tallies)
           if mode.tallies[name].calls]
    gaps = {f"{count} of {pipeline.step} {what} were not watched, to keep the budget"
            for what, count in unwatched.items() if count}
    if (seconds := pipeline.scheduler.excused_s) >= 0.1:
        gaps.add(f"{seconds:.1f} s went into compiling kernels, once, and are not in the overhead")
    dead = pipeline.dead_witnesses | ({"kernel"} if pipeline.device.is_dead else frozenset())
    scheduler = pipeline.scheduler
    return Coverage(
        ops=(*ops, *compiled.coverage()),
        gaps=tuple(sorted(pipeline.gaps | compiled.gaps() | gaps)),
        dead_witnesses=tuple(sorted(dead)),
        refused_relations=tuple(sorted(pipeline.refused)),
        overhead_s=scheduler.spent_s,
        elapsed_s=scheduler.elapsed_s,
        steps=pipeline.step,
        steps_skipped=steps_skipped,
        guard_errors=pipeline.guard_errors + num_log_failures,
    )


def not_undoable(num_bytes: int, memory_budget_bytes: int) -> str:
    """The gap left where images do not fit."""
    return ("a corrupt step cannot be undone: parameters and state, or buffers, take "
            f"{num_bytes} bytes, memory_budget is {memory_budget_bytes}")


def not_seen(part: str) -> str:
    """The gap left by a step without its forward or backward."""
    return (f"a step's {part} was not seen: it ran on another thread, which is watched only while "
            "a Guard is entered there, or there was none")
