"""The kind of ``sdc-guard bench`` that sets the tests of the sweep against injected faults."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdc_guard.cli._progress import available_cores, command_line

if TYPE_CHECKING:
    from sdc_guard.sweep.declared import Place

DEFAULT_OUT = Path("reports/sweep")
NUM, QUICK_NUM = 30, 3
BUDGET_S, QUICK_BUDGET_S = 120.0, 10.0
LIMIT_MINUTES, QUICK_LIMIT_MINUTES = 120.0, 2.0
MINUTE_S = 60.0
NOTHING_TESTED = 5


def sweep(options: dict[str, Any]) -> None:
    """Try faults against tests and rivals, and renew ``matrix.json`` and ``matrix.md``."""
    if options["device"] == "cpu":
        # Read once, when triton is first imported: kernels run in its interpreter.
        os.environ.setdefault("TRITON_INTERPRET", "1")

    import msgspec
    import torch

    from sdc_guard.bench.benchfile import replace_file, sole_writer
    from sdc_guard.bench.results import make_stamp
    from sdc_guard.bench.sweep.campaign import Campaign
    from sdc_guard.bench.sweep.counts import MatrixFile, encoded, joined, read
    from sdc_guard.bench.sweep.page import render
    from sdc_guard.bench.sweep.rivals.table import RIVALS
    from sdc_guard.sweep.families import chosen

    seed, is_quick, is_gpu = options["seed"], options["quick"], options["device"] == "cuda"
    budget_s = options["limit_s"] or (QUICK_BUDGET_S if is_quick else BUDGET_S)
    minutes = options["minutes"] or (QUICK_LIMIT_MINUTES if is_quick else LIMIT_MINUTES)
    folder = Path(options["out"] or DEFAULT_OUT)
    path = folder / "matrix.json"
    tests = chosen(options["parts"])
    stamp = make_stamp(command_line(), seed)
    empty = MatrixFile(stamp=stamp, budget_s=budget_s, ops=(), dtypes=())

    def save(file: MatrixFile) -> None:
        replace_file(path, encoded(file))
        replace_file(folder / "matrix.md", render(file).encode())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a core's worker
    try:
        with sole_writer(folder):
            known = read(path) if path.exists() else empty
            campaign = Campaign(
                places=_places(is_gpu), seed=seed,
                num=options["num"] or (QUICK_NUM if is_quick else NUM),
                budget_s=budget_s, file=known, save=save, num_cores=available_cores(),
                tell=lambda line: click.echo(line, err=True))
            campaign.file = msgspec.structs.replace(known, stamp=joined(known.stamp, stamp))
            found = campaign.run(list(tests.values()), RIVALS, minutes * MINUTE_S)
            save(found)
    finally:
        torch.set_num_threads(threads)
    click.echo(path.read_text() if options["as_json"] else render(found))
    if not found.cells:
        sys.exit(NOTHING_TESTED)


def _places(is_gpu: bool) -> tuple[Place, ...]:
    """Units by these names, in this process."""
    from sdc_guard.sweep.declared import CORE, GPU, HOST, Place

    if is_gpu:
        return (Place(kind=GPU, name="cuda:0", device="cuda:0"),)
    return (Place(kind=CORE, name="core 0", device="cpu"),
            Place(kind=HOST, name="host", device="cpu"))


SWEEP_KINDS: dict[str, Callable[[dict[str, Any]], None]] = {"sweep": sweep}
