"""``make test-models``: real architectures, tiny, trained with and without the guard.

Each model makes its steps twice from one seed, in fp32 and under bf16 autocast.  Losses,
parameters, buffers and optimizer state must be equal bit for bit, and nothing may be found; what
is found is a false alarm.  ``--min-checks`` goes on with further seeds until so many calls were
checked.  Exit code 1 where anything fails.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import math
import multiprocessing
import os
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

import sdc_guard
from sdc_guard.bench.results import make_stamp
from sdc_guard.intervals import proportion
from sdc_guard.plain_json import plain
from tests.fidelity.models import bits_of
from tests.known_precision import is_known
from tests.models.zoo import MODELS

DTYPES = ("fp32", "bf16")
STEPS_APART = 10_000
"""Batches of another seed begin so many steps later."""


def train(
    name: str, num_steps: int, budget: float | str | None, dtype: str = "fp32", seed: int = 0
) -> tuple[Any, Any, float]:
    """Bits of the whole training state and of the losses; the guard; the seconds it took."""
    build, loss_of = MODELS[name]
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = None
    if budget is not None:
        sdc_guard.wrap(model, budget=budget, on_finding="skip")
        guard = model.sdc_guard
    losses = []
    torch.manual_seed(seed + 1)
    started_s = time.perf_counter()
    for step in range(num_steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = loss_of(model, step + STEPS_APART * seed)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach().clone())
    elapsed_s = time.perf_counter() - started_s
    if guard is not None:
        sdc_guard.unwrap(model)
    state = bits_of([losses, model.state_dict(), optimizer.state_dict(), torch.get_rng_state()])
    return state, guard, elapsed_s


def without_folders(text: str) -> str:
    """The text without the folders of this machine."""
    for folder in (Path.cwd(), sysconfig.get_paths()["purelib"]):
        text = text.replace(f"{folder}/", "")
    return text


def try_model(name: str, num_steps: int, dtype: str = "fp32", seed: int = 0) -> dict[str, Any]:
    """One row of the result."""
    plain_state, _, plain_s = train(name, num_steps, None, dtype, seed)
    guarded_state, guard, guarded_s = train(name, num_steps, "all", dtype, seed)
    coverage = guard.coverage
    left: collections.Counter[str] = collections.Counter()
    for op in coverage.ops:
        for reason, count in op.not_tested.items():
            left[f"{op.op}: {reason}"] += count
        if "rerun" in op.witnesses:
            left[f"{op.op}: rerun only"] += op.witnesses["rerun"]
    found = [f"{f.verdict.value}: {without_folders(f.message)[:300]}" for f in guard.findings]
    return {
        "model": name, "dtype": dtype, "seed": seed, "steps": num_steps,
        "equal_bits": plain_state == guarded_state,
        "findings": [f for f in found if not is_known(f)],
        "known_precision": [f for f in found if is_known(f)],
        "guard_errors": coverage.guard_errors, "checks": coverage.calls_checked,
        "call_share": coverage.call_share, "flop_share": coverage.flop_share,
        "ratio": guarded_s / plain_s, "left": dict(left.most_common(8)),
    }


def page(rows: list[dict[str, Any]], stamp: dict[str, Any]) -> str:
    """The table as Markdown, seeds of one model and dtype together."""
    num_checks = sum(r["checks"] for r in rows)
    num_findings = sum(len(r["findings"]) for r in rows)
    rate = proportion(num_findings, num_checks)
    lines = [
        "# Real architectures under the guard", "",
        f"- command: `{stamp['commands'][0]}`",
        f"- commit: {stamp['commits'][0]}; torch {stamp['torch']}, transformers "
        f"{stamp['transformers']}",
        f"- machine: {stamp['platform']}, {stamp['processor']}, {stamp['num_cores']} cores", "",
        f"**{num_findings} findings in {num_checks:,} checked calls**; 95 % interval of the "
        f"false-alarm rate {rate.low:.1e} to {rate.high:.1e} per check.", "",
        f"{sum(len(r['known_precision']) for r in rows)} more are `precision` of kernels that add "
        "in bf16, each confirmed by exact arithmetic in `tests/ops/test_known_precision.py`.", "",
        "Tiny configurations, AdamW, gradient clipping, one thread, `budget=\"all\"`; bf16 is "
        "autocast. The ratio is of whole runs, first visits of all sites included, beside another "
        "process.", "",
        "| model | dtype | seeds | steps | equal bits | findings | guard errors | checks | calls | "
        "FLOPs | ratio |", "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        groups[row["model"], row["dtype"]].append(row)
    for (model, dtype), group in groups.items():
        equal = all(r["equal_bits"] for r in group)
        lines.append(
            f"| {model} | {dtype} | {len(group)} | {sum(r['steps'] for r in group)} | "
            f"{'yes' if equal else '**no**'} | {sum(len(r['findings']) for r in group)} | "
            f"{sum(r['guard_errors'] for r in group)} | {sum(r['checks'] for r in group)} | "
            f"{min(r['call_share'] for r in group):.1%} | "
            f"{min(r['flop_share'] for r in group):.2%} | "
            f"{sorted(r['ratio'] for r in group)[len(group) // 2]:.1f} |")
    lines += ["", "## Left, in the first run of each", ""]
    lines += [f"- {g[0]['model']} {g[0]['dtype']}: {k} ({n})" for g in groups.values()
              for k, n in g[0]["left"].items()]
    lines += [f"- {r['model']} {r['dtype']} seed {r['seed']}: {f}"
              for r in rows for f in r["findings"]]
    lines += ["", "## Known precision, one of each model and kernel", ""]
    known = {(r["model"], r["dtype"], f.split(" at ")[0]): f
             for r in rows for f in r["known_precision"]}
    lines += [f"- {model} {dtype}: {f}" for (model, dtype, _), f in known.items()]
    return "\n".join(lines) + "\n"


def _quietly() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def _jobs(options: argparse.Namespace) -> Iterator[tuple[str, int, str, int]]:
    """Seeds without an end; the first ``--seeds`` of them where no number of checks is asked."""
    seeds = itertools.count() if options.min_checks else range(options.seeds)
    return ((name, options.steps, dtype, seed) for seed in seeds
            for dtype in options.dtypes for name in options.models)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, from as many processes as asked."""
    rows: list[dict[str, Any]] = []
    num_checks = 0
    ends_s = time.monotonic() + 60 * options.minutes
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, context, _quietly) as pool:
        jobs, running = _jobs(options), set()
        while True:
            enough = bool(options.min_checks) and (
                num_checks >= options.min_checks or time.monotonic() > ends_s)
            for job in () if enough else itertools.islice(jobs, options.processes - len(running)):
                running.add(pool.submit(try_model, *job))
            if not running:
                return rows
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                rows.append(future.result())
                num_checks += rows[-1]["checks"]
                print(num_checks, json.dumps(rows[-1]), file=sys.stderr, flush=True)


def main() -> None:
    """Run, write ``models.json`` and ``README.md``, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--min-checks", type=int, default=0,
                        help="go on with further seeds until so many calls were checked")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="with --min-checks: begin no further run after so many minutes")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("reports/models"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = run(options)
    import transformers

    stamp = {**plain(make_stamp(" ".join(["python -m tests.models.run", *sys.argv[1:]]), seed=0)),
             "transformers": transformers.__version__}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "models.json").write_text(
        json.dumps({"stamp": stamp, "rows": rows}, indent=1) + "\n")
    (options.out / "README.md").write_text(page(rows, stamp))
    print(page(rows, stamp))
    if any(r["findings"] or r["guard_errors"] or not r["equal_bits"] for r in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
