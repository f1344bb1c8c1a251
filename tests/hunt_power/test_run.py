"""The harness: what it counts as found, what it keeps, what the table says."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sdc_guard.bench.workload import intra_op_threads
from sdc_guard.hunt.loading import load_templates
from sdc_guard.hunt.oracles._registry import chosen
from sdc_guard.hunt.throughput import Rate, rate, targets
from tests.hunt_power import hunting, run
from tests.hunt_power.mutant import Planted, planted
from tests.hunt_power.mutants import MUTANTS
from tests.hunt_power.outcome import Outcome
from tests.hunt_power.page import page, share
from tests.hunt_power.rivals import catalogue, random_calls, survey
from tests.simulated_clock import TickingClock

pytestmark = pytest.mark.usefixtures("built_in_catalogue")
EASY = MUTANTS["tanh of large numbers is NaN"]
STAMP = {"commands": ["c"], "commits": ["0"], "seed": 0, "torch": "2", "numpy": "2", "python": "3",
         "platform": "p", "processor": "q", "num_cores": 2, "load": 0.0}


HARMLESS = dataclasses.replace(EASY, bug=lambda info: None)
STRIDED = MUTANTS["dot of strided vectors reads them as if they were dense"]


@pytest.fixture(autouse=True)
def _ends_after_so_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hunting, random_calls):
        monkeypatch.setattr(module, "time", TickingClock(0.05))


def test_the_hunt_finds_an_easy_mutant(tmp_path: Path) -> None:
    outcome = hunting.hunt(EASY, 60, 0, tmp_path)
    assert outcome.is_found
    assert outcome.wrong_calls
    assert outcome.word == "corruption"


def test_the_hunt_finds_nothing_where_nothing_is_wrong(tmp_path: Path) -> None:
    outcome = hunting.hunt(HARMLESS, 1, 0, tmp_path)
    assert not outcome.is_found
    assert outcome.calls
    assert not outcome.wrong_calls


def test_an_operator_without_templates_is_told(tmp_path: Path) -> None:
    nowhere = dataclasses.replace(EASY, ops="aten.no_such_operator", catalogue="nothing")
    assert "no_such_operator" in hunting.hunt(nowhere, 1, 0, tmp_path).reason


def test_what_the_right_kernel_does_too_is_no_find(tmp_path: Path) -> None:
    by_target = load_templates(tmp_path, ops=(EASY.ops,)).by_target
    with planted(EASY) as state:
        first = hunting._Hunt(state, chosen(("bound",)), 60)
        assert first.run(by_target, 0).is_found
        assert first.found is not None
        trial, divergence = first.found
        again = hunting._Hunt(state, chosen(("bound",)), 60)
        with pytest.raises(hunting._Stop):
            again.look(trial, divergence)
    with planted(EASY) as always:
        third = hunting._Hunt(_never_off(always), chosen(("bound",)), 60)
        third.look(trial, divergence)
    assert third.found is None
    assert third.also_without == 1


def _never_off(state: Planted) -> Planted:
    """As if the right kernel were wrong in the same way."""
    class Stuck(Planted):
        @contextlib.contextmanager
        def off(self) -> Iterator[None]:
            yield

    return Stuck(state.mutant)


def test_random_calls_find_what_every_call_shows(tmp_path: Path) -> None:
    assert random_calls.search(EASY, 60, 0).is_found
    assert not random_calls.search(HARMLESS, 0.5, 0).is_found


def test_random_calls_do_not_meet_an_offset() -> None:
    outcome = random_calls.search(STRIDED, 0.5, 0)
    assert not outcome.is_found
    assert outcome.calls
    assert not outcome.wrong_calls


@pytest.mark.slow
def test_the_catalogue_finds_a_wrong_layout() -> None:
    outcome = catalogue.search(MUTANTS["bfloat16 mm adds blocks in bfloat16"], 0, 0)
    assert not outcome.is_found  # no sample of it is so long
    assert outcome.calls
    assert catalogue.search(
        MUTANTS["convolution reads a strided weight as if it were dense"], 0, 0).is_found


def test_the_survey_is_for_functions_that_it_has() -> None:
    assert survey.search(MUTANTS["sum drops the last element"], 0, 0).reason == \
        "no function of the survey"


def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(seconds=1.0, rival_seconds=1.0, seed=0, work=tmp_path, ulpwise=None,
                              out=tmp_path / "o", throughput=False)


def test_what_was_tried_is_not_tried_again(tmp_path: Path) -> None:
    path = run.tried(tmp_path, "hunt", EASY.name, 1.0, 0)
    path.parent.mkdir(parents=True)
    kept = Outcome(is_found=True, found_s=0.5, word="corruption", by="bound")
    path.write_bytes(msgspec.json.encode(kept))
    assert run.make(path, "hunt", EASY.name, options(tmp_path)) == kept


def test_a_damaged_outcome_is_tried_again_and_a_failed_child_is_told(tmp_path: Path) -> None:
    path = run.tried(tmp_path, "hunt", "nothing", 1.0, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    assert "exit code 2" in run.make(path, "hunt", "no such mutant", options(tmp_path)).reason


def test_other_conditions_are_other_files(tmp_path: Path) -> None:
    paths = {run.tried(tmp_path, m, EASY.name, s, seed)
             for m in ("hunt", "random") for s in (1.0, 2.0) for seed in (0, 1)}
    assert len(paths) == 8


def test_the_table_counts_and_tells_why(tmp_path: Path) -> None:
    names = list(MUTANTS)[:3]
    results = {("hunt", names[0]): Outcome(is_found=True, found_s=3.0, word="corruption",
                                           by="bound"),
               ("hunt", names[1]): Outcome(calls=70),
               ("hunt", names[2]): Outcome(calls=80, wrong_calls=9),
               ("random", names[0]): Outcome(), ("survey", EASY.name): Outcome(is_found=True,
                                                                               found_s=1.0)}
    rates = (Rate(op="aten.sum", oracles="bound", trials=900, refused=0, small=450, judged=1800,
                  elapsed_s=3.0),)
    text = page(results, MUTANTS, STAMP, rates, seconds=120.0, rival_seconds=30.0)
    assert share(o for (m, _), o in results.items() if m == "hunt") == (1, 3)
    assert "| the hunt | 1 of 3, 33.3% [" in text
    assert "70 calls, of which none met the bug" in text
    assert "spoilt 9 executions in 80 calls" in text
    assert "| bound | aten.sum | 300 | 50% | 600 |" in text
    assert "3 s corruption (bound)" in text


def test_report_files_are_written_and_read_again(tmp_path: Path) -> None:
    given = options(tmp_path)
    run.write({("hunt", EASY.name): Outcome(is_found=True, found_s=1.0)}, given, ())
    document = msgspec.json.decode((tmp_path / "o" / "power.json").read_bytes())
    assert document["mutants"][0]["hunt"]["is_found"] is True
    assert "1 of 1" in (tmp_path / "o" / "power.md").read_text()


def test_a_rate_counts_calls() -> None:
    target, templates = next(iter(targets(None).items()))
    with intra_op_threads(1):
        found = rate(target, templates, ("bound",), examples=20)
    assert found.trials == 20
    assert found.judged > 0
    assert found.elapsed_s > 0
