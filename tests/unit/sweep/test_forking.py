"""What a user's variables do to the process that workers are forked from, and to the sweep's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sdc_guard.sweep.forking import BINDING

SCRIPT = ("import os; from sdc_guard.sweep.forking import begin; begin(); import torch; "
          "print(sorted(os.sched_getaffinity(0)))")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this machine has one core")
@pytest.mark.parametrize("setting", ["OMP_PROC_BIND=true", "OMP_PLACES=cores",
                                     f"GOMP_CPU_AFFINITY={min(os.sched_getaffinity(0))}"])
def test_openmp_does_not_hide_cores_from_the_sweep(setting: str):
    plain = {name: value for name, value in os.environ.items() if name not in BINDING}
    name, _, value = setting.partition("=")
    done = subprocess.run([sys.executable, "-c", SCRIPT], env={**plain, name: value}, text=True,
                          capture_output=True, check=True, timeout=120)
    assert done.stdout.strip() == str(sorted(os.sched_getaffinity(0)))
