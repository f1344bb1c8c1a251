"""Which findings fail their test, and what the whole session comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sdc_guard.document.divergences import divergences
from sdc_guard.document.exits import CLEAN, NOTHING_TESTED
from sdc_guard.document.schema import SCHEMA_VERSION, Entry, Report, Run
from sdc_guard.errors import UsageError
from sdc_guard.pytest_plugin.options import Options
from sdc_guard.records import Finding
from sdc_guard.report.baseline import Baseline, read_baseline
from sdc_guard.report.entries import entry_of
from sdc_guard.report.gather import gather
from sdc_guard.report.judging import judge
from sdc_guard.report.outputs import FORMATS, write_outputs
from sdc_guard.version import __version__

DOCUMENT = "json"
"""Written always: baselines are made from it."""
_RUN = "this test"


@dataclass(frozen=True)
class Outcome:
    """Of a session: the judged report (None where none could be made), its files, how many tests
    were guarded, and ``problem``, what went wrong with the report itself."""

    report: Report | None
    files: dict[str, Path]
    num_tests: int
    problem: str = ""

    @property
    def exit_status(self) -> int:
        """What pytest's exit status becomes if all tests pass: 1 where the report fails or
        concludes nothing, 5 where nothing was tested."""
        if self.report is None or self.report.judgement is None:
            return 0 if not self.problem else int(pytest.ExitCode.TESTS_FAILED)
        code = self.report.judgement.exit_code
        if code == NOTHING_TESTED:
            return int(pytest.ExitCode.NO_TESTS_COLLECTED)
        return CLEAN if code == CLEAN else int(pytest.ExitCode.TESTS_FAILED)

    def counts(self) -> dict[str, int]:
        """Divergences by what the baseline says of them."""
        found = {"new": 0, "known": 0, "expired": 0}
        for divergence in divergences(self.report) if self.report is not None else ():
            found[divergence.state] += 1
        return found

    def add_to_junit(self, config: pytest.Config) -> None:
        """Put the figures on the test suite, where the xunit2 schema allows properties."""
        # The plugin that writes the file; the fixture record_testsuite_property is no way in, for
        # workers of xdist have no file.
        xml = next((p for p in config.pluginmanager.get_plugins()
                    if hasattr(p, "add_global_property")), None)
        if xml is None or self.report is None:
            return
        figures = {"tests": self.num_tests, "calls": self.report.calls,
                   "calls_checked": self.report.calls_checked,
                   **{f"divergences.{state}": n for state, n in self.counts().items()},
                   **{f"findings.{word.replace(' ', '_')}": n
                      for word, n in self.report.num_by_verdict.items()}}
        for name, number in figures.items():
            xml.add_global_property(f"sdc_guard.{name}", number)


class Judge:
    """Policy and baseline of a session.

    Raises:
        pytest.UsageError: for a baseline that cannot be read, an unknown format or ``fail-on``.
    """

    def __init__(self, options: Options, root: Path) -> None:
        self._options = options
        self._root = root
        unknown = [name for name in options.settings.report if name not in FORMATS]
        if unknown:
            raise pytest.UsageError(f"--sdc-report {','.join(unknown)}: choose of "
                                    f"{', '.join(FORMATS)}")
        self._baseline: Baseline | None = None
        try:
            if options.baseline is not None:
                self._baseline = read_baseline(options.baseline)
            self._judged(_report((), {}))
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error

    def entries(self, findings: Sequence[Finding], test: str) -> tuple[Entry, ...]:
        """The findings of one test as they will stand in the report."""
        return tuple(entry_of(finding, tool="guard", run=_RUN, root=self._root, test=test)
                     for finding in findings)

    def split(self, entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        """Those that fail their test, and the others."""
        import torch

        report = self._judged(_report(entries, {"torch": torch.__version__}))
        failing = {d.id for d in divergences(report) if d.action == "fail"}
        return (tuple(e for e in entries if e.id in failing),
                tuple(e for e in entries if e.id not in failing))

    def _judged(self, report: Report) -> Report:
        settings = self._options.settings
        return judge(report, policy=settings.policy, fail_on=settings.fail_on,
                     coverage_floor=settings.coverage_floor, baseline=self._baseline)

    def conclude(self, logs: Path, num_tests: int) -> Outcome:
        """Gather what all workers wrote, judge it, and write the report's files."""
        if not num_tests and not logs.is_dir():
            return Outcome(None, {}, 0)
        out = self._options.out
        if not logs.is_dir():
            return Outcome(None, {}, num_tests, (
                f"no report: the logs of this session are not in {logs}, which could not be "
                "written or was removed; choose another folder by --sdc-out"))
        files = {name: out / FORMATS[name].file
                 for name in dict.fromkeys((*self._options.settings.report, DOCUMENT))}
        try:
            report = self._judged(
                gather([logs], root=self._root, title=f"pytest in {self._root.name}"))
        except Exception as error:
            return Outcome(None, {}, num_tests, f"no report: {type(error).__name__}: {error}")
        try:
            write_outputs(report, files)
        except Exception as error:
            return Outcome(report, {}, num_tests, f"not written: {type(error).__name__}: {error}")
        return Outcome(report, files, num_tests)


def _report(entries: Sequence[Entry], environment: dict[str, str]) -> Report:
    run = Run(id=_RUN, kind="guard", rank=0, pid=0, host="", start_utc="", source="",
              environment=environment)
    return Report(schema_version=SCHEMA_VERSION, tool_version=__version__, created_utc="",
                  title="", sources=(), runs=(run,), findings=tuple(entries))
