"""``make test-hunt-power``: every mutant against the hunt and its rivals, and a table of it.

What was tried is kept in ``--work``, one file for each mutant and way, so a run that was ended goes
on where it was.  Exit code 1 if the hunt finds less than nine in ten.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import torch

from sdc_guard.bench.results import make_stamp
from sdc_guard.hunt.loading import load_templates
from sdc_guard.hunt.throughput import Rate
from sdc_guard.plain_json import plain
from tests.hunt_power import page
from tests.hunt_power.child import METHODS
from tests.hunt_power.mutants import MUTANTS
from tests.hunt_power.outcome import Outcome

WANTED_SHARE = 0.9
SLACK_S = 240.0
"""What a child may take beyond its search: imports, templates, one slow call."""
SHARED = 4
"""A rival's search counts seconds of its process; on a busy machine they take longer."""


def jobs(methods: list[str], only: list[str]) -> list[tuple[str, str]]:
    """(method, mutant); the hunt's own first."""
    return [(method, name) for method in methods for name, mutant in MUTANTS.items()
            if (not only or any(word in name for word in only))
            and (method != "survey" or mutant.is_pointwise)]


def seconds_of(method: str, options: argparse.Namespace) -> float:
    """How long a search of that method may take."""
    return float(options.seconds if method == "hunt" else options.rival_seconds)


def tried(folder: Path, method: str, name: str, seconds: float, seed: int) -> Path:
    """Where the outcome is kept: it holds for these conditions alone."""
    under = f"{name} {seconds:g} {seed} {torch.__version__}"
    return folder / method / f"{hashlib.sha256(under.encode()).hexdigest()[:16]}.json"


def read(path: Path) -> Outcome | None:
    """A kept outcome; None where there is none, or no whole one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Outcome)
    except (OSError, msgspec.MsgspecError):
        return None


def make(path: Path, method: str, name: str, options: argparse.Namespace) -> Outcome:
    """Try in a child, and keep what came of it."""
    kept = read(path)
    if kept is not None:
        return kept
    seconds = seconds_of(method, options)
    paths = [p for p in (str(options.ulpwise or ""), os.environ.get("PYTHONPATH", "")) if p]
    command = [sys.executable, "-m", "tests.hunt_power.child", name, method, "--seconds",
               str(seconds), "--seed", str(options.seed), "--cache", str(options.work)]
    # Two threads at most, so that what is wrong for one thread count can be met.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    started_s = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment,
                              timeout=SHARED * seconds + SLACK_S, check=False)
        outcome = msgspec.json.decode(done.stdout.splitlines()[-1], type=Outcome)
    except subprocess.TimeoutExpired:
        outcome = Outcome(reason="it did not end", elapsed_s=time.monotonic() - started_s)
    except (IndexError, msgspec.MsgspecError):
        outcome = Outcome(reason=f"exit code {done.returncode}: {done.stderr[-300:]}",
                          elapsed_s=time.monotonic() - started_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(outcome))
    part.replace(path)
    return outcome


def throughput(options: argparse.Namespace) -> tuple[Rate, ...]:
    """Measured alone, when all else is done, once; empty where it was not asked for."""
    path = options.work / "throughput.json"
    if options.throughput:
        done = subprocess.run(
            [sys.executable, "-m", "sdc_guard.hunt.throughput", "--json"],
            capture_output=True, text=True, check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"})
        path.write_text(done.stdout.splitlines()[-1])
    return msgspec.json.decode(path.read_bytes(), type=tuple[Rate, ...]) if path.exists() else ()


def write(results: page.Results, options: argparse.Namespace, rates: tuple[Rate, ...]) -> None:
    """``power.md`` and ``power.json``."""
    stamp: dict[str, Any] = plain(make_stamp(
        " ".join(["python -m tests.hunt_power.run", *sys.argv[1:]]), seed=options.seed))
    shown = {name: MUTANTS[name] for name in MUTANTS if any(n == name for _, n in results)}
    options.out.mkdir(parents=True, exist_ok=True)
    text = page.page(
        results, shown, stamp, rates, seconds=options.seconds, rival_seconds=options.rival_seconds)
    (options.out / "power.md").write_text(text)
    document = {
        "stamp": stamp, "seconds": options.seconds, "rival_seconds": options.rival_seconds,
        "mutants": [{
            "name": name, "kind": mutant.kind, "like": mutant.like, "ops": mutant.ops,
            "kernels": mutant.kernels, "is_pointwise": mutant.is_pointwise,
            **{method: plain(results[method, name]) for method in METHODS
               if (method, name) in results}} for name, mutant in shown.items()],
        "throughput": [plain(r) for r in rates]}
    (options.out / "power.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def main() -> None:
    """Try what was not tried, write the table, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="for each search")
    parser.add_argument("--rival-seconds", type=float, default=120,
                        help="for each search of a rival, of its process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--only", nargs="+", default=[], help="mutants with one of these words")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)),
                        help="searches at a time")
    parser.add_argument("--throughput", action="store_true", help="measure calls per second, too")
    parser.add_argument("--ulpwise", type=Path, help="a folder that holds the package ulpwise")
    parser.add_argument("--work", type=Path, default=Path("build/hunt-power"))
    parser.add_argument("--out", type=Path, default=Path("reports/hunt"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, str], Outcome] = {}

    def one(job: tuple[str, str]) -> None:
        method, name = job
        path = tried(options.work, method, name, seconds_of(method, options), options.seed)
        outcome = results[job] = make(path, method, name, options)
        print(f"{method:9} {'found' if outcome.is_found else 'missed':6} "
              f"{outcome.elapsed_s:5.0f} s  {name}  {outcome.reason}", file=sys.stderr, flush=True)

    if "hunt" in options.methods:
        load_templates(options.work)  # what is read of the catalogue is kept there for all children
    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(one, jobs(options.methods, options.only)))
    write(results, options, throughput(options))
    print((options.out / "power.md").read_text())
    found, num = page.share(o for (method, _), o in results.items() if method == "hunt")
    sys.exit(num > 0 and found < WANTED_SHARE * num)


if __name__ == "__main__":
    main()
