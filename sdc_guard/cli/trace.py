"""``sdc-guard trace``: write down which operator calls a script makes, for `hunt --trace`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdc_guard.document import exits

if TYPE_CHECKING:
    from sdc_guard.observe.tracing.reading import Trace

MAX_REASONS = 5
BUDGET = "to keep the budget"
"""What a guard without a budget says of checks; the trace sees every step."""


@click.command("trace", context_settings={"allow_interspersed_args": False})
@click.option("--out", type=click.Path(path_type=Path), default=None, metavar="FOLDER",
              help="Folder of the trace; default sdc-guard-runs/<time>.")
@click.option("--data", "max_data_bytes", type=click.IntRange(min=0), default=0, metavar="BYTES",
              help="Also write the values of operands of up to this many bytes: they may be "
              "anything that the script computes with.  Default 0: none.")
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED,
                metavar="-- COMMAND...")
def command(command_line: tuple[str, ...], out: Path | None, max_data_bytes: int) -> None:
    """Run COMMAND, a Python script or a launcher, and write each distinct operator call of every
    process: operator, shapes, strides, dtypes, arguments, and figures of the values (range, zeros,
    NaN, infinities, integers or not).  Nothing is checked, no value is written.

    The training stays bit for bit the same.  FOLDER/trace.jsonl is the trace; until COMMAND ends,
    and where it is killed, the traces of its processes lie in FOLDER/rank*-pid*/.  Its path goes to
    stdout after the command's own output.  Exit code: the command's own; where that is 0, 5 if no
    process of it computed with torch.

    \b
    Examples:
      sdc-guard trace -- python train.py --steps 20
      sdc-guard trace --out build/trace -- torchrun --nproc-per-node 8 train.py
      sdc-guard hunt --trace build/trace/trace.jsonl --minutes 30
    """
    from sdc_guard.errors import UsageError
    from sdc_guard.launch import parent
    from sdc_guard.launch.tracing import FILE, TRACE, gathered
    from sdc_guard.settings import resolve

    settings = resolve({"enabled": True, "budget": 0.0, "finding_exit": 0})
    cwd = Path.cwd()
    folder = parent.new_folder(out, cwd)
    environ = parent.child_environment(os.environ, settings, folder, cwd)
    try:
        code = parent.run_command(command_line, {**environ, TRACE: str(max_data_bytes)})
    except OSError as error:
        click.echo(f"sdc-guard: {command_line[0]!r} cannot be started: {error.strerror}", err=True)
        sys.exit(parent.NOT_FOUND if isinstance(error, FileNotFoundError)
                 else parent.NOT_EXECUTABLE)
    if not any(folder.rglob("*trace*.jsonl")):
        click.echo("sdc-guard: nothing was traced: no process of this command computed with torch "
                   "under the trace. Python's -I, -E and -S, and a program that clears PYTHONPATH, "
                   "keep it out.", err=True)
        sys.exit(code or exits.NOTHING_TESTED)
    try:
        _tell(gathered(folder), folder)
    except UsageError as error:
        click.echo(f"sdc-guard: {error}", err=True)
        sys.exit(code or exits.INTERNAL_ERROR)
    click.echo(str(folder / FILE))
    sys.exit(code)


def _tell(trace: Trace, folder: Path) -> None:
    from sdc_guard.document.text import one_line, sound

    ops = {call.op for call in trace.calls}
    total = sum(call.count for call in trace.calls)
    lines = [f"{len(trace.calls)} distinct calls of {len(ops)} operators, {total} calls, in "
             f"{trace.processes} process{'es' if trace.processes > 1 else ''}",
             *(f"not in the trace: {reason}: {count} calls"
               for reason, count in trace.left_out.most_common(MAX_REASONS)),
             *([f"{trace.damaged} damaged lines were left out"] if trace.damaged else []),
             *_gaps(folder)]
    for line in lines:
        click.echo(f"sdc-guard: {one_line(sound(line))}", err=True)


def _gaps(folder: Path) -> list[str]:
    """What the processes' own logs say is not seen: compiled graphs, forked processes, threads."""
    from sdc_guard.evidence.eventlog import read_events

    reasons: dict[str, None] = {}
    for log in sorted(folder.rglob("events.rank*.jsonl")):
        for event in read_events(log):
            coverage = event.get("coverage")
            gaps = coverage.get("gaps") if isinstance(coverage, dict) else None
            for gap in [event.get("reason")] if event.get("kind") == "not_covered" else gaps or ():
                if BUDGET not in str(gap):
                    reasons[f"not in the trace: {gap}"] = None
    return list(reasons)[:MAX_REASONS]
