"""Line charts as inline SVG: no script, no external file, colours by CSS class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 860
HEIGHT = 340
MARGIN_LEFT = 52
MARGIN_RIGHT = 12
MARGIN_TOP = 12
MARGIN_BOTTOM = 40
TICK_LENGTH = 9
_STEP_FACTORS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Series:
    """One curve.  ``style`` is a CSS class; ``marks`` are x positions that get a tick."""

    name: str
    style: str
    values: Sequence[float]
    marks: Sequence[int] = ()


@dataclass(frozen=True)
class Range:
    """The part of the y axis that is drawn; ``low < high``, both finite."""

    low: float
    high: float


def robust_range(series: Sequence[Series], reference: Series) -> Range:
    """All of ``reference`` and up to half its height more on either side, where curves reach.

    A curve that runs away is cut there, so that the others stay readable; see
    :func:`num_outside`.
    """
    finite = [v for v in reference.values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    height = max(high - low, 1e-3)
    others = [v for s in series for v in s.values if math.isfinite(v)]
    low = max(min([low, *others]), low - height / 2)
    high = min(max([high, *others]), high + height / 2)
    pad = 0.03 * max(high - low, 1e-3)
    return Range(low - pad, high + pad)


def num_outside(values: Sequence[float], y_range: Range) -> int:
    """How many points are not drawn at their own height: outside of the range, or no numbers."""
    return sum(not y_range.low <= v <= y_range.high for v in values)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of the last ``width`` values that are finite (fewer at the start); NaN if none is."""
    means = []
    for i in range(len(values)):
        window = [v for v in values[max(0, i - width + 1) : i + 1] if math.isfinite(v)]
        means.append(sum(window) / len(window) if window else math.nan)
    return means


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers in [low, high], 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in _STEP_FACTORS if f * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def line_chart(
    series: Sequence[Series], *, y_range: Range, title: str, x_label: str, y_label: str,
    smoothing: int = 1,
) -> Markup:
    """The chart as one ``<svg>`` element.

    Each curve is drawn faintly as it is, and strongly as a running mean over ``smoothing`` points.
    Marks are ticks at the bottom, one row per series that has any.  Text is escaped.
    """
    num_points = max((len(s.values) for s in series), default=0)
    plot = _Plot(max(num_points - 1, 1), y_range)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart">'
        f"<title>{escape(title)}</title>",
        *_axes(plot, x_label, y_label),
    ]
    for one in series:
        if smoothing > 1:
            parts.append(_path(plot, one, one.values, "faint"))
        parts.append(_path(plot, one, running_mean(one.values, smoothing), "strong"))
    marked = [s for s in series if s.marks]
    for row, one in enumerate(marked):
        y = HEIGHT - MARGIN_BOTTOM - row * (TICK_LENGTH + 2)
        for mark in one.marks:
            x = plot.x(mark)
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y - TICK_LENGTH}" '
                f'class="mark {escape(one.style)}"><title>{escape(one.name)}, step {mark}</title>'
                "</line>"
            )
    return Markup("".join([*parts, "</svg>"]))


@dataclass(frozen=True)
class _Plot:
    """From data to picture coordinates."""

    last_x: int
    y_range: Range

    def x(self, index: float) -> float:
        return MARGIN_LEFT + (WIDTH - MARGIN_LEFT - MARGIN_RIGHT) * index / self.last_x

    def y(self, value: float) -> float:
        low, high = self.y_range.low, self.y_range.high
        inside = min(max(value, low), high)
        return HEIGHT - MARGIN_BOTTOM - (HEIGHT - MARGIN_TOP - MARGIN_BOTTOM) * (
            (inside - low) / (high - low)
        )


def _path(plot: _Plot, series: Series, values: Sequence[float], weight: str) -> str:
    """A polyline; it is interrupted where a value is no number, and cut at the range."""
    commands = []
    pen_down = False
    for i, value in enumerate(values):
        if math.isnan(value):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{plot.x(i):.1f} {plot.y(value):.1f}")
        pen_down = True
    return (
        f'<path d="{"".join(commands)}" class="{weight} {escape(series.style)}">'
        f"<title>{escape(series.name)}</title></path>"
    )


def _axes(plot: _Plot, x_label: str, y_label: str) -> list[str]:
    bottom, right = HEIGHT - MARGIN_BOTTOM, WIDTH - MARGIN_RIGHT
    parts = []
    for value in ticks(plot.y_range.low, plot.y_range.high, 6):
        y = plot.y(value)
        parts.append(
            f'<line x1="{MARGIN_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{MARGIN_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in ticks(0, plot.last_x, 8):
        x = plot.x(value)
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>'
        )
    parts.append(
        f'<line x1="{MARGIN_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" class="axis"/>'
        f'<text x="{(MARGIN_LEFT + right) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text x="14" y="{(MARGIN_TOP + bottom) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(MARGIN_TOP + bottom) / 2:.0f})">{escape(y_label)}</text>'
    )
    return parts
