"""The exit code and its reasons, under each policy, with and without a baseline."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pytest

from sdc_guard.document.divergences import divergences
from sdc_guard.document.reading import read_document, write_document
from sdc_guard.document.schema import Cell, Judgement, Report
from sdc_guard.errors import UsageError
from sdc_guard.records import Verdict
from sdc_guard.report.baseline import Baseline, baseline_text, parse_baseline, updated
from sdc_guard.report.entries import entry_of
from sdc_guard.report.judging import judge
from tests.made_reports import (
    ROOT,
    SHAPES,
    clean_report,
    empty_report,
    made_coverage,
    made_finding,
    made_report,
    made_run,
    truncated_report,
)

DAY = date(2026, 11, 23)


def found(verdict: Verdict, **fields: Any) -> Report:
    return made_report(0, findings=(entry_of(
        made_finding(verdict=verdict), tool="guard", run="run 0", root=ROOT),), **fields)


def judged(report: Report, **options: Any) -> Judgement:
    result = judge(report, today=DAY, **options).judgement
    assert result is not None
    return result


def known(report: Report, **options: Any) -> Baseline:
    """A baseline as it is read from its file."""
    return parse_baseline(baseline_text(updated(Baseline(), report, today=DAY, **options)[0]))


@pytest.mark.parametrize(("verdict", "fail_on", "policy", "expected"), [
    (Verdict.CORRUPTION, (), {}, 1),
    (Verdict.PRECISION, (), {}, 0),
    (Verdict.NONDETERMINISM, (), {}, 0),
    (Verdict.INCONCLUSIVE, (), {}, 3),
    (Verdict.NOT_TESTED, (), {}, 0),
    (Verdict.PRECISION, (), {"precision": "fail"}, 1),
    (Verdict.PRECISION, (), {"precision": "inconclusive"}, 3),
    (Verdict.INCONCLUSIVE, (), {"inconclusive": "report"}, 0),
    (Verdict.PRECISION, ("new",), {}, 1),
    (Verdict.NONDETERMINISM, ("any",), {}, 1),
    (Verdict.PRECISION, ("regression",), {}, 0),
    (Verdict.CORRUPTION, ("regression",), {}, 1),
    (Verdict.INCONCLUSIVE, ("new", "any"), {}, 3),
])
def test_a_new_finding(
    verdict: Verdict, fail_on: tuple[str, ...], policy: dict[str, str], expected: int
) -> None:
    result = judged(found(verdict), fail_on=fail_on, policy=policy)
    assert result.exit_code == expected
    assert result.fail_on == fail_on
    if verdict is not Verdict.NOT_TESTED:
        assert f"new 1 (1 {verdict.value})" in result.reasons


@pytest.mark.parametrize("verdict", [Verdict.CORRUPTION, Verdict.PRECISION, Verdict.INCONCLUSIVE])
def test_a_known_finding_fails_on_any_alone(verdict: Verdict) -> None:
    report = found(verdict)
    for fail_on in ((), ("new",), ("regression",), ("new", "regression")):
        result = judged(report, baseline=known(report), fail_on=fail_on)
        assert (result.exit_code, result.reasons) == (0, (f"known 1 (1 {verdict.value})",))
        assert set(result.states.values()) == {"known"}
    expected = 0 if verdict is Verdict.INCONCLUSIVE else 1
    assert judged(report, baseline=known(report), fail_on=("any",)).exit_code == expected


def test_a_verdict_worse_than_recorded_is_not_excused() -> None:
    mild, worse = found(Verdict.NONDETERMINISM), found(Verdict.PRECISION)
    result = judged(worse, baseline=known(mild), fail_on=("regression",))
    assert (result.exit_code, result.worse) == (1, (worse.findings[0].id,))
    assert "1 worse than the baseline knows them" in result.reasons
    assert judged(found(Verdict.CORRUPTION), baseline=known(mild)).exit_code == 1
    assert judged(mild, baseline=known(worse), fail_on=("regression", "new")).exit_code == 0


def test_an_expired_line_excuses_nothing_from_the_day_after() -> None:
    report = found(Verdict.CORRUPTION)
    last = judged(report, baseline=known(report, expires="2026-11-23"))
    assert last.exit_code == 0
    late = judged(report, baseline=known(report, expires="2026-11-22"))
    assert late.exit_code == 1
    assert late.reasons == ("expired 1 (1 corruption)",)
    assert [k.expires for k in late.stale] == ["2026-11-22"]
    assert divergences(judge(report, today=DAY, baseline=known(
        report, expires="2026-11-22")))[0].state == "expired"


@pytest.mark.parametrize("key", ["torch", "device"])
def test_a_line_of_another_key_excuses_nothing(key: str) -> None:
    report = found(Verdict.CORRUPTION)
    other = "2.12" if key == "torch" else "cuda"
    baseline = known(report)
    items = {(k.id, *((other, k.device) if key == "torch" else (k.torch, other))):
             msgspec.structs.replace(k, **{key: other}) for k in baseline.known.values()}
    result = judged(report, baseline=Baseline(known=items))
    assert result.exit_code == 1
    assert len(result.stale) == (key == "torch")
    assert len(result.carried) == (key == "device")


def test_what_was_checked_again_and_not_found_is_fixed_and_what_was_not_covered_is_carried() -> (
    None
):
    baseline = known(found(Verdict.CORRUPTION))
    assert [k.op for k in judged(clean_report(), baseline=baseline).fixed] == [
        "aten.sum.dim_IntList"]
    as_a_guard_counts = msgspec.structs.replace(made_coverage().ops[1], op="aten.sum")
    packet = made_run(coverage=made_coverage(ops=(as_a_guard_counts,)))
    assert len(judged(made_report(0, runs=(packet,)), baseline=baseline).fixed) == 1
    no_sum = made_coverage(ops=made_coverage().ops[:1])
    for run in (made_run(coverage=no_sum), made_run(is_complete=False)):
        result = judged(made_report(0, runs=(run,)), baseline=baseline)
        assert (len(result.fixed), len(result.carried)) == (0, 1)
    newer = made_run(environment={"torch": "3.0.0"})
    assert len(judged(made_report(0, runs=(newer,)), baseline=baseline).stale) == 1
    older = made_run(environment={"torch": "2.8.0"})
    assert len(judged(made_report(0, runs=(older,)), baseline=baseline).carried) == 1
    cuda = made_run(environment={"torch": "2.13.0", "cuda": {"devices": ["H200"]}})
    assert len(judged(made_report(0, runs=(cuda,)), baseline=baseline).carried) == 1


def test_the_environments_changes_since_the_baseline_are_told() -> None:
    baseline = known(found(Verdict.CORRUPTION))
    assert judged(clean_report(), baseline=baseline).environment_changes == ()
    environment = {**made_run().environment, "flags": {"deterministic_algorithms": 1},
                   "variables": {}}
    result = judged(made_report(0, runs=(made_run(environment=environment),)), baseline=baseline)
    assert result.environment_changes == (
        "flags.deterministic_algorithms: 0 in the baseline, 1 here",
        "variables.OMP_NUM_THREADS: 2 in the baseline, not set here")
    assert result.exit_code == 0


def test_a_change_at_the_end_of_a_long_field_is_seen() -> None:
    def report(end: str) -> Report:
        environment = {**made_run().environment, "parallel": ["x" * 1000, end]}
        return made_report(runs=(made_run(environment=environment),))

    baseline = known(report("a"))
    assert judged(report("a"), baseline=baseline).environment_changes == ()
    (change,) = judged(report("b"), baseline=baseline).environment_changes
    assert change.startswith("parallel: ")


def test_nothing_tested_is_never_clean() -> None:
    assert judged(empty_report()).exit_code == 5
    unchecked = made_run(coverage=made_coverage(ops=made_coverage().ops[2:]))
    result = judged(made_report(0, runs=(unchecked,), cells=()))
    assert (result.exit_code, result.status) == (5, "nothing tested")
    assert judged(made_report(0, runs=(made_run(coverage=made_coverage(ops=())),),
                              cells=())).exit_code == 5


def test_a_run_that_did_not_end_in_order_is_inconclusive_and_corruption_beats_it() -> None:
    killed = made_run(is_complete=False, coverage=None)
    result = judged(made_report(0, runs=(killed,), cells=()))
    assert result.exit_code == 3
    assert "nothing was tested" not in " ".join(result.reasons)
    assert judged(made_report(0, runs=(made_run(), killed))).exit_code == 3
    assert judged(truncated_report()).exit_code == 1
    assert judged(made_report(0, problems=("a.jsonl: no run can be read in it",))).exit_code == 3


@pytest.mark.parametrize(("options", "expected"), [
    ({"coverage_floor": 92.5}, 0), ({"coverage_floor": 92.6}, 3),
    ({"fail_on": ("coverage<92.5",)}, 0), ({"fail_on": ("coverage<93",)}, 3),
    ({"fail_on": ("coverage<10",), "coverage_floor": 93.0}, 3),
    ({"fail_on": ("coverage<93", "new")}, 3),
])
def test_the_floor_is_a_percentage_of_the_calls(options: dict[str, Any], expected: int) -> None:
    result = judged(clean_report(), **options)
    assert result.exit_code == expected
    assert any("92.5 % of the calls" in r for r in result.reasons) == (expected == 3)


def test_corruption_beats_the_floor() -> None:
    assert judged(made_report(), coverage_floor=100).exit_code == 1


@pytest.mark.parametrize("options", [
    {"fail_on": ("newest",)}, {"fail_on": ("coverage<x",)}, {"fail_on": ("coverage<101",)},
    {"fail_on": ("new<3",)}, {"coverage_floor": -1.0}, {"coverage_floor": float("nan")},
    {"policy": {"corruption": "report"}}, {"policy": {"colour": "fail"}},
    {"policy": {"precision": "explode"}}])
def test_what_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        judge(clean_report(), **options)


@pytest.mark.parametrize(("verdict", "fail_on", "expected"), [
    ("corruption", (), 1), ("precision", (), 0), ("precision", ("new",), 1),
    ("inconclusive", (), 3), ("meltdown", (), 3), ("not tested", (), 0)])
def test_a_test_without_a_finding_counts_by_its_verdict(
    verdict: str, fail_on: tuple[str, ...], expected: int
) -> None:
    cell = Cell(unit="core 3", test="mm-exact", word="X", verdict=verdict, checks=9)
    report = made_report(0, cells=(*clean_report().cells, cell))
    assert judged(report, fail_on=fail_on).exit_code == expected


# A document holds no unpaired surrogate: gather writes them out.
@pytest.mark.parametrize("shape", sorted(SHAPES.keys() - {"surrogates"}))
def test_a_judged_report_reads_back(shape: str) -> None:
    report = judge(SHAPES[shape](), baseline=known(found(Verdict.CORRUPTION)), today=DAY)
    assert read_document(write_document(report)).judgement == report.judgement


def test_a_floor_counts_the_steps_that_were_not_watched() -> None:
    run = made_run(coverage=made_coverage(steps_unwatched=40))
    assert judged(made_report(0), coverage_floor=90).exit_code == 0
    found = judged(made_report(0, runs=(run,)), coverage_floor=90)
    assert found.exit_code == 3
    assert any("18.5 % of the calls were checked" in reason for reason in found.reasons)


@pytest.mark.parametrize("checked", range(1, 1000, 7))
def test_a_share_at_the_floor_is_not_below_it(checked: int) -> None:
    op = msgspec.structs.replace(made_coverage().ops[0], calls=1000, calls_checked=checked)
    report = made_report(0, runs=(made_run(coverage=made_coverage(ops=(op,))),))
    assert judged(report, coverage_floor=checked / 10).exit_code == 0
    assert judged(report, coverage_floor=checked / 10 + 0.001).exit_code == 3


def test_a_report_with_findings_passes_and_is_not_called_clean() -> None:
    assert judged(clean_report()).status == "clean"
    shown = found(Verdict.PRECISION)
    assert (judged(shown).exit_code, judged(shown).status) == (0, "passes")
    assert judged(found(Verdict.CORRUPTION), baseline=known(found(Verdict.CORRUPTION))).status == (
        "passes")
