"""Charts: the curve is where the numbers are, text is escaped, odd numbers do no harm."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from sdc_guard.render.svg import (
    HEIGHT,
    MARGIN_BOTTOM,
    MARGIN_LEFT,
    MARGIN_RIGHT,
    MARGIN_TOP,
    WIDTH,
    Range,
    Series,
    line_chart,
    num_outside,
    robust_range,
    running_mean,
    ticks,
)
from tests.unit.render.records_made_by_hand import HOSTILE


def chart(*series: Series, low: float = 0.0, high: float = 4.0, smoothing: int = 1) -> str:
    return str(line_chart(series, y_range=Range(low, high), title="t", x_label="x", y_label="y",
                          smoothing=smoothing))


def points(svg: str, weight: str, style: str) -> list[tuple[str, float, float]]:
    path = re.search(rf'<path d="([^"]*)" class="{weight} {style}">', svg)
    assert path is not None
    return [(c, float(x), float(y)) for c, x, y in re.findall(r"([ML])([\d.]+) ([\d.]+)", path[1])]


def test_a_curve_goes_from_corner_to_corner() -> None:
    drawn = points(chart(Series("a", "clean", (0.0, 1.0, 4.0))), "strong", "clean")
    assert [c for c, _, _ in drawn] == ["M", "L", "L"]
    assert drawn[0][1:] == (MARGIN_LEFT, HEIGHT - MARGIN_BOTTOM)
    assert drawn[-1][1:] == (WIDTH - MARGIN_RIGHT, MARGIN_TOP)
    assert drawn[1][1] == (MARGIN_LEFT + WIDTH - MARGIN_RIGHT) / 2


def test_numbers_that_are_none_interrupt_and_runaways_are_cut() -> None:
    values = (1.0, math.nan, math.inf, -math.inf, 9.0)
    drawn = points(chart(Series("a", "clean", values)), "strong", "clean")
    assert [c for c, _, _ in drawn] == ["M", "M"]
    assert drawn[1] == ("M", WIDTH - MARGIN_RIGHT, MARGIN_TOP)
    assert num_outside(values, Range(0.0, 4.0)) == 4


def test_marks_are_drawn_at_their_steps_in_rows() -> None:
    svg = chart(Series("a", "faulty", (1.0,) * 11, marks=(0, 10)),
                Series("b", "guarded", (1.0,) * 11, marks=(5,)))
    marks = re.findall(r'<line x1="([\d.]+)" x2="[\d.]+" y1="([\d.]+)" y2="[\d.]+" '
                       r'class="mark (\w+)">', svg)
    assert [(float(x), style) for x, _, style in marks] == [
        (MARGIN_LEFT, "faulty"), (WIDTH - MARGIN_RIGHT, "faulty"),
        ((MARGIN_LEFT + WIDTH - MARGIN_RIGHT) / 2, "guarded")]
    assert marks[0][1] != marks[2][1]


def test_text_is_escaped_and_the_picture_is_well_formed() -> None:
    svg = str(line_chart([Series(HOSTILE, "clean", (1.0, 2.0), marks=(1,))], y_range=Range(0, 3),
                         title=HOSTILE, x_label=HOSTILE, y_label=HOSTILE))
    assert "<script>" not in svg
    assert next(t.text for t in ET.fromstring(svg).iter("title")) == HOSTILE


def test_an_empty_chart_is_a_picture_too() -> None:
    assert ET.fromstring(chart()).tag == "svg"
    assert ET.fromstring(chart(Series("a", "clean", ()))).tag == "svg"


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [(0, 10, 5, [0, 2, 4, 6, 8, 10]), (0, 260, 8, [0, 50, 100, 150, 200, 250]),
     (1.13, 1.48, 4, [1.2, 1.3, 1.4]), (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]), (3, 3, 5, [3])],
)
def test_ticks_are_round_numbers_inside(
    low: float, high: float, count: int, expected: list[float]
) -> None:
    assert ticks(low, high, count) == pytest.approx(expected)


def test_the_running_mean_leaves_odd_numbers_out() -> None:
    assert running_mean([1.0, 3.0, math.nan, 5.0, math.inf], 2) == [1.0, 2.0, 3.0, 5.0, 5.0]
    assert math.isnan(running_mean([math.nan], 3)[0])


def test_the_range_is_the_references_unless_a_curve_leaves_it_a_little() -> None:
    reference = Series("r", "clean", (1.0, 3.0))
    runaway = Series("w", "faulty", (2.0, 1e9, math.nan))
    alone, with_runaway = (robust_range(s, reference) for s in (
        [reference], [reference, runaway]))
    assert alone.low < 1.0 < 3.0 < alone.high < 3.2
    assert 4.0 < with_runaway.high < 4.2
    assert with_runaway.low == pytest.approx(1.0 - 0.03 * 3.0)


def test_a_range_exists_even_without_numbers() -> None:
    flat = robust_range([], Series("r", "clean", (2.0, 2.0)))
    assert flat.low < 2.0 < flat.high
    none = robust_range([], Series("r", "clean", (math.nan,)))
    assert math.isfinite(none.low)
    assert none.low < none.high
