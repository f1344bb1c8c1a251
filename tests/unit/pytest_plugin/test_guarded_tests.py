"""``pytest --sdc-guard``: a test in which a number went wrong fails, and no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sdc_guard
from sdc_guard import active
from sdc_guard.pytest_plugin import worker
from tests.unit.pytest_plugin.inner import FAULTY, LINE_OF_THE_PRODUCT, run, warmed_up

pytest_plugins = ["pytester"]

LIFE = FAULTY + """
import os
import unittest
import hypothesis
import sdc_guard as package
from hypothesis import strategies


def test_clean():
    assert product().shape == (8, 8)

def test_corrupt():
    faulty()

def test_corrupt_and_raises_as_expected():
    with pytest.raises(ZeroDivisionError):
        faulty()
        1 / 0

def test_corrupt_and_wrong():
    faulty()
    assert 1 == 2

def test_corrupt_and_skipped():
    faulty()
    pytest.skip("reason")

@pytest.mark.xfail
def test_corrupt_and_expected_to_fail():
    faulty()
    assert 0

@pytest.mark.xfail(strict=True)
def test_fails_as_expected():
    product()
    assert 0

def test_skipped():
    pytest.skip("reason")

@pytest.mark.parametrize("is_hit", [True, False], ids=["hit", "sound"])
def test_with_parameters(is_hit):
    faulty() if is_hit else product()

class TestCase(unittest.TestCase):
    def setUp(self):
        self.made = product()

    def test_corrupt(self):
        faulty()

    def test_clean(self):
        self.assertEqual(self.made.shape, (8, 8))

@pytest.fixture
def corrupt_fixture():
    yield faulty()

def test_of_a_corrupt_fixture(corrupt_fixture):
    pass

@pytest.fixture(scope="module")
def wide_fixture():
    return faulty()

def test_a_wider_fixture_is_not_guarded(wide_fixture):
    pass

def test_an_own_guard_joins():
    with package.Guard(budget=0) as guard:
        product()
        assert not guard.findings
        assert guard.coverage.calls_checked

def test_an_own_guard_sees_its_test_alone():
    with package.Guard() as guard:
        faulty()
    assert len(guard.findings) == 1

def test_a_wrapped_model_has_its_own_guard():
    model = package.wrap(torch.nn.Linear(2, 2), budget="all")
    model(torch.ones(1, 2))
    assert model.sdc_guard.coverage.calls_checked
    package.unwrap(model)

def test_after_a_wrap():
    faulty()

def test_that_forks():
    child = os.fork()
    if not child:
        os._exit(int(product().shape != (8, 8)))
    assert os.waitpid(child, 0)[1] == 0

@hypothesis.settings(deadline=1, max_examples=5, database=None)
@hypothesis.given(strategies.integers(1, 3))
def test_of_hypothesis(number):
    a = torch.ones(256, 256)
    for _ in range(number):
        a @ a

def test_without_any_operator():
    pass

@pytest.mark.sdc_guard(budget=0)
def test_left_out():
    faulty()

@pytest.mark.sdc_guard(on_finding="raise")
def test_that_raises():
    faulty()

@pytest.mark.sdc_guard(on_finding="explode")
def test_with_a_wrong_mark():
    pass
