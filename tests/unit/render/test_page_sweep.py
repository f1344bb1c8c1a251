"""The page's view of a sweep: failures first, what passes prove, sensors, within its size."""

from __future__ import annotations

import msgspec

from sdc_guard.document.schema import Report, SensorSample, SweptUnit
from sdc_guard.render.page import report_page
from sdc_guard.render.page.build import MIN_BYTES
from sdc_guard.render.page.sensors import sensor_charts
from sdc_guard.render.page.sweep import SweepView, sweep_view
from sdc_guard.report.judging import judge
from tests.made_reports import (
    clean_report,
    hostile_sweep_report,
    made_report,
    sweep_report,
    swept_cell,
    swept_units,
)

replace = msgspec.structs.replace


def view(report: Report, rows: int = 99, columns: int = 99) -> SweepView:
    found = sweep_view(report, max_rows=rows, max_columns=columns, max_charts=6)
    assert found is not None
    return found


def test_units_and_tests_with_failures_come_first() -> None:
    found = view(sweep_report())
    assert [unit for unit, _, _ in found.rows][:3] == [
        "node-7, core 1", "node-7, core 2", "node-7, core 3"]
    assert found.columns[:2] == (("exact_product", "F1"), ("high_entropy_repeat", "F3"))
    _, verdict, cells = found.rows[0]
    assert verdict == "corruption"
    assert cells[0] is not None
    assert (cells[0].word, cells[0].checks) == ("FAIL", "1.2 M")
    assert "oracle exact" in cells[0].title
    assert {unit: verdict for unit, verdict, _ in found.rows}["node-7, cuda:0"] == "clean"


def test_each_pass_stands_with_its_power_and_its_limits() -> None:
    proofs = {proof.name: proof for proof in view(sweep_report()).proofs}
    assert proofs["exact_product"].powers[0].startswith("answers known beforehand")
    assert proofs["golden_digest"].powers == ()
    page = report_page(judge(sweep_report()))
    assert "Integers set few of a float&#39;s low bits." in page
    assert "passed nowhere" in page
    assert "memory_patterns on core 1: clean (412 checks)" in page
    assert "0x1.9p+4" in page


def test_a_missed_canary_is_loud() -> None:
    report = sweep_report()
    assert report.sweep is not None
    loud = '<strong class="badge v-corruption">missed</strong>'
    assert loud not in report_page(report)
    assert loud in report_page(replace(report, sweep=replace(
        report.sweep, canaries={"exact_product": "missed"})))


def test_a_guards_page_has_no_sweep_and_a_sweeps_page_no_modules() -> None:
    assert 'id="sweep"' not in report_page(made_report())
    page = report_page(sweep_report())
    assert 'id="sweep"' in page
    for absent in ("modules", "timeline", "grid", "coverage"):
        assert f'id="{absent}"' not in page
        assert f'href="#{absent}"' not in page
    both = replace(sweep_report(), runs=(*sweep_report().runs, *made_report().runs),
                   cells=(*sweep_report().cells, *made_report().cells))
    assert all(f'id="{part}"' in report_page(both) for part in ("sweep", "grid", "coverage"))


def test_the_banner_names_the_unit() -> None:
    page = report_page(judge(sweep_report()))
    assert "Corruption: 1 wrong result in mm on node-7, core 1" in page
    assert "model AMD EPYC 7763, stepping 1, microcode 0xa0011d5" in page
    passing = replace(sweep_report(), findings=(), cells=tuple(
        c for c in sweep_report().cells if c.word == "PASS"))
    assert "a unit that passed may still be faulty" in report_page(judge(passing))
    assert "a unit that passed may still be faulty" not in report_page(judge(clean_report()))


def test_a_large_fleet_fits_and_says_what_is_left_out() -> None:
    report = sweep_report()
    assert report.sweep is not None
    template = swept_units()[0]
    units = tuple(replace(template, id=f"node-{n}, core {i}", name=f"core {i}")
                  for n in range(60) for i in range(64))
    cells = tuple(swept_cell(unit, test) for unit in units for test in ("exact_product",
                                                                        "memory_patterns"))
    samples = tuple(SensorSample(time_s=float(t), unit=u.id, readings={"temperature C": 50.0 + t})
                    for t in range(5) for u in units)
    large = replace(report, cells=cells, sweep=replace(
        report.sweep, units=units, samples=samples))
    page = report_page(large)
    assert len(page.encode()) <= 2_000_000
    assert "more units not shown; those with failures come first" in page
    small = report_page(large, max_bytes=MIN_BYTES)
    assert len(small.encode()) <= MIN_BYTES


def test_what_is_left_out_of_the_grid_is_counted() -> None:
    found = view(sweep_report(), rows=2, columns=3)
    assert (found.num_more_rows, found.num_more_columns, found.num_more_proofs) == (3, 2, 3)
    assert [kind.num_more for kind in found.kinds] == [2, 0]


def test_hostile_texts_stay_text() -> None:
    page = report_page(judge(hostile_sweep_report()))
    assert "<img onerror" not in page
    assert "\x1b" not in page


def test_units_without_a_test_have_a_row() -> None:
    report = sweep_report()
    assert report.sweep is not None
    lonely = SweptUnit(id="node-7, core 9", kind="core", name="core 9")
    found = view(replace(report, sweep=replace(report.sweep,
                                               units=(*report.sweep.units, lonely))))
    assert found.rows[-1][:2] == ("node-7, core 9", "not tested")


def test_sensors_leave_out_what_is_no_number_and_draw_the_blamed_last() -> None:
    nan, inf = float("nan"), float("inf")
    samples = [SensorSample(time_s=t, unit=u, readings={"temperature C": v, "dead": nan})
               for u in ("a", "b") for t, v in ((0.0, 50.0), (1.0, nan), (2.0, inf), (3.0, 60.0),
                                                (nan, 1.0))]
    (chart,), more = sensor_charts(samples, {"a"})
    assert more == 0
    assert "2 units, 50 to 60; 1 unit with a failure drawn bold" in chart.words
    assert chart.picture.index("line sensor") < chart.picture.index("line blamed")
    assert "nan" not in chart.picture
    charts, more = sensor_charts(
        [SensorSample(time_s=0.0, unit="a", readings={f"r{i}": 1.0 for i in range(9)})], ())
    assert (len(charts), more) == (6, 3)
    assert sensor_charts((), ()) == ([], 0)
