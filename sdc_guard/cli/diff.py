"""``sdc-guard diff``: compare two runs, and name the first operator that diverges in one only."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sdc_guard.cli._judging import ROOT

_RUN = click.Path(path_type=Path)


@click.command("diff")
@click.argument("before", metavar="A", type=_RUN)
@click.argument("after", metavar="B", type=_RUN)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@ROOT
def command(before: Path, after: Path, as_json: bool, root: Path | None) -> None:
    """Compare B with A, each a run's folder, an event log, a bundle or a report (JSON): the first
    divergent operator that A does not have, divergences that are new, gone and common, what was
    checked, and the environments.

    Exit code: 0 no divergence that A does not have, 1 there is one, 2 wrong usage, 3 what was
    checked is not known in full, 4 internal error, 5 one of them checked nothing.

    \b
    Examples:
      sdc-guard diff runs/yesterday runs/today
      sdc-guard diff report.json runs/today --json
    """
    from sdc_guard.plain_json import plain
    from sdc_guard.report.diffing import difference, difference_text
    from sdc_guard.report.gather import gather

    diff = difference(gather([before], root=root), gather([after], root=root))
    if as_json:
        click.echo(json.dumps(plain(diff), allow_nan=False))
    else:
        click.echo(difference_text(diff), nl=False)
    raise click.exceptions.Exit(diff.exit_code)
