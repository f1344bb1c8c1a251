"""Coverage of a guard: what its parts have counted, put together, and what is not covered."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from sdc_guard.observe.compiled import CompiledRegions
from sdc_guard.observe.launches import LaunchCounts
from sdc_guard.observe.mode import GuardMode
from sdc_guard.pipeline import Pipeline
from sdc_guard.records import Coverage, OpCoverage

_log = logging.getLogger("sdc_guard")


def tell_dead(witnesses: Iterable[str]) -> None:
    """Say which witnesses missed what was planted before them."""
    for witness in sorted(witnesses):
        _log.warning("sdc_guard: the witness %r missed a planted flip on this machine and is not "
                     "used", witness)


class UnseenKernels:
    """Kernels that no operator call tells of: Inductor's graphs, and Triton launches by a user.

    Args:
        begin_step: called before a compiled graph runs.
    """

    def __init__(self, begin_step: Callable[[], None]) -> None:
        self._compiled = CompiledRegions(begin_step)
        self._launches = LaunchCounts()

    @property
    def num_regions(self) -> int:
        """Compiled graphs that have run."""
        return self._compiled.num_regions

    def open(self) -> None:
        """Count from now on; called again at each step, for what was imported since."""
        self._compiled.open()
        self._launches.open()

    def close(self) -> None:
        self._compiled.close()
        self._launches.close()

    def coverage(self) -> tuple[OpCoverage, ...]:
        return (*self._compiled.coverage(), *self._launches.coverage())

    def gaps(self) -> set[str]:
        return {*self._compiled.gaps(), *self._launches.gaps()}


def coverage_of(
    pipeline: Pipeline, mode: GuardMode, unseen: UnseenKernels, *, unwatched: Counter[str],
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
        ops=(*ops, *unseen.coverage()),
        gaps=tuple(sorted(pipeline.gaps | unseen.gaps() | gaps)),
        dead_witnesses=tuple(sorted(dead)),
        refused_relations=tuple(sorted(pipeline.refused)),
        overhead_s=scheduler.spent_s,
        elapsed_s=scheduler.elapsed_s,
        steps=pipeline.step,
        steps_skipped=steps_skipped,
        guard_errors=pipeline.guard_errors + num_log_failures,
        steps_unwatched=unwatched["steps"],
    )


def not_undoable(num_bytes: int, memory_budget_bytes: int) -> str:
    """The gap left where images do not fit."""
    return ("a corrupt step cannot be undone: parameters and state, or buffers, take "
            f"{num_bytes} bytes, memory_budget is {memory_budget_bytes}")


def not_seen(part: str) -> str:
    """The gap left by a step without its forward or backward."""
    return (f"a step's {part} was not seen: it ran on another thread, which is watched only while "
            "a Guard is entered there, or there was none")
