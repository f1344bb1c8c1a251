"""The harness of the catalogue: it must see what it is there to see."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import torch

from tests.catalogue import child
from tests.catalogue.run import is_known, power_page, summary


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


def test_only_precision_of_the_named_kernels_is_known() -> None:
    named = "in aten.native_layer_norm_backward.default at x"
    assert is_known(f"precision: precision {named}")
    assert not is_known(f"corruption: corruption {named}")
    assert not is_known("precision: precision in aten.mm.default at x")


def test_a_child_prints_one_line_an_operator() -> None:
    """From the last operators of the alphabet on, so that it is short."""
    done = subprocess.run([sys.executable, "-m", "tests.catalogue.child", "float32", "1", "695"],
                          capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    tried = [r for r in rows if "samples" in r]
    assert tried
    assert all(r["checks"] > 0 and not r["findings"] for r in tried)


def test_power_counts_found_and_missed_and_asks_for_99_percent() -> None:
    stamp = {"commands": ["x"], "commits": ["y"], "torch": "t", "platform": "p", "processor": "q"}
    rows = [{"op": "a", "dtype": "float32", "power": {"found": 198, "not tested: why": 5}},
            {"op": "b", "dtype": "float32", "power": {"found": 1, "missed": 1}, "missed": ["here"]}]
    text, enough = power_page(rows, stamp)
    assert "199 of 200 in checked calls found, 99.50 %" in text.replace("99.50%", "99.50 %")
    assert "not tested: why 5" in text
    assert "b float32: `here`" in text
    assert enough
    rows[1]["power"]["missed"] = 3
    assert not power_page(rows, stamp)[1]
