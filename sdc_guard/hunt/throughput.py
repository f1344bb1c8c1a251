"""How many checked calls a core makes in a second: ``python -m sdc_guard.hunt.throughput [CACHE]``.

Prints one line for each target and the total, in seconds of the process, so that what else runs on
the machine does not count.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from sdc_guard.hunt.builtin_catalogue import builtin_templates
from sdc_guard.hunt.loading import load_templates
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.search import search
from sdc_guard.hunt.templates import Template

EXAMPLES = 100
WARM_UP = 8


def throughput(targets: Iterable[tuple[str, tuple[Template, ...]]], seed: int = 0) -> float:
    """Trials per second of this process with the oracle ``bound``, the first calls left out."""
    num_trials, spent_s = 0, 0.0
    for target, templates in targets:
        for examples, counts in ((WARM_UP, False), (EXAMPLES, True)):
            started_s = time.process_time()
            tally = search(Session(), chosen(("bound",)), templates, seed=seed, examples=examples,
                           on_divergence=lambda trial, divergence: None)
            elapsed_s = time.process_time() - started_s
            if counts:
                num_trials += tally.trials - tally.refused
                spent_s += elapsed_s
                sys.stdout.write(f"{target:45} {(tally.trials - tally.refused) / elapsed_s:8.0f}\n")
    return num_trials / spent_s


def main() -> None:
    """All targets of a catalogue that was read before, or the built-in ones."""
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        by_target = load_templates(Path(sys.argv[1])).by_target
    else:
        found: dict[str, list[Template]] = {}
        for template in builtin_templates():
            found.setdefault(template.trial.target, []).append(template)
        by_target = {target: tuple(ts) for target, ts in found.items()}
    total = throughput(by_target.items())
    sys.stdout.write(f"{len(by_target)} targets: {total:.0f} checked calls per second and core\n")


if __name__ == "__main__":
    main()
