"""A sweep in text: failures with their bits, words by unit, and what a pass could have seen."""

from __future__ import annotations

import msgspec

from sdc_guard.document.divergences import divergences
from sdc_guard.document.schema import Cell, Report, WrongElement
from sdc_guard.render.described import title
from sdc_guard.render.markdown import markdown
from sdc_guard.render.places import place_of
from sdc_guard.render.report_text import report_text
from sdc_guard.render.swept import (
    POWER,
    facts_of_units,
    failure_text,
    power_of,
    quantity,
    summary,
    swept_cells,
    weak_passes,
    word_rank,
)
from sdc_guard.render.swept import (
    test_rows as rows_of_tests,
)
from sdc_guard.report.judging import judge
from tests.made_reports import clean_report, made_report, sweep_report, swept_units

replace = msgspec.structs.replace


def test_a_failure_has_all_that_triage_needs() -> None:
    text = failure_text(sweep_report().findings[0])
    for part in (
        "FAIL (corruption) in aten.mm on node-7, core 1: 3 of 64 elements wrong",
        "every 8 elements", "exact_product, oracle exact, case float32 33x65x17 NT",
        "[0, 3] got 0x41c80000 (0x1.9p+4), expected 0x41880000 (0x1.1p+4), xor 0x00400000, 1 bit",
        "wrong in 10 of 10 repetitions", "memory_patterns on core 1: clean (412 checks)",
        "seed 7", "temperature C 71.5", "persistent hardware at node-7, core 1; core 0 gave",
        "replay:   sdc-guard sweep --cores 1",
    ):
        assert part in text


def test_long_lists_say_what_they_leave_out() -> None:
    (entry, *_) = sweep_report().findings
    long = replace(entry, elements=entry.elements * 9, contrast=("clean",) * 30,
                   finding=replace(entry.finding, repeats=7))
    text = failure_text(long)
    assert "and 19 more in the document" in text
    assert "and 22 more in the document" in text
    assert "7 failures of this kind" in text


def test_an_element_of_integers_has_no_hexfloat() -> None:
    (entry, *_) = sweep_report().findings
    element = WrongElement(index=(), got="0x05", expected="0x07", xor="0x02", popcount=1)
    text = failure_text(replace(entry, elements=(element,)))
    assert "[] got 0x05, expected 0x07, xor 0x02, 1 bit" in text


def test_the_text_of_a_sweep() -> None:
    text = report_text(judge(sweep_report()))
    for line in (
        "exit code 1, divergence",
        "sweep       5,319,824 checks, 42.6 MB and 1.06 GFLOP compared; seed 7; on 4 cores, 1 gpu",
        "sweep       1 FAIL, 1 SUSPECT, 1 TOOL ERROR, 4 INVALID, 10 PASS, 8 SKIP",
        "test        exact_product: FAIL on core 1; PASS on core 0, core 2, core 3; SKIP on cuda:0 "
        "(runs on cores); 4.82 M checks",
        "unit        4 cores: host node-7, model AMD EPYC 7763, stepping 1, microcode 0xa0011d5, "
        "socket 0, numa_node 0",
    ):
        assert line in text.splitlines()
    assert "no call was seen" not in text


def test_a_pass_says_what_it_could_see() -> None:
    report = sweep_report()
    cells = tuple(replace(c, oracle="self") if c.word == "PASS" else c for c in report.cells)
    weak = replace(report, cells=cells)
    assert len(weak_passes(swept_cells(weak))) == 10
    assert weak_passes(swept_cells(report)) == []
    assert "10 passes by self-comparison alone" in report_text(weak)
    assert "BLIND to what is wrong the same way every time" in report_text(weak)
    assert "self-comparison" not in report_text(report)
    assert power_of("") == "no oracle"
    assert power_of("3 peers, self") == POWER["peer"]
    assert power_of("1 peer, self").startswith("one other unit's bits")
    assert power_of("golden, 1 peer, self") == POWER["golden"]
    assert power_of("0 peers, self") == POWER["self"]
    assert power_of("divination") == "oracle divination"


def test_a_missed_canary_and_an_early_end_are_told() -> None:
    report = sweep_report()
    assert report.sweep is not None
    sweep = replace(report.sweep, canaries={"exact_product": "missed"}, is_partial=True, cursor="")
    lines = summary(report, sweep)
    assert any("not seen by exact_product" in line for line in lines)
    assert "partial: the sweep ended before its time" in lines
    assert not any("goes on at" in line for line in lines)


def test_the_markdown_names_units_and_words() -> None:
    text = markdown(judge(sweep_report()))
    assert "| **fails** | `corruption in aten.mm on node-7, core 1` | `node-7, core 1` |" in text
    assert "| `FAIL` | `exact_product` |" in text
    assert "### Tests" not in text
    assert "### Tests" not in markdown(judge(clean_report()))


def test_a_title_counts_the_other_units() -> None:
    report = sweep_report()
    (entry, *_) = report.findings
    report = replace(report, findings=(entry, replace(entry, unit="node-7, core 3")))
    (divergence,) = divergences(report)
    assert title(divergence) == "corruption in aten.mm on node-7, core 1 and 1 more unit"
    assert "node-7, core 1" in place_of(entry, report).note


def test_units_that_are_many_are_counted_and_reasons_stand_once() -> None:
    cells = [Cell(unit=f"u{i}", test="t", word="INVALID", verdict="not tested", reason="old key")
             for i in range(5)]
    (row,) = rows_of_tests(cells)
    assert row.text == "INVALID on 5 units (old key)"


def test_units_of_a_fleet_stand_with_their_hosts() -> None:
    cells = [Cell(unit=f"{host}, core 1", test="t", word="FAIL", verdict="corruption")
             for host in ("a", "b")]
    assert rows_of_tests(cells)[0].text == "FAIL on a/core 1, b/core 1"
    assert rows_of_tests(cells[:1])[0].text == "FAIL on core 1"


def test_cells_of_other_tools_are_not_the_sweeps() -> None:
    report = sweep_report()
    guard = made_report().cells
    both = replace(report, cells=(*report.cells, *guard))
    assert swept_cells(both) == list(report.cells)
    assert swept_cells(made_report()) == []
    assert "aten.sum.dim_IntList: corruption" in report_text(both)


def test_a_word_of_a_later_version_is_the_worst() -> None:
    assert word_rank("CURSED") < word_rank("FAIL") < word_rank("PASS")


def test_shared_facts_stand_once() -> None:
    shared, rest = facts_of_units(swept_units()[:4])
    assert shared["model"] == "AMD EPYC 7763"
    assert [facts["core_id"] for facts in rest] == ["0", "1", "2", "3"]
    assert "model" not in rest[0]
    assert facts_of_units(()) == ({}, [])


def test_quantities_have_three_digits() -> None:
    assert [quantity(n, "B") for n in (0, 999, 12_345, 7.5e16)] == [
        "0 B", "999 B", "12.3 kB", "75 PB"]
    assert quantity(float("nan"), "B") == "an unknown number of B"


def test_a_sweep_without_anything_is_still_told() -> None:
    report = sweep_report()
    assert report.sweep is not None
    bare: Report = replace(report, cells=(), findings=(), sweep=replace(
        report.sweep, units=(), tests=(), checks=0, num_bytes=0, flops=0))
    text = report_text(judge(bare))
    assert "exit code 5" in text
    assert "0 checks, 0 B compared; seed 7; on no unit" in text
