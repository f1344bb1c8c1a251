"""The whole path in CI: a fault in a test fails the job in every format; once it is in a baseline,
the job passes and says "known"."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import junitparser
import pytest
from click.testing import CliRunner
from lxml import etree

from sdc_guard.cli.main import main
from tests.meta.tree import ROOT
from tests.unit.pytest_plugin.inner import FAULTY, LINE_OF_THE_PRODUCT, PLUGIN, run, warmed_up
from tests.unit.render.test_sarif import validator

pytest_plugins = ["pytester"]

XSD = ROOT / "build" / "schemas" / "junit-10.xsd"
FORMATS = "html,json,junit,sarif,markdown"
TESTS = {
    "test_faulty.py": FAULTY + "\ndef test_corrupt():\n    faulty()\n",
    "test_sound.py": FAULTY + "\ndef test_clean():\n    product()\n",
    "test_asking.py": FAULTY + "\ndef test_with_the_fixture(sdc_guard):\n    product()\n",
}
OUT = Path("runs/pytest")


def session(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``pytest`` as CI calls it."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider",
         "--junitxml=tests.xml", "--sdc-report", FORMATS, *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False, env={
            **os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])})


def judged_by_the_schema(path: Path) -> None:
    """By the xunit2 schema where it was fetched (``make build/schemas/junit-10.xsd``); the tests of
    our own JUnit files say so where it was not."""
    if XSD.exists():
        etree.XMLSchema(etree.parse(XSD)).assertValid(etree.parse(path))


def cases(path: Path) -> dict[str, list[Any]]:
    judged_by_the_schema(path)
    return {case.name: list(case.result) for suite in junitparser.JUnitXml.fromfile(str(path))
            for case in suite}


def write_tests(folder: Path, **others: str) -> None:
    for name, text in {**TESTS, **{f"{k}.py": v for k, v in others.items()}}.items():
        (folder / name).write_text(text, encoding="utf-8")


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / OUT / "report.json").read_text(encoding="utf-8"))
    return found


def the_fault_is_in_every_format(folder: Path) -> None:
    found = cases(folder / "tests.xml")
    assert [name for name, result in found.items() if result] == ["test_corrupt"]
    (failure,) = found["test_corrupt"]
    assert isinstance(failure, junitparser.Failure)
    assert "SDC101 CORRUPTION in aten.mm" in failure.message
    suite = next(iter(junitparser.JUnitXml.fromfile(str(folder / "tests.xml"))))
    properties = {p.name: p.value for p in suite.properties()}
    assert properties["sdc_guard.divergences.new"] == "1"
    assert properties["sdc_guard.tests"] == "3"

    sarif = json.loads((folder / OUT / "report.sarif").read_text(encoding="utf-8"))
    validator().validate(sarif)
    (result,) = sarif["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "test_faulty.py"
    assert place["region"]["startLine"] == LINE_OF_THE_PRODUCT

    assert any(result for result in cases(folder / OUT / "report.junit.xml").values())
    assert "test_faulty.py" in (folder / OUT / "report.md").read_text(encoding="utf-8")
    page = (folder / OUT / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "aten.mm" in page


def test_a_fault_fails_the_job_in_every_format_until_it_is_known(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed_up()
    folder = pytester.path
    monkeypatch.chdir(folder)
    write_tests(folder)
    arguments = ["--sdc-guard", "--junitxml=tests.xml", "--sdc-report", FORMATS]
    result, outcomes = run(pytester, *arguments)
    assert result.ret == 1
    assert outcomes == {"test_corrupt": "FAILED", "test_clean": "PASSED",
                        "test_with_the_fixture": "PASSED"}
    result.stdout.fnmatch_lines(["FOUND 1 corruption; divergences: new 1, known 0",
                                 "checked * calls (100.0%) in 3 tests"])
    the_fault_is_in_every_format(folder)

    written = CliRunner().invoke(main, [
        "baseline", "write", str(OUT), "--baseline", "known.txt",
        "--reason", "planted"])
    assert written.exit_code == 0, written.output
    assert "1 known, 1 new" in written.output

    result, outcomes = run(pytester, *arguments, "--sdc-baseline", "known.txt")
    assert result.ret == 0
    assert set(outcomes.values()) == {"PASSED"}
    result.stdout.fnmatch_lines(["FOUND 1 corruption; divergences: new 0, known 1"])
    assert not any(cases(folder / "tests.xml").values())
    judgement = document(folder)["judgement"]
    assert (judgement["exit_code"], list(judgement["states"].values())) == (0, ["known"])
    again = CliRunner().invoke(main, ["report", str(OUT), "--baseline", "known.txt"])
    assert again.exit_code == 0, again.output

    (folder / "known.txt").rename("sdc-guard-baseline.txt")  # the name that needs no option
    result, outcomes = run(pytester, *arguments)
    assert (result.ret, set(outcomes.values())) == (0, {"PASSED"})
    result.stdout.fnmatch_lines(["FOUND 1 corruption; divergences: new 0, known 1"])
    (folder / "sdc-guard-baseline.txt").rename("known.txt")

    result, outcomes = run(pytester, *arguments, "--sdc-baseline", "known.txt",
                           "--sdc-fail-on", "any")
    assert (result.ret, outcomes["test_corrupt"]) == (1, "FAILED")


@pytest.mark.slow
def test_workers_write_apart_and_one_report_has_them_all(tmp_path: Path) -> None:
    write_tests(tmp_path)
    done = session(tmp_path, "--sdc-guard", "-n", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    the_fault_is_in_every_format(tmp_path)
    assert done.stdout.count("FOUND 1 corruption; divergences: new 1, known 0") == 1
    runs = document(tmp_path)["runs"]
    assert len({run["source"] for run in runs}) == len(runs)
    assert {Path(run["source"]).parent.name for run in runs} <= {"gw0", "gw1"}
    assert all(run["is_complete"] for run in runs)
    (entry,) = document(tmp_path)["findings"]
    assert Path(entry["finding"]["evidence"]["bundle"]).is_file()


@pytest.mark.slow
def test_workers_of_tests_that_ask_are_told_about_without_the_flag(tmp_path: Path) -> None:
    write_tests(tmp_path)
    done = session(tmp_path, "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no divergence in what was checked" in done.stdout
    assert "in 1 tests" in done.stdout


@pytest.mark.slow
def test_a_worker_that_dies_leaves_a_report_that_says_so(tmp_path: Path) -> None:
    write_tests(tmp_path, test_dying=FAULTY + (
        "\nimport os\n\ndef test_dying():\n    faulty()\n    os._exit(9)\n"))
    done = session(tmp_path, "--sdc-guard", "-n", "2")
    assert done.returncode == 1
    report = document(tmp_path)
    assert not all(run["is_complete"] for run in report["runs"])
    assert {entry["test"] for entry in report["findings"]} == {
        "test_faulty.py::test_corrupt", "test_dying.py::test_dying"}
    assert "did not end in order" in done.stdout
