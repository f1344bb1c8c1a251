from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from sdc_guard.hunt.document import document
from sdc_guard.hunt.hunting import CRASH_REPEATS, Hunt, Plan
from sdc_guard.hunt.ledger import Ledger
from sdc_guard.hunt.losses import MAX_LOSSES
from sdc_guard.hunt.messages import Options
from sdc_guard.hunt.templates import Template, literal_of
from sdc_guard.hunt.trial import Trial

HOSTILE = "tests.unit.hunt.hostile_ops"


def _templates(target: str) -> tuple[Template, ...]:
    """One call that goes well and one that does not: 0, and 1."""
    importlib.import_module(HOSTILE)
    return tuple(
        Template(name=target, source="test", trial=Trial(
            target=target,
            args=(literal_of(torch.full((3,), value), free=False, resizable=False),)))
        for value in (0.0, 1.0))


def _hunt(folder: Path, *names: str, seconds: float | None = None) -> Hunt:
    plan = Plan(
        examples=10 if seconds is None else None, limit_s=seconds, num_workers=2, hang_s=15.0,
        options=Options(oracles=("bound",), imports=(HOSTILE,), memory_bytes=4 << 30))
    return Hunt(plan, {name: _templates(name) for name in names}, Ledger(), folder)


@pytest.mark.slow
def test_a_segfault_and_a_hang_are_findings_and_the_hunt_goes_on(tmp_path: Path) -> None:
    hunt = _hunt(tmp_path, "hostile.segfault.default", "hostile.hang.default",
                 "hostile.greedy.default", "aten.relu.default")
    hunt.run()
    ledger = hunt.ledger
    by_target = {found.target: found for found in ledger.found.values()}
    assert set(by_target) == {"hostile.segfault.default", "hostile.hang.default"}
    crash, hang = by_target["hostile.segfault.default"], by_target["hostile.hang.default"]
    assert (crash.word, crash.wrong, crash.tried) == ("crash", CRASH_REPEATS, CRASH_REPEATS)
    assert (hang.word, hang.wrong, hang.tried) == ("hang", 1, 1)
    assert "SIGSEGV" in crash.message
    assert "hostile_ops.py" in crash.message, "the process's last words name the place"
    assert ledger.targets["aten.relu.default"].rounds == 1
    for name in ("hostile.segfault.default", "hostile.hang.default"):
        page = ledger.targets[name]
        assert page.rounds == 1, "the round was made again without the trials that ended it"
        assert 1 <= len(page.skip) <= page.losses < MAX_LOSSES
        assert page.trials > 0
    greedy = ledger.targets["hostile.greedy.default"]
    assert greedy.refused == greedy.trials > 0, "64 GiB are refused, not taken"
    report = document(ledger, seed=0, command="hunt", targets=hunt.templates, is_complete=True)
    assert {entry.word: entry.verdict.value for entry in report.findings} == {
        "crash": "inconclusive", "hang": "inconclusive"}
    assert {entry.code for entry in report.findings} == {"SDC413"}


@pytest.mark.slow
def test_an_operator_that_ends_every_process_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdc_guard.hunt.hunting.MAX_LOSSES", 1)
    hunt = _hunt(tmp_path, "hostile.segfault.default")
    hunt.run()
    page = hunt.ledger.targets["hostile.segfault.default"]
    assert page.given_up.startswith("given up after ")
    report = document(hunt.ledger, seed=0, command="hunt", targets=hunt.templates,
                      is_complete=True)
    assert report.runs[0].coverage is not None
    assert any("given up" in gap for gap in report.runs[0].coverage.gaps)
