"""``make test-third-party``: somebody else's training program, unmodified, under ``sdc-guard run``.

PyKEEN's own command line (``python -m pykeen train``) trains knowledge graph embeddings on the
Nations data set, which its wheel ships.  Each model is trained without the guard, then with it at
each budget, from one seed with one thread.  The file of the trained model must be equal byte for
byte, every loss and metric equal, the output on stdout and the exit code the same, and nothing may
be found.  Exit code 1 where anything fails.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdc_guard.bench.results import make_stamp
from sdc_guard.document.reading import read_document_file
from sdc_guard.document.schema import Report
from sdc_guard.plain_json import plain
from tests.meta.tree import ROOT

MODELS = ("transe", "distmult", "rotate", "conve", "convkb", "tucker")
BUDGETS = ("all", "0.02")
SOURCES = ("__main__.py", "cli.py", "models/cli/builders.py", "pipeline/api.py",
           "training/training_loop.py")
GUARD = (sys.executable, "-c", "from sdc_guard.cli.main import main; main()", "run")
WRONG_USAGE = 2


@dataclass
class Outcome:
    """What a training has left behind."""

    exit_code: int
    output: str
    model: str
    numbers: Any
    files: list[str]
    errors: str


def train(model: str, out: Path, epochs: int, seed: int, before: tuple[str, ...] = ()) -> Outcome:
    """Run PyKEEN's program; ``before`` stands before its command line."""
    command = (*before, sys.executable, "-m", "pykeen", "train", model, "--dataset", "nations",
               "--random-seed", str(seed), "--number-epochs", str(epochs), "--silent",
               "--output-directory", str(out))
    path = [str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)})
    trained = out / "trained_model.pkl"
    results = out / "results.json"
    numbers = json.loads(results.read_text()) if results.exists() else {}
    return Outcome(
        done.returncode, done.stdout,
        hashlib.sha256(trained.read_bytes()).hexdigest() if trained.exists() else "",
        {name: numbers.get(name) for name in ("losses", "metrics")},
        sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()),
        done.stderr)


def differences(alone: Outcome, guarded: Outcome) -> list[str]:
    """What of the program's results is not the same."""
    return [name for name in ("exit_code", "output", "model", "numbers", "files")
            if getattr(alone, name) != getattr(guarded, name)]


def try_model(model: str, folder: Path, epochs: int, seed: int) -> list[dict[str, Any]]:
    """One row for each budget."""
    alone = train(model, folder / f"{model}-alone", epochs, seed)
    if alone.exit_code or not alone.model:
        raise SystemExit(f"{model} fails without the guard:\n{alone.errors}")
    rows = []
    for budget in BUDGETS:
        run = folder / f"{model}-{budget}-run"
        guarded = train(model, folder / f"{model}-{budget}", epochs, seed,
                        (*GUARD, "--budget", budget, "--out", str(run), "--"))
        report = read_document_file(run / "report.json")
        rows.append(row_of(model, budget, alone, guarded, report))
    return rows


def row_of(
    model: str, budget: str, alone: Outcome, guarded: Outcome, report: Report
) -> dict[str, Any]:
    """A row of the table."""
    return {
        "model": model, "budget": budget, "sha256": alone.model,
        "differs": differences(alone, guarded), "findings": len(report.findings),
        "guard_errors": sum(c.guard_errors for c in report.coverages),
        "steps": sum(c.steps for c in report.coverages), "calls": report.calls,
        "checked": report.calls_checked,
    }


def bad_usage_passes_through(folder: Path) -> bool:
    """True if the program's own exit code for a model that it does not know comes back."""
    alone = train("no-such-model", folder / "none", 1, 0)
    guarded = train("no-such-model", folder / "none", 1, 0,
                    (*GUARD, "--out", str(folder / "none-run"), "--"))
    return alone.exit_code == guarded.exit_code == WRONG_USAGE


def page(rows: list[dict[str, Any]], stamp: dict[str, Any], passes: bool) -> str:
    """The table as Markdown."""
    lines = [
        "# An unmodified third-party program under `sdc-guard run`", "",
        f"- program: `python -m pykeen train MODEL --dataset nations`, PyKEEN {stamp['pykeen']}, "
        f"{stamp['lines']:,} lines in {', '.join(SOURCES)}; the data ships with its wheel",
        f"- command: `{stamp['commands'][0]}`",
        f"- commit: {stamp['commits'][0]}; torch {stamp['torch']}, Python {stamp['python']}",
        f"- seed {stamp['seed']}, {stamp['epochs']} epochs, one thread",
        f"- machine: {stamp['platform']}, {stamp['processor']}, {stamp['num_cores']} cores", "",
        "`equal` compares the bytes of the trained model's file, every loss and metric, what went "
        "to stdout, the names of all files and the exit code, with and without the guard.", "",
        "An exit code of its own (2, an unknown model) comes back through `sdc-guard run`: "
        f"{'yes' if passes else '**no**'}.", "",
        "| model | budget | equal | findings | guard errors | steps | calls | checked | "
        "model file |", "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        equal = "yes" if not row["differs"] else f"**no**: {', '.join(row['differs'])}"
        lines.append(
            f"| {row['model']} | {row['budget']} | {equal} | {row['findings']} | "
            f"{row['guard_errors']} | {row['steps']} | {row['calls']:,} | "
            f"{row['checked'] / row['calls']:.1%} | "
            f"`{row['sha256'][:12]}` |")
    return "\n".join(lines) + "\n"


def is_good(rows: list[dict[str, Any]], passes: bool) -> bool:
    """True if every row is as it is without the guard, and something was checked."""
    return passes and all(
        not row["differs"] and not row["findings"] and not row["guard_errors"] and row["checked"]
        for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "third-party-runs")
    parser.add_argument("--out", type=Path, help="folder for the page, for example reports/run")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    rows = []
    for model in options.models:
        rows += try_model(model, options.folder.resolve(), options.epochs, options.seed)
        print(f"{model}: {[row['differs'] or 'equal' for row in rows[-len(BUDGETS):]]}", flush=True)
    passes = bad_usage_passes_through(options.folder.resolve())
    home = Path(importlib.util.find_spec("pykeen").origin or "").parent  # type: ignore[union-attr]
    stamp = {
        **plain(make_stamp(" ".join(["python -m tests.third_party.run", *sys.argv[1:]]),
                           seed=options.seed)),
        "pykeen": importlib.metadata.version("pykeen"), "epochs": options.epochs,
        "lines": sum(len((home / s).read_text().splitlines()) for s in SOURCES),
    }
    text = page(rows, stamp, passes)
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "README.md").write_text(text, encoding="utf-8")
    if not is_good(rows, passes):
        sys.exit(1)


if __name__ == "__main__":
    main()
