"""A machine with the fleet's scripts installed, and stand-ins for the programs around them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.meta.tree import ROOT
from tests.sweep_power.trial import environment

FLEET = ROOT / "examples" / "fleet"
LIMIT_S = 300
# Each notes down what it is called with, in one write: several may run at once.
NOTE = """#!/bin/bash
printf '%s\\0' "{name}" "$@" $'\\036' >>"$CALLS"
"""
SDC_GUARD = """
echo "what sdc-guard says"
while [ "$#" -gt 0 ]; do
  case $1 in
    --prom) [ -z "$FAKE_WORD" ] || printf 'sdc_guard_sweep_test_result{Hostname="h",unit="core 1",\
device="cpu",test="exact_product",family="F1",word="%s"} 1\\n' "$FAKE_WORD" >"$2" ;;
    --out) [ -z "$FAKE_WORD" ] || { mkdir -p "$2"; echo '{}' >"$2/sweep.json"; } ;;
  esac
  shift
done
[ -z "$FAKE_LASTS_S" ] || exec sleep "$FAKE_LASTS_S"
exit "${FAKE_END:-0}"
"""
SQUEUE = """
[ "$FAKE_JOBS" != down ] || { echo "slurm_load_jobs error: Unable to contact controller"; exit 1; }
[ -z "$FAKE_JOBS" ] || echo "$FAKE_JOBS"
"""
SCONTROL = """
if [ "$1 $2" = "show hostnames" ]; then tr , '\\n' <<<"$3"; exit 0; fi
[ -z "$FAKE_SCONTROL" ] || { echo "$FAKE_SCONTROL"; exit 1; }
"""
# Starts $FAKE_TASKS local processes as the tasks of a step, one for each of the job's nodes.
SRUN = """
while case $1 in --output=*) output=${1#--output=} ;; --*) ;; *) false ;; esac do shift; done
IFS=, read -ra nodes <<<"$SLURM_JOB_NODELIST"
worst=0
for task in $FAKE_TASKS; do
  (
    [ "$task" = "$FAKE_FAULTY_TASK" ] || unset SWEEP_POWER_FAULT
    export SLURM_PROCID=$task SLURM_NODEID=$task SLURM_LOCALID=0 SLURM_STEP_ID=0
    export SLURM_STEP_NUM_TASKS=${#nodes[@]} SLURM_STEP_TASKS_PER_NODE="1(x${#nodes[@]})"
    export SLURM_STEP_NODELIST=$SLURM_JOB_NODELIST SLURMD_NODENAME=${nodes[$task]}
    exec "$@" >"${output//%N/${nodes[$task]}}" 2>&1
  ) &
done
for job in $(jobs -p); do
  wait "$job"; code=$?
  [ "$code" -le "$worst" ] || worst=$code
done
exit "$worst"
"""
# The other host is this machine; $FAKE_DOWN does not answer.
SSH = """
while [ "$#" -gt 2 ]; do shift; done
[ "$1" != "$FAKE_DOWN" ] || { echo "ssh: connect to host $1: No route to host" >&2; exit 255; }
[ "$1" = "$FAKE_FAULTY" ] || unset SWEEP_POWER_FAULT
exec bash -c "$2"
"""
PROGRAMS = {"sdc-guard": SDC_GUARD, "squeue": SQUEUE, "scontrol": SCONTROL, "srun": SRUN,
            "ssh": SSH, "logger": ""}


class Machine:
    """``folder/lib`` has the scripts as they are installed, ``folder/var`` what they keep.
    ``is_real``: sdc-guard is that of this checkout."""

    def __init__(
        self, folder: Path, *, is_real: bool = False, fault: Mapping[str, Any] | None = None,
        **variables: str,
    ) -> None:
        self.lib, self.var = folder / "lib", folder / "var"
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        programs = folder / "bin"
        for made in (self.lib, self.var, programs):
            made.mkdir(exist_ok=True)
        for name in ("node_sweep.sh", "slurm/health_check.sh", "slurm/prolog.sh",
                     "node_problem_detector/sdc_guard.sh"):
            shutil.copy(FLEET / name, self.lib)
        for name, does in PROGRAMS.items():
            if name == "sdc-guard" and is_real:
                does = f'\nexec "{sys.executable}" -m sdc_guard "$@"\n'
            program = programs / name
            program.write_text(NOTE.format(name=name) + does)
            program.chmod(0o755)
        plain = {"SDC_GUARD_HOST": "", "TMPDIR": str(folder)} if not is_real else {}
        self.variables = {
            **environment(fault, variables if is_real else None), **plain, **variables,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "CALLS": str(self.calls_file),
            "SWEEP_PATH": str(programs), "SWEEP_PROGRAM": str(programs / "sdc-guard"),
            "PROGRAM": str(programs / "sdc-guard"),
            "SWEEP_DIR": str(self.var), "SLURMD_NODENAME": "node-7", "OMP_NUM_THREADS": "1",
            "XDG_STATE_HOME": str(folder / "state")}

    def run(
        self, script: Path | str, *arguments: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """The script's end; a program that a test does not know is never called."""
        return subprocess.run(
            [str(self.lib / script), *arguments], env={**self.variables, **variables},
            cwd=self.var, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of each call of that program."""
        lines = self.calls_file.read_text(encoding="utf-8").split("\0\036\0")
        words = [line.split("\0") for line in lines if line]
        return [rest for first, *rest in words if first == name]

    def log(self, name: str) -> str:
        return (self.var / name).read_text(encoding="utf-8")
