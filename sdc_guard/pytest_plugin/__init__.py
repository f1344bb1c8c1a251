"""``pytest --sdc-guard``: each test under guard, its findings in pytest's own reports.

Does nothing without ``--sdc-guard``, the mark ``sdc_guard`` or the fixture ``sdc_guard``.  Guarded
are a test's call and the set-up of its fixtures of function scope, on the main thread; not fixtures
of a wider scope, nor what runs after a fixture's ``yield``.  Torch is imported when the first
guarded test begins.  This file is loaded in every pytest run where the package is installed: it
stays tiny, and imports what it needs when it is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sdc_guard.guard import Guard
    from sdc_guard.pytest_plugin.session import Session

NAME = "sdc_guard"
SESSION = "sdc_guard-session"
MARK = (
    "sdc_guard(budget='all', on_finding='record', **options): guard this test; the options are "
    "those of sdc_guard.Guard, and budget=0 leaves the test out"
)


LABEL = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the options; and shut the other name under which this module may be loaded, since
    pytest stops where a module comes a second time, by ``-p`` beside the entry point."""
    for name in {NAME, __name__} - {pluginmanager.get_name(sys.modules[__name__])}:
        pluginmanager.set_blocked(name)
    group = parser.getgroup("sdc_guard", "silent numerical corruption (sdc_guard)")
    group.addoption("--sdc-guard", action="store_true", default=None,
                    help="Guard every test: its call and its fixtures of function scope.")
    group.addoption("--sdc-budget", metavar="SHARE|all", default=None,
                    help="Share of run time that checking may cost; default all.")
    group.addoption("--sdc-out", metavar="FOLDER", default=None,
                    help="Folder for reports, event logs and bundles; default runs/pytest.")
    group.addoption("--sdc-baseline", metavar="FILE", default=None,
                    help="Findings that this baseline knows do not fail their test.")
    group.addoption("--sdc-fail-on", metavar="WHAT", default=None,
                    help="What fails beside corruption, as in `sdc-guard report --fail-on`: new, "
                    "any, regression, coverage<N, separated by commas; default none of them.")
    group.addoption("--sdc-report", metavar="FORMATS", default=None,
                    help="Formats of the report, separated by commas; default json,html.")
    suite = parser.getgroup("sdc_guard.conformance",
                            "pytest --pyargs sdc_guard.conformance (docs/conformance.md)")
    suite.addoption("--sdc-device", metavar="DEVICE", default="cpu",
                    help="The torch device that is tested; default cpu.")
    suite.addoption("--sdc-ops", metavar="OPS", default="",
                    help='Operators, separated by commas: "sum,mm", overloads, globs; default all.')
    suite.addoption("--sdc-oracles", metavar="NAMES", default="",
                    help="Oracles, separated by commas; default all.")
    suite.addoption("--sdc-examples", metavar="N", type=int, default=100,
                    help="Calls for each test; default 100.")
    suite.addoption("--sdc-seed", metavar="N", type=int, default=0,
                    help="Other calls for another seed; default 0.")
    parser.addini("sdc_guard", "as --sdc-guard", type="bool", default=False)
    for name in ("budget", "out", "baseline", "fail_on", "report"):
        parser.addini(f"sdc_{name}", f"as --sdc-{name.replace('_', '-')}", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Start at once where every test is to be guarded."""
    config.addinivalue_line("markers", MARK)
    if config.getoption("sdc_guard") or config.getini("sdc_guard"):
        _session(config, guards_all=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start if a test asks for it."""
    if any(item.get_closest_marker(NAME) or NAME in getattr(item, "fixturenames", ())
           for item in items):
        _session(config, guards_all=False)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All workers of pytest-xdist write below one folder of their session."""
    node.workerinput[SESSION] = _label(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The controller, which collects no test, tells what its workers found."""
    told = getattr(node, "workeroutput", {}).get(SESSION)
    if told is not None:
        _session(node.config, guards_all=False).add_worker(told)


def _label(config: pytest.Config) -> str:
    """Names this session among those that write to the same folder."""
    if hasattr(config, "workerinput"):
        return str(config.workerinput[SESSION])
    return config.stash.setdefault(LABEL, f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{os.getpid()}")


@pytest.fixture
def sdc_guard(request: pytest.FixtureRequest) -> Iterator[Guard]:
    """The guard of this test: ``sdc_guard.findings`` and ``sdc_guard.coverage``."""
    with _session(request.config, guards_all=False).fixture(request.node) as guard:
        yield guard


def _session(config: pytest.Config, *, guards_all: bool) -> Session:
    found: Session | None = config.pluginmanager.get_plugin(SESSION)
    if found is None:
        from sdc_guard.pytest_plugin.session import Session

        found = Session(config, _label(config), guards_all=guards_all)
        config.pluginmanager.register(found, SESSION)
    return found