"""
OUTCOMES = {
    "test_clean": "PASSED",
    "test_corrupt": "FAILED",
    "test_corrupt_and_raises_as_expected": "FAILED",
    "test_corrupt_and_wrong": "FAILED",
    "test_corrupt_and_skipped": "FAILED",
    "test_corrupt_and_expected_to_fail": "FAILED",
    "test_fails_as_expected": "XFAIL",
    "test_with_parameters[hit]": "FAILED",
    "test_with_parameters[sound]": "PASSED",
    "TestCase::test_corrupt": "FAILED",
    "TestCase::test_clean": "PASSED",
    "test_of_a_corrupt_fixture": "FAILED",
    "test_a_wider_fixture_is_not_guarded": "PASSED",
    "test_an_own_guard_joins": "PASSED",
    "test_an_own_guard_sees_its_test_alone": "FAILED",
    "test_a_wrapped_model_has_its_own_guard": "PASSED",
    "test_after_a_wrap": "FAILED",
    "test_that_forks": "PASSED",
    "test_of_hypothesis": "PASSED",
    "test_without_any_operator": "PASSED",
    "test_left_out": "PASSED",
    "test_that_raises": "FAILED",
    "test_with_a_wrong_mark": "ERROR",
}


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    warmed_up()


def report_in(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (folder / "runs" / "pytest" / "report.json").read_text(encoding="utf-8"))
    return document


def test_the_lives_of_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_life=LIFE)
    result, outcomes = run(pytester, "--sdc-guard", "--sdc-report", "json")
    assert outcomes == OUTCOMES
    assert result.ret == 1
    text = result.stdout.str()
    assert "1 / 0" not in text  # what a test expects is no failure
    assert "assert 1 == 2" in text  # a test's own failure stays, the finding stands below it
    assert "on_finding='explode'" in text
    assert "CorruptionDetected" in text
    report = report_in(pytester.path)
    (watched,) = report["runs"]
    assert watched["is_complete"]
    assert not watched["problems"]
    tests = {entry["test"].partition("::")[2] for entry in report["findings"]}
    corrupt = {name for name, word in OUTCOMES.items() if word == "FAILED"}
    assert tests == corrupt
    assert {(e["location"]["file"], e["location"]["line"]) for e in report["findings"]} == {
        ("test_life.py", LINE_OF_THE_PRODUCT)}
    gaps = " ".join(watched["coverage"]["gaps"])
    assert "forked processes" in gaps
    assert "guards a model itself" in gaps


def test_without_the_flag_nothing_is_guarded(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAULTY + "def test_corrupt():\n    faulty()\n")
    result, outcomes = run(pytester)
    assert (result.ret, outcomes) == (0, {"test_corrupt": "PASSED"})
    assert "guards every test" not in result.stdout.str()
    assert "no test was guarded" not in result.stdout.str()
    assert not (pytester.path / "runs").exists()


ASKING = FAULTY + """
@pytest.mark.sdc_guard(budget="all")
def test_marked():
    faulty()

def test_not_marked():
    faulty()

def test_with_the_fixture(sdc_guard):
    product()
    assert sdc_guard.coverage.calls_checked == 2
    assert not sdc_guard.findings

def test_with_the_fixture_late(request):
    guard = request.getfixturevalue("sdc_guard")
    product()
    assert guard.coverage.calls_checked == 2
"""


def test_a_mark_and_the_fixture_guard_their_tests_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ASKING)
    result, outcomes = run(pytester, "--sdc-report", "json")
    assert outcomes == {
        "test_marked": "FAILED", "test_not_marked": "PASSED", "test_with_the_fixture": "PASSED",
        "test_with_the_fixture_late": "PASSED"}
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FOUND 1 corruption; divergences: new 1, known 0",
                                 "checked 6 of 6 calls (100.0%) in 3 tests"])


def test_doctests_are_guarded(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(shown=FAULTY + '''
def shown():
    """
    >>> tuple(faulty().shape)
    (8, 8)
    """
''')
    result, outcomes = run(pytester, "--sdc-guard", "--doctest-modules", "shown.py")
    assert (result.ret, outcomes) == (1, {"shown.shown": "FAILED"})


def test_a_failure_of_the_plugin_fails_no_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: object, **kwargs: object) -> None:
        raise RuntimeError("planted in the plugin")

    pytester.makepyfile(FAULTY + "def test_clean():\n    product()\n")
    for owner, name in ((worker.Worker, "_make"), (sdc_guard.Guard, "attach"),
                        (sdc_guard.Guard, "detach"), (worker.Worker, "take")):
        with monkeypatch.context() as context:
            context.setattr(owner, name, explode)
            result, outcomes = run(pytester, "--sdc-guard", "--sdc-report", "json")
        assert outcomes == {"test_clean": "PASSED"}, name
        result.stdout.fnmatch_lines(["problem: *in the pytest plugin,*planted in the plugin"])
        for guard in list(active._running):  # what could not detach
            guard.detach()


def test_a_session_that_tested_nothing_says_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_empty():\n    pass\n")
    result, _ = run(pytester, "--sdc-guard", "--sdc-report", "json")
    assert result.ret == 5
    result.stdout.fnmatch_lines(["NOTHING TESTED: *"])


def test_a_coverage_floor_fails_the_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAULTY + """
def test_draws():
    product() + torch.rand(8, 8)
