"""How many calls a core draws, makes and judges in a second:
``python -m sdc_guard.hunt.throughput [CACHE] [--json] [--examples N] [--targets N]``.

In seconds of the process, so that what else runs on the machine does not count.  All targets of a
catalogue that was read before take part, or the built-in ones, or ``--targets`` of them that lie
evenly among all, with the same number of calls each.

A *trial* is one drawn call that was made, and each operator of it judged by its bound; what an
operator refuses is none, and its time counts.  A *checked execution* is a trial, or one more
execution of the trial or of one of its operators that an oracle made to compare it: in another
layout or form, on a slice, with other threads, again.  What served an estimate, and the operators
inside a call, are not counted.  Shares are of the seconds that each oracle took, its executions and
what it asked first of the bounds included; the rest drew the trials and made them once.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch

from sdc_guard.hunt.builtin_catalogue import builtin_templates
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.loading import load_templates
from sdc_guard.hunt.oracles._registry import Oracle, Session, chosen
from sdc_guard.hunt.search import search
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import Trial
from sdc_guard.records import Record

EXAMPLES, WARM_UP = 40, 8
SMALL_ELEMENTS = 4096
CHILDREN = ("isa", "compiled")
"""Oracles that work in other processes, whose seconds are not this one's."""


class Rate(Record, frozen=True, kw_only=True):
    """Of one target under some oracles, on one core: ``trials`` drawn, made and judged in
    ``elapsed_s`` seconds of the process, and ``refused`` of them; ``small`` trials of at most 4096
    elements; ``judged`` verdicts of oracles on calls of operators; ``executions`` checked ones;
    ``seconds`` of each oracle."""

    op: str
    oracles: str
    trials: int
    refused: int
    small: int
    judged: int
    elapsed_s: float
    executions: int = 0
    seconds: dict[str, float] = msgspec.field(default_factory=dict)


def rate(
    target: str, templates: tuple[Template, ...], oracles: tuple[str, ...] = (), *,
    examples: int = EXAMPLES, seed: int = 0,
) -> Rate:
    """Search ``examples`` calls, after a few that do not count; no ``oracles`` are all that work in
    the process, each with its share."""
    seconds: defaultdict[str, float] = defaultdict(float)
    looking = tuple(_timed(o, seconds) for o in chosen(oracles) if o.name not in CHILDREN)
    session = Session()
    search(session, looking, templates, seed=seed, examples=WARM_UP,
           on_divergence=lambda trial, divergence: None)
    session, small = Session(), 0
    seconds.clear()

    def count(trial: Trial) -> None:
        nonlocal small
        small += trial.num_elements <= SMALL_ELEMENTS

    started_s = time.process_time()
    tally = search(session, looking, templates, seed=seed, examples=examples, on_trial=count,
                   on_divergence=lambda trial, divergence: None)
    elapsed_s = time.process_time() - started_s
    return Rate(
        op=target, oracles=" ".join(oracles) or "all in the process", trials=tally.trials,
        refused=tally.refused, small=small, judged=session.checked.total(), elapsed_s=elapsed_s,
        executions=tally.trials - tally.refused + session.again.total(), seconds=dict(seconds))


def _timed(oracle: Oracle, seconds: defaultdict[str, float]) -> Oracle:
    """The oracle, its time of the process added to ``seconds``."""

    def check(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
        started_s = time.process_time()
        found = list(oracle.check(session, trial, base))
        seconds[oracle.name] += time.process_time() - started_s
        return iter(found)

    return dataclasses.replace(oracle, check=check)


def targets(cache: Path | None) -> dict[str, tuple[Template, ...]]:
    """Those of the catalogue in ``cache``, or the built-in ones."""
    if cache is not None:
        return dict(load_templates(cache).by_target)
    found: dict[str, list[Template]] = {}
    for template in builtin_templates():
        found.setdefault(template.trial.target, []).append(template)
    return {target: tuple(templates) for target, templates in found.items()}


def sample(
    found: dict[str, tuple[Template, ...]], count: int | None
) -> dict[str, tuple[Template, ...]]:
    """``count`` targets that lie evenly among all; all of them for None."""
    names = list(found)
    if count is not None and 0 < count < len(names):
        names = [names[i * len(names) // count] for i in range(count)]
    return {name: found[name] for name in names}


def main() -> None:
    """Each target with the bound alone, and with all oracles that work in the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, nargs="?")
    parser.add_argument("--json", action="store_true", help="the rates as JSON")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="calls of each target")
    parser.add_argument("--targets", type=int, help="how many targets (default: all)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rates = [rate(target, templates, oracles, examples=options.examples)
             for oracles in (("bound",), ())
             for target, templates in sample(targets(options.cache), options.targets).items()]
    if options.json:
        sys.stdout.write(msgspec.json.encode(rates).decode() + "\n")
        return
    for oracles in dict.fromkeys(r.oracles for r in rates):
        sys.stdout.write(told([r for r in rates if r.oracles == oracles]) + "\n")


def told(rates: list[Rate]) -> str:
    """Of several targets under the same oracles, in words."""
    elapsed_s = sum(r.elapsed_s for r in rates)
    trials = sum(r.trials - r.refused for r in rates)
    seconds: defaultdict[str, float] = defaultdict(float)
    for each in rates:
        for name, its in each.seconds.items():
            seconds[name] += its
    shares = [f"{name} {its / elapsed_s:.0%}"
              for name, its in sorted(seconds.items(), key=lambda i: -i[1])]
    rest = 1 - sum(seconds.values()) / elapsed_s
    return (f"{rates[0].oracles}: {trials / elapsed_s:.0f} trials and "
            f"{sum(r.executions for r in rates) / elapsed_s:.0f} checked executions per second and "
            f"core, {len(rates)} targets; {', '.join(shares)}, drawn and made {rest:.0%}")


if __name__ == "__main__":
    main()
