"""What a person gets to send, and the test that they keep."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.exact import BY_BITS, BY_COUNT
from sdc_guard.hunt.findings import Finder, write_tests
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.issue_text import issue_text
from sdc_guard.hunt.regression_test import test_name as name_of_test
from tests.unit.hunt.made_findings import BOUND, EXP, GELU_OUT, NANMEDIAN, broken_exp, take


@pytest.fixture(scope="module")
def nanmedian() -> FoundDivergence:
    return take(NANMEDIAN)


def test_the_text_has_what_the_template_asks_for(nanmedian: FoundDivergence) -> None:
    text = nanmedian.issue
    assert "sent to nobody" in text
    assert "### \N{BUG} Describe the bug" in text
    assert "### Versions" in text
    assert f"PyTorch version: {torch.__version__}" in text
    assert "CPU capability: " in text
    assert "Threads of the call: 1" in text
    assert "rational arithmetic" in text
    assert nanmedian.script.rstrip() in text
    assert f"The exact value is `{nanmedian.exact_value}`" in text
    assert "silently wrong result (float32, expanded input, cpu)" in text


def test_what_needs_no_number_is_told_by_what_it_breaks(nanmedian: FoundDivergence) -> None:
    drawn = msgspec.structs.replace(nanmedian, exact_value=BY_COUNT)
    text = issue_text((drawn,))
    assert f"{nanmedian.message}; {BY_COUNT}." in text
    assert "The exact value is" not in text
    beside = msgspec.structs.replace(
        drawn, exact_value=BY_BITS, finding=msgspec.structs.replace(drawn.finding, worst=None))
    assert f"{BY_BITS[1:]}." in issue_text((beside,))


def test_no_host_is_named(nanmedian: FoundDivergence) -> None:
    assert socket.gethostname() not in nanmedian.issue


def test_others_of_the_same_cause_are_a_table(nanmedian: FoundDivergence) -> None:
    other = msgspec.structs.replace(nanmedian, fingerprint="f" * 16, oracle="layout")
    text = issue_text((nanmedian, other))
    assert "Probably of the same cause" in text
    assert f"`{'f' * 16}`" in text
    assert text.count("### Versions") == 1


def test_a_script_that_does_not_show_it_is_said_not_to(nanmedian: FoundDivergence) -> None:
    assert "In a fresh process it did not show" in issue_text(
        (msgspec.structs.replace(nanmedian, script_shows="right"),))
    assert "it ends with WRONG here" in issue_text(
        (msgspec.structs.replace(nanmedian, script_shows="wrong"),))


def test_the_regression_test_of_a_finding_fails_while_torch_is_wrong(
    nanmedian: FoundDivergence
) -> None:
    with broken_exp(lambda n: True):
        planted = take(EXP)
        with pytest.raises(AssertionError):
            _run(planted)
    _run(planted)
    with pytest.raises(AssertionError):
        _run(nanmedian)


def _run(found: FoundDivergence) -> None:
    scope: dict[str, Any] = {}
    exec(compile(found.regression_test, "regression_test.py", "exec"), scope)
    scope[name_of_test(found)]()


@pytest.mark.slow
def test_regression_tests_fail_while_torch_is_wrong_and_pass_once_it_is_right(
    nanmedian: FoundDivergence, tmp_path: Path
) -> None:
    with broken_exp(lambda n: True):
        planted = take(EXP)
    with broken_exp(lambda n: n % 2 == 0):
        coming = take(EXP, max_tries=0)
    crash = Finder(BOUND, runs_scripts=False).take(EXP, Divergence(
        oracle="process", op=EXP.target, word="crash", message="ends its process",
        dtype_class="float32", layout_class="permuted", magnitude_class="SIGSEGV"))
    found = [nanmedian, take(GELU_OUT), planted, coming, crash]
    files = write_tests(tmp_path, found)
    assert len(files) == len(found)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:sdc_guard",
         "-c", "/dev/null", "--rootdir", str(tmp_path), *map(str, files)],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert "2 failed, 3 passed" in done.stdout, done.stdout[-2000:]
    for one in found[:2]:
        assert f"FAILED {name_of_test(one)}.py::{name_of_test(one)}" in done.stdout


def test_a_finding_without_a_script_has_no_test(nanmedian: FoundDivergence, tmp_path: Path) -> None:
    bare = msgspec.structs.replace(nanmedian, script="", regression_test="")
    assert write_tests(tmp_path, [bare]) == ()
    assert "There is no short script" in issue_text((bare,))


def test_a_broken_fact_is_told_without_an_expected_value(nanmedian: FoundDivergence) -> None:
    worst = nanmedian.finding.worst
    assert worst is not None
    fact = msgspec.structs.replace(worst, bound=None, error_ulps=-1.0)
    finding = msgspec.structs.replace(nanmedian.finding, worst=fact)
    text = issue_text((msgspec.structs.replace(
        nanmedian, finding=finding, exact="not available", message="draws are counts"),))
    assert "draws are counts." in text
    assert "Expected" not in text
