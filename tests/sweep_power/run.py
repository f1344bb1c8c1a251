"""``make test-sweep-power``: sweeps of a machine with one faulty core, as a user runs them.

Each run is kept as a line of ``--work``, so one that was ended goes on where it was; lines of other
sources of sdc_guard, other lengths or another torch are not taken over.  Every tenth run is a
control on a sound machine.  Exit code 1 if fewer than 99 in 100 of the faults within reach are
found and blamed on their core alone, or if a control is not clean.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from sdc_guard.bench.results import make_stamp
from sdc_guard.plain_json import plain
from tests.sweep_power import page, plan
from tests.sweep_power.page import Control, Run
from tests.sweep_power.trial import REPOSITORY, sweep

WANTED_SHARE = 0.99
CONTROL_EVERY = 10


def conditions(seconds: float) -> str:
    """What a kept run holds for: the sources of the package, torch, the length."""
    digest = hashlib.sha256(f"{torch.__version__} {seconds:g}".encode())
    for folder in ("sdc_guard/sweep", "sdc_guard/cli", "sdc_guard/document", "sdc_guard/report",
                   "tests/sweep_power/launcher"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    for path in (REPOSITORY / "tests/sweep_power" / n for n in ("plan.py", "trial.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Kept:
    """The lines of a file: what was run already, by a key that says how."""

    def __init__(self, path: Path, under: str) -> None:
        self._path, self._under = path, under
        self._lines: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    body = json.loads(line)
                except json.JSONDecodeError:
                    continue  # ended while it was written
                if body["under"] == under:
                    self._lines[body["key"]] = body["run"]

    def get(self, key: str) -> dict[str, Any] | None:
        return self._lines.get(key)

    def add(self, key: str, run: dict[str, Any]) -> None:
        """Append, with a line end first if the last line was not ended."""
        self._lines[key] = run
        self._path.parent.mkdir(parents=True, exist_ok=True)
        ended = not self._path.exists() or self._path.read_bytes()[-1:] in (b"", b"\n")
        with self._path.open("a") as file:
            file.write(("" if ended else "\n") + json.dumps(
                {"under": self._under, "key": key, "run": run}) + "\n")


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def control(number: int, seconds: float, kept: Kept) -> Control:
    """A sweep of a sound machine: in turn with overridden kernels that count and change nothing, on
    each core, and with nothing overridden."""
    turn = [*cores(), None]
    counted = turn[number % len(turn)]
    key = f"control {number}"
    found = kept.get(key)
    if found is None:
        run = Control(counted=counted, outcome=sweep(None, seconds, counted=counted))
        found = plain(run)
        kept.add(key, found)
        told(key, run.outcome.exit_code, "clean" if run.outcome.exit_code == 0 else "NOT CLEAN",
             run.outcome.elapsed_s)
    return msgspec.convert(found, Control)


def runs(faults: list[plan.Fault], name: str, calls: plan.Calls, seconds: float, kept: Kept
         ) -> Iterator[Run]:
    """Each fault in turn."""
    for number, fault in enumerate(faults):
        key = f"{name} {number} {fault}"
        found = kept.get(key)
        if found is None:
            run = Run(fault=fault, expected=plan.expected(calls, fault.group, fault.rate),
                      outcome=sweep(fault, seconds))
            found = plain(run)
            kept.add(key, found)
            told(f"{name} {number}: {fault.group} {fault.kind} {fault.rate:g} core {fault.core}",
                 run.outcome.exit_code,
                 f"{run.outcome.word}, {sum(run.outcome.struck.values())} struck",
                 run.outcome.elapsed_s)
        yield msgspec.convert(found, Run)


def told(what: str, code: int, words: str, elapsed_s: float) -> None:
    print(f"{what:60} exit {code}  {words} ({elapsed_s:.1f} s)", file=sys.stderr, flush=True)


def measured(options: argparse.Namespace) -> page.Results:
    """All runs that are wanted, with controls between them."""
    kept = Kept(options.work, conditions(options.seconds))
    first = [control(n, options.seconds, kept) for n in range(len(cores()) + 1)]
    # What a later control counts is not looked at, so that the plan is settled before the faults.
    calls = plan.mean_calls([c.outcome.own_calls for c in first if c.counted is not None])
    within = plan.faults(plan.within_reach(calls), cores(), 2 * options.runs, options.seed)
    beyond = plan.faults(plan.beyond_reach(calls), cores(), options.beyond, options.seed + 1)
    controls, made = list(first), []
    for run in runs(within, "within", calls, options.seconds, kept):
        made.append(run)
        if len(made) % CONTROL_EVERY == 0:
            controls.append(control(len(controls), options.seconds, kept))
        if sum(r.is_faulty for r in made) >= options.runs:
            break
    return page.Results(
        controls=tuple(controls), within=tuple(made), calls=calls,
        beyond=tuple(runs(beyond, "beyond", calls, options.seconds, kept)),
        not_called=tuple(plan.not_called(calls)))


def main() -> None:
    """Make the runs, write the page, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="faults within reach")
    parser.add_argument("--beyond", type=int, default=12, help="faults beyond reach")
    parser.add_argument("--seconds", type=float, default=10, help="of each sweep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("build/sweep-power/runs.jsonl"))
    parser.add_argument("--out", type=Path,
                        default=Path("reports/sweep/whole_program.json"))
    options = parser.parse_args()
    results = measured(options)
    stamp: dict[str, Any] = plain(make_stamp(
        " ".join(["python -m tests.sweep_power.run", *sys.argv[1:]]), seed=options.seed))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = page.page(results, stamp, options.seconds)
    options.out.with_suffix(".md").write_text(text)
    options.out.write_text(json.dumps(
        {"stamp": stamp, "seconds": options.seconds, **plain(results)}, indent=1,
        allow_nan=False) + "\n")
    print(text)
    good, num = page.share(results.within)
    is_clean = all(c.outcome.exit_code == 0 for c in results.controls)
    sys.exit(not is_clean or not num or good < WANTED_SHARE * num)


if __name__ == "__main__":
    main()
