"""The guards of one process that runs tests, and the one log that they share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdc_guard.errors import CorruptionDetected, UsageError
from sdc_guard.evidence.eventlog import EventLog
from sdc_guard.pytest_plugin.guarded import Guarded, Wide
from sdc_guard.pytest_plugin.options import Options
from sdc_guard.pytest_plugin.totals import Totals

if TYPE_CHECKING:
    from sdc_guard.guard import Guard
    from sdc_guard.records import Finding

NAME = "sdc_guard"
MAX_BUNDLE_BYTES_IN_ALL = 512 << 20
_OF_ONE_TEST = ("summary", "exception", "progress", "modules")


class TestsLog(EventLog):
    """The log of all tests of a process.  What their guards say of each as a whole, and what tests
    raise on purpose, is left out; :meth:`finish` writes the one summary."""

    __test__ = False  # its name begins as those of test classes do

    def write(self, kind: str, **fields: Any) -> None:
        if kind not in _OF_ONE_TEST:
            super().write(kind, **fields)

    def finish(self, totals: Totals, num_findings: int) -> None:
        self.labels.clear()
        super().write("summary", coverage=totals.coverage(), findings=num_findings)
        self.close()


GUARDED = pytest.StashKey[Guarded]()


class Worker:
    """Makes a guard for each test that is to have one.  ``num_tests`` counts them; what goes wrong
    in here is noted in the log and fails no test."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.num_tests = 0
        self.folder = folder
        self._options = options
        self._log: TestsLog | None = None
        self._totals = Totals()
        self._num_errors = 0
        self._num_findings = 0
        self._num_bundle_bytes = 0
        self.wide = Wide()

    def note(self, where: str, error: BaseException) -> None:
        """Record a failure of the plugin's own."""
        self._num_errors += 1
        if self._log is None:
            self._log = TestsLog(self.folder, 0)
        self._log.write("guard_error", where=f"in the pytest plugin, {where}",
                        error=f"{type(error).__name__}: {error}"[:500])

    def begin(self, item: pytest.Item, *, is_asked: bool = False) -> Guard | None:
        """The test's guard, made at the first call; None if it is to have none.

        Raises:
            UsageError: for an option of the mark that is none.
        """
        guarded = item.stash.get(GUARDED, None)
        if guarded is not None:
            return guarded.guard
        asked = self._asked(item, is_asked=is_asked)
        if asked is None:
            return None
        try:
            guard = self._make(item, asked)
        except (UsageError, TypeError) as error:
            raise UsageError(f"@pytest.mark.sdc_guard of {item.nodeid}: {error}") from error
        except Exception as error:
            self.note(f"making a guard for {item.nodeid}", error)
            return None
        self.num_tests += 1
        item.stash[GUARDED] = Guarded(guard)
        return guard

    def _asked(self, item: pytest.Item, *, is_asked: bool) -> dict[str, Any] | None:
        mark = item.get_closest_marker(NAME)
        in_use = is_asked or NAME in getattr(item, "fixturenames", ())
        settings = self._options.settings
        if not settings.enabled or (
                mark is None and not in_use and not self._options.guards_all):
            return None
        if mark is not None and mark.args:
            raise UsageError(f"@pytest.mark.sdc_guard of {item.nodeid}: it takes options by name, "
                             f"as in sdc_guard(budget=0), not {mark.args!r}"[:500])
        options = {**settings.for_guard(), **(mark.kwargs if mark is not None else {})}
        return options if options["budget"] != 0 else None

    def _make(self, item: pytest.Item, options: dict[str, Any]) -> Guard:
        from sdc_guard.evidence.bundle import BundleWriter
        from sdc_guard.evidence.environment import collect_environment
        from sdc_guard.shared_log import guard_on

        if self._log is None:
            self._log = TestsLog(
                self.folder, 0, seed=self._options.settings.seed,
                environment=collect_environment(), budget=self._options.settings.budget)
        self._log.labels["test"] = item.nodeid
        writer = BundleWriter(
            self.folder / "bundles", level=options.pop("evidence"),
            max_total_bytes=max(MAX_BUNDLE_BYTES_IN_ALL - self._num_bundle_bytes, 0))
        return guard_on(self._log, writer, **options)

    @contextlib.contextmanager
    def watching(self, item: pytest.Item) -> Iterator[None]:
        """The test's code inside is guarded.

        Raises:
            CorruptionDetected: where the test's mark says ``on_finding="raise"``.
        """
        guarded = item.stash.get(GUARDED, None)
        with _without_deadline(item):
            if guarded is None or not self._enter(guarded, item):
                yield
                return
            guard = guarded.guard
            try:
                yield
            except BaseException:
                self._leave(guard.detach, guarded, item)
                raise
            self._leave(lambda: guard.__exit__(None, None, None), guarded, item)

    def _enter(self, guarded: Guarded, item: pytest.Item) -> bool:
        try:
            if guarded.joins_another():
                return False
            guarded.guard.__enter__()
        except Exception as error:
            self.note(f"entering the guard of {item.nodeid}", error)
            return False
        return True

    def _leave(self, leave: Callable[[], None], guarded: Guarded, item: pytest.Item) -> None:
        """What the test's own mark asked to be raised is raised; anything else is noted."""
        guard = guarded.guard
        guarded.note_begun()
        try:
            leave()
        except Exception as error:
            if isinstance(error, CorruptionDetected) or callable(guard.on_finding):
                raise
            self.note(f"leaving the guard of {item.nodeid}", error)

    def take(self, item: pytest.Item) -> list[Finding]:
        """The test's findings that no report has yet."""
        guarded = item.stash.get(GUARDED, None)
        if guarded is None:
            return []
        own, of_others = guarded.take()
        if self._log is not None:  # the guards of wrapped models have logs of their own
            for finding in of_others:
                self._log.write("finding", finding=finding)
        new = own + of_others
        self._num_findings += len(new)
        return new

    def end(self, item: pytest.Item) -> None:
        """Let go of the test's guard."""
        guarded = item.stash.get(GUARDED, None)
        if guarded is None:
            return
        del item.stash[GUARDED]
        try:
            guarded.guard.detach()
            guarded.end_begun(self.wide)
            self._totals.add(guarded.guard.coverage)
            self._num_bundle_bytes += guarded.guard._pipeline.bundles.total_bytes
        except Exception as error:
            self.note(f"ending the guard of {item.nodeid}", error)

    def close(self) -> None:
        """Write the summary of this process's tests."""
        if self._log is not None:
            self._totals.add_errors(self._num_errors)
            self._log.finish(self._totals, self._num_findings)
            self._log = None


@contextlib.contextmanager
def _without_deadline(item: pytest.Item) -> Iterator[None]:
    """Let Hypothesis wait: a guarded example takes longer than the deadline that was meant for an
    unguarded one.  Nothing is changed in a test that is none of Hypothesis's."""
    name = "_hypothesis_internal_use_settings"
    test = getattr(item, "obj", None)
    test = getattr(test, "__func__", test)
    before, library = getattr(test, name, None), sys.modules.get("hypothesis")
    if before is None or library is None:
        yield
        return
    setattr(test, name, library.settings(before, deadline=None))
    try:
        yield
    finally:
        setattr(test, name, before)
