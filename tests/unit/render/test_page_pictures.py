"""Pictures of wrong numbers and of runs: what they show, and what they say in words."""

from __future__ import annotations

import base64
import math
import re
import struct
import sys
import zlib
from typing import Any

import msgspec
import pytest

from sdc_guard.document.schema import Point
from sdc_guard.records import Spread, Value
from sdc_guard.render.page import patterns, report_page
from sdc_guard.render.page.spreads import Total, bound_log2, total_of
from sdc_guard.render.page.timeline import run_chart
from sdc_guard.report.entries import entry_of
from tests import made_reports


def total(num_findings: int = 1, **fields: Any) -> Total:
    findings = [made_reports.made_finding(i) for i in range(num_findings)]
    if fields:
        findings = [msgspec.structs.replace(f, spread=Spread(**fields)) for f in findings]
    made = total_of(findings)
    assert made is not None
    return made


def test_findings_are_added_up() -> None:
    made = total(3)
    assert made.num_findings == 3
    assert made.bit_flips[22] == 9
    assert made.masks == (("0x00400000", 9),)
    assert made.ulps_log2 == ((22, 9),)
    assert made.map == {(0, 3): 3, (0, 11): 3, (0, 19): 3}
    assert made.lanes[8] == (0, 0, 0, 9, 0, 0, 0, 0)


def test_findings_of_another_dtype_are_left_out() -> None:
    one, two = made_reports.made_finding(0), made_reports.made_finding(1)
    assert one.worst is not None
    half = Value(dtype="float16", bits="0x0001", repr="6e-08")
    other = msgspec.structs.replace(two, worst=msgspec.structs.replace(one.worst, got=half))
    made = total_of([one, other])
    assert made is not None
    assert (made.dtype, made.num_findings) == ("float32", 1)
    assert total_of([msgspec.structs.replace(one, spread=None)]) is None


def test_the_bit_chart_names_bands_and_counts() -> None:
    chart = str(patterns.bit_chart(total()))
    assert "bit 22 (mantissa): differs in 3 wrong elements" in chart
    assert chart.count('class="bar ') == 1
    assert ">exponent<" in chart
    assert ">mantissa<" in chart
    assert patterns.bit_words(total()) == "only bit 22 (mantissa)"


def test_unknown_bits_draw_nothing() -> None:
    made = total(ulps_log2=((3, 1),))
    assert patterns.bit_chart(made) is None
    assert patterns.mask_rows(made) == []
    assert patterns.bit_words(made) == "the expected bits are not known"


def test_the_bound_stands_left_of_the_errors() -> None:
    made = total()
    (bound,) = made.bounds_log2
    assert bound == pytest.approx(math.log2(1.2e-4 * 4194304 / 8))
    chart = str(patterns.error_chart(made))
    (line,) = re.findall(r'<line x1="([\d.]+)" x2="[\d.]+" y1="8" [^>]*class="limit"', chart)
    (bar,) = re.findall(r'<rect x="([\d.]+)"[^>]*class="bar error"', chart)
    assert float(line) < float(bar)
    assert patterns.error_words(made) == (
        "errors from 2^22 to 2^23 ulps; bound at 62.9 ulps, exceeded up to 6.7e+04 times")


@pytest.mark.parametrize(("ulps", "error"), [
    (math.nan, "8.0"), (math.inf, "8.0"), (-1.0, "8.0"), (0.0, "8.0"), (4.0, "nan"),
    (4.0, "inf"), (4.0, "0.0"), (4.0, "no number")])
def test_a_bound_without_a_distance_is_not_placed(ulps: float, error: str) -> None:
    worst = made_reports.made_finding().worst
    assert worst is not None
    worst = msgspec.structs.replace(worst, error_ulps=ulps,
                                    error=msgspec.structs.replace(worst.error, repr=error))
    assert bound_log2(worst) is None


def test_numbers_that_are_not_finite_are_said() -> None:
    made = total(num_not_finite=2)
    assert patterns.error_chart(made) is None
    assert patterns.error_words(made) == "2 wrong elements not finite"


def test_a_small_map_is_drawn_and_a_large_one_is_a_picture() -> None:
    small = str(patterns.element_map(total()))
    assert small.count('class="hit"') == 3
    assert "1 by 64 grid over the result, 3 cells hit" in small
    large = str(patterns.element_map(total(map_shape=(128, 96), map=((5, 7, 2), (127, 95, 1)))))
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', large)
    picture = base64.b64decode(data)
    assert struct.unpack(">II", picture[16:24]) == (96, 128)
    start = picture.index(b"IDAT") + 4
    rows = zlib.decompress(picture[start:picture.index(b"IEND")])
    assert rows[5 * 97 + 1 + 7] == 8
    assert rows[127 * 97 + 1 + 95] == 4
    assert sum(map(bool, rows)) == 2


