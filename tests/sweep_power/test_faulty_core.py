"""The launcher: a process on the faulty core is wrong there alone, as often as was asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sweep_power.launcher import faulty_core
from tests.sweep_power.trial import environment, read_counts

PROGRAM = """
import os, sys, torch
os.sched_setaffinity(0, {int(sys.argv[1])})
x = torch.arange(64.0).reshape(8, 8)
wrong = 0
for _ in range(200):
    wrong += not torch.equal(torch.mm(x, torch.eye(8)), x)
print(wrong)
"""
CORES = sorted(os.sched_getaffinity(0))


def wrong_products(on: int, folder: Path, **more: Any) -> int:
    """Of 200, by a program of its own pinned to core ``on`` of a machine with a faulty one."""
    fault = {"core": CORES[0], "ops": ["mm.default"], "kind": "low bit", "rate": 1.0, "seed": 1,
             "counts": str(folder), **more}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(on)], env=environment(fault),
                          capture_output=True, text=True, timeout=300, check=True)
    return int(done.stdout)


def test_a_core_is_wrong_always_or_at_a_rate_that_the_seed_repeats(tmp_path: Path):
    assert wrong_products(CORES[0], tmp_path) == 200
    assert read_counts(tmp_path, ["mm.default"], 0).struck["products"] == 200
    some = wrong_products(CORES[0], tmp_path, rate=0.1)
    assert 5 <= some <= 40
    assert wrong_products(CORES[0], tmp_path, rate=0.1) == some


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_another_core_is_sound(tmp_path: Path):
    assert wrong_products(CORES[1], tmp_path) == 0
    assert not read_counts(tmp_path, ["mm.default"], 0).calls


NUMBERS = """
import os, torch
os.sched_setaffinity(0, {%d})
x = torch.arange(8.0)
print(torch.equal(torch.arange(8.0).mul_(0.5), x / 2.0), (x * 2).dtype, (x.bfloat16() - 1).dtype)
"""


def test_numbers_in_the_place_of_tensors_reach_the_kernels(tmp_path: Path):
    fault = {"core": CORES[0], "ops": ["mul_.Tensor", "mul.Tensor", "sub.Tensor", "div.Tensor"],
             "kind": "low bit", "rate": 0.0, "seed": 1, "counts": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", NUMBERS % CORES[0]], env=environment(fault),
                          capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "True torch.float32 torch.bfloat16\n"
    assert read_counts(tmp_path, fault["ops"], CORES[0]).calls["multiplications"] == 3


def test_without_a_fault_nothing_of_it_is_loaded():
    assert "SWEEP_POWER_FAULT" not in environment(None)
    assert "launcher" not in environment(None)["PYTHONPATH"]
    assert json.loads(environment({"core": 1})["SWEEP_POWER_FAULT"]) == {"core": 1}


class _Draw:
    """Draws the place that it is told."""

    def __init__(self, place: int) -> None:
        self._place = place

    def randrange(self, stop: int) -> int:
        assert self._place < stop
        return self._place


@pytest.mark.parametrize(("kind", "wanted"), [
    ("low bit", {3: 1}), ("high bit", {3: 1 << 30}), ("sign", {3: 1 << 31})])
def test_a_flip_changes_one_bit_of_one_element(kind: str, wanted: dict[int, int]):
    import numpy as np

    bits = np.arange(40, dtype=np.uint32)
    before = bits.copy()
    assert faulty_core.KINDS[kind](bits, _Draw(3))
    changed = {int(i): int((bits ^ before)[i]) for i in np.flatnonzero(bits != before)}
    assert changed == wanted


def test_a_stuck_lane_is_stuck_at_one_in_every_sixteenth_element():
    import numpy as np

    bits = np.zeros(40, dtype=np.uint32)
    assert faulty_core.KINDS["stuck lane"](bits, _Draw(0))
    assert np.flatnonzero(bits).tolist() == [5, 21, 37]
    assert not faulty_core.KINDS["stuck lane"](bits, _Draw(0)), "it is stuck already"


def test_a_wrong_offset_shows_the_neighbours():
    import numpy as np

    bits = np.arange(40, dtype=np.uint16)
    assert faulty_core.KINDS["wrong offset"](bits, _Draw(10))
    assert bits.tolist() == [*range(10), *range(11, 19), *range(18, 40)]
    assert not faulty_core.KINDS["wrong offset"](np.zeros(40, np.uint16), _Draw(10))
