"""``sdc-guard trace``: the distinct calls of an unmodified script, which stays what it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from sdc_guard.hunt.traces import templates_of
from sdc_guard.observe.tracing.reading import read_trace
from tests.unit.launch.commands import CLI, run, script
from tests.unit.launch.test_guarded import TRAIN

TRACE = (*CLI, "trace")
KILLED = TRAIN + """
import os, signal
print(train(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_script_that_is_killed_leaves_its_trace_and_has_trained_to_equal_bits(
    tmp_path: Path
) -> None:
    name = script(tmp_path, "train.py", KILLED)
    done = run([*TRACE, "--out", "t", "--", sys.executable, name], tmp_path)
    assert done.returncode == 128 + 9, done.stderr
    here: dict[str, Any] = {"__name__": "clean"}
    exec(TRAIN, here)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    printed, path = done.stdout.splitlines()
    assert printed == str(here["train"]())
    torch.set_num_threads(num_threads)
    assert path == str(tmp_path / "t" / "trace.jsonl")
    trace = read_trace(tmp_path / "t")
    assert (trace.damaged, trace.processes) == (0, 1)
    (gelu,) = [c for c in trace.calls if c.op == "aten.gelu.default"]
    assert gelu.count == 4  # of 6: told at the fourth, killed before the eighth
    assert {"aten.addmm.default", "aten.mm.default", "aten.addcdiv_.default"} <= {
        t.trial.target for t in templates_of(tmp_path / "t")}
    assert "distinct calls of" in done.stderr
    assert "budget" not in done.stderr


def test_where_nothing_computes_with_torch_nothing_is_traced_and_that_is_said(
    tmp_path: Path
) -> None:
    done = run([*TRACE, "--", sys.executable, "-c", "print(7)"], tmp_path)
    assert (done.returncode, done.stdout) == (5, "7\n")
    assert "nothing was traced" in done.stderr
    assert run([*TRACE, "--", "no-such-program"], tmp_path).returncode == 127
    assert run([*TRACE, "--", sys.executable, "-c", "import sys; sys.exit(3)"],
               tmp_path).returncode == 3
