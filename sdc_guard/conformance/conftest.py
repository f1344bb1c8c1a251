"""Options to cases, and what was not tested below the results."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdc_guard.conformance.cases import Asked, asked, cases_of
from sdc_guard.conformance.test_operators import NOT_TESTED, NOTED
from sdc_guard.errors import UsageError

MAX_LINES = 40
SUITE = "test_operators.py::test_operator["
_ASKED = pytest.StashKey[Asked]()
_LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case for each operator and dtype that the options name."""
    if "sdc_case" not in metafunc.fixturenames:
        return
    config = metafunc.config
    try:
        options = asked(
            device=config.getoption("sdc_device"), ops=config.getoption("sdc_ops"),
            oracles=config.getoption("sdc_oracles"), examples=config.getoption("sdc_examples"),
            seed=config.getoption("sdc_seed"))
        with _cache(config) as folder:
            cases, templates = cases_of(options, folder)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    except ValueError as error:
        raise pytest.UsageError(
            f"the options of the conformance suite are not here ({error}); in a checkout that is "
            "not installed, add -p sdc_guard.pytest_plugin") from error
    config.stash[_ASKED] = options
    config.stash[_LEFT_OUT] = [
        f"{name}: {reason}" for name, reason in sorted(templates.skipped.items())]
    metafunc.parametrize("sdc_case", cases, ids=[case.id for case in cases])


@contextmanager
def _cache(config: pytest.Config) -> Iterator[Path]:
    """pytest's own cache folder, or one for this session where there is none."""
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is not None:
        yield cache.mkdir("sdc_guard")
        return
    with tempfile.TemporaryDirectory(prefix="sdc-guard-") as folder:
        yield Path(folder)


@pytest.fixture
def sdc_asked(request: pytest.FixtureRequest) -> Asked:
    """The options.  The first case tells for all what no case was made of, since properties of
    tests are what a worker of pytest-xdist hands over."""
    if not request.node.callspec.indices["sdc_case"]:
        request.node.user_properties += [
            (NOT_TESTED, line) for line in request.config.stash[_LEFT_OUT]]
    return request.config.stash[_ASKED]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What passed says nothing about: calls that no oracle judged, and divergences that fail no
    test."""
    reports = [r for group in terminalreporter.stats.values() for r in group
               if getattr(r, "when", "") == "call" and SUITE in r.nodeid]
    if not reports:
        return
    option = config.getoption
    terminalreporter.section("sdc_guard conformance")
    terminalreporter.line(
        f"device {option('sdc_device')}, {option('sdc_examples')} calls for each test, seed "
        f"{option('sdc_seed')}, operators: {option('sdc_ops') or 'all'}, oracles: "
        f"{option('sdc_oracles') or 'all'}")
    for title, name in (("diverged, and fails no test", NOTED), ("not tested", NOT_TESTED)):
        lines = _said(reports, name)
        terminalreporter.line(f"{title}:{'' if lines else ' nothing'}")
        for line in lines[:MAX_LINES]:
            terminalreporter.line(f"  {line}")
        if len(lines) > MAX_LINES:
            terminalreporter.line(f"  and {len(lines) - MAX_LINES} more; --junitxml holds all")


def _said(reports: list[pytest.TestReport], name: str) -> list[str]:
    found = (str(value) for report in reports
             for key, value in report.user_properties if key == name)
    return list(dict.fromkeys(found))

