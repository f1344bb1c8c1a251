"""Where the time of a guarded step goes: per op, and per part of the guard's own work.

The guard is entered as in a real run; for the length of the profile, its stages are wrapped by
timers.  A timer costs about half a microsecond a call, so tables are for comparing lines, and the
overhead is what :mod:`sdc_guard.bench.overhead` measures.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

from sdc_guard.bench.workload import Build
from sdc_guard.calls import OpForm
from sdc_guard.check.relations import Piece
from sdc_guard.guard import Guard
from sdc_guard.records import Record

PARTS = ("prepare", "op again", "compare", "move", "invariant", "reference", "rest")
"""``prepare``: the site's key and images of overwritten operands, before the call.  ``op again``:
the kernel inside replays.  ``compare``: equal bits?  ``move``: the rest of a replay (relocating
operands, Python).  ``rest``: bookkeeping."""

_clock = time.perf_counter


class OpProfile(Record, frozen=True, kw_only=True):
    """One op, per step: milliseconds of the call itself, extra milliseconds of the guard, and those
    by :data:`PARTS`; ``relations`` counts the replays of the profile by relation.  Calls that are
    not checked count as the call itself."""

    op: str
    calls_per_step: float
    plain_ms: float
    extra_ms: float
    parts_ms: dict[str, float]
    relations: dict[str, int]

    @property
    def ratio(self) -> float:
        """Guarded over plain time of the calls of this op; infinite where plain time is nil."""
        return 1 + self.extra_ms / self.plain_ms if self.plain_ms else float("inf")


class StepProfile(Record, frozen=True, kw_only=True):
    """Medians of whole steps in milliseconds (timers off), and the ops, most extra time first.

    ``timed_ms`` is the mean guarded step with timers on, to which the ops belong; ``outside_ms`` is
    what no op accounts for: dispatch of every op, views included, and the gate around the
    optimizer.  ``new_sites`` counts the sites that were met for the first time in each timed step:
    each of them costs a plan and a reference.
    """

    num_steps: int
    plain_ms: float
    guarded_ms: float
    timed_ms: float
    outside_ms: float
    new_sites: tuple[int, ...]
    ops: tuple[OpProfile, ...]

    @property
    def ratio(self) -> float:
        return self.guarded_ms / self.plain_ms


@dataclass(slots=True)
class _Sums:
    calls: int = 0
    op_s: float = 0.0
    total_s: float = 0.0
    parts_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    relations: Counter[str] = field(default_factory=Counter)


class _Timers:
    """Wraps the stages of one guard; the op under way is the one that is charged."""

    def __init__(self, guard: Guard) -> None:
        self.sums: dict[str, _Sums] = defaultdict(_Sums)
        self._guard = guard
        self.now = _Sums()
        self._replaying = False
        self._prepared_s = 0.0
        self._own_s: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time everything until the block ends."""
        mode, pipeline = self._guard._mode, self._guard._pipeline
        with ExitStack() as stack:
            for name in ("_invariant", "_reference"):
                self._replace(stack, pipeline, name, self._timed(name[1:]))
            self._replace(stack, pipeline, "_replay", self._replay)
            self._replace(stack, mode, "_prepare", self._prepare)
            self._replace(stack, mode, "_observe", self._observe)
            self._replace(stack, mode, "_watch", self._watch)
            self._replace(stack, OpForm, "call", self._op_again)
            self._replace(stack, Piece, "agrees", self._compare)
            yield

    @staticmethod
    def _replace(
        stack: ExitStack, owner: Any, name: str, around: Callable[[Any], Callable[..., Any]]
    ) -> None:
        own = vars(owner).get(name) if hasattr(owner, "__dict__") else getattr(owner, name)
        replacement = around(getattr(owner, name))
        setattr(owner, name, replacement)
        if own is None:
            stack.callback(delattr, owner, name)
        else:
            stack.callback(setattr, owner, name, own)

    def _timed(self, part: str) -> Callable[[Any], Callable[..., Any]]:
        def around(function: Any) -> Callable[..., Any]:
            def timed(*args: Any, **kwargs: Any) -> Any:
                started_s = _clock()
                try:
                    return function(*args, **kwargs)
                finally:
                    self.now.parts_s[part] += _clock() - started_s

            return timed

        return around

    def _prepare(self, function: Any) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            started_s = _clock()
            try:
                return function(*args)
            finally:
                self._prepared_s = _clock()
                self.now.parts_s["prepare"] += self._prepared_s - started_s

        return timed

    def _observe(self, function: Any) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            # The mode makes the user's own call between preparing and observing, and nothing else.
            self._own_s = _clock() - self._prepared_s
            return function(*args)

        return timed

    def _op_again(self, function: Any) -> Callable[..., Any]:
        def timed(form: OpForm, args: tuple[Any, ...]) -> Any:
            if not self._replaying:
                return function(form, args)
            started_s = _clock()
            try:
                return function(form, args)
            finally:
                self.now.parts_s["op again"] += _clock() - started_s

        return timed

    def _compare(self, function: Any) -> Callable[..., Any]:
        def timed(piece: Piece) -> Any:
            started_s = _clock()
            try:
                return function(piece)
            finally:
                self.now.parts_s["compare"] += _clock() - started_s

        return timed

    def _replay(self, function: Any) -> Callable[..., Any]:
        def timed(plan: Any, *args: Any) -> Any:
            relation = plan.next_relation()
            self.now.relations["none" if relation is None else relation.name] += 1
            parts_s = self.now.parts_s
            inner_s = parts_s["op again"] + parts_s["compare"]
            self._replaying = True
            started_s = _clock()
            try:
                return function(plan, *args)
            finally:
                spent_s = _clock() - started_s
                self._replaying = False
                parts_s["move"] += spent_s - (parts_s["op again"] + parts_s["compare"] - inner_s)

        return timed

    def _watch(self, function: Any) -> Callable[..., Any]:
        def timed(entry: Any, tally: Any, *args: Any) -> Any:
            now = self.now = self.sums[tally.op]
            now.calls += 1
            self._own_s = None
            started_s = _clock()
            try:
                return function(entry, tally, *args)
            finally:
                spent_s = _clock() - started_s
                now.total_s += spent_s
                now.op_s += spent_s if self._own_s is None else self._own_s

        return timed


