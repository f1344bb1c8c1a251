"""Charts are valid XML that stands alone, keep hostile text as text, and put marks where they
belong."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from sdc_guard.render.charts import (
    Bar,
    Curve,
    Mark,
    bar_table,
    frontier,
    log_marks,
    step_curves,
)
from tests.unit.render.records_made_by_hand import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


def mark(name: str, x: float, y: float, *, joined: bool = False) -> Mark:
    return Mark(name=name, x=x, x_low=0.9 * x, x_high=1.1 * x, y=y, y_low=0.9 * y,
                y_high=min(1.0, 1.1 * y), joined=joined)


def drawn(*marks: Mark) -> ElementTree.Element:
    return ElementTree.fromstring(frontier(
        marks, title=HOSTILE, text=HOSTILE, x_label=HOSTILE, y_label=HOSTILE, low=0.1, high=100))


ALL = {
    "frontier": lambda: frontier([mark(HOSTILE, 1, 0.5), mark(HOSTILE, 2, 0.6, joined=True)],
                                 title=HOSTILE, text="t", x_label="x", y_label="y", low=0.1,
                                 high=100),
    "curves": lambda: step_curves([Curve(HOSTILE, [(1, 0.2), (7, 0.9)])], title=HOSTILE, text="t",
                                  x_label="x", y_label="y", high=200),
    "bars": lambda: bar_table([(HOSTILE, [Bar(0.25, 8), None])], ["small", HOSTILE], title=HOSTILE,
                              text="t", num_leading=1),
}


@pytest.mark.parametrize("name", ALL)
def test_a_chart_is_xml_without_script_or_other_files(name: str) -> None:
    text = ALL[name]()
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags <= {"svg", "title", "desc", "style", "rect", "text", "line", "path", "circle"}
    assert not any(key.startswith("on") or "href" in key for e in root.iter() for key in e.attrib)
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme:dark" in text
    assert HOSTILE in "".join(root.itertext())


def test_marks_stand_at_their_values() -> None:
    marks = [mark("a", 0.1, 0.0, joined=True), mark("b", 10**0.5, 0.5, joined=True),
             mark("c", 100, 1.0, joined=True)]
    places = [(float(c.attrib["cx"]), float(c.attrib["cy"]))
              for c in drawn(*marks).iter(f"{SVG}circle")]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.11)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.11)
    assert x0 < x2
    assert y2 < y0


def test_stairs_never_fall() -> None:
    root = drawn(mark("a", 1, 0.5, joined=True), mark("b", 10, 0.3, joined=True))
    [path] = root.iter(f"{SVG}path")
    start = re.match(r"M[\d.]+ ([\d.]+)", path.attrib["d"])
    assert start is not None
    assert re.findall(r"V([\d.]+)", path.attrib["d"]) == [start[1]]


def test_squares_stay_at_their_values_and_their_letters_cover_nothing() -> None:
    root = drawn(*(mark(f"rival {i}", 1, 0.0) for i in range(8)))
    squares = {(r.attrib["x"], r.attrib["y"]) for r in root.iter(f"{SVG}rect")
               if r.attrib["width"] == "8"}
    assert len(squares) == 1
    letters = [(float(t.attrib["x"]), float(t.attrib["y"])) for t in root.iter(f"{SVG}text")
               if t.attrib.get("text-anchor") == "middle" and t.attrib.get("class") == "f1 b"]
    assert len(letters) == 8
    assert all(abs(a[0] - b[0]) >= 12 or abs(a[1] - b[1]) >= 12
               for i, a in enumerate(letters) for b in letters[:i])


def test_a_bar_is_as_long_as_its_share_and_never_told_as_whole_when_it_is_not() -> None:
    root = ElementTree.fromstring(bar_table([("a", [Bar(0.9999, 10_000), Bar(0.5, 2)])],
                                            ["x", "y"], title="t", text="t", num_leading=0))
    grey = [float(r.attrib["width"]) for r in root.iter(f"{SVG}rect")
            if r.attrib["class"] == "cell"]
    filled = [float(r.attrib["width"]) for r in root.iter(f"{SVG}rect")
              if r.attrib["class"] == "f1"]
    assert filled[1] == pytest.approx(grey[1] / 2, abs=0.1)
    assert {"99 %", "50 %"} <= set(root.itertext())


def test_marks_on_a_logarithmic_axis() -> None:
    assert log_marks(0.1, 5) == [0.1, 0.2, 0.5, 1, 2, 5]
    assert log_marks(1, 1e6) == [1, 10, 100, 1e3, 1e4, 1e5, 1e6]
