"""``sdc-guard ops``: list the operators that are checked, and by which witnesses."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("ops")
@click.option("--json", "as_json", is_flag=True,
              help="One JSON document with all that is known, relations included.")
@click.option("--markdown", "as_markdown", is_flag=True, help="The page docs/ops.md.")
@click.option("--missing", "step", metavar="MODULE:FUNCTION",
              help="Call this function, which makes a training step, and name the calls in it that "
                   "are not checked, or only repeated.")
def command(as_json: bool, as_markdown: bool, step: str | None) -> None:
    """List the operators that are checked: family, witnesses, dtypes, and whether equal calls are
    documented to give equal bits.

    Exit code 0, also where --missing names some.

    \b
    Examples:
      sdc-guard ops
      sdc-guard ops --json | jq '.ops[].op'
      sdc-guard ops --missing mytraining:step
    """
    from sdc_guard.cli import _optable
    from sdc_guard.ops import all_specs

    if step is not None:
        _show_missing(_optable.missing(_optable.load(step)), as_json)
        return
    specs = all_specs()
    if as_json:
        click.echo(json.dumps({"ops": _optable.all_rows()}, indent=1))
        return
    if as_markdown:
        click.echo(_optable.markdown(_optable.all_rows()))
        return
    cells = [("op", "family", "witnesses", "deterministic")]
    cells += [
        (s.packet, s.family, ", ".join(s.witnesses), "yes" if s.deterministic else "no")
        for s in specs
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())
    click.echo(f"{len(specs)} operators; their in-place and out= overloads are checked with them, "
               "all others of ATen are repeated")


def _show_missing(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"missing": rows}, indent=1))
        return
    for row in rows:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in row["reasons"].items())
        click.echo(f"{row['op']}: {row['calls']} calls: {reasons}")
    if not rows:
        click.echo("every call is checked by more than a rerun")
