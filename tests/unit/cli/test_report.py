"""``sdc-guard report``, ``baseline`` and ``diff``: what goes where, and the exit code."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from sdc_guard.cli.main import main
from sdc_guard.document.json_schema import json_schema
from sdc_guard.document.reading import read_document, write_document
from sdc_guard.document.schema import Report
from sdc_guard.report.outputs import FORMATS
from tests.made_reports import clean_report, empty_report, made_report
from tests.meta.test_imports import modules_after
from tests.meta.tree import ROOT as REPOSITORY


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


def put(name: str, report: Report) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(write_document(report))
    return name


def sdc_guard(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(("report", "expected"), [
    (made_report(), 1), (clean_report(), 0), (empty_report(), 5)])
def test_without_a_format_the_report_is_printed(report: Report, expected: int) -> None:
    done = sdc_guard("report", put("a.json", report))
    assert done.exit_code == expected
    assert f"exit code {expected}" in done.stdout
    assert done.stderr == ""
    assert sdc_guard("report", "a.json", "--exit-zero").exit_code == 0


def test_each_format_has_its_file_and_the_outcome_goes_to_stderr(folder: Path) -> None:
    names = [name for name in FORMATS if name != "text"]
    done = sdc_guard("report", put("runs/a.json", made_report()), *(f"--{n}" for n in names),
                     "--out", "out", "--title", "mine")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "new 1 (1 corruption)" in done.stderr
    assert {p.name for p in (folder / "out").iterdir()} == {FORMATS[n].file for n in names}
    again = read_document((folder / "out" / "report.json").read_bytes())
    assert (again.title, again.judgement is not None) == ("mine", True)
    ElementTree.parse(folder / "out" / "report.junit.xml")


def test_a_file_can_be_named_and_a_folder_of_a_run_takes_the_rest(folder: Path) -> None:
    put("run/a.json", clean_report())
    assert sdc_guard("report", "run", "--markdown=here.md", "--sarif").exit_code == 0
    assert (folder / "here.md").exists()
    assert (folder / "run" / "report.sarif").exists()


def test_a_dash_is_stdout() -> None:
    done = sdc_guard("report", put("a.json", made_report()), "--json=-")
    assert read_document(done.stdout).findings == made_report().findings


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "no RUN is given"),
    (("--html", "a.json"), "no RUN is given"),
    (("a.json", "--html", "."), "that is a folder"),
    (("a.json", "--html=x", "--junit=x"), "another format goes there"),
    (("a.json", "--policy", "precision"), "write VERDICT=ACTION"),
    (("a.json", "--policy", "precision=explode"), "choose one of fail, inconclusive, report"),
    (("a.json", "--fail-on", "sometimes"), "fail-on 'sometimes' is unknown"),
    (("a.json", "--coverage-floor", "200"), "give a percentage"),
    (("a.json", "--baseline", "gone.txt"), "gone.txt"),
    (("gone",), "gone does not exist"),
])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    put("a.json", clean_report())
    done = sdc_guard("report", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_the_options_of_judgement_reach_it() -> None:
    put("a.json", clean_report())
    assert sdc_guard("report", "a.json", "--coverage-floor", "93").exit_code == 3
    assert sdc_guard("report", "a.json", "--fail-on", "coverage<93").exit_code == 3
    done = sdc_guard("report", "a.json", "--policy", "precision=fail", "--json=-")
    judged = read_document(done.stdout).judgement
    assert judged is not None
    assert judged.policy["precision"] == "fail"


def test_what_the_command_line_does_not_say_the_settings_do(folder: Path) -> None:
    put("a.json", clean_report())
    bad = put("bad.json", made_report())
    (folder / "pyproject.toml").write_text(
        '[tool.sdc_guard]\ncoverage-floor = 93\nbaseline = "known.txt"\nexpiry = 30\n'
        'policy = {precision = "fail"}\n')
    assert "known.txt" in sdc_guard("report", "a.json").stderr
    assert sdc_guard("baseline", "write", bad).exit_code == 0
    line = (folder / "known.txt").read_text(encoding="utf-8").split("ef8ad83411ad8528")[1]
    days = date.fromisoformat(line.split("|")[6].strip()) - date.today()
    assert 29 <= days.days <= 30
    assert sdc_guard("report", "a.json").exit_code == 3
    done = sdc_guard("report", bad, "--coverage-floor", "90", "--json=-")
    judged = read_document(done.stdout).judgement
    assert judged is not None
    assert (judged.exit_code, judged.policy["precision"], judged.coverage_floor) == (0, "fail", 90)
    (folder / "pyproject.toml").write_text("[tool.sdc_guard]\nfail_on = 'never'\n")
    assert sdc_guard("report", "a.json").exit_code == 2


def test_the_summary_is_appended_within_the_limit_and_annotations_go_to_stdout(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = folder / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    put("a.json", made_report())
    done = sdc_guard("report", "a.json", "--github")
    assert done.exit_code == 1
    assert done.stdout.startswith("::error file=train/model.py,line=57,")
    assert summary.read_text().startswith("before\n## sdc-guard: divergence")
    summary.write_text("x" * (1020 << 10))
    sdc_guard("report", "a.json", "--github")
    assert (1020 << 10) < summary.stat().st_size < (1024 << 10)
    summary.write_text("x" * (1023 << 10))
    assert "nothing is added" in sdc_guard("report", "a.json", "--github").stderr
    assert summary.stat().st_size == 1023 << 10
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    done = sdc_guard("report", "a.json", "--github")
    assert (done.exit_code, "no summary is written" in done.stderr) == (1, True)


def test_the_schema_is_printed_and_published() -> None:
    done = sdc_guard("report", "--schema")
    assert done.exit_code == 0
    assert done.stdout == json.dumps(json_schema(), indent=1, sort_keys=True) + "\n"
    published = (REPOSITORY / "docs" / "report.schema.json").read_text(encoding="utf-8")
    assert published == done.stdout, ("write it again: "
                                      "sdc-guard report --schema > docs/report.schema.json")


def test_a_baseline_from_the_first_line_to_the_last() -> None:
    bad, good = put("bad.json", made_report()), put("good.json", clean_report())
    done = sdc_guard("baseline", "write", bad, "--reason", "issue 12", "--expires", "2099-01-31")
    assert done.exit_code == 0
    assert "1 known, 1 new, 0 renewed" in done.stdout
    assert "merge=union" in done.stderr
    text = Path("sdc-guard-baseline.txt").read_text(encoding="utf-8")
    assert "| 2099-01-31 | issue 12" in text
    again = sdc_guard("baseline", "write", bad, "--reason", "other")
    assert ("1 known, 0 new" in again.stdout, again.stderr) == (True, "")
    assert Path("sdc-guard-baseline.txt").read_text(encoding="utf-8") == text
    known = ("--baseline", "sdc-guard-baseline.txt")
    done = sdc_guard("report", bad, *known, "--fail-on", "new")
    assert (done.exit_code, "known 1 (1 corruption)" in done.stdout) == (0, True)
    assert sdc_guard("report", bad, *known, "--fail-on", "any").exit_code == 1
    done = sdc_guard("baseline", "check", good)
    assert (done.exit_code, "fixed ef8ad83411ad8528" in done.stdout) == (0, True)
    assert sdc_guard("baseline", "check").stdout.startswith("sdc-guard-baseline.txt: 1 known, 0")
    assert json.loads(sdc_guard("baseline", "check", bad, "--json").stdout)["known"] == 1
    done = sdc_guard("baseline", "prune", good)
    assert (done.exit_code, "0 known, 1 removed" in done.stdout) == (0, True)
    done = sdc_guard("baseline", "check", bad)
    assert (done.exit_code, "new 1 (1 corruption)" in done.stdout) == (1, True)


def test_a_damaged_baseline_is_refused_by_all_and_stays_as_it_is() -> None:
    put("a.json", made_report())
    path = Path("sdc-guard-baseline.txt")
    path.write_text("# mine\nbroken\n", encoding="utf-8")
    for arguments in (("baseline", "write", "a.json"), ("baseline", "check"),
                      ("baseline", "prune", "a.json"),
                      ("report", "a.json", "--baseline", str(path))):
        done = sdc_guard(*arguments)
        assert (done.exit_code, "line 2: 1 columns" in done.stderr) == (2, True)
    assert path.read_text(encoding="utf-8") == "# mine\nbroken\n"


def test_a_baseline_of_nothing_is_not_written() -> None:
    assert sdc_guard("baseline", "write", put("a.json", empty_report())).exit_code == 5
    assert not Path("sdc-guard-baseline.txt").exists()
    done = sdc_guard("baseline", "write", put("b.json", made_report()), "--expires", "soon")
    assert (done.exit_code, "'soon' is no date" in done.stderr) == (2, True)
    assert not Path("sdc-guard-baseline.txt").exists()


def test_a_difference_names_the_first_divergent_operator() -> None:
    good, bad = put("good.json", clean_report()), put("bad.json", made_report())
    done = sdc_guard("diff", good, bad)
    assert done.exit_code == 1
    assert "first       aten.sum.dim_IntList at step 41, call 100" in done.stdout
    assert sdc_guard("diff", bad, good).exit_code == 0
    value = json.loads(sdc_guard("diff", good, bad, "--json").stdout)
    assert value["first"]["finding"]["call"]["op"] == "aten.sum.dim_IntList"
    assert value["exit_code"] == 1


EVERY_FORMAT = """
import sys
from sdc_guard.cli.main import main
sys.stdout = sys.stderr
formats = ["--html", "--json", "--junit", "--sarif", "--markdown", "--comment", "--prom"]
for arguments in (["report", {0!r}, *formats, "--github"], ["report", {0!r}],
                  ["baseline", "write", {0!r}], ["baseline", "check", {0!r}],
                  ["diff", {0!r}, {0!r}]):
    main(arguments, standalone_mode=False)
sys.stdout = sys.__stdout__"""


def test_none_of_it_imports_torch(folder: Path) -> None:
    put("runs/a.json", made_report())
    loaded = modules_after(EVERY_FORMAT.format(str(folder / "runs" / "a.json")))
    assert {"jinja2", "junitparser", "sdc_guard.render.sarif"} <= loaded
    assert loaded.isdisjoint({"torch", "numpy", "triton", "hypothesis"})
    assert (folder / "report.html").exists()


@pytest.mark.parametrize("command", [
    ("report",), ("baseline",), ("baseline", "write"), ("baseline", "check"),
    ("baseline", "prune"), ("diff",)])
def test_the_help_ends_with_examples(command: tuple[str, ...]) -> None:
    done = sdc_guard(*command, "--help")
    assert done.exit_code == 0
    assert "Examples:\n" in done.output
    assert f"  sdc-guard {' '.join(command)}" in done.output
