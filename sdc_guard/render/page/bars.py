"""Bar charts of small counts as inline SVG; colours and weights by CSS class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sdc_guard.render.page.text import shown
from sdc_guard.render.svg import ticks

LEFT = 44
RIGHT = 8
TOP = 26
BOTTOM = 34


@dataclass(frozen=True)
class Bar:
    """One bar: its height, its CSS class, and what is said when it is pointed at."""

    count: int
    style: str
    words: str


@dataclass(frozen=True)
class Band:
    """A labelled stretch of the x axis, in bars: ``[start, stop)``."""

    name: str
    style: str
    start: float
    stop: float


@dataclass(frozen=True)
class Mark:
    """A labelled vertical line, at a place in bars."""

    name: str
    place: float


def bar_chart(
    bars: Sequence[Bar], labels: Sequence[tuple[int, str]], *, title: str, x_label: str,
    bands: Sequence[Band] = (), marks: Sequence[Mark] = (), width: int = 400, height: int = 168,
) -> Markup:
    """The chart as one ``<svg>``; ``labels`` are (bar, text) under the axis."""
    top = max([b.count for b in bars] or [1]) or 1
    step = (width - LEFT - RIGHT) / max(len(bars), 1)
    floor = height - BOTTOM
    scale = (floor - TOP) / top
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" class="bars">'
             f"<title>{escape(shown(title))}</title>"]
    for band in bands:
        x, span = LEFT + band.start * step, (band.stop - band.start) * step
        parts.append(f'<rect x="{x:.1f}" y="{TOP - 18}" width="{span:.1f}" '
                     f'height="{floor - TOP + 18}" class="band {escape(band.style)}"/>')
        if span > 6.2 * len(band.name):
            parts.append(f'<text x="{x + span / 2:.1f}" y="{TOP - 6}" text-anchor="middle" '
                         f'class="name">{escape(band.name)}</text>')
    for value in ticks(0, top, 3):
        if value != int(value):
            continue
        y = floor - value * scale
        parts.append(f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                     f'class="grid"/><text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                     f"{_short(int(value))}</text>")
    for i, bar in enumerate(bars):
        if not bar.count:
            continue
        x, tall = LEFT + i * step, max(bar.count * scale, 1.5)
        parts.append(f'<rect x="{x + step * 0.1:.1f}" y="{floor - tall:.1f}" '
                     f'width="{max(step * 0.8, 0.8):.1f}" height="{tall:.1f}" '
                     f'class="bar {escape(bar.style)}"><title>{escape(shown(bar.words))}</title>'
                     "</rect>")
    for i, text in labels:
        parts.append(f'<text x="{LEFT + (i + 0.5) * step:.1f}" y="{floor + 14}" '
                     f'text-anchor="middle">{escape(text)}</text>')
    for mark in marks:
        x = LEFT + mark.place * step
        anchor, shift = ("end", -5) if x > width / 2 else ("start", 5)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 18}" y2="{floor}" class="limit"/>'
                     f'<text x="{x + shift:.1f}" y="{TOP - 8}" text-anchor="{anchor}" '
                     f'class="limit">{escape(shown(mark.name))}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{floor}" y2="{floor}" class="axis"/>'
                 f'<text x="{(LEFT + width - RIGHT) / 2:.0f}" y="{height - 5}" '
                 f'text-anchor="middle">{escape(shown(x_label))}</text></svg>')
    return Markup("".join(parts))


def _short(count: int) -> str:
    """``950``, ``12k``, ``3.5M``."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
