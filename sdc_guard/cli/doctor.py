"""``sdc-guard doctor``: say whether checking works here: environment, determinism, self-test."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click


@click.command("doctor")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"),
              show_default=True, help="Folder that evidence is to be written to.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of lines.")
def command(out: Path, as_json: bool) -> None:
    """Look at this machine: versions, places, threads, folders, precision, whether equal calls give
    equal bits, and whether each witness sees a bit that is flipped on purpose in a copy.

    Each line is PASS, WARN or FAIL, the latter two with what to do; docs/doctor.md says more.

    Exit code: 0 no failure, 1 equal calls gave different bits, 3 something else that checking
    needs does not work.

    \b
    Examples:
      sdc-guard doctor
      sdc-guard doctor --out /mnt/runs
      sdc-guard doctor --json | jq '.lines[] | select(.level != "PASS")'
    """
    from sdc_guard.doctor.examination import examine
    from sdc_guard.doctor.line import PASS, exit_code

    lines = []
    for line in examine(out):
        lines.append(line)
        if not as_json:
            click.echo(f"{line.level}  {line.name:<12} {line.text}")
            if line.level != PASS:
                click.echo(f"      {'':<12} -> {line.fix} ({line.doc})")
    code = exit_code(lines)
    if as_json:
        rows = [{**asdict(line), "doc": line.doc} for line in lines]
        click.echo(json.dumps({"exit_code": code, "lines": rows}, indent=1))
    sys.exit(code)
