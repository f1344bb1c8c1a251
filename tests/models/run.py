"""``make test-models``: real architectures, tiny, trained with and without the guard.

Each model makes its steps twice from one seed.  Losses, parameters, buffers and optimizer state
must be equal bit for bit, and nothing may be found.  Exit code 1 where that fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import sdc_guard
from sdc_guard.bench.results import make_stamp
from sdc_guard.evidence.plain_json import plain
from tests.fidelity.models import bits_of
from tests.models.zoo import MODELS


def train(name: str, num_steps: int, budget: float | str | None) -> tuple[Any, Any, float]:
    """Bits of the whole training state and of the losses; the guard; the seconds it took."""
    build, loss_of = MODELS[name]
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    guard = None
    if budget is not None:
        sdc_guard.wrap(model, budget=budget, on_finding="skip")
        guard = model.sdc_guard
    losses = []
    torch.manual_seed(1)
    started_s = time.perf_counter()
    for step in range(num_steps):
        loss = loss_of(model, step)
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


def try_model(name: str, num_steps: int) -> dict[str, Any]:
    """One row of the table."""
    plain_state, _, plain_s = train(name, num_steps, None)
    guarded_state, guard, guarded_s = train(name, num_steps, "all")
    coverage = guard.coverage
    left: collections.Counter[str] = collections.Counter()
    for op in coverage.ops:
        for reason, count in op.not_tested.items():
            left[f"{op.op}: {reason}"] += count
        if "rerun" in op.witnesses:
            left[f"{op.op}: rerun only"] += op.witnesses["rerun"]
    return {
        "model": name, "steps": num_steps, "equal_bits": plain_state == guarded_state,
        "findings": [f.message[:300] for f in guard.findings],
        "guard_errors": coverage.guard_errors, "checks": coverage.calls_checked,
        "call_share": coverage.call_share, "flop_share": coverage.flop_share,
        "ratio": guarded_s / plain_s, "left": dict(left.most_common(8)),
    }


def page(rows: list[dict[str, Any]], stamp: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# Real architectures under the guard", "",
        f"- command: `{stamp['commands'][0]}`",
        f"- commit: {stamp['commits'][0]}; torch {stamp['torch']}, transformers "
        f"{stamp['transformers']}",
        f"- machine: {stamp['platform']}, {stamp['processor']}, {stamp['num_cores']} cores", "",
        "Tiny configurations, AdamW, gradient clipping, one thread, `budget=\"all\"`, one seed. "
        "The ratio is of whole runs, first visits of all sites included.", "",
        "| model | steps | equal bits | findings | guard errors | checks | calls | FLOPs | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['steps']} | {'yes' if r['equal_bits'] else '**no**'} | "
            f"{len(r['findings'])} | {r['guard_errors']} | {r['checks']} | {r['call_share']:.1%} | "
            f"{r['flop_share']:.2%} | {r['ratio']:.1f} |")
    lines += ["", f"{sum(r['checks'] for r in rows)} checked calls in all.", "", "## Left", ""]
    lines += [f"- {r['model']}: {k} ({n})" for r in rows for k, n in r["left"].items()]
    lines += [f"- {r['model']}: {f}" for r in rows for f in r["findings"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, write ``models.json`` and ``README.md``, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("reports/models"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name in options.models:
        rows.append(try_model(name, options.steps))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
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
