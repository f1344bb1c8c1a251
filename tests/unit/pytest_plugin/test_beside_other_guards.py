"""Models that tests and fixtures wrap: each finding fails its own test, and no other."""

from __future__ import annotations

import json

import pytest

from tests.unit.pytest_plugin.inner import FAULTY, run, warmed_up

pytest_plugins = ["pytester"]

WRAPPED_BY_TESTS = FAULTY + """
import sdc_guard as package

def wrapped():
    return package.wrap(torch.nn.Linear(2, 2), budget="all")

def test_that_never_unwraps():
    wrapped()

def test_corrupt():
    faulty()

def test_clean():
    product()

@pytest.fixture
def corrupt_and_wrapped():
    faulty()
    return wrapped()

def test_of_a_corrupt_fixture(corrupt_and_wrapped):
    product()

def test_clean_again():
    product()

@pytest.fixture(scope="module")
def model():
    made = wrapped()
    yield made
    package.unwrap(made)

def test_that_wraps_for_all_others(request):
    request.getfixturevalue("model")

def test_corrupt_beside_a_wrapped_model(model):
    faulty()
    assert model.sdc_guard.findings

def test_clean_beside_a_wrapped_model(model):
    product()
    assert model.sdc_guard.coverage.calls_checked
"""
CORRUPT = {"test_corrupt", "test_of_a_corrupt_fixture", "test_corrupt_beside_a_wrapped_model"}


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    warmed_up()


def test_a_model_left_wrapped_is_guarded_to_its_test_s_end(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(WRAPPED_BY_TESTS)
    result, outcomes = run(pytester, "--sdc-guard", "--sdc-report", "json")
    assert {name for name, word in outcomes.items() if word != "PASSED"} == CORRUPT
    assert len(outcomes) == 8
    report = json.loads((pytester.path / "runs/pytest/report.json").read_text(encoding="utf-8"))
    assert sorted(found["test"].partition("::")[2] for found in report["findings"]) == sorted(
        CORRUPT)
    result.stdout.fnmatch_lines(["FOUND 3 corruption; *"])


def test_options_of_the_mark_that_have_no_name_are_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n@pytest.mark.sdc_guard(0)\ndef test_left_out():\n    pass\n")
    result, outcomes = run(pytester)
    assert outcomes == {"test_left_out": "ERROR"}
    result.stdout.fnmatch_lines(["*it takes options by name, as in sdc_guard(budget=0), not (0,)*"])


def test_a_folder_that_cannot_be_written_is_told_about(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAULTY + "def test_clean():\n    product()\n")
    pytester.path.joinpath("taken").touch()
    result, outcomes = run(pytester, "--sdc-guard", "--sdc-out", "taken")
    assert (result.ret, outcomes) == (1, {"test_clean": "PASSED"})
    result.stdout.fnmatch_lines(["no report: *taken*could not be written*--sdc-out"])
