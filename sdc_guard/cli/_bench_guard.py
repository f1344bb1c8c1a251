"""The kinds of ``sdc-guard bench`` that measure the guard alone, on the demo's GPT."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdc_guard.cli._progress import available_cores, command_line

if TYPE_CHECKING:
    from sdc_guard.bench.detection import Campaign
    from sdc_guard.bench.workload import TrainingStep

MODELS = ("transient", "repeated")
DEFAULT_OUT = Path("reports/guard")


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


def _out(options: dict[str, Any]) -> Path:
    return Path(options["out"] or DEFAULT_OUT)


def _overhead(options: dict[str, Any]) -> None:
    from sdc_guard.bench.overhead import measure_overhead, render_overhead
    from sdc_guard.bench.results import OverheadFile, make_stamp, write

    threads = options["threads"] or tuple(sorted({1, available_cores()}))
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
    contents = OverheadFile(stamp=make_stamp(command_line(), options["seed"]),
                            results=tuple(results))
    write(_out(options) / "overhead.json", contents)
    _show(options, contents, render_overhead(results))


def _profile(options: dict[str, Any]) -> None:
    from sdc_guard.bench.profile import profile_step, render_profile
    from sdc_guard.bench.results import make_stamp, write_text
    from sdc_guard.bench.workload import intra_op_threads
    from sdc_guard.plain_json import plain

    stamp = make_stamp(command_line(), options["seed"])
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
    write_text(_out(options) / "profile.txt", stamp, "\n".join(tables))


def _detection(options: dict[str, Any]) -> None:
    from sdc_guard.bench.detection import STEPS_REPEATED, continue_campaign, new_campaign
    from sdc_guard.bench.results import DetectionFile, make_stamp, read, render_campaign, write

    stamp = make_stamp(command_line(), options["seed"])
    path = options["resume"] or _out(options) / "detection.json"
    contents = (read(path, DetectionFile) if options["resume"]
                else DetectionFile(stamp=stamp, campaigns=()))
    num = max(1, (options["num"] or 1000) // options["scale"])
    for label, build in _workloads(options, (options["adamws"] or ("single",))[-1:]):
        for model in options["faults"] or MODELS:
            def save(campaign: Campaign, before: DetectionFile = contents) -> None:
                write(path, before.with_campaign(stamp, campaign))
                counts = ", ".join(f"{k} {v}" for k, v in sorted(campaign.outcomes.items()))
                _told(f"{campaign.label}, {campaign.model}: {counts}")

            empty = new_campaign(label, model, seed=options["seed"],
                                 steps_repeated=options["steps"] or STEPS_REPEATED)
            campaign = continue_campaign(
                contents.find(empty), build, num, num_processes=options["processes"] or 1,
                progress=save)
            ended = make_stamp(command_line(), options["seed"])
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
    contents = CleanFile(stamp=make_stamp(command_line(), options["seed"]), runs=tuple(runs))
    write(_out(options) / "clean.json", contents)
    _show(options, contents, "\n\n".join(map(render_clean, runs)))
    if any(run.num_findings for run in runs):
        sys.exit(1)


GUARD_KINDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "overhead": _overhead, "profile": _profile, "detection": _detection, "clean": _clean,
}


def _show(options: dict[str, Any], contents: Any, text: str) -> None:
    from sdc_guard.plain_json import plain

    click.echo(json.dumps(plain(contents), allow_nan=False) if options["as_json"] else text)
