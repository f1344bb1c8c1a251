"""``sdc-guard demo``: train a small GPT three times and watch a silent torch.sum bug be caught."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import click

SHOWN, NOT_SHOWN = 0, 1


@click.command("demo")
@click.option("--out", default=Path("runs/demo"), show_default=True, metavar="FOLDER",
              type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the page, the event log and the evidence.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each of the three runs.")
@click.option("--quick", is_flag=True, help="A smaller model: half a minute instead of two.")
@click.option("--budget", default=None, metavar="SHARE|all",
              help="Share of run time that checking may cost, or \"all\".  [default: all]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0),
              help="Of parameters, batches and the guard's sampling.")
@click.option("--json", "as_json", is_flag=True,
              help="One JSON document on stdout, no progress.")
def command(
    out: Path, steps: int | None, quick: bool, budget: str | None, seed: int, as_json: bool
) -> None:
    """Train a small GPT on Python's own library three times from the same seed: clean, with a
    torch.sum that goes wrong now and then, and with the same fault under guard.

    Exit code: 0 the fault was caught and the run saved, 1 this run does not show that (it says
    what is missing), 2 wrong usage, 4 internal error.

    \b
    Examples:
      sdc-guard demo
      sdc-guard demo --quick --out runs/demo
      sdc-guard demo --budget 0.05 --seed 1 --json
    """
    from sdc_guard.cli._progress import TrainingProgress
    from sdc_guard.demo.story import FULL, QUICK, run_demo
    from sdc_guard.demo.telling import as_json as to_json
    from sdc_guard.demo.telling import as_page, as_text
    from sdc_guard.render.html import write_page

    settings = replace(QUICK if quick else FULL, out=out, seed=seed)
    if steps is not None:
        settings = replace(settings, num_steps=steps)
    if budget is not None:
        settings = replace(settings, budget=parse_share(budget))
    # The guard's own log would repeat what the progress shows.
    logging.getLogger("sdc_guard").setLevel(logging.ERROR)
    with TrainingProgress(quiet=as_json) as progress:
        report = run_demo(settings, progress)
    page = out / "demo.html"
    write_page(page, as_page(report))
    guarded = write_report(out)
    if as_json:
        click.echo(json.dumps({**to_json(report), "page": str(page), "report": guarded},
                              allow_nan=False))
    else:
        click.echo(as_text(report))
        click.echo(f"\npage      {page}")
        if guarded is not None:
            click.echo(f"report    {guarded}, as `sdc-guard report {out} --html` makes it")
    sys.exit(NOT_SHOWN if report.shortcomings() else SHOWN)


def write_report(out: Path) -> str | None:
    """The divergence report of the guarded run; None where it could not write a log."""
    from sdc_guard.report.gather import gather
    from sdc_guard.report.judging import judge
    from sdc_guard.report.outputs import write_outputs
    from sdc_guard.report.sources import LOGS

    if not any(out.glob(LOGS)):
        return None
    path = out / "report.html"
    write_outputs(judge(gather([out])), {"html": path})
    return str(path)


def parse_share(text: str) -> float | str:
    """A number, or the text as it is: the guard says what a budget may be."""
    try:
        return float(text)
    except ValueError:
        return text
