"""The plan of faults, the score of a report, kept lines, and the page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.sweep_power import page, plan, run
from tests.sweep_power.page import Control, Results, Run
from tests.sweep_power.trial import (
    BROKEN,
    FOUND,
    IDLE,
    MISSED,
    NOBODY,
    SUSPECTED,
    WRONG_BLAME,
    Counts,
    Outcome,
    scored,
)

CALLS = {"products": 6000.0, "copies": 40.0, "sums": 3.0}


def entry(place: str, verdict: str = "corruption") -> dict[str, Any]:
    return {"verdict": verdict, "test": "exact_product",
            "finding": {"attribution": {"place": place and f"node, {place}"}}}


def outcome(code: int, *entries: dict[str, Any], core: int = 1, struck: int = 1) -> Outcome:
    return scored(core, code, {"findings": list(entries), "sweep": {"checks": 5}}, 1.0, "tail",
                  Counts(struck=Counter(products=struck)))


def test_reach_is_five_wrong_calls_and_no_fewer():
    assert plan.within_reach(CALLS) == [
        ("products", 1.0), ("copies", 1.0), ("products", 0.1), ("products", 0.01),
        ("products", 1e-3)]
    assert plan.beyond_reach(CALLS) == [("products", 1e-4), ("copies", 0.1)]
    assert "sums" in plan.not_called(CALLS)
    norms = {"norms": 6000.0}
    assert plan.within_reach(norms) == [("norms", 1.0), ("norms", 0.1)]
    assert plan.beyond_reach(norms) == [("norms", 0.01)]
    assert "products" not in plan.not_called(CALLS)


def test_faults_go_through_all_pairs_and_depend_on_the_seed_alone():
    pairs = plan.within_reach(CALLS)
    faults = plan.faults(pairs, [0, 1], 3 * len(pairs), seed=1)
    assert Counter((f.group, f.rate) for f in faults) == dict.fromkeys(pairs, 3)
    assert faults == plan.faults(pairs, [0, 1], 3 * len(pairs), seed=1)
    assert faults != plan.faults(pairs, [0, 1], 3 * len(pairs), seed=2)
    assert {f.core for f in faults} == {0, 1}
    assert plan.faults([], [0], 3, seed=1) == []


@pytest.mark.parametrize(("code", "entries", "word"), [
    (1, [entry("core 1")], FOUND),
    (1, [entry("core 1"), entry("all cores"), entry("")], FOUND),
    (1, [entry("core 1, physical page 0x1f245c")], FOUND),
    (1, [entry("core 1, core 2")], WRONG_BLAME),
    (1, [entry("core 1"), entry("core 0")], WRONG_BLAME),
    (1, [entry("core 11")], WRONG_BLAME),
    (1, [entry("")], NOBODY),
    (3, [entry("core 1", "inconclusive")], SUSPECTED),
    (3, [], IDLE),
    (0, [], MISSED),
    (4, [entry("core 1")], BROKEN),
    (-1, [], BROKEN),
])
def test_a_report_is_scored(code: int, entries: list[dict[str, Any]], word: str):
    assert outcome(code, *entries).word == word


def test_a_run_without_a_wrong_number_is_no_fault():
    fault = plan.Fault(1, "products", "sign", 1.0, 5)
    runs = [Run(fault=fault, expected=9.0, outcome=outcome(1, entry("core 1"))),
            Run(fault=fault, expected=9.0, outcome=outcome(0)),
            Run(fault=fault, expected=9.0, outcome=outcome(0, struck=0))]
    assert page.share(runs) == (1, 2)
    results = Results(controls=(Control(counted=None, outcome=outcome(0, struck=0)),),
                      within=tuple(runs), beyond=(), calls=CALLS, not_called=("sums",))
    stamp = {"commands": ["x"], "commits": ["y"], "seed": 0, "torch": "t", "numpy": "n",
             "python": "p", "platform": "l", "processor": "c", "num_cores": 2, "load": 0.0}
    text = page.page(results, stamp, 10.0)
    assert "| all | 1 of 2 [1.3%, 98.7%] | 1 of 2 [1.3%, 98.7%] | 0 of 2" in text
    assert "products, sign, always, core 1, seed 5: missed (exit 0" in text
    assert "Called by no test in that time, so blind there: sums." in text


def test_kept_lines_hold_for_their_conditions_and_survive_a_half_written_one(tmp_path: Path):
    path = tmp_path / "runs.jsonl"
    run.Kept(path, "a").add("one", {"x": 1})
    with path.open("a") as file:
        file.write('{"under": "a", "key": "tw')
    run.Kept(path, "a").add("three", {"x": 3})
    again = run.Kept(path, "a")
    assert (again.get("one"), again.get("two"), again.get("three")) == ({"x": 1}, None, {"x": 3})
    assert run.Kept(path, "b").get("one") is None
