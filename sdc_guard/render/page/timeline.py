"""A run over its steps: loss, findings, share of calls checked, share of time spent on checks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sdc_guard.document.schema import Entry, Point, Run
from sdc_guard.render.page.text import shown
from sdc_guard.render.svg import Range, ticks

WIDTH = 1200
LEFT = 132
RIGHT = 12
GAP = 16
FOOT = 30
NUM_BINS = 120
MAX_POINTS = 400
_LARGEST = 1e150
"""A loss beyond it is drawn as infinite: the distance of two such has no float."""
_HEIGHTS = {"loss": 132, "findings": 48, "calls checked": 58, "overhead": 58}


@dataclass(frozen=True)
class _Axis:
    """Steps to x coordinates."""

    low: int
    high: int

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - self.low) / max(self.high - self.low, 1)

    def bin(self, step: int) -> int:
        share = (step - self.low) / max(self.high - self.low, 1)
        return min(max(int(share * NUM_BINS), 0), NUM_BINS - 1)


def run_chart(run: Run, entries: Sequence[Entry]) -> Markup | None:
    """The run's panels, one below the other on one axis of steps; None without any step."""
    points = sorted(run.timeline, key=lambda p: p.step)
    steps = [p.step for p in points] + [e.finding.step for e in entries]
    if not steps or (len(points) < 2 and not entries):
        return None
    axis = _Axis(min(steps), max([*steps, run.steps]))
    panels: list[tuple[str, Callable[[float, float], list[str]]]] = []
    losses = [(p.step, p.loss) for p in points if p.loss is not None]
    if len(losses) > 1:
        panels.append(("loss", lambda top, floor: _line(axis, losses, "loss", top, floor)))
    counts = _finding_bins(axis, points, entries)
    if any(counts):
        panels.append(("findings", lambda top, floor: _bins(axis, counts, top, floor)))
    checked = _shares(points, lambda p: p.calls_checked, lambda p: p.calls)
    if checked:
        panels.append(("calls checked",
                       lambda top, floor: _line(axis, checked, "checked", top, floor, share=True)))
    overhead = _shares(points, lambda p: p.overhead_s, lambda p: p.time_s - p.overhead_s)
    if overhead:
        panels.append(("overhead", lambda top, floor: _line(
            axis, overhead, "overhead", top, floor, share=True)))
    return _drawn(axis, panels, [e.finding.step for e in entries], run.id)


def _drawn(axis: _Axis, panels: Sequence[tuple[str, Callable[[float, float], list[str]]]],
           found: Sequence[int], name: str) -> Markup:
    bottom = sum(_HEIGHTS[title] + GAP for title, _ in panels)
    height = bottom + FOOT
    words = ", ".join(title for title, _ in panels)
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" class="timeline"><title>'
             f"{escape(shown(f'{words} over the steps of {name}'))}</title>"]
    top = float(GAP)
    for title, draw in panels:
        floor = top + _HEIGHTS[title] - GAP
        parts.append(f'<text x="0" y="{top - 4:.0f}" class="name">{title}</text>')
        parts += draw(top, floor)
        top += _HEIGHTS[title] + GAP
    for value in ticks(axis.low, axis.high, 8):
        if value == int(value):
            parts.append(f'<text x="{axis.x(value):.1f}" y="{bottom + 12}" text-anchor="middle">'
                         f"{value:g}</text>")
    if found:
        x = axis.x(min(found))
        anchor = "end" if x > WIDTH * 0.7 else "start"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom}" class="first"/>'
                     f'<text x="{x + (-5 if anchor == "end" else 5):.1f}" y="12" '
                     f'text-anchor="{anchor}" class="first">first finding, step {min(found)}'
                     "</text>")
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{height - 3}" '
                 'text-anchor="middle">step</text></svg>')
    return Markup("".join(parts))


