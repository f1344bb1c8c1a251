"""The harness of the catalogue: it must see what it is there to see."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.catalogue import child, faults
from tests.catalogue.run import power_page, summary


def sample(*tensors: torch.Tensor) -> Any:
    return SimpleNamespace(input=tensors[0], args=tensors[1:], kwargs={})


def row(**changes: Any) -> dict[str, Any]:
    return {"op": "add", "dtype": "float32", "samples": 1, "changed": [], "findings": [],
            "guard_errors": 0, "checks": 3,
            "calls": {"aten.add calls": 4, "aten.add checked": 3, "aten.add beyond rerun": 1,
                      "aten.add not tested: because": 1}, **changes}


def test_a_changed_bit_and_a_moved_generator_are_seen() -> None:
    x = torch.ones(4)
    plain = child.run(torch.neg, sample(x), 0)
    assert child.run(torch.neg, sample(x.clone()), 0) == plain
    changed = x.clone()
    changed.view(torch.int32)[2] ^= 1
    assert child.run(torch.neg, sample(changed), 0) != plain
    assert child.run(lambda t: torch.rand(1) * 0 + t.neg(), sample(x), 0) != plain
    assert child.run(torch.neg, sample(x.requires_grad_()), 0) != plain  # the gradient counts


def test_an_exception_is_a_result() -> None:
    found = child.run(torch.mm, sample(torch.ones(2), torch.ones(2)), 0)
    assert "RuntimeError" in found


def test_the_summary_counts_and_names_what_is_not_clean() -> None:
    found = summary([
        row(), row(op="mul", findings=["corruption: corruption in aten.mul.Tensor at x"]),
        row(op="sub", changed=[{"sample": 0, "why": "guard"}]),
        row(op="div", changed=[{"sample": 0, "why": "an empty mode changes it too"}]),
        row(op="int", dtype="int64"), {"op": "eq", "dtype": "float32", "harness": "died"},
    ])
    assert found["float_calls"] == {"calls": 16, "checked": 12, "beyond rerun": 4}
    assert found["rerun_only"] == {"aten.add": 8}
    assert found["not_tested"] == {"not tested: because": 4}
    assert found["findings"] == ["mul float32: corruption: corruption in aten.mul.Tensor at x"]
    assert found["changed_by_the_guard"] == ["sub float32"]
    assert found["changed_by_any_mode"] == ["div float32"]
    assert found["harness"] == ["eq float32: died"]


@pytest.mark.slow
def test_a_child_prints_one_line_an_operator() -> None:
    """From the last operators of the alphabet on, so that it is short."""
    done = subprocess.run([sys.executable, "-m", "tests.catalogue.child", "float32", "1", "695"],
                          capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    tried = [r for r in rows if "samples" in r]
    assert tried
    assert all(r["checks"] > 0 and not r["findings"] for r in tried)


STAMP = {"commands": ["x"], "commits": ["y"], "torch": "t", "platform": "p", "processor": "q"}


def test_power_counts_found_and_missed_and_asks_for_99_percent() -> None:
    rows = [{"op": "a", "dtype": "float32", "power": {"found": 198, "not tested: why": 5}},
            {"op": "b", "dtype": "float32", "power": {"found": 1, "missed": 1}, "missed": ["here"]}]
    text, enough = power_page(rows, STAMP, "transient")
    assert "| float32 | flip | 199 | 200 | 99.50% |" in text
    assert "not tested: why: 5" in text
    assert "b float32: `here`" in text
    assert enough
    rows[1]["power"]["missed"] = 3
    assert not power_page(rows, STAMP, "transient")[1]


def test_repeated_faults_without_a_bound_are_counted_apart() -> None:
    power = {"flip: found": 99, "flip: missed, guard error": 1, "flip, no bound: missed": 7,
             "offset data: found, precision": 5, "offset data: no effect above twice the bound": 4}
    rows = [{"op": "a", "dtype": "bfloat16", "power": power}]
    text, enough = power_page(rows, STAMP, "repeated")
    assert "| bfloat16 | flip | 99 | 100 |" in text
    assert "| bfloat16 | flip, no bound | 0 | 7 |" in text
    assert "| bfloat16 | offset data | 5 | 5 |" in text
    assert "no effect above twice the bound: 4" in text
    assert enough
    power["flip: missed, guard error"] = 2
    assert not power_page(rows, STAMP, "repeated")[1]


def calls_of_a_sum() -> list[faults.Recorded]:
    x = torch.linspace(1, 2, 30).reshape(5, 6)
    return faults.record(lambda: x.sum(1))


@pytest.mark.parametrize("kind", faults.KINDS)
def test_a_drawn_fault_is_above_twice_the_bound(kind: str) -> None:
    drawn = faults.draw(calls_of_a_sum(), kind, np.random.default_rng(0))
    assert drawn is not None
    fault, bounded = drawn
    assert bounded
    x = torch.linspace(1, 2, 30).reshape(5, 6)
    right = x.sum(1)
    with fault:
        wrong = x.sum(1)
    assert (~((wrong - right).abs() < 1e-5)).any()


def test_effects_below_the_bound_do_not_count() -> None:
    right = torch.ones(3)
    assert faults.effect(right + 1e-3, right, 2e-3) == ""
    assert faults.effect(right + 3e-3, right, 2e-3) == "above"
    assert faults.effect(right / 0, right, 2e-3) == "above"
    assert faults.effect(right + 3e-3, right, None) == "no bound"
    assert faults.effect(right + 3e-3, right, float("inf")) == "no bound"
    assert faults.effect(right, right / 0, 2e-3) == ""


def test_a_repeated_fault_is_found_by_the_harness() -> None:
    op = _Multiply(
        formatted_name="mul", supports_autograd=True,
        sample_inputs=lambda *a, **k: [SimpleNamespace(
            input=torch.linspace(1, 2, 30), args=(torch.linspace(2, 3, 30),), kwargs={})],
    )
    row = child.try_repeated_faults(op, torch.float32, 1)
    assert sum(row["power"].values()) == len(faults.KINDS)
    assert not row["missed"]
    assert sum(n for k, n in row["power"].items() if k.endswith("found")) >= 3


class _Multiply(SimpleNamespace):
    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.mul(*args, **kwargs)
