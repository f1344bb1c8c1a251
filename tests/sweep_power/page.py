"""The tables of what whole sweeps found on a machine with a faulty core, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sdc_guard.intervals import proportion
from tests.sweep_power.plan import (
    GROUPS,
    KINDS,
    MIN_AGAIN,
    MIN_EXPECTED,
    NUM_RETESTS,
    RATES,
    UNANSWERED,
    Calls,
    Fault,
    is_reached,
)
from tests.sweep_power.trial import ALL_CORES, FOUND, NOBODY, WRONG_BLAME, Outcome

TEXT = """\
Each run is `python -m sdc_guard sweep --seconds {seconds:g} --fresh` in a process that a test-only
launcher (`tests/sweep_power/launcher`, a `sitecustomize.py` on `PYTHONPATH`) gives a faulty core:
aten kernels overridden through `torch.library`, in the sweep and in all its workers, damage what
they return whenever the thread is on that core (`sched_getcpu`), each time or at a rate per call.
The damage is done to memory by NumPy; sdc_guard knows nothing of it. Nobody has run this on a core
that is really defective.

Kinds: the lowest bit, the highest exponent bit or the sign of one element; one bit stuck at 1 in
one lane of 16; eight elements that hold what belongs to their neighbours. Kernels that use one
piece of a core are wrong together.

**Within reach** is a rate with at least {min_expected:g} wrong calls expected in a sweep: rate
times the calls of those kernels by one core's own worker, as counted in sweeps with kernels that
count and change nothing. Where no test has an exact answer ({unanswered}) a wrong number is FAIL
only if it comes again, so at least {min_again:g} of the {num_retests} repetitions that follow it
have to be expected to be wrong, too. A run in which no result was changed after all (a bit that was
stuck where it belonged, no draw below the rate) had no fault; it is counted apart and another takes
its place.

**Found and blamed**: exit code 1, no corruption on another core, and at least one on that core by
name (what all cores together did wrong may be put on the host, too). 95 % intervals (Clopper and
Pearson).
"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One sweep with a fault; ``expected`` wrong calls."""

    fault: Fault
    expected: float
    outcome: Outcome

    @property
    def is_faulty(self) -> bool:
        """Whether any number came out wrong."""
        return any(self.outcome.struck.values())


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """One sweep without; ``counted`` is the core whose calls were counted, None for a plain
    process."""

    counted: int | None
    outcome: Outcome


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """``calls``: of each group's kernels on one core in a clean sweep."""

    controls: tuple[Control, ...]
    within: tuple[Run, ...]
    beyond: tuple[Run, ...]
    calls: dict[str, float]
    not_called: tuple[str, ...]


def share(runs: Iterable[Run]) -> tuple[int, int]:
    """How many were found and blamed, of how many in which any number was wrong."""
    faulty = [r for r in runs if r.is_faulty]
    return sum(r.outcome.word == FOUND for r in faulty), len(faulty)


def interval_words(count: int, num: int) -> str:
    if not num:
        return "none"
    interval = proportion(count, num)
    return f"{count} of {num} [{interval.low:.1%}, {interval.high:.1%}]"


def _row(name: str, runs: Sequence[Run]) -> str:
    faulty = [r for r in runs if r.is_faulty]
    found = sum(r.outcome.exit_code == 1 for r in faulty)
    wrong = sum(r.outcome.word == WRONG_BLAME for r in faulty)
    others = Counter(r.outcome.word for r in faulty if r.outcome.word not in (FOUND, WRONG_BLAME))
    return (f"| {name} | {interval_words(found, len(faulty))} | {interval_words(*share(runs))} | "
            f"{interval_words(wrong, len(faulty))} | "
            f"{', '.join(f'{w}: {n}' for w, n in others.most_common()) or 'none'} | "
            f"{len(runs) - len(faulty)} |")


def _table(title: str, rows: Iterable[tuple[str, list[Run]]]) -> list[str]:
    return [f"| {title} | found (exit 1) | found and blamed on that core alone | another core "
            "blamed | otherwise | no number changed |", "|---|---|---|---|---|---|",
            *(_row(name, runs) for name, runs in rows if runs), ""]


def page(results: Results, stamp: dict[str, Any], seconds: float) -> str:
    """The whole page."""
    within, beyond = list(results.within), list(results.beyond)
    cores = sorted({r.fault.core for r in within})
    clean = sum(c.outcome.exit_code == 0 for c in results.controls)
    lines = [
        "# Whole sweeps on a machine with one faulty core", "",
        *(f"- command: `{command}`" for command in stamp["commands"]),
        f"- commit: {', '.join(stamp['commits'])}; seed {stamp['seed']}; torch {stamp['torch']}, "
        f"numpy {stamp['numpy']}, Python {stamp['python']}",
        f"- machine: {stamp['platform']}, {stamp['processor']}, {stamp['num_cores']} cores, "
        f"load {stamp['load']:.1f}", "",
        TEXT.format(seconds=seconds, min_expected=MIN_EXPECTED, min_again=MIN_AGAIN,
                    num_retests=NUM_RETESTS, unanswered=", ".join(UNANSWERED)),
        f"Controls, sound machine: {interval_words(clean, len(results.controls))} exit 0.", "",
        "## Within reach", "",
        *_table("rate per call", [
            ("all", within), *((_rate(r), [x for x in within if x.fault.rate == r])
                               for r in RATES)]),
        *_table("kernels", [(g, [x for x in within if x.fault.group == g]) for g in GROUPS]),
        *_table("kind", [(k, [x for x in within if x.fault.kind == k]) for k in KINDS]),
        *_table("core", [(str(c), [x for x in within if x.fault.core == c]) for c in cores]),
        "## Beyond reach", "",
        "The first rate too low for that; what was met in a sweep all the same:",
        "", *_table("rate per call", [(_rate(r), [x for x in beyond if x.fault.rate == r])
                                      for r in RATES]),
        "## Calls by one core's worker in a clean sweep", "",
        "| kernels | calls | lowest rate within reach |", "|---|---|---|",
        *(f"| {g} ({', '.join(GROUPS[g])}) | {results.calls.get(g, 0):.0f} | "
          f"{_lowest(results.calls, g)} |" for g in GROUPS), "",
        "Called by no test in that time, so blind there: "
        f"{', '.join(results.not_called) or 'none'}.", ""]
    odd = [r for r in (*within, *beyond) if r.is_faulty and r.outcome.word != FOUND]
    if odd:
        lines += ["## Each that was not found and blamed", "",
                  *(f"- {_told(r)}" for r in odd), ""]
    return "\n".join(lines)


def _rate(rate: float) -> str:
    return "always" if rate == 1 else f"{rate:g}"


def _lowest(calls: Calls, group: str) -> str:
    reached = [r for r in RATES if is_reached(calls, group, r)]
    return _rate(min(reached)) if reached else "none"


def _told(run: Run) -> str:
    fault, said = run.fault, run.outcome
    where = f"; blamed: {', '.join(p or 'nobody' for p in said.blamed)}" if said.word in (
        ALL_CORES, NOBODY, WRONG_BLAME) else ""
    return (f"{fault.group}, {fault.kind}, {_rate(fault.rate)}, core {fault.core}, seed "
            f"{fault.seed}: {said.word} (exit {said.exit_code}{where}; {sum(said.struck.values())} "
            f"results changed, {run.expected:.1f} expected; {', '.join(said.tests) or 'no test'})"
            + (f": {said.tail.strip()[-200:]}" if said.tail else ""))
