"""``python -m tests.sweep_power.beside.run``: the sweep, stress-ng and OpenDCDiag for the same
minutes on the same machine, without a fault and while bits of one core's registers are flipped.

Rounds are interleaved: each has one run of each program with flips on a core, and every third one
without.  A run is kept as a line of ``--work``, so a measurement that was ended goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from sdc_guard.bench.results import make_stamp
from sdc_guard.plain_json import plain
from tests.sweep_power.beside.page import Trial, page
from tests.sweep_power.beside.registers import flip, running_on
from tests.sweep_power.beside.tools import BROKEN, OURS, STRESS_NG, Said, Tool, open_dcdiag
from tests.sweep_power.trial import REPOSITORY

CLEAN_EVERY = 3
SLACK_S = 90.0
SETTLE_S = 3.0
"""No flips before: programs start, and what is not compared yet is nobody's fault to find."""


def struck(process: subprocess.Popen[str], core: int, per_s: float, seed: str, end_s: float) -> int:
    """Flip bits in whatever the program computes on the core, until it ends; how many."""
    draw, count = random.Random(seed), 0
    while process.poll() is None and time.monotonic() < end_s:
        time.sleep(draw.expovariate(per_s))
        try:
            root = psutil.Process(process.pid)
            family = [root.pid, *(child.pid for child in root.children(recursive=True))]
        except psutil.Error:
            continue
        threads = running_on(core, family)
        if threads:
            try:
                flip(draw.choice(threads), draw)
                count += 1
            except OSError:
                continue  # it has ended meanwhile
    return count


def trial(tool: Tool, core: int | None, seconds: float, per_s: float, seed: str) -> Trial:
    """One run of a program; ``core`` None for one without flips."""
    with tempfile.TemporaryDirectory(prefix="beside-") as name:
        folder, started_s = Path(name), time.monotonic()
        path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "kernels")])
        with (folder / "printed").open("w+") as printed:
            process = subprocess.Popen(
                tool.command(seconds, folder), stdout=printed, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "PYTHONPATH": path})
            ended = threading.Timer(seconds + SLACK_S, process.kill)
            ended.start()
            flips = 0
            if core is not None:
                time.sleep(SETTLE_S)
                flips = struck(process, core, per_s, seed, started_s + seconds)
            code = process.wait()
            ended.cancel()
        elapsed_s = time.monotonic() - started_s
        text = (folder / "printed").read_text(errors="replace")
        said = tool.read(code, text, folder, elapsed_s)
    if elapsed_s > seconds + SLACK_S:
        said = Said(word=BROKEN, tail="it did not end")
    return Trial(tool=tool.name, core=core, flips=flips, said=said, elapsed_s=elapsed_s)


def main() -> None:
    """All rounds, then the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each run")
    parser.add_argument("--flips-per-s", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--opendcdiag", type=Path, help="the program, built from its source")
    parser.add_argument("--work", type=Path, default=Path("build/sweep-power/beside.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("reports/sweep/beside.json"))
    asked = parser.parse_args()
    tools = [OURS, *([STRESS_NG] if shutil.which("stress-ng") else []),
             *([open_dcdiag(asked.opendcdiag)] if asked.opendcdiag else [])]
    lines = asked.work.read_text().splitlines() if asked.work.exists() else []
    kept: dict[str, Any] = {d["key"]: d["trial"] for d in map(json.loads, lines)}
    cores = sorted(os.sched_getaffinity(0))
    asked.work.parent.mkdir(parents=True, exist_ok=True)
    trials = []
    for number in range(asked.rounds):
        core = None if number % CLEAN_EVERY == CLEAN_EVERY - 1 else cores[number % len(cores)]
        for tool in tools:
            key = f"{tool.name} {number} {asked.seed} {asked.seconds:g} {asked.flips_per_s:g}"
            if key not in kept:
                kept[key] = plain(trial(tool, core, asked.seconds, asked.flips_per_s, key))
                with asked.work.open("a") as file:
                    file.write(json.dumps({"key": key, "trial": kept[key]}) + "\n")
                print(key, kept[key]["flips"], kept[key]["said"]["word"], file=sys.stderr,
                      flush=True)
            trials.append(msgspec.convert(kept[key], Trial))
    words = [w for w in sys.argv[1:] if w != str(asked.opendcdiag)]
    stamp: dict[str, Any] = plain(make_stamp(
        " ".join(["python -m tests.sweep_power.beside.run", *words]), seed=asked.seed))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    text = page(trials, tools, stamp, asked.seconds, asked.flips_per_s)
    asked.out.with_suffix(".md").write_text(text)
    asked.out.write_text(json.dumps({"stamp": stamp, "trials": plain(trials)}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
