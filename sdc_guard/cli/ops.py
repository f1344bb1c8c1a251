"""``sdc-guard ops``: list the operators that are checked, and by which witnesses."""

from __future__ import annotations

import json

import click


@click.command("ops")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def command(as_json: bool) -> None:
    """List the operators that are checked: family, witnesses, and whether equal calls are
    documented to give equal bits.
    """
    from sdc_guard.ops import all_specs

    specs = all_specs()
    if as_json:
        rows = [
            {
                "op": spec.packet,
                "family": spec.family,
                "witnesses": spec.witnesses,
                "deterministic": spec.deterministic,
                "reduction": spec.reduction,
            }
            for spec in specs
        ]
        click.echo(json.dumps({"ops": rows}, indent=1))
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
    click.echo(f"{len(specs)} operators; their in-place and out= overloads are checked with them")

