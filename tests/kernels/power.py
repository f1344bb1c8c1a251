"""How small an error the kernels see: errors of a few bounds planted in right results.

    export TRITON_INTERPRET=1 PYTHONPATH=.:kernels
    python -m tests.kernels.power --out reports/kernels/power.md

For each op and dtype, the spec's samples get errors of 2, 10 and 1000 times the bound of the
element that the host's reference has (half of them downwards), up to one in each row and eight in
each result, and the table says which share of them each kernel check called wrong.  A reference
judges every element.  A checksum judges a row, whose limit is the sum of its elements' bounds; a
sample judges what it drew, so the share that it drew bounds its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import triton

from tests.kernels.attack import DTYPES, Attacker, kernel_specs
from tests.soundness.cases import Attack
from tests.soundness.values import Fill

FACTORS = (2.0, 10.0, 1000.0)
MOST_IN_A_RESULT = 8
EXHAUSTIVE = ("reference", "invariant")
PLAIN = (None, Fill(kind="normal", seed=1))
"""Operands as sampled, and normal numbers."""


def power_of(attacker: Attacker, calls: int) -> dict[str, list[int]]:
    """Planted and found, for each factor in turn, by witness and what it judges."""
    found: dict[str, list[int]] = {}
    for turn in range(min(calls, len(attacker.samples.calls))):
        attack = Attack(turn, (PLAIN[turn % 2],), ("sampled",), seed=turn)
        for i, factor in enumerate(FACTORS):
            for check, planted, num in attacker.planted(attack, factor, MOST_IN_A_RESULT):
                counts = found.setdefault(f"{check.witness} ({check.unit})", [0] * 6)
                counts[2 * i] += planted
                counts[2 * i + 1] += num
    return found


def _share(planted: int, found: int) -> str:
    return f"{found / planted:.2f}" if planted else "-"


def table(seed: int, calls: int, only: str = "") -> tuple[list[str], list[str]]:
    """Lines of the table, and the errors that a kernel that judges every element did not see."""
    lines = ["| op | dtype | witness | planted | 2 x | 10 x | 1000 x |",
             "|---|---|---|---:|---:|---:|---:|"]
    lost: list[str] = []
    for spec in kernel_specs():
        for dtype in DTYPES if only in spec.packet else ():
            attacker = Attacker(spec, dtype, seed)
            name = str(dtype).removeprefix("torch.")
            for witness, c in sorted(power_of(attacker, calls).items()):
                shares = " | ".join(_share(*c[i:i + 2]) for i in (0, 2, 4))
                lines.append(f"| {spec.packet} | {name} | {witness} | {c[0] + c[2] + c[4]} "
                             f"| {shares} |")
                if witness.startswith(EXHAUSTIVE) and sum(c[::2]) > sum(c[1::2]):
                    lost.append(lines[-1])
    return lines, lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=4, help="samples of each op and dtype")
    parser.add_argument("--only", default="", help="part of the names of the ops to look at")
    chosen = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):
        sys.exit("the kernels run in triton's interpreter: set TRITON_INTERPRET=1")
    warnings.simplefilter("ignore")
    with np.errstate(all="ignore"):
        lines, lost = table(chosen.seed, chosen.calls, chosen.only)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                            text=True, check=True).stdout.strip()
    text = "\n".join([
        "# Which share of planted errors the kernels see", "",
        f"`python -m tests.kernels.power --seed {chosen.seed} --calls {chosen.calls}` at {commit}, "
        f"in triton {triton.__version__}'s interpreter, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()} with {os.cpu_count()} cores, "
        "no GPU.  Factors are of the element's bound by the host's reference, which calls every "
        "planted error wrong.", "", *lines, "",
        f"Errors that a kernel that judges every element did not see: {len(lost)} rows.", ""])
    if chosen.out is None:
        sys.stdout.write(text)
    else:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
