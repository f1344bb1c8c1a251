"""Paths and their labels, skips that say what is missing, and caps that take effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdc_guard.evidence import machine
from sdc_guard.sweep.declared import CORE, GPU, Place, Unavailable, Unsupported
from sdc_guard.sweep.families import cross_path
from sdc_guard.sweep.families._product_paths import ON_CPU, ON_CUDA
from sdc_guard.sweep.visit import generator

ROOT = Path(__file__).parents[4]
CORE_0 = Place(kind=CORE, name="core 0", device="cpu")
GPU_0 = Place(kind=GPU, name="cuda:0", device="cuda:0")
BY_NAME = {test.name: test for test in cross_path.TESTS}

# As a worker does it: torch is loaded, the process forks, variables are set, operators run.
IN_FORKED_WORKERS = """
import json, os, sys
import torch
from sdc_guard.sweep.declared import CORE, Place, Unsupported
from sdc_guard.sweep.exact import bits_of
from sdc_guard.sweep.families.cross_path import TESTS
from sdc_guard.sweep.visit import generator

place = Place(kind=CORE, name="core 0", device="cpu")
for test in TESTS:
    if test.skip(place) or len(test.environments[0]) == 0:
        continue
    pid = os.fork()
    if pid == 0:
        os.environ.update(test.environments[0])
        torch.set_num_threads(1)
        wrong, num_run = [], 0
        for case in test.cases(place):
            try:
                made = case.make(generator(test.name, case.label, 1), place)
            except Unsupported:
                continue
            num_run += 1
            if (bits_of(made.run()[0]) != made.expected[0]).any():
                wrong.append(case.label)
        print(json.dumps({"test": test.name, "wrong": wrong, "num_run": num_run,
                          "capability": torch.backends.cpu.get_cpu_capability()}), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork") or "avx2" not in machine.cpu().get("isa", ""),
                    reason="caps need a CPU with AVX2")
def test_caps_set_after_a_fork_take_effect_and_all_paths_stay_exact() -> None:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_FORKED_WORKERS], cwd=ROOT, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))},
        capture_output=True, text=True, timeout=300)
    by_test = {line["test"]: line for line in map(json.loads, found.stdout.splitlines())}
    wanted = {"cross_path_baseline": "DEFAULT", "cross_path_avx2": "AVX2",
              "cross_path_avx512": "AVX512"}
    ran = {name: cap for name, cap in wanted.items() if not BY_NAME[name].skip(CORE_0)}
    assert {name: line["capability"] for name, line in by_test.items()} == ran
    assert {name: line["wrong"] for name, line in by_test.items()} == {name: [] for name in ran}
    assert all(line["num_run"] > 30 for line in by_test.values())


def test_a_cpu_without_the_instructions_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu", lambda: {"isa": "avx avx2 fma"})
    assert BY_NAME["cross_path_amx"].skip(CORE_0) == "this CPU has no amx_tile"
    assert BY_NAME["cross_path_avx512"].skip(CORE_0) == "this CPU has no avx512bw, avx512f"
    assert BY_NAME["cross_path_avx2"].skip(CORE_0) == ""
    assert BY_NAME["cross_path"].skip(CORE_0) == ""
    monkeypatch.setattr(machine, "cpu", lambda: {"name": "unknown"})
    assert BY_NAME["cross_path_avx2"].skip(CORE_0) == "this CPU has no avx2"


@pytest.mark.parametrize(("place", "paths"), [(CORE_0, ON_CPU), (GPU_0, ON_CUDA)],
                         ids=["core", "gpu"])
def test_a_label_begins_with_its_path(place: Place, paths: dict[str, object]) -> None:
    named = {case.label.partition(" ")[0] for case in cross_path.cases(place)}
    assert named == set(paths)


def test_a_path_that_is_not_there_is_unsupported() -> None:
    case = next(c for c in cross_path.cases(CORE_0) if c.label.startswith("onednn_linear"))

    def absent(*_: object) -> object:
        raise RuntimeError("no such kernel\nand more")

    with pytest.raises(Unsupported, match=r"no such path for float32: no such kernel$") as raised:
        cross_path._make(  # type: ignore[arg-type]
            absent, "integers", "float32", (4, 8, 4), generator("t", case.label, 1), CORE_0)
    assert not isinstance(raised.value, Unavailable)

    def short(*_: object) -> object:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(Unavailable, match="can't allocate memory"):
        cross_path._make(  # type: ignore[arg-type]
            short, "integers", "float32", (4, 8, 4), generator("t", case.label, 1), CORE_0)


def test_operands_fit_every_path() -> None:
    """TF32 keeps 11 bits; pairs of bytes are added in 16 bits on CPUs without VNNI."""
    random = generator("t", "c", 1)
    shape = cross_path.SHAPE_CORE
    a_MK, _, _ = cross_path._operands("integers", "float32", shape, random)
    assert not (a_MK & ((1 << 13) - 1)).any()
    bytes_MK, bytes_KN, _ = cross_path._operands("integers", "int8", shape, random)
    for operand in (bytes_MK, bytes_KN):
        largest = int(abs(operand.view("int8").astype(int)).max())
        assert 2 * (largest + 128) * largest < 2**15
    assert cross_path._data("tensor_cores", "float32") == ("integers",)