def _line(axis: _Axis, values: Sequence[tuple[int, float]], style: str, top: float, floor: float,
          *, share: bool = False) -> list[str]:
    """A curve with its own y axis; it breaks where a value is no number."""
    finite = [v for _, v in values if abs(v) < _LARGEST]
    if not finite:
        return [f'<text x="{LEFT}" y="{floor:.0f}">no value is finite</text>']
    y_range = _share_range(finite) if share else _robust(finite)

    def y(value: float) -> float:
        inside = min(max(value, y_range.low), y_range.high)
        return floor - (floor - top) * (inside - y_range.low) / (y_range.high - y_range.low)

    parts = []
    for value in ticks(y_range.low, y_range.high, 2 if share else 4):
        label = f"{value:.3g}" if not share else f"{100 * value:.3g} %"
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" '
                     f'y2="{y(value):.1f}" class="grid"/><text x="{LEFT - 6}" '
                     f'y="{y(value) + 4:.1f}" text-anchor="end">{label}</text>')
    commands, pen_down = [], False
    stride = -(-len(values) // MAX_POINTS)
    for i, (step, value) in enumerate(values):
        if math.isnan(value):
            pen_down = False
        elif i % stride == 0 or not pen_down or i == len(values) - 1:
            commands.append(f"{'L' if pen_down else 'M'}{axis.x(step):.1f} {y(value):.1f}")
            pen_down = True
    num_lost = len(values) - len(finite)
    note = f"; {num_lost} values not finite" if num_lost else ""
    return [*parts, f'<path d="{"".join(commands)}" class="line {style}"><title>{style}, from '
                    f"{min(finite):.4g} to {max(finite):.4g}{note}</title></path>"]


def _robust(finite: Sequence[float]) -> Range:
    """All values, but for the highest hundredth where those would flatten the rest."""
    ordered = sorted(finite)
    low, high = ordered[0], ordered[-1]
    usual = ordered[int(0.99 * (len(ordered) - 1))]
    if high - low > 3 * (usual - low) > 0:
        high = usual + (usual - low) / 2
    pad = 0.04 * (high - low) or max(abs(high), 1e-6) * 0.05
    return Range(low - pad, high + pad)


def _share_range(finite: Sequence[float]) -> Range:
    high = max(finite)
    return Range(0.0, 1.0 if 0.5 < high <= 1.0 else max(high * 1.1, 1e-4))


def _bins(axis: _Axis, counts: Sequence[int], top: float, floor: float) -> list[str]:
    tallest, step = max(counts), (WIDTH - LEFT - RIGHT) / NUM_BINS
    parts = [f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor:.1f}" y2="{floor:.1f}" '
             f'class="grid"/><text x="{LEFT - 6}" y="{top + 8:.1f}" text-anchor="end">{tallest}'
             "</text>"]
    for i, count in enumerate(counts):
        if count:
            tall = max((floor - top) * count / tallest, 3)
            parts.append(f'<rect x="{LEFT + i * step:.1f}" y="{floor - tall:.1f}" '
                         f'width="{step * 0.8:.1f}" height="{tall:.1f}" class="bar found"><title>'
                         f"{count} findings</title></rect>")
    return parts


def _finding_bins(axis: _Axis, points: Sequence[Point], entries: Sequence[Entry]) -> list[int]:
    """Findings by step: of the running totals, which count all, or of the entries where the run
    has no totals."""
    counts = [0] * NUM_BINS
    before = 0
    for point in points:
        if point.findings > before:
            counts[axis.bin(point.step)] += point.findings - before
            before = point.findings
    if not any(counts):
        for entry in entries:
            counts[axis.bin(entry.finding.step)] += entry.finding.repeats
    return counts


def _shares(points: Sequence[Point], part: Callable[[Point], float],
            whole: Callable[[Point], float]) -> list[tuple[int, float]]:
    """The share in each stretch of a sixtieth of the run, from the running totals."""
    stride = max(1, len(points) // 60)
    chosen = [*points[:-1:stride], *points[-1:]]
    shares = []
    for before, after in itertools.pairwise(chosen):
        total = whole(after) - whole(before)
        if total > 0:
            shares.append((after.step, (part(after) - part(before)) / total))
    return shares if len(shares) > 1 else []
