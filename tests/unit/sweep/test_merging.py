"""Sweeps of several hosts as one report: votes, ranking, rates, missing and damaged hosts."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from sdc_guard.cli._sweep_verdict import judged_sweep
from sdc_guard.cli.main import main
from sdc_guard.document.reading import read_document_file
from sdc_guard.document.schema import Report
from sdc_guard.errors import UsageError
from sdc_guard.intervals import proportion
from sdc_guard.render.fleet_text import fleet_lines
from sdc_guard.report.outputs import rendered
from sdc_guard.sweep import merging
from sdc_guard.sweep.merging import merged, read_sweeps
from tests.unit.sweep.made_sweeps import OTHER, RIGHT, THIRD, sweep_of, written


def merge(*reports: Report, **options: object) -> Report:
    return judged_sweep(merged(reports, title="fleet", **options))  # type: ignore[arg-type]


def word_of(report: Report, unit: str, test: str = "high_entropy") -> str:
    (word,) = [c.word for c in report.cells if (c.unit, c.test) == (unit, test)]
    return word


def exit_code(report: Report) -> int:
    assert report.judgement is not None
    return report.judgement.exit_code


def test_hosts_that_agree_are_clean() -> None:
    report = merge(*(sweep_of(f"n{i}") for i in range(3)))
    assert exit_code(report) == 0
    assert not report.findings
    assert report.fleet is not None
    assert report.fleet.votes == 1
    assert not report.fleet.outliers
    assert report.fleet.hosts == ("n0", "n1", "n2")
    assert len(report.cells) == 12
    assert report.sweep is not None
    assert report.sweep.checks == 1200
    assert len(report.sweep.units) == 6


def test_a_strict_majority_blames_the_core_of_the_minority() -> None:
    report = merge(sweep_of("n0"), sweep_of("n1"), sweep_of("n2", (RIGHT, RIGHT, OTHER)))
    (entry,) = report.findings
    assert (entry.unit, entry.word, entry.finding.witness) == ("n2, core 2", "FAIL", "peer")
    assert entry.finding.attribution.place == "n2, core 2"
    assert "--cores 2" in entry.finding.evidence.replay_command
    assert "--seed 7" in entry.finding.evidence.replay_command
    assert word_of(report, "n2, core 2") == "FAIL"
    assert word_of(report, "n2, core 0") == "PASS"
    assert exit_code(report) == 1


def test_a_whole_host_that_deviates_is_named() -> None:
    report = merge(sweep_of("n0"), sweep_of("n1"), sweep_of("n2", (OTHER, OTHER)))
    assert {e.unit for e in report.findings} == {"n2, core 0", "n2, core 1"}
    assert all("configuration" in e.finding.attribution.reason for e in report.findings)
    assert all(v.result == ("held" if v.place == "n2" else "expected")
               for e in report.findings for v in e.finding.attribution.votes)
    assert report.fleet is not None
    assert {o.host for o in report.fleet.outliers} == {"n2"}


@pytest.mark.parametrize("digests", [
    ((RIGHT,), (OTHER,)), ((RIGHT,), (OTHER,), (THIRD,)),
    ((RIGHT,), (RIGHT,), (OTHER,), (OTHER,))])
def test_without_a_strict_majority_all_are_ambiguous(digests: tuple[tuple[str, ...], ...]) -> None:
    report = merge(*(sweep_of(f"n{i}", d) for i, d in enumerate(digests)))
    assert {e.word for e in report.findings} == {"AMBIGUOUS"}
    assert len(report.findings) == len(digests)
    assert exit_code(report) == 3


def test_a_minority_that_shares_its_bits_is_software() -> None:
    report = merge(*(sweep_of(f"n{i}", (RIGHT if i < 3 else OTHER,)) for i in range(5)))
    assert {e.word for e in report.findings} == {"AMBIGUOUS"}
    assert {e.finding.cause.value for e in report.findings} == {"software"}
    assert {e.unit for e in report.findings} == {"n3, core 0", "n4, core 0"}


def test_a_unit_that_gives_two_results_for_one_case_is_told() -> None:
    report = merge(sweep_of("n0"), msgspec.structs.replace(sweep_of("n0", (OTHER, RIGHT)), runs=(
        msgspec.structs.replace(sweep_of("n0").runs[0], id="another sweep"),)))
    assert word_of(report, "n0, core 0") == "AMBIGUOUS"
    assert word_of(report, "n0, core 1") == "PASS"
    assert exit_code(report) == 3
    (entry,) = report.findings
    assert "two hosts have one name" in entry.finding.attribution.reason


def test_a_large_host_has_one_vote() -> None:
    report = merge(sweep_of("big", (OTHER,) * 9), sweep_of("n1"), sweep_of("n2"))
    assert {e.unit.partition(",")[0] for e in report.findings} == {"big"}


def test_other_keys_are_not_compared() -> None:
    report = merge(sweep_of("n0"), sweep_of("n1"), sweep_of("n2", (OTHER, OTHER), key="other | x"))
    assert not report.findings
    assert exit_code(report) == 0


def test_other_hosts_settle_what_two_cores_dispute() -> None:
    disputed = {(0, "high_entropy"): "AMBIGUOUS", (1, "high_entropy"): "AMBIGUOUS"}
    report = merge(sweep_of("n0"), sweep_of("n1"),
                   sweep_of("n2", (RIGHT, OTHER), words=disputed))
    (entry,) = report.findings
    assert entry.unit == "n2, core 1"
    assert entry.word == "FAIL"
    alone = merge(sweep_of("n0"), sweep_of("n2", (RIGHT, OTHER), words=disputed))
    assert not alone.findings  # what two cores of one host dispute, that host has told


def test_missing_hosts_are_cells_and_keep_the_fleet_from_being_clean() -> None:
    report = merge(sweep_of("n0"), expected=("n0", "n1"))
    (cell,) = [c for c in report.cells if c.word == "missing"]
    assert (cell.unit, cell.verdict, cell.checks) == ("n1", "not tested", 0)
    assert report.fleet is not None
    assert report.fleet.missing == ("n1",)
    assert exit_code(report) == 3
    counted = merge(sweep_of("n0"), num_expected=3)
    assert sum(c.word == "missing" for c in counted.cells) == 2
    assert exit_code(counted) == 3
    failing = merge(sweep_of("n0", words={(0, "exact_product"): "FAIL"}), expected=("n1",))
    assert exit_code(failing) == 1


def test_nothing_but_missing_hosts_is_never_clean() -> None:
    assert exit_code(merge(expected=("n0",))) == 5
    with pytest.raises(UsageError, match="no sweep to merge"):
        merge()


def test_a_partial_sweep_is_joined_and_told() -> None:
    report = merge(sweep_of("n0", is_complete=False), sweep_of("n1"), sweep_of("n2"))
    assert exit_code(report) == 3
    assert report.sweep is not None
    assert report.sweep.is_partial


def test_two_sweeps_of_one_unit_add_up_and_the_worst_word_stands() -> None:
    first = sweep_of("n0", words={(0, "exact_product"): "SUSPECT"})
    report = merge(first, sweep_of("n0"))
    (cell,) = [c for c in report.cells if (c.unit, c.test) == ("n0, core 0", "exact_product")]
    assert (cell.word, cell.checks) == ("SUSPECT", 200)


def test_rates_have_exact_intervals() -> None:
    report = merge(sweep_of("n0", words={(0, "exact_product"): "FAIL"}),
                   sweep_of("n1", words={(1, "high_entropy"): "SKIP"}), sweep_of("n2"))
    assert report.fleet is not None
    shares = {(s.by, s.name): s for s in report.fleet.shares}
    host = shares["host", "n0"]
    assert (host.failing, host.tested) == (1, 2)
    assert (host.low, host.high) == (proportion(1, 2).low, proportion(1, 2).high)
    assert shares["test", "high_entropy"].tested == 5  # a SKIP is no test
    assert (shares["fleet", "hosts"].failing, shares["fleet", "hosts"].tested) == (1, 3)
    assert shares["unit", "n0, core 0"].of == "tests"
    assert shares["model", "core CPU of a test, stepping 1"].tested == 6


def test_outliers_are_ranked() -> None:
    words = {(0, "exact_product"): "SUSPECT", (1, "exact_product"): "FAIL",
             (2, "exact_product"): "FAIL", (2, "high_entropy"): "FAIL"}
    report = merge(sweep_of("n0", (RIGHT,) * 3, words=words), sweep_of("n1"))
    assert report.fleet is not None
    assert [o.unit for o in report.fleet.outliers] == ["n0, core 2", "n0, core 1", "n0, core 0"]
    text = "\n".join(fleet_lines(report.fleet))
    assert text.index("1. n0, core 2") < text.index("2. n0, core 1")


def test_what_fails_on_every_host_is_put_down_to_software() -> None:
    words = {(0, "exact_product"): "FAIL"}
    report = merge(sweep_of("n0", words=words), sweep_of("n1", words=words))
    assert report.fleet is not None
    assert "software or toolchain likely" in report.fleet.notes[0]


def test_merging_again_does_not_vote_twice() -> None:
    once = merge(sweep_of("n0"), sweep_of("n1"), sweep_of("n2", (OTHER,)))
    again = merge(once, sweep_of("n3"))
    assert len([e for e in again.findings if e.facts.get("voted by")]) == 1
    assert "4 hosts" in again.findings[0].finding.attribution.reason


def test_a_large_fleet_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MAX_CELLS", 10)
    monkeypatch.setattr(merging, "MAX_DIGESTS", 3)
    report = merge(*(sweep_of(f"n{i}", (RIGHT,) * 8) for i in range(3)),
                   sweep_of("n3", words={(1, "exact_product"): "FAIL"}))
    assert len(report.cells) < 20
    assert report.cut
    assert word_of(report, "n3, core 1", "exact_product") == "FAIL"
    assert sum(c.checks for c in report.cells) == 5200
    assert report.sweep is not None
    assert not report.sweep.digests


@pytest.mark.parametrize("name", ["text", "html", "json", "markdown", "junit", "prom", "sarif"])
def test_every_format_renders_a_fleet(name: str) -> None:
    report = merge(sweep_of("n0"), sweep_of("n1"), sweep_of("n2", (OTHER,)), expected=("n9",))
    text = rendered(report, name)
    if name in ("text", "html", "json"):
        assert "n9" in text
        assert "n2, core 0" in text
        assert "outvoted" in text


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["merge", *map(str, arguments)])


def test_the_command_writes_and_judges(tmp_path: Path) -> None:
    paths = written(tmp_path, sweep_of("n0"), sweep_of("n1"), sweep_of("n2", (RIGHT, OTHER)))
    out = tmp_path / "fleet.json"
    done = run(*paths, "-o", out, "--html", tmp_path / "fleet.html")
    assert done.exit_code == 1, done.output
    assert "n2, core 1" in done.output
    assert read_document_file(out).fleet is not None
    assert "n2, core 1" in (tmp_path / "fleet.html").read_text(encoding="utf-8")
    as_json = CliRunner().invoke(
        main, ["merge", *map(str, paths), "-o", str(out), "--json", "--exit-map", "megatron"])
    assert as_json.exit_code == 17
    assert json.loads(as_json.stdout)["fleet"]["votes"] == 1


def test_a_damaged_document_is_told_and_counts_as_missing(tmp_path: Path) -> None:
    paths = written(tmp_path, sweep_of("n0"), sweep_of("n1"))
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    out = tmp_path / "fleet.json"
    assert run(*paths, "-o", out).exit_code == 3
    report = read_document_file(out)
    assert report.fleet is not None
    assert len(report.fleet.missing) == 1
    assert list(report.fleet.damaged) == [str(paths[1])]
    done = run(*paths, "-o", out, "--expect-hosts", "n0,n1")
    assert done.exit_code == 3
    assert read_document_file(out).fleet.missing == ("n1",)


@pytest.mark.parametrize("field", ["runs", "cells"])
def test_documents_that_lost_their_runs_or_tests_are_damaged_and_never_clean(
    tmp_path: Path, field: str
) -> None:
    good, bad, other = written(tmp_path, sweep_of("n0"), sweep_of("n1"), sweep_of("n2"))
    for path in (bad, other):
        found = json.loads(path.read_text())
        del found[field]
        path.write_text(json.dumps(found))
    read, damaged = read_sweeps([good, bad, other])
    assert [r.runs[0].host for r in read] == ["n0"]
    assert set(damaged) == {str(bad), str(other)}
    assert f"it names no {field[:-1].replace('cell', 'test')}" in damaged[str(bad)]
    result = run(good, bad, "--out", tmp_path / "fleet.json")
    assert result.exit_code == 3, result.output


def test_a_document_with_a_count_below_0_is_damaged(tmp_path: Path) -> None:
    good, bad = written(tmp_path, sweep_of("n0"), sweep_of("n1"))
    bad.write_text(bad.read_text().replace('"checks":100', '"checks":-100'))
    read, damaged = read_sweeps([good, bad])
    assert [r.runs[0].host for r in read] == ["n0"]
    assert "has a count below 0" in damaged[str(bad)]


def test_a_fail_without_its_finding_and_an_unknown_word_are_never_clean() -> None:
    assert exit_code(judged_sweep(sweep_of("n0", words={(0, "exact_product"): "FAIL"}))) == 1
    clean = sweep_of("n0")
    assert exit_code(judged_sweep(clean)) == 0
    for word, code, reason in (("FAIL", 1, "a test that says FAIL has no finding"),
                               ("MAYBE", 3, "words that this version does not know: MAYBE")):
        judged = judged_sweep(msgspec.structs.replace(clean, cells=(
            msgspec.structs.replace(clean.cells[0], word=word), *clean.cells[1:])))
        assert exit_code(judged) == code
        assert judged.judgement is not None
        assert reason in " ".join(judged.judgement.reasons)


@pytest.mark.parametrize("stdout", ["full", "closed", "no reader"])
def test_an_output_that_nobody_can_read_does_not_change_the_exit_code(
    tmp_path: Path, stdout: str
) -> None:
    clean, *wrong = written(tmp_path, sweep_of("n0"), sweep_of("n1"),
                            sweep_of("n2", (RIGHT, RIGHT, OTHER)))
    where = {"full": ">/dev/full", "closed": ">&-", "no reader": "| true"}[stdout]
    for paths, code in (((clean,), 0), ((clean, *wrong), 1)):
        command = shlex.join([sys.executable, "-m", "sdc_guard", "merge", *map(str, paths),
                              "--out", str(tmp_path / "fleet.json")])
        done = subprocess.run(
            ["bash", "-c", f"{command} {where}; exit ${{PIPESTATUS[0]}}"], capture_output=True,
            text=True, check=False, timeout=120)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr
        if stdout == "full":
            assert "standard output cannot be written: No space left" in done.stderr
    assert read_document_file(tmp_path / "fleet.json").fleet is not None


def test_folders_lists_and_duplicates(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (path,) = written(tmp_path, sweep_of("n0"))
    (folder / "sweep.json").write_bytes(path.read_bytes())
    reports, damaged = read_sweeps([folder, path])
    assert len(reports) == 1
    assert not damaged
    hosts = tmp_path / "hosts"
    hosts.write_text("n0\n# a comment\nn1  # another\n")
    done = run(folder, "-o", tmp_path / "fleet.json", "--expect-hosts", hosts)
    assert done.exit_code == 3
    assert "n1" in done.output


@pytest.mark.parametrize("arguments", [
    (), ("--expect", "0"), ("absent.json", "--expect-hosts", ","), ("x", "--exit-map", "unknown")])
def test_wrong_usage_is_told(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_only_absent_files_are_no_pass(tmp_path: Path) -> None:
    assert run(tmp_path / "absent.json", "-o", tmp_path / "fleet.json").exit_code == 5