""")
    result, outcomes = run(pytester, "--sdc-guard", "--sdc-fail-on", "coverage<99",
                           "--sdc-report", "json")
    assert (result.ret, outcomes) == (1, {"test_draws": "PASSED"})
    result.stdout.fnmatch_lines(["inconclusive: *the floor is 99 %*"])
    result, _ = run(pytester, "--sdc-guard", "--sdc-fail-on", "coverage<10", "--sdc-report", "json")
    assert result.ret == 0


@pytest.mark.parametrize(("arguments", "message"), [
    (["--sdc-budget", "2"], "--sdc-budget '2': it must be a share from 0 to below 1"),
    (["--sdc-baseline", "none.txt"], "none.txt is no file"),
    (["--sdc-report", "json,pdf"], "--sdc-report pdf: choose of html, json"),
    (["--sdc-fail-on", "rain"], "--sdc-fail-on 'rain': it must be a list of new, any"),
])
def test_wrong_options_are_usage_errors(
    pytester: pytest.Pytester, arguments: list[str], message: str
) -> None:
    pytester.makepyfile("def test_empty():\n    pass\n")
    result, outcomes = run(pytester, "--sdc-guard", *arguments)
    assert (result.ret, outcomes) == (4, {})
    assert message in result.stderr.str()


def test_options_stand_in_the_ini_file_too(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nsdc_guard = true\nsdc_budget = 0.5\nsdc_out = elsewhere\n")
    pytester.makepyfile(FAULTY + "def test_clean():\n    product()\n")
    result, _ = run(pytester, "--sdc-report", "json")
    result.stdout.fnmatch_lines(["sdc_guard: *guards every test, budget 0.5, reports in elsewhere"])
    assert (pytester.path / "elsewhere" / "report.json").is_file()


def test_settings_of_the_package_count_below_pytest_s_own(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyprojecttoml("[tool.sdc_guard]\nout = 'elsewhere'\nreport = ['json']\n"
                               "policy = {precision = 'fail'}\n")
    pytester.makepyfile(FAULTY + "def test_clean():\n    product()\n")
    result, _ = run(pytester, "--sdc-guard", "--sdc-budget", "0.5")
    assert result.ret == 0
    assert (pytester.path / "elsewhere" / "report.json").is_file()
    policy = json.loads((pytester.path / "elsewhere" / "report.json").read_text(encoding="utf-8"))[
        "judgement"]["policy"]
    assert policy["precision"] == "fail"
    monkeypatch.setenv("SDC_GUARD", "off")
    result, outcomes = run(pytester, "--sdc-guard")
    assert (result.ret, outcomes) == (0, {"test_clean": "PASSED"})
    result.stdout.fnmatch_lines(["sdc_guard: *switched off by environment SDC_GUARD"])
    monkeypatch.setenv("SDC_GUARD_COLOUR", "blue")
    result, _ = run(pytester, "--sdc-guard")
    assert result.ret == 4
    assert "SDC_GUARD_COLOUR is no setting" in result.stderr.str()


def test_without_torch_the_flag_says_so(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    right = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == "torch" else right(name, *rest))
    pytester.makepyfile("def test_empty():\n    pass\n")
    result, _ = run(pytester, "--sdc-guard")
    assert result.ret == 4
    assert "torch is not installed here" in result.stderr.str()
    result, outcomes = run(pytester)
    assert (result.ret, outcomes) == (0, {"test_empty": "PASSED"})
