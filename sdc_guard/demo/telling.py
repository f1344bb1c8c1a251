"""A demo report as text, as a page and as JSON."""

from __future__ import annotations

import math
import shlex
from typing import Any

from sdc_guard.demo.data import NUM_BYTE_VALUES
from sdc_guard.demo.fault import TILE
from sdc_guard.demo.report import DemoReport, Rate, RunReport
from sdc_guard.plain_json import plain
from sdc_guard.render.console import coverage_lines, render_finding
from sdc_guard.render.html import render_page
from sdc_guard.render.svg import Range, Series, line_chart, num_outside, robust_range

SMOOTHING_STEPS = 9
STYLES = ("clean", "faulty", "guarded")


def as_text(report: DemoReport) -> str:
    """What the demo prints when it is done."""
    guard = report.guard
    first = report.catch
    lines = [
        "THE CATCH",
        render_finding(first) if first is not None else "nothing was caught",
        *(f"  and with the broken kernel: {command}" for command in broken_replay(report)),
        "",
        f"HELD-OUT PERPLEXITY PER BYTE (1 is perfect, {NUM_BYTE_VALUES} is guessing)",
        *(_perplexity_line(run, report) for run in report.runs),
        "",
        "THE FAULT",
        f"  {fault_line(report)}",
        f"  {_struck(report.unguarded)}",
        f"  {_struck(report.guarded)}; the guard caught {guard.caught.hits}, "
        f"and {guard.coverage.steps_skipped} optimizer steps were skipped",
        "",
        "WHAT THE GUARD CHECKED",
        f"  budget    {budget_text(report.budget)}",
        f"  chance    {chance_line(guard.calls_checked)}",
        f"  caught    {caught_line(guard.caught)}",
        *(f"  {line}" for line in coverage_lines(guard.coverage)),
        f"  wall      median step {report.guarded.step_ms:.1f} ms guarded, "
        f"{report.unguarded.step_ms:.1f} ms unguarded ({report.wall_overhead:+.1%}; the runs come "
        "one after the other, so other load on the machine is in this figure)",
    ]
    found = report.shortcomings()
    if found:
        lines += ["", "THIS RUN DOES NOT SHOW WHAT THE DEMO CLAIMS",
                  *(f"  {line}" for line in found)]
    return "\n".join(lines)


def fault_line(report: DemoReport) -> str:
    """What is broken, in one sentence."""
    return (f"{report.faulty_op} was replaced by a kernel that, for about 1 sum of contiguous rows "
            f"in {report.rarity}, decided by the data, loses an offset and sums the first {TILE} "
            "elements again and again. It raises no error.")


def broken_replay(report: DemoReport) -> list[str]:
    """The command that repeats the catch where the broken kernel is installed; none without a
    bundle.  A plain replay runs in a process of its own, whose kernel is sound."""
    catch = report.catch
    if catch is None or not catch.evidence.bundle:
        return []
    bundle = shlex.quote(catch.evidence.bundle)
    return [f"sdc-guard replay --import sdc_guard.demo.broken_sum {bundle}"]


def budget_text(budget: float | str) -> str:
    """``2 % of the run time`` or ``every call``."""
    if isinstance(budget, str):
        return "every call"
    return f"{100 * budget:.3g} % of the run time"


def chance_line(rate: Rate) -> str:
    """The chance that the guard looks at a given wrong sum: the share of calls that it checked."""
    return (f"{rate.hits} of {rate.trials} calls of the faulty op were checked: at this budget a "
            f"wrong one is looked at with a chance of {_with_interval(rate)}")


def caught_line(rate: Rate) -> str:
    """How many wrong sums were found, by the broken kernel's own book."""
    return f"{rate.hits} of {rate.trials} wrong sums, {_with_interval(rate)}"


def _with_interval(rate: Rate) -> str:
    return f"{rate.share:.2%} (95 % interval {rate.low:.2%} to {rate.high:.2%})"


def chance_of_any(rate: Rate, num_wrong: int) -> float:
    """Chance that at least one of ``num_wrong`` wrong calls is checked: 1 - (1 - share)^n."""
    return 1 - (1 - rate.share) ** num_wrong


def as_page(report: DemoReport) -> str:
    """One self-contained HTML page with the three loss curves."""
    series = [
        Series(run.name, style, run.losses, marks)
        for run, style, marks in zip(report.runs, STYLES, _marks(report), strict=True)
    ]
    y_range = robust_range(series, series[0])
    return render_page(
        "demo.html.j2",
        report=report,
        text=_words(report),
        chart=line_chart(
            series, y_range=y_range, title="Training loss of the three runs", x_label="step",
            y_label="loss (nats per byte)", smoothing=SMOOTHING_STEPS,
        ),
        legend=list(zip(report.runs, STYLES, strict=True)),
        outside=_outside(series, y_range),
        broken_replay=broken_replay(report),
        smoothing=SMOOTHING_STEPS,
        coverage_lines=coverage_lines(report.guard.coverage),
    )


def as_json(report: DemoReport) -> dict[str, Any]:
    """Every field of the report, with what was derived from them."""
    return {
        **plain(report),
        "catch": plain(report.catch),
        "saved_share": plain(report.saved_share),
        "chance_of_any_catch": chance_of_any(
            report.guard.calls_checked, len(report.guarded.firings)),
        "shortcomings": report.shortcomings(),
    }


def _marks(report: DemoReport) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Where the fault struck the unguarded run, and where the guard caught it."""
    struck = tuple(sorted({f.step for f in report.unguarded.firings}))
    return (), struck, report.guard.caught_steps


def _words(report: DemoReport) -> dict[str, str]:
    return {
        "fault": fault_line(report),
        "budget": budget_text(report.budget),
        "chance": chance_line(report.guard.calls_checked),
        "caught": caught_line(report.guard.caught),
        "struck_unguarded": _struck(report.unguarded),
        "struck_guarded": _struck(report.guarded),
    }


def _outside(series: list[Series], y_range: Range) -> list[str]:
    return [
        f"{num} points of \"{one.name}\" lie outside of the picture or are no numbers"
        for one in series
        if (num := num_outside(one.values, y_range))
    ]


def _perplexity_line(run: RunReport, report: DemoReport) -> str:
    change = run.perplexity / report.clean.perplexity - 1
    against = "" if run is report.clean else f"   {change:+.1%} against clean"
    shown = f"{run.perplexity:.3f}" if math.isfinite(run.perplexity) else "infinite"
    return f"  {run.name:<18} {shown:>10}{against}"


def _struck(run: RunReport) -> str:
    return (f"{run.name}: {len(run.firings)} of {run.op_calls} calls went wrong, in "
            f"{len({f.step for f in run.firings})} steps")
