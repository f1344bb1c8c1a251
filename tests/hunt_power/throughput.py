"""Checked calls per second on one core, small shapes: ``python -m tests.hunt_power.throughput``."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import warnings
from pathlib import Path

import msgspec
import torch

from sdc_guard.hunt.loading import load_templates
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.search import search
from sdc_guard.hunt.trial import Trial
from sdc_guard.records import Record

SMALL_ELEMENTS = 4096
OPS = ("aten.sum", "aten.add", "aten.mul", "aten.exp", "aten.gelu", "aten._softmax",
       "aten.native_layer_norm", "aten.mm", "aten.index_select", "aten.cat", "aten.where",
       "aten.cumsum")


class Rate(Record, frozen=True, kw_only=True):
    """Of one operator under some oracles, on one core: ``trials`` drawn, made and judged in
    ``elapsed_s`` seconds; ``judged`` verdicts of oracles on calls of operators; ``small`` trials
    of at most 4096 elements."""

    op: str
    oracles: str
    trials: int
    refused: int
    small: int
    judged: int
    elapsed_s: float


def rate(op: str, oracles: tuple[str, ...], seconds: float, cache: Path, seed: int) -> Rate:
    """Search for so many seconds and count."""
    session, small = Session(), 0

    def count(trial: Trial) -> None:
        nonlocal small
        small += trial.num_elements <= SMALL_ELEMENTS

    by_target = load_templates(cache, ops=(op,)).by_target
    looking = tuple(o for o in chosen(oracles) if o.name not in ("isa", "compiled"))
    started_s = time.monotonic()
    trials = refused = 0
    while time.monotonic() - started_s < seconds:
        for templates in by_target.values():
            tally = search(session, looking, templates, seed=seed, examples=200, on_trial=count,
                           on_divergence=lambda trial, divergence: None,
                           deadline_s=started_s + seconds)
            trials, refused = trials + tally.trials, refused + tally.refused
        seed += 1
    return Rate(op=op, oracles=" ".join(oracles) or "all in the process", trials=trials,
                refused=refused, small=small, judged=session.checked.total(),
                elapsed_s=time.monotonic() - started_s)


def measured(seconds: float, cache: Path, seed: int) -> list[Rate]:
    """Each operator with the bound alone, and with all oracles."""
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")
    return [rate(op, oracles, seconds, cache, seed) for oracles in (("bound",), ()) for op in OPS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="for each operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("build/hunt-power"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rates = measured(options.seconds, options.cache, options.seed)
    sys.stdout.write(msgspec.json.encode(rates).decode() + "\n")


if __name__ == "__main__":
    main()