def profile_step(
    build: Build, *, budget: float | str = "all", num_steps: int = 5, warmup_steps: int = 8,
    seed: int = 0,
) -> StepProfile:
    """Profile a guarded training step after ``warmup_steps`` guarded steps.

    First ``num_steps`` pairs of a plain and a guarded step, without timers; then as many guarded
    steps with them.
    """
    training = build()
    guard = Guard(budget=budget, seed=seed)
    training.step()
    for _ in range(warmup_steps):
        with guard:
            training.step()
    plain_s, guarded_s = [], []
    for _ in range(num_steps):
        plain_s.append(_time(training.step))
        with guard:
            guarded_s.append(_time(training.step))
    timers = _Timers(guard)
    timed_s: list[float] = []
    new_sites = []
    for _ in range(num_steps):
        num_sites = len(guard._pipeline._plans)
        with guard, timers.running():
            timed_s.append(_time(training.step))
        new_sites.append(len(guard._pipeline._plans) - num_sites)
    ops = sorted((_op_profile(name, sums, num_steps) for name, sums in timers.sums.items()),
                 key=lambda op: -op.extra_ms)
    plain_ms, timed_ms = median(plain_s) * 1e3, mean(timed_s) * 1e3
    return StepProfile(
        num_steps=num_steps, plain_ms=plain_ms, guarded_ms=median(guarded_s) * 1e3,
        timed_ms=timed_ms, outside_ms=timed_ms - plain_ms - sum(op.extra_ms for op in ops),
        new_sites=tuple(new_sites), ops=tuple(ops))


def _time(step: Callable[[], object]) -> float:
    started_s = _clock()
    step()
    return _clock() - started_s


def _op_profile(name: str, sums: _Sums, num_steps: int) -> OpProfile:
    per_step_ms = 1e3 / num_steps
    extra_s = sums.total_s - sums.op_s
    parts_s = dict(sums.parts_s)
    parts_s["rest"] = extra_s - sum(parts_s.values())
    return OpProfile(
        op=name, calls_per_step=sums.calls / num_steps,
        plain_ms=sums.op_s * per_step_ms, extra_ms=extra_s * per_step_ms,
        parts_ms={part: parts_s.get(part, 0.0) * per_step_ms for part in PARTS},
        relations=dict(sums.relations))


def render_profile(profile: StepProfile) -> str:
    """The profile as a table; all times in milliseconds per step."""
    head = ["op", "calls", "plain", "extra", "ratio", *PARTS]
    rows = [head]
    for op in profile.ops:
        rows.append([op.op, f"{op.calls_per_step:.0f}", *_numbers(op.plain_ms, op.extra_ms),
                     f"{op.ratio:.2f}", *_numbers(*(op.parts_ms[p] for p in PARTS))])
    plain_ms = sum(op.plain_ms for op in profile.ops)
    extra_ms = sum(op.extra_ms for op in profile.ops)
    rows.append(["all ops", f"{sum(op.calls_per_step for op in profile.ops):.0f}",
                 *_numbers(plain_ms, extra_ms), f"{1 + extra_ms / plain_ms:.2f}",
                 *_numbers(*(sum(op.parts_ms[p] for op in profile.ops) for p in PARTS))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                       for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
             for row in rows]
    lines.append(f"step: plain {profile.plain_ms:.2f} ms, guarded {profile.guarded_ms:.2f} ms, "
                 f"ratio {profile.ratio:.3f} (medians of {profile.num_steps}); with timers "
                 f"{profile.timed_ms:.2f} ms, of which outside of the ops above "
                 f"{profile.outside_ms:.2f} ms; new sites per step {list(profile.new_sites)}")
    for op in profile.ops:
        if op.relations:
            counts = ", ".join(f"{n} {count}" for n, count in sorted(op.relations.items()))
            lines.append(f"{op.op}: {counts}")
    return "\n".join(lines)


def _numbers(*values_ms: float) -> list[str]:
    return [f"{value:.2f}" for value in values_ms]
