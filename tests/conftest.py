"""Shared by all tests: threads, seeds, Hypothesis, the Triton interpreter, counted skips."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

HAS_CUDA = torch.cuda.is_available()
NO_GPU = "no CUDA device on this machine"
DESELECTED = pytest.StashKey[int]()

if not HAS_CUDA:
    # Read once, when triton is first imported, by its library functions as well as by ours.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes is the machine's business: no deadline, and no complaint of slow draws.
PATIENT: dict[str, Any] = {
    "deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("same", **PATIENT, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("explore", **PATIENT, derandomize=False)
hypothesis.settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    # Workers share the cores; more threads than cores make every test slower, not faster.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, min(2, (cores or 1) // workers)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if HAS_CUDA:
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason=NO_GPU))


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:
        config = items[0].config
        config.stash[DESELECTED] = config.stash.get(DESELECTED, 0) + len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["deselected"] = session.config.stash.get(DESELECTED, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each xdist worker collects, and deselects, all tests; only workers know how many."""
    count = getattr(node, "workeroutput", {}).get("deselected", 0)
    node.config.stash[DESELECTED] = max(count, node.config.stash.get(DESELECTED, 0))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        longrepr = report.longrepr
        reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    terminalreporter.section("not run")
    terminalreporter.line(f"GPU tests skipped, {NO_GPU}: {reasons.pop(NO_GPU, 0)}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"skipped, {reason}: {count}")
    terminalreporter.line(f"deselected by marker or name: {config.stash.get(DESELECTED, 0)}")


def _seed_all() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True, scope="module")
def _seeded_module() -> None:
    """For what the fixtures of a module draw."""
    _seed_all()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws depends on no test before it: which ones those are, on two workers, is
    chance."""
    _seed_all()


@pytest.fixture
def built_in_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates come from the op table and the built-in catalogue: to read torch's own takes half a
    minute, which the slow tests spend."""
    monkeypatch.setattr("sdc_guard.hunt.loading.read_catalogue",
                        lambda folder: (None, "not read here"))


@pytest.fixture(autouse=True)
def nothing_is_left_watching() -> Iterator[None]:
    """A guard that a test leaves open would join those of the tests after it."""
    yield
    active = sys.modules.get("sdc_guard.active")
    left = list(active._running) if active is not None else []
    for guard in left:
        guard.detach()
    if left:
        pytest.fail(f"this test leaves {left} watching")
