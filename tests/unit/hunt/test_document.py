from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sdc_guard.document.reading import read_document, write_document
from sdc_guard.document.schema import Report
from sdc_guard.hunt.document import document, with_scripts
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.report.baseline import Baseline, known_of
from sdc_guard.report.gather import gather
from sdc_guard.report.judging import judge
from sdc_guard.report.outputs import FORMATS, rendered
from tests.unit.hunt.made_hunt import SUM, made_found, made_ledger

TARGETS = (SUM, "aten.mm.default", "aten.odd.default", "aten.never.default")


def _report(*found: FoundDivergence, is_complete: bool = True) -> Report:
    return document(made_ledger(*found), seed=3, command="sdc-guard hunt --seed 3",
                    targets=TARGETS, is_complete=is_complete)


def _exit_code(report: Report, baseline: Baseline | None = None) -> int:
    judged = judge(report, fail_on=("new",), baseline=baseline).judgement
    assert judged is not None
    return judged.exit_code


def test_what_was_not_tested_stands_beside_what_was() -> None:
    coverage = _report().runs[0].coverage
    assert coverage is not None
    by_op = {op.op: op for op in coverage.ops}
    assert (by_op["aten.sum"].calls, by_op["aten.sum"].calls_checked) == (9, 9)
    assert by_op["aten.sum"].witnesses == {"bound": 9, "layout": 4}
    assert (by_op["aten.mm"].calls, by_op["aten.mm"].calls_checked) == (10, 7)
    assert by_op["aten.mm"].not_tested == {"no reference": 3}
    assert "no call was made of 1 operator: aten.never.default" in coverage.gaps
    assert "every call was refused by 1 operator: aten.odd.default" in coverage.gaps


def test_a_clean_hunt_ends_with_0_and_an_interrupted_one_with_3() -> None:
    assert _exit_code(_report()) == 0
    assert _exit_code(_report(is_complete=False)) == 3


@pytest.mark.parametrize(("word", "oracle", "verdict", "code", "exit_code"), [
    ("corruption", "bound", "corruption", "SDC102", 1),
    ("precision", "layout", "precision", "SDC202", 1),
    ("semantic difference", "semantics", "precision", "SDC212", 1),
    ("nondeterminism", "repeat", "nondeterminism", "SDC308", 1),
    ("inconclusive", "gradient", "inconclusive", "SDC402", 3),
    ("crash", "process", "inconclusive", "SDC413", 3),
])
def test_a_new_divergence_is_an_entry_under_its_oracle(
    word: str, oracle: str, verdict: str, code: str, exit_code: int
) -> None:
    report = _report(made_found(word, oracle))
    (entry,) = report.findings
    assert (entry.word, entry.verdict.value, entry.code) == (word, verdict, code)
    assert (entry.test, entry.finding.repeats, entry.wrong, entry.tried) == (oracle, 2, 5, 5)
    assert entry.id == made_found(word, oracle).fingerprint
    assert _exit_code(report) == exit_code
    known = Baseline(known=known_of(report))
    assert _exit_code(report, known) == 0, "the baseline knows it"


@pytest.mark.parametrize(("change", "exit_code"), [
    ({"layout_class": "columns", "magnitude_class": "few ulps", "oracle": "layout"}, 0),
    ({"op": "aten.mm.default"}, 1),
    ({"dtype_class": "half"}, 0),
    ({"dtype_class": "half", "word": "precision"}, 1),
    ({"oracle": "gradient"}, 1),
])
def test_a_baseline_knows_a_defect_in_any_layout_and_of_any_size(
    change: dict[str, str], exit_code: int
) -> None:
    known = Baseline(known=known_of(_report(made_found())))
    again = msgspec.structs.replace(
        made_found(change.get("word", "corruption")), fingerprint="c" * 16, **change)
    assert _exit_code(_report(again), known) == exit_code


def test_a_worse_word_than_the_baseline_knows_is_new() -> None:
    known = Baseline(known=known_of(_report(made_found("precision"))))
    assert _exit_code(_report(made_found("corruption")), known) == 1
    assert _exit_code(_report(made_found("precision")), known) == 0


def test_a_documented_difference_is_no_finding_and_its_link_is_shown() -> None:
    report = _report(made_found("documented", "threads", link="https://docs.pytorch.org/x"))
    assert report.findings == ()
    assert _exit_code(report) == 0
    (cell,) = [c for c in report.cells if c.unit == "threads"]
    assert (cell.word, cell.verdict) == ("documented", "clean")
    assert cell.reason == "https://docs.pytorch.org/x"


def test_trials_that_reduce_to_one_fingerprint_are_one_entry() -> None:
    report = _report(made_found(seen_as="a" * 16, wrong=2), made_found(seen_as="b" * 16))
    (entry,) = report.findings
    assert (entry.wrong, entry.finding.repeats) == (5, 4)


def test_a_cell_for_each_oracle_and_operator() -> None:
    cells = {(c.unit, c.test): c for c in _report(made_found()).cells}
    assert set(cells) == {("bound", "aten.sum"), ("layout", "aten.sum"), ("bound", "aten.mm")}
    assert (cells["bound", "aten.sum"].word, cells["bound", "aten.sum"].findings) == (
        "corruption", 2)
    assert cells["layout", "aten.sum"].word == "agrees"
    assert cells["layout", "aten.sum"].checks == 4


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_no_format_speaks_of_steps_modules_or_lines_that_a_hunt_does_not_have(name: str) -> None:
    report = with_scripts(_report(made_found()), [Path(f"findings/{made_found().fingerprint}.py")])
    text = rendered(judge(report), name)
    for odd in ("live inputs", "at step", "since step", "(no module)", "no element can be named",
                "id=\"modules", "Units and tests"):
        assert odd not in text
    if name == "html":
        assert "Oracles and operators" in text
        assert f'href="./findings/{made_found().fingerprint}.py"' in text


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_shows_it(name: str, tmp_path: Path) -> None:
    found = made_found()
    written = write_document(_report(found, made_found("crash", "process", "aten.odd.default")))
    report = read_document(written)
    path = tmp_path / "report.json"
    path.write_bytes(written)
    text = rendered(judge(gather([path])), name)
    if name == "prom":
        assert 'verdict="corruption"' in text
    else:
        assert "aten.sum" in text
        assert found.fingerprint in text
    assert report.runs[0].kind == "hunt"