def test_a_map_larger_than_a_screen_is_shrunk() -> None:
    made = str(patterns.element_map(total(map_shape=(5000, 3), map=((4999, 2, 1),))))
    assert struct.unpack(">II", base64.b64decode(made.split("base64,")[1][:80])[16:24]) == (12, 500)


def test_numbers_at_the_edge_of_a_float_are_drawn() -> None:
    huge = sys.float_info.max
    worst = made_reports.made_finding().worst
    assert worst is not None
    assert worst.bound is not None
    worst = msgspec.structs.replace(
        worst, error_ulps=huge, bound=msgspec.structs.replace(worst.bound, limit=huge),
        error=msgspec.structs.replace(worst.error, repr="5e-324"))
    spread = Spread(bit_flips=(1,) * 5000, masks=(("0x" + "f" * 99, 1),), map_shape=(1, 10**12),
                    ulps_log2=((-(10**9), 1), (10**9, 1)), num_not_finite=1,
                    map=((0, 5, 10**20), (0, 10**11, -4)), lanes={"1024999": (1,), "x": (2,)})
    points = tuple(Point(step=10**15 * i, time_s=math.nan, loss=(-1) ** i * huge, calls=-i)
                   for i in range(5))
    entry = entry_of(made_reports.made_finding(worst=worst, spread=spread, step=10**18),
                     tool="guard", run="run 0", root=made_reports.ROOT, time_s=math.nan)
    run = made_reports.made_run(timeline=points, elapsed_s=math.inf, start_utc="9999-12-31")
    page = report_page(made_reports.made_report(0, runs=(run,), findings=(entry,)))
    assert "no value is finite" in page
    assert 'class="bar value"' in page


@pytest.mark.parametrize("shape", [(0, 0), (-3, 4), (1, 64)])
def test_cells_outside_of_the_map_are_ignored(shape: tuple[int, int]) -> None:
    assert patterns.element_map(total(map_shape=shape, map=((9, 999, 1), (0, -1, 1)))) is None


def test_a_lane_is_recognised() -> None:
    words = patterns.map_words(total(3), 4)
    assert "every wrong element is number 3 of its 8 in memory order: one lane" in words
    assert "as in a 256-bit vector" in words
    assert len(patterns.lane_charts(total())) == 1


@pytest.mark.parametrize(("fields", "words"), [
    ({"map_shape": (8, 8), "map": ((2, 1, 4), (2, 5, 4))}, "all in one row of the map (2)"),
    ({"map_shape": (8, 8), "map": ((1, 5, 4), (6, 5, 4))}, "all in one column of the map (5)"),
    ({"map_shape": (8, 8), "map": ((1, 4, 1), (1, 5, 1), (2, 4, 1), (2, 5, 1))},
     "a full block of 2 by 2 cells, as of one tile"),
    ({"map_shape": (1, 2), "map": ((0, 0, 1), (0, 1, 1))}, "in every part of the result"),
    ({"map_shape": (8, 8), "map": ((1, 4, 1),)}, "one element: no pattern to see"),
    ({"map_shape": (8, 8), "map": ((1, 4, 1), (3, 5, 1))}, "no regular pattern in the places"),
])
def test_shapes_are_said_in_words(fields: dict[str, Any], words: str) -> None:
    assert words in patterns.map_words(total(**fields), 4)


def test_a_result_that_is_wrong_everywhere_has_no_places() -> None:
    made = msgspec.structs.replace(made_reports.made_finding())
    assert made.pattern is not None
    whole = msgspec.structs.replace(made.pattern, num_wrong=64)
    found = total_of([msgspec.structs.replace(made, pattern=whole)])
    assert found is not None
    assert patterns.map_words(found, 4) == "every element is wrong: the places tell nothing"


def test_a_timeline_shows_what_the_run_recorded() -> None:
    report = made_reports.made_report()
    chart = str(run_chart(report.runs[0], report.findings))
    for name in ("loss", "findings", "calls checked", "overhead"):
        assert f">{name}<" in chart
    assert "first finding, step 41" in chart
    assert "1 findings" in chart


def test_a_timeline_without_points_shows_the_findings_alone() -> None:
    report = made_reports.made_report()
    bare = made_reports.made_run(timeline=())
    chart = str(run_chart(bare, report.findings))
    assert ">findings<" in chart
    assert ">loss<" not in chart
    assert run_chart(bare, ()) is None


def test_a_loss_that_is_no_number_breaks_the_curve() -> None:
    points = tuple(Point(step=i, time_s=float(i), loss=math.nan if i == 5 else 1.0 / (i + 1))
                   for i in range(10))
    entry = entry_of(made_reports.made_finding(), tool="guard", run="r", root=made_reports.ROOT)
    chart = str(run_chart(made_reports.made_run(timeline=points), [entry]))
    (path,) = re.findall(r'<path d="([^"]*)" class="line loss"', chart)
    assert path.count("M") == 2
    assert "1 values not finite" in chart
    assert "nan" not in chart.split("<title>")[0] + path
