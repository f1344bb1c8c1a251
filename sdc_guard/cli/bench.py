"""``sdc-guard bench``: measure what the guard costs and what it finds."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sdc_guard.bench.detection import Campaign
    from sdc_guard.bench.workload import TrainingStep

KINDS = ("overhead", "profile", "detection", "clean")
MODELS = ("transient", "repeated")
DEFAULT_OUT = Path("reports/guard")


@click.command("bench")
@click.argument("what", type=click.Choice(KINDS), default="overhead")
@click.option("--config", type=click.Choice(["tiny", "demo"]), default="demo", show_default=True,
              help="Size of the GPT that is trained.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(["fp32", "bf16"]),
              help="fp32, bf16 autocast, or both (default).")
@click.option("--adamw", "adamws", multiple=True, type=click.Choice(["single", "fused"]),
              help="overhead, profile: AdamW kernels; default both. The other kinds: single, or "
                   "what is given last.")
@click.option("--threads", multiple=True, type=click.IntRange(min=1),
              help="overhead, profile, clean: threads inside one op; default 1 and all for "
                   "overhead, else 1.")
@click.option("--budget", "budgets", multiple=True,
              help="overhead, profile: 'all' or a share; default all, 0.02 and 0 for overhead.")
@click.option("--pairs", type=click.IntRange(min=1), default=None,
              help="overhead: pairs of turns per measurement; default 20.")
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS),
              help="detection: fault models; default both.")
@click.option("--num", type=click.IntRange(min=1), default=None,
              help="detection: faults per model and dtype; default 1000.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True,
              help="detection: processes with one thread each.")
@click.option("--resume", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="detection: continue this result file.")
@click.option("--steps", type=click.IntRange(min=1), default=None,
              help="clean: guarded steps per dtype, default 500; detection: steps that a repeated "
                   "fault may take until it is found, default 3.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--quick", is_flag=True, help="The tiny GPT and a tenth of everything.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_OUT,
              show_default=True, help="Folder for result files; --resume writes to its own file.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of text.")
def command(what: str, quick: bool, device: str, **options: Any) -> None:
    """Measure the guard on a GPT that trains on real text.

    \b
    overhead   plain and guarded steps in turn: time ratios with intervals
    profile    where the time of a guarded step goes, per op
    detection  injected faults: how many are found, and why the others are not
    clean      training without faults: anything that is found is a false alarm

    Exit code 1 if a clean run had findings.  The other kinds measure and judge nothing.
    """
    import torch

    from sdc_guard.errors import UsageError

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here")
    if device == "cuda" and what == "detection":
        raise UsageError("bench detection injects faults into CPU kernels; use --device cpu")
    # A campaign makes thousands of findings; they are counted, not told one by one.
    logging.getLogger("sdc_guard").setLevel(logging.ERROR)
    if quick:
        options["config"] = "tiny"
    options["scale"] = 10 if quick else 1
    options["device"] = device
    _KINDS[what](options)


def _told(text: str) -> None:
    click.echo(text, err=True)


def _build(options: dict[str, Any], dtype: str, adamw: str) -> Callable[[], TrainingStep]:
    return functools.partial(
        build_on, options["device"], options["config"], dtype, options["seed"], adamw == "fused")


def build_on(device: str, config: str, dtype: str, seed: int, fused: bool) -> TrainingStep:
    """A training step of the demo on a device; there, bf16 is an autocast around the whole step."""
    from sdc_guard.demo.training import build_step

    if device == "cpu":
        return build_step(config, dtype=dtype, seed=seed, fused=fused)
    import torch

    training = build_step(config, dtype="fp32", seed=seed, fused=fused)
    training.model.to(device)
    batches, step = training.batches.next, training.step

    def moved() -> tuple[torch.Tensor, torch.Tensor]:
        inputs_BT, targets_BT = batches()
        return inputs_BT.to(device), targets_BT.to(device)

    def autocast_step() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
            return step()

    training.batches.next = moved  # type: ignore[method-assign]
    training.step = autocast_step  # type: ignore[method-assign]
    return training


def _label(options: dict[str, Any], dtype: str, adamw: str) -> str:
    kind = "bf16 autocast" if dtype == "bf16" else dtype
    return f"{options['config']} GPT, {kind}, {adamw} AdamW, {options['device']}"


def _workloads(
    options: dict[str, Any], adamws: tuple[str, ...]
) -> Iterator[tuple[str, Callable[[], TrainingStep]]]:
    for dtype in options["dtypes"] or ("fp32", "bf16"):
        for adamw in adamws:
            yield _label(options, dtype, adamw), _build(options, dtype, adamw)


def _parsed(budget: str) -> float | str:
    try:
        return float(budget)
    except ValueError:
        return budget


def _command_line() -> str:
    return " ".join(["sdc-guard", *sys.argv[1:]])


def _overhead(options: dict[str, Any]) -> None:
    from sdc_guard.bench.overhead import measure_overhead, render_overhead
    from sdc_guard.bench.results import OverheadFile, make_stamp, write

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = options["threads"] or tuple(sorted({1, cores or 1}))
    num_pairs = max(6, (options["pairs"] or 20) // options["scale"])
    results = []
    for label, build in _workloads(options, options["adamws"] or ("single", "fused")):
        for num_threads in threads:
            for budget in map(_parsed, options["budgets"] or ("all", "0.02", "0")):
                turn = {} if budget == "all" else {"steps_per_turn": max(1, 10 // options["scale"])}
                results.append(measure_overhead(
                    build, label, budget=budget, num_threads=num_threads, num_pairs=num_pairs,
                    seed=options["seed"], **turn))
                r = results[-1]
                _told(f"{label}, {num_threads} threads, budget {budget}: ratio {r.ratio.value:.3f} "
                      f"[{r.ratio.low:.3f}, {r.ratio.high:.3f}]")
    contents = OverheadFile(stamp=make_stamp(_command_line(), options["seed"]),
                            results=tuple(results))
    write(options["out"] / "overhead.json", contents)
    _show(options, contents, render_overhead(results))


def _profile(options: dict[str, Any]) -> None:
    from sdc_guard.bench.profile import profile_step, render_profile
    from sdc_guard.bench.results import make_stamp, write_text
    from sdc_guard.bench.workload import intra_op_threads
    from sdc_guard.evidence.plain_json import plain

    stamp = make_stamp(_command_line(), options["seed"])
    tables: list[str] = []
    for label, build in _workloads(options, options["adamws"] or ("single", "fused")):
        for num_threads in options["threads"] or (1,):
            for budget in map(_parsed, options["budgets"] or ("all",)):
                with intra_op_threads(num_threads):
                    profile = profile_step(build, budget=budget, seed=options["seed"])
                head = f"{label}, {num_threads} threads, budget {budget}"
                table = f"{head}: milliseconds per step\n{render_profile(profile)}\n"
                tables.append(table)
                click.echo(json.dumps({"workload": head, **plain(profile)})
                           if options["as_json"] else table)
    write_text(options["out"] / "profile.txt", stamp, "\n".join(tables))


def _detection(options: dict[str, Any]) -> None:
    from sdc_guard.bench.detection import STEPS_REPEATED, continue_campaign, new_campaign
    from sdc_guard.bench.results import DetectionFile, make_stamp, read, render_campaign, write

    stamp = make_stamp(_command_line(), options["seed"])
    path = options["resume"] or options["out"] / "detection.json"
    contents = (read(path, DetectionFile) if options["resume"]
                else DetectionFile(stamp=stamp, campaigns=()))
    num = max(1, (options["num"] or 1000) // options["scale"])
    for label, build in _workloads(options, (options["adamws"] or ("single",))[-1:]):
        for model in options["models"] or MODELS:
            def save(campaign: Campaign, before: DetectionFile = contents) -> None:
                write(path, before.with_campaign(stamp, campaign))
                counts = ", ".join(f"{k} {v}" for k, v in sorted(campaign.outcomes.items()))
                _told(f"{campaign.label}, {campaign.model}: {counts}")

            empty = new_campaign(label, model, seed=options["seed"],
                                 steps_repeated=options["steps"] or STEPS_REPEATED)
            campaign = continue_campaign(
                contents.find(empty), build, num, num_processes=options["processes"],
                progress=save)
            ended = make_stamp(_command_line(), options["seed"])
            contents = contents.with_campaign(ended, campaign)
    write(path, contents)
    _show(options, contents, "\n\n".join(map(render_campaign, contents.campaigns)))


def _clean(options: dict[str, Any]) -> None:
    from sdc_guard.bench.detection import clean_run
    from sdc_guard.bench.results import CleanFile, make_stamp, render_clean, write

    num_steps = max(1, (options["steps"] or 500) // options["scale"])
    runs = []
    for label, build in _workloads(options, (options["adamws"] or ("single",))[-1:]):
        for num_threads in options["threads"] or (1,):
            def tell(step: int, label: str = label) -> None:
                if step % 50 == 0:
                    _told(f"{label}: {step} of {num_steps} steps")

            name = f"{label}, {num_threads} thread{'s' if num_threads > 1 else ''}"
            runs.append(clean_run(build, name, num_steps=num_steps, seed=options["seed"],
                                  num_threads=num_threads, progress=tell))
    contents = CleanFile(stamp=make_stamp(_command_line(), options["seed"]), runs=tuple(runs))
    write(options["out"] / "clean.json", contents)
    _show(options, contents, "\n\n".join(map(render_clean, runs)))
    if any(run.num_findings for run in runs):
        sys.exit(1)


_KINDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "overhead": _overhead, "profile": _profile, "detection": _detection, "clean": _clean,
}


def _show(options: dict[str, Any], contents: Any, text: str) -> None:
    from sdc_guard.evidence.plain_json import plain

    click.echo(json.dumps(plain(contents), allow_nan=False) if options["as_json"] else text)
