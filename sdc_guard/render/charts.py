"""Charts as SVG files that stand alone: no script, no other file, light and dark by the reader's
setting, colours that the colour-blind can tell apart, and every mark labelled with text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import escape

WIDTH = 860
LEFT, RIGHT, TOP, BOTTOM = 58, 24, 52, 54
_ROW, _GAP = 18, 13

# Okabe and Ito's palette; lighter where the ground is dark.
_LIGHT = ("#0072b2", "#b34700", "#00785a", "#a84d82", "#8a6100")
_DARK = ("#56b4e9", "#ff8c42", "#2fc79a", "#e59cc4", "#f0c23b")
_DASHES = ("", "8 3", "2 3", "10 3 2 3", "5 2")


def _colours(palette: Sequence[str], ground: str, ink: str, soft: str, grid: str) -> str:
    parts = [f".g{{fill:{ground}}}text{{fill:{ink}}}.soft{{fill:{soft}}}"
             f".grid{{stroke:{grid}}}.axis{{stroke:{soft}}}.cell{{fill:{grid}}}"
             f".edge{{stroke:{ground}}}"]
    parts += [f".f{i}{{fill:{c}}}.s{i}{{stroke:{c}}}text.f{i}{{fill:{c}}}"
              for i, c in enumerate(palette)]
    return "".join(parts)


STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif}.t{font-size:15px;"
    "font-weight:600}.b{font-weight:600}.line{fill:none;stroke-width:2.2}"
    ".thin{stroke-width:1;opacity:.55}.edge{stroke-width:1}"
    + _colours(_LIGHT, "#ffffff", "#1b1f24", "#59636e", "#d9dee3")
    + "@media (prefers-color-scheme:dark){"
    + _colours(_DARK, "#0d1117", "#e6edf3", "#9198a1", "#30363d") + "}"
)


@dataclass(frozen=True)
class Mark:
    """A point with its intervals.  ``x > 0``; shares in [0, 1]; ``joined`` points are drawn as
    discs with stairs (the largest share up to each x), others as squares, each with a letter
    beside it and a key below."""

    name: str
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    joined: bool


@dataclass(frozen=True)
class Curve:
    """A step curve of (x, share) points, x rising."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """A share with the number that it is a share of."""

    share: float
    num: int


def _document(height: float, title: str, text: str, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">\n'
        f"<title>{escape(title)}</title>\n<desc>{escape(text)}</desc>\n<style>{STYLE}</style>\n"
        f'<rect class="g" width="{WIDTH}" height="{height:.0f}"/>\n'
        + _text(LEFT, 22, title, "t") + _text(LEFT, 40, text, "soft")
        + "\n".join(body) + "\n</svg>\n")


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}"{where}>{escape(text)}</text>\n'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


@dataclass(frozen=True)
class _Area:
    """A plot with a logarithmic x axis from ``low`` to ``high`` and shares upwards."""

    low: float
    high: float
    bottom: float
    right: float = WIDTH - RIGHT

    def x(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return LEFT + (self.right - LEFT) * math.log(inside / self.low) / math.log(
            self.high / self.low)

    def y(self, share: float) -> float:
        return self.bottom - (self.bottom - TOP - 12) * share

    def axes(self, marks: Sequence[float], unit: str, x_label: str, y_label: str) -> list[str]:
        parts = []
        for i in range(5):
            y = self.y(i / 4)
            parts += [_line(LEFT, y, self.right, y, "grid"),
                      _text(LEFT - 7, y + 4, f"{25 * i} %", "soft", "end")]
        for mark in marks:
            x = self.x(mark)
            parts += [_line(x, self.bottom, x, self.bottom + 5, "axis"),
                      _text(x, self.bottom + 19, f"{mark:g}{unit}", "soft", "middle")]
        middle = (TOP + self.bottom) / 2
        parts += [_line(LEFT, self.bottom, self.right, self.bottom, "axis"),
                  _text((LEFT + self.right) / 2, self.bottom + 38, x_label, "", "middle"),
                  f'<text x="14" y="{middle:.0f}" text-anchor="middle" '
                  f'transform="rotate(-90 14 {middle:.0f})">{escape(y_label)}</text>']
        return parts


def log_marks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in [low, high]; powers alone where there would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 2e4 else (1,)
    marks = [float(f"{f * 10.0**p:.6g}") for p in powers for f in factors]
    return [m for m in marks if low * (1 - 1e-9) <= m <= high * (1 + 1e-9)]


def frontier(
    marks: Sequence[Mark], *, title: str, text: str, x_label: str, y_label: str, low: float,
    high: float, height: float = 400,
) -> str:
    """Shares against a positive x on a logarithmic axis; x outside of [low, high] stands at the
    border."""
    others = [m for m in marks if not m.joined]
    num_rows = (len(others) + 2) // 3
    area = _Area(low, high, height - BOTTOM)
    body = area.axes(log_marks(low, high), " %", x_label, y_label)
    for mark in marks:
        style = f"thin s{0 if mark.joined else 1}"
        x, y = area.x(mark.x), area.y(mark.y)
        body += [_line(area.x(mark.x_low), y, area.x(mark.x_high), y, style),
                 _line(x, area.y(mark.y_low), x, area.y(mark.y_high), style)]
    joined = sorted((m for m in marks if m.joined), key=lambda m: m.x)
    if joined:
        body.append(f'<path d="{_stairs(joined, area)}" class="line s0"/>')
    at = [(area.x(m.x), area.y(m.y)) for m in marks]
    for number, mark in enumerate(others):
        x, y = area.x(mark.x), area.y(mark.y)
        body.append(f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" class="f1 edge">'
                    f"<title>{escape(mark.name)}</title></rect>")
        label = _free(x, y, area, at)
        at.append(label)
        if math.dist(label, (x, y)) > 1.5 * _GAP:
            body.append(_line(x, y, *label, "thin s1"))
        body.append(_text(label[0], label[1] + 4, _letter(number), "f1 b", "middle"))
        key_x, key_y = LEFT + 265 * (number % 3), height + _ROW * (number // 3)
        body += [_text(key_x, key_y, _letter(number), "f1 b"), _text(key_x + 16, key_y, mark.name)]
    for mark in joined:
        x, y = area.x(mark.x), area.y(mark.y)
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" class="f0"/>')
        if mark.y > 0.12:
            body.append(_text(x + 9, y + 17, mark.name, "f0 b"))
        else:
            body.append(_text(x, y - 11, mark.name, "f0 b", "middle"))
    return _document(height + _ROW * num_rows, title, text, body)


def _stairs(marks: Sequence[Mark], area: _Area) -> str:
    """The largest share that a mark at this x or before has, from the first x to the border."""
    best = marks[0].y
    path = [f"M{area.x(marks[0].x):.1f} {area.y(best):.1f}"]
    for mark in marks[1:]:
        best = max(best, mark.y)
        path.append(f"H{area.x(mark.x):.1f}V{area.y(best):.1f}")
    return "".join(path) + f"H{area.right:.1f}"


def _letter(number: int) -> str:
    return chr(ord("A") + number % 26)


def _free(
    x: float, y: float, area: _Area, taken: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """The place nearest to the point (x, y) where a letter covers no point and no other letter."""
    steps = [(dx, dy) for dx in range(-8, 9) for dy in range(-8, 9)]
    for dx, dy in sorted(steps, key=lambda s: (s[0] ** 2 + s[1] ** 2, s[1], -s[0])):
        at = (x + _GAP * dx, y + _GAP * dy)
        inside = LEFT + 6 <= at[0] <= area.right - 6 and TOP <= at[1] <= area.bottom - 9
        if inside and all(
            abs(at[0] - other[0]) >= 0.99 * _GAP or abs(at[1] - other[1]) >= 0.99 * _GAP
            for other in taken
        ):
            return at
    return x, y


def step_curves(
    curves: Sequence[Curve], *, title: str, text: str, x_label: str, y_label: str, high: float,
    height: float = 380,
) -> str:
    """Shares that rise in steps along a logarithmic axis from 1 to ``high``, named at their end."""
    area = _Area(1.0, max(high, 2.0), height - BOTTOM, WIDTH - 150)
    body = area.axes(log_marks(1.0, max(high, 2.0)), "", x_label, y_label)
    ends: list[tuple[float, int, str]] = []
    for number, curve in enumerate(curves):
        style = number % len(_LIGHT)
        commands: list[str] = []
        last: float | None = None
        for x, share in curve.points:
            if last is not None:
                commands.append(f"H{area.x(x):.1f}")
            commands.append(f"{'L' if commands else 'M'}{area.x(x):.1f} {area.y(share):.1f}")
            last = share
        dash = f' stroke-dasharray="{_DASHES[style]}"' if _DASHES[style] else ""
        body.append(f'<path d="{"".join(commands)}H{area.right:.1f}" class="line s{style}"{dash}>'
                    f"<title>{escape(curve.name)}</title></path>" if commands else "")
        if last is not None:
            ends.append((area.y(last), style, curve.name))
    lowest = -math.inf
    for y, style, name in sorted(ends):
        lowest = max(y, lowest + 15)
        body += [_line(area.right, y, area.right + 10, lowest, f"thin s{style}"),
                 _text(area.right + 13, lowest + 4, name, f"f{style} b")]
    return _document(height, title, text, body)


def bar_table(
    rows: Sequence[tuple[str, Sequence[Bar | None]]], columns: Sequence[str], *, title: str,
    text: str, num_leading: int,
) -> str:
    """A small bar in each cell of a table, with its share as text; the first ``num_leading`` rows
    have the first colour."""
    left = 196
    width = (WIDTH - RIGHT - left) / max(1, len(columns))
    body = [_text(left + width * i, TOP + 18, name, "soft") for i, name in enumerate(columns)]
    for number, (name, bars) in enumerate(rows):
        y = TOP + 30 + 26 * number
        colour = 0 if number < num_leading else 1
        body.append(_text(left - 10, y + 13, name, "b" if colour == 0 else "", "end"))
        for i, bar in enumerate(bars):
            x, full = left + width * i, width - 49
            if bar is None:
                body.append(_text(x, y + 13, "none", "soft"))
                continue
            body += [f'<rect x="{x:.1f}" y="{y + 2:.1f}" width="{full:.1f}" height="14" '
                     'class="cell"/>',
                     f'<rect x="{x:.1f}" y="{y + 2:.1f}" width="{full * bar.share:.1f}" '
                     f'height="14" class="f{colour}"><title>{escape(name)}, {escape(columns[i])}: '
                     f"n={bar.num}</title></rect>",
                     _text(x + full + 3, y + 13, _short(bar.share))]
    return _document(TOP + 40 + 26 * len(rows), title, text, body)


def _short(share: float) -> str:
    """A percentage in at most 4 characters that is 0 or 100 only where that is exact."""
    scaled = 100 * share
    if 0 < scaled < 1:
        return "<1 %"
    return f"{min(scaled, 99) if share < 1 else 100:.0f} %"
