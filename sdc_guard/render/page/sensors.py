"""Sensors over the time of a sweep: a chart for each reading, a line for each unit."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sdc_guard.document.schema import SensorSample
from sdc_guard.render.page.text import counted, shown
from sdc_guard.render.svg import ticks

WIDTH, HEIGHT = 1200, 130
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 8, 20
MAX_CHARTS = 6
MAX_LINES = 64
MAX_POINTS = 240
_LARGEST = 1e150
"""A value beyond it is left out: the distance of two such has no float."""


@dataclass(frozen=True)
class SensorChart:
    """``words`` say what the lines are."""

    name: str
    words: str
    picture: Markup


def sensor_charts(
    samples: Sequence[SensorSample], blamed: Collection[str], *, max_charts: int = MAX_CHARTS
) -> tuple[list[SensorChart], int]:
    """Charts of the readings, and how many more there are; the lines of the units in ``blamed``
    stand out."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for sample in samples:
        for name, value in sample.readings.items():
            if abs(value) < _LARGEST and 0 <= sample.time_s < _LARGEST:  # no NaN passes
                found.setdefault(name, {}).setdefault(sample.unit, []).append(
                    (sample.time_s, value))
    charts = [_chart(name, units, blamed) for name, units in [*found.items()][:max_charts]]
    return charts, max(0, len(found) - max_charts)


def _chart(
    name: str, units: dict[str, list[tuple[float, float]]], blamed: Collection[str]
) -> SensorChart:
    order = sorted(units, key=lambda u: (u not in blamed, u))[:MAX_LINES]
    points = [p for unit in order for p in units[unit]]
    end_s = max(t for t, _ in points) or 1.0
    low, high = min(v for _, v in points), max(v for _, v in points)
    pad = 0.06 * (high - low) or max(abs(high), 1e-6) * 0.05
    low, high = low - pad, high + pad

    def x(time_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time_s / end_s

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="timeline"><title>'
             f"{escape(shown(name, 80))} over time</title>"]
    for value in ticks(low, high, 3):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" '
                     f'y2="{y(value):.1f}" class="grid"/><text x="{LEFT - 6}" '
                     f'y="{y(value) + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    for value in ticks(0.0, end_s, 8):
        parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - 5}" text-anchor="middle">{value:g} s'
                     "</text>")
    # The last that is drawn lies on top.
    for unit in reversed(order):
        line = sorted(units[unit])
        stride = max(1, math.ceil(len(line) / MAX_POINTS))
        path = "L".join(f"{x(t):.1f} {y(v):.1f}" for t, v in [*line[::stride], line[-1]])
        values = [v for _, v in line]
        style = "blamed" if unit in blamed else "sensor"
        parts.append(f'<path d="M{path}" class="line {style}"><title>{escape(shown(unit, 80))}: '
                     f"{min(values):.6g} to {max(values):.6g}</title></path>")
    parts.append("</svg>")
    num_blamed = sum(unit in blamed for unit in order)
    words = f"{counted(len(order), 'unit')}, {low + pad:.6g} to {high - pad:.6g}"
    if num_blamed:
        words += f"; {counted(num_blamed, 'unit')} with a failure drawn bold"
    if len(units) > len(order):
        words += f"; {len(units) - len(order)} more not drawn"
    return SensorChart(name, words, Markup("".join(parts)))
