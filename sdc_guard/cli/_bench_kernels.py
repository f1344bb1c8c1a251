"""The kind of ``sdc-guard bench`` that measures the checks by Triton kernels on a device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sdc_guard.cli._progress import command_line

DEFAULT_OUT = Path("build/bench-gpu")
LIMIT_S = 420.0
NOTHING_TESTED = 5


def kernels(options: dict[str, Any]) -> None:
    """Measure, write the files, print the page; exit code 5 if nothing could be measured."""
    from sdc_guard.errors import UsageError

    if options["device"] == "cpu":
        if not options["quick"]:
            raise UsageError("bench kernels on a CPU runs in Triton's interpreter, whose times say "
                             "nothing about a device: give --device cuda, or --quick to see that "
                             "it runs")
        # Read once, when triton is first imported.
        os.environ.setdefault("TRITON_INTERPRET", "1")

    from sdc_guard.bench.gpu.figures import FULL, TINY, Clocks, Device
    from sdc_guard.bench.gpu.job import Setting
    from sdc_guard.bench.gpu.jobs import JOBS
    from sdc_guard.bench.gpu.page import render
    from sdc_guard.bench.gpu.write import JSON, measure_and_write

    chosen = options["parts"] or tuple(job.name for job in JOBS)
    jobs = tuple(job for job in JOBS if job.name in chosen)
    if len(jobs) < len(set(chosen)):
        raise UsageError(f"no part {' or '.join(sorted(set(chosen) - {j.name for j in jobs}))}; "
                         f"there are: {', '.join(job.name for job in JOBS)}")
    setting = Setting(options["device"], TINY if options["quick"] else FULL, options["seed"])
    folder = Path(options["out"] or DEFAULT_OUT)
    found = measure_and_write(
        setting, folder, command=command_line(), commit=options["commit"] or "",
        limit_s=options["limit_s"] or LIMIT_S, jobs=jobs,
        tell=lambda line: click.echo(line, err=True))
    click.echo((folder / JSON).read_text() if options["as_json"] else render(found))
    if all(isinstance(named.figure, (Clocks, Device)) for named in found.figures):
        sys.exit(NOTHING_TESTED)


KERNEL_KINDS: dict[str, Callable[[dict[str, Any]], None]] = {"kernels": kernels}
