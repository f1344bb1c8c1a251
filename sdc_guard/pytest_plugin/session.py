"""A pytest session in which tests are guarded: the hooks."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from sdc_guard.errors import UsageError
from sdc_guard.pytest_plugin.earlier import put_aside
from sdc_guard.pytest_plugin.judged import Judge, Outcome
from sdc_guard.pytest_plugin.options import LOGS, parse_options
from sdc_guard.pytest_plugin.telling import as_longrepr, failure_text, header, summary_lines
from sdc_guard.pytest_plugin.worker import NAME, Worker

if TYPE_CHECKING:
    from sdc_guard.guard import Guard

SESSION = "sdc_guard-session"


class Session:
    """Registered where a test is to be guarded, in the controller and in each worker of xdist.

    Raises:
        pytest.UsageError: for an option out of its range, or where torch is not installed.
    """

    def __init__(self, config: pytest.Config, label: str, *, guards_all: bool) -> None:
        if importlib.util.find_spec("torch") is None:
            raise pytest.UsageError(
                "sdc_guard checks what torch computes, and torch is not installed here; install "
                "it, or leave out --sdc-guard and the tests marked sdc_guard")
        self.options = parse_options(config, guards_all=guards_all)
        self._config = config
        self._workeroutput: dict[str, Any] | None = getattr(config, "workeroutput", None)
        self._logs = self.options.out / LOGS / label
        if self._workeroutput is None:
            put_aside(self.options.out, label)
        name = getattr(config, "workerinput", {"workerid": "main"})["workerid"]
        self._worker = Worker(self.options, self._logs / name)
        self._judge = Judge(self.options, config.rootpath)
        self._num_tests = 0
        self._outcome: Outcome | None = None

    def pytest_report_header(self) -> str | None:
        return header(self.options, self._config.rootpath) if self.options.guards_all else None

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        wrong = ""
        try:
            self._worker.begin(item)
        except UsageError as error:
            wrong = str(error)
        if wrong:
            pytest.fail(wrong, pytrace=False)
        return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        if fixturedef.argname == NAME:
            return (yield)
        if fixturedef.scope != "function":
            made = yield
            self._worker.wide.note()
            return made
        with self._worker.watching(request.node):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self._worker.watching(item):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when != "setup" or not report.passed:  # else the call's report has it
            try:
                self._put_on(report, item)
            except Exception as error:
                self._worker.note(f"reporting {item.nodeid}", error)
        if report.when == "teardown":
            self._worker.end(item)
        return report

    def _put_on(self, report: pytest.TestReport, item: pytest.Item) -> None:
        """A finding that fails by policy fails the test, whatever the test was to do."""
        findings = self._worker.take(item)
        if not findings:
            return
        entries = self._judge.entries(findings, item.nodeid)
        failing, others = self._judge.split(entries)
        if others:
            report.sections.append(("sdc_guard: does not fail", failure_text(others)))
        if failing and report.failed:
            report.sections.append(("sdc_guard", failure_text(failing)))
        elif failing:
            report.outcome = "failed"
            report.longrepr = as_longrepr(failure_text(failing))
            if hasattr(report, "wasxfail"):
                del report.wasxfail

    @contextlib.contextmanager
    def fixture(self, item: pytest.Item) -> Iterator[Guard]:
        """The guard of a test that asks for it; in the middle of its call by ``getfixturevalue``,
        then it watches from there to the fixture's end."""
        guard = self._worker.begin(item, is_asked=True)
        if guard is None:
            pytest.fail("the fixture sdc_guard is asked for by a test whose budget is 0, or whose "
                        "guard could not be made", pytrace=False)
        is_declared = NAME in getattr(item, "fixturenames", ())
        with contextlib.nullcontext() if is_declared else self._worker.watching(item):
            yield guard

    def add_worker(self, told: dict[str, Any]) -> None:
        """What a worker of xdist says at its end."""
        self._num_tests += told["num_tests"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The report, before pytest's own JUnit file is written."""
        self._worker.close()
        if self._workeroutput is not None:
            self._workeroutput[SESSION] = {"num_tests": self._worker.num_tests}
            return
        self._num_tests += self._worker.num_tests
        self._outcome = self._judge.conclude(self._logs, self._num_tests)
        self._outcome.add_to_junit(self._config)
        if session.exitstatus == pytest.ExitCode.OK and self._outcome.exit_status:
            session.exitstatus = self._outcome.exit_status

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._outcome is not None:
            terminalreporter.section("sdc_guard")
            for line in summary_lines(self._outcome, self._config.rootpath):
                terminalreporter.line(line)
