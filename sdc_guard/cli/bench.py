"""``sdc-guard bench``: what detectors find, what they cost, and what they cry wolf about."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from sdc_guard.cli._bench_guard import GUARD_KINDS
from sdc_guard.cli._bench_kernels import KERNEL_KINDS
from sdc_guard.cli._bench_matrix import MATRIX_KINDS, result_path
from sdc_guard.cli._bench_sweep import SWEEP_KINDS


@click.command("bench")
@click.argument("what", default="all",
                type=click.Choice([*MATRIX_KINDS, *GUARD_KINDS, *KERNEL_KINDS, *SWEEP_KINDS]))
@click.option("--detector", "detectors", multiple=True,
              help="A detector of the table; default all. A wrong name lists them.")
@click.option("--workload", "workloads", multiple=True,
              help="A workload of the table; default all but gpt-demo.")
@click.option("--model", metavar="MODULE:FUNCTION",
              help="Your own workload in place of the table's: the function returns (model, "
                   "optimizer, batch, loss), where batch(n) is the batch of step n and "
                   "loss(model, batch) a scalar.")
@click.option("--fault", "faults", multiple=True,
              help="A fault model of the table; default all. For 'detection': transient, repeated.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(["fp32", "bf16"]),
              help="fp32, bf16 autocast, or both (default).")
@click.option("--num", type=click.IntRange(min=1), default=None,
              help="Faults per model, workload, dtype and detector; default 20. For 'detection': "
                   "per model and dtype, default 1000; for 'sweep': per kind and test, default 30.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=None,
              help="faults: share so much time out among the combinations; the next run goes on "
                   "where this one stops; so for sweep, default 120.")
@click.option("--processes", type=click.IntRange(min=1), default=None,
              help="faults, detection: processes with one thread each; default 1, with --quick all "
                   "cores.")
@click.option("--pairs", type=click.IntRange(min=1), default=None,
              help="cost: pairs of turns per measurement, default 12; overhead: default 20.")
@click.option("--threads", multiple=True, type=click.IntRange(min=1),
              help="cost, overhead, profile, clean: threads inside one op; default 1, for overhead "
                   "1 and all.")
@click.option("--steps", type=click.IntRange(min=1), default=None,
              help="harm: steps of training, default 200; clean: guarded steps per dtype, default "
                   "500; detection: steps that a repeated fault may take, default 3.")
@click.option("--config", type=click.Choice(["tiny", "demo"]), default="demo", show_default=True,
              help="overhead, profile, detection, clean: size of the GPT that is trained.")
@click.option("--adamw", "adamws", multiple=True, type=click.Choice(["single", "fused"]),
              help="overhead, profile: AdamW kernels, default both; detection, clean: single, or "
                   "what is given last.")
@click.option("--budget", "budgets", multiple=True,
              help="overhead, profile: 'all' or a share; default all, 0.02 and 0 for overhead.")
@click.option("--resume", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="detection: continue this result file.")
@click.option("--join", "joined", multiple=True,
              type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="page: add the results of this bench.json, of another run or machine, first.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--limit-s", type=click.FloatRange(min=0, min_open=True), default=None,
              help="kernels: seconds after which what is left is not measured, default 420; sweep: "
                   "length of the sweep whose tests are tried, default 120.")
@click.option("--part", "parts", multiple=True,
              help="kernels: one part of it; sweep: one test or family; default all. A wrong name "
                   "lists them.")
@click.option("--commit", default=None,
              help="kernels: the commit that is measured, where the checkout does not tell.")
@click.option("--quick", is_flag=True,
              help="A small form of everything: under five minutes for 'all'.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=None,
              help="Folder for result files; default reports/bench, for the second group below "
                   "reports/guard, for kernels build/bench-gpu, for sweep reports/sweep. "
                   "Results add up in bench.json.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of text.")
def command(what: str, quick: bool, device: str, **options: Any) -> None:
    """Inject faults into models in training and set detectors against them.

    \b
    all        cost, faults, harm and page, one after the other (default)
    faults     the same injected faults for every detector; false alarms of clean steps
    cost       plain and watched steps in turn: time ratios with intervals
    harm       what the faults do to a training that nobody watches
    page       README.md and figures from bench.json

    The guard alone, on the demo's GPT:

    \b
    overhead   plain and guarded steps in turn: time ratios with intervals
    profile    where the time of a guarded step goes, per op
    detection  injected faults: how many are found, and why the others are not
    clean      training without faults: anything that is found is a false alarm

    Triton kernels on a device:

    \b
    kernels    what their checks cost: copies, products, calls and steps of a GPT

    The tests of the sweep:

    \b
    sweep      injected faults against each of them and against other tools' comparisons

    Exit code 1 if 'clean' had findings, 5 if 'kernels' or 'sweep' could measure
    nothing.
    The other kinds measure and judge nothing.

    \b
    Examples:
      sdc-guard bench --quick --out build/bench
      sdc-guard bench faults --workload lstm --num 5
      sdc-guard bench overhead --budget all --pairs 10
      sdc-guard bench clean --config tiny --steps 100
    """
    import torch

    from sdc_guard.bench.benchfile import sole_writer
    from sdc_guard.errors import UsageError

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here")
    if device == "cuda" and what in ("all", "faults", "harm", "detection"):
        raise UsageError(f"bench {what} injects faults into CPU kernels; use --device cpu")
    # A campaign makes thousands of findings; they are counted, not told one by one.
    logging.getLogger("sdc_guard").setLevel(logging.ERROR)
    if quick:
        options["config"] = "tiny"
    options |= {"scale": 10 if quick else 1, "quick": quick, "device": device}
    run = (MATRIX_KINDS | GUARD_KINDS | KERNEL_KINDS | SWEEP_KINDS)[what]
    if what not in MATRIX_KINDS or what == "page":
        run(options)
        return
    with sole_writer(result_path(options).parent):
        run(options)
