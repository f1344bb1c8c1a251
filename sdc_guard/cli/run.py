"""``sdc-guard run``: guard an unmodified script in every process of it, and write a report."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdc_guard.document import exits
from sdc_guard.settings import SETTINGS, resolve
from sdc_guard.settings.values import text_of

if TYPE_CHECKING:
    from sdc_guard.document.schema import Report
    from sdc_guard.settings import Settings

_NOT_HERE = {"enabled", "expiry"}
NOT_GUARDED_LINES = 5
MAX_DIVERGENCES = 3
FEW_PERCENT = 10
FEW_CALLS = ("most calls were not checked: a budget is a share of the run's time, and a short run "
             "gets few checks for it; --budget all checks every call, --coverage-floor N asks for "
             "a share")


def _with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each setting; what is not given is looked up elsewhere."""
    for setting in reversed([s for s in SETTINGS if s.name not in _NOT_HERE]):
        function = click.option(setting.option, setting.name, default=None, metavar="VALUE",
                                help=f"{setting.help} ({setting.allowed}; default "
                                     f"{text_of(setting.default)})")(function)
    return function


@click.command("run", context_settings={"allow_interspersed_args": False})
@_with_settings
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED,
                metavar="-- COMMAND...")
def command(command_line: tuple[str, ...], **options: str | None) -> None:
    """Run COMMAND, a Python script or a launcher, with every process of it under guard.

    The command's own output, input and exit code stay as they are; the summary goes to stderr, the
    report into the run's folder.  Exit code: the command's own; 86 (--finding-exit) if a finding
    fails by policy.  Where the command ends with 0: 3 if less than --coverage-floor was checked,
    and 5 if no process of it computed with torch under guard.

    \b
    Examples:
      sdc-guard run -- python train.py --epochs 3
      sdc-guard run --budget 0.05 --on-finding skip -- torchrun --nproc-per-node 8 train.py
      sdc-guard run --report html,junit,sarif --out build/guard -- python -m package.train
      SDC_GUARD=off sdc-guard run -- python train.py
    """
    from sdc_guard.launch import parent

    settings = resolve(options)
    cwd = Path.cwd()
    if not settings.enabled:
        sys.exit(_run(command_line, os.environ))
    _check_formats(settings)
    if settings.baseline is not None:
        from sdc_guard.report.baseline import read_baseline

        read_baseline(cwd / settings.baseline)  # raises before the script starts, not at its end
    folder = parent.new_folder(settings.out, cwd)
    code = _run(command_line, parent.child_environment(os.environ, settings, folder, cwd))
    sys.exit(_told(code, folder, settings, command_line))


def _run(command_line: tuple[str, ...], environ: Any) -> int:
    from sdc_guard.launch import parent

    try:
        return parent.run_command(command_line, environ)
    except OSError as error:
        click.echo(f"sdc-guard: {command_line[0]!r} cannot be started: {error.strerror}", err=True)
        return (parent.NOT_FOUND if isinstance(error, FileNotFoundError)
                else parent.NOT_EXECUTABLE)


def _told(code: int, folder: Path, settings: Settings, command_line: tuple[str, ...]) -> int:
    """Write the report and the summary; the exit code."""
    from sdc_guard.errors import UsageError
    from sdc_guard.launch.judged import judged_report

    logs = list(folder.rglob("events.rank*.jsonl"))
    if not logs:
        click.echo("sdc-guard: nothing was guarded: no process of this command computed with torch "
                   "under guard." + _why(folder), err=True)
        return code or exits.NOTHING_TESTED
    try:
        report = judged_report(folder, settings,
                               title=f"sdc-guard run -- {shlex.join(command_line)}")
        _write(report, folder, settings)
    except UsageError as error:
        click.echo(f"sdc-guard: no report: {error}", err=True)
        return code
    except Exception:  # the script's exit code is not the report's business
        click.echo(f"{traceback.format_exc()}sdc-guard: the report failed; the logs are in "
                   f"{folder}", err=True)
        return code
    _summarize(report, folder)
    return _exit_code(code, report, settings)


def _why(folder: Path) -> str:
    try:
        lines = (folder / "not-guarded.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return (" Python's -I, -E and -S, and a program that clears PYTHONPATH, keep the guard "
                "out.")
    return "".join(f"\n  {line}" for line in ["", *lines[:NOT_GUARDED_LINES]][1:])


def _write(report: Report, folder: Path, settings: Settings) -> None:
    """The JSON document first; then, whatever comes of one of them, each format that was asked."""
    from sdc_guard.errors import UsageError
    from sdc_guard.report.outputs import FORMATS, write_outputs

    for name in dict.fromkeys(("json", *settings.report)):
        try:
            write_outputs(report, {name: folder / FORMATS[name].file})
        except UsageError as error:
            click.echo(f"sdc-guard: no {name} report: {error}", err=True)
        except Exception:
            click.echo(f"{traceback.format_exc()}sdc-guard: the {name} report failed; `sdc-guard "
                       f"report {folder}` makes it again", err=True)


def _summarize(report: Report, folder: Path) -> None:
    from sdc_guard.document.divergences import divergences
    from sdc_guard.document.text import one_line, sound
    from sdc_guard.render.console import headline
    from sdc_guard.render.described import coverage_line, state_words

    assert report.judgement is not None
    found = divergences(report)
    lines = [f"{report.judgement.status}: {'; '.join(report.judgement.reasons)}",
             *(f"{headline(d.lead.finding)}; {d.lead.code}, {state_words(d)}"
               for d in found[:MAX_DIVERGENCES]),
             *([f"{len(found) - MAX_DIVERGENCES} more in the report"]
               if len(found) > MAX_DIVERGENCES else []),
             f"{coverage_line(report)}, in {len(report.runs)} "
             f"process{'es' if len(report.runs) > 1 else ''}",
             *([FEW_CALLS] if report.calls and report.call_percent < FEW_PERCENT else []),
             f"report in {folder}"]
    for line in lines:
        click.echo(f"sdc-guard: {one_line(sound(line))}", err=True)


def _exit_code(code: int, report: Report, settings: Settings) -> int:
    assert report.judgement is not None
    if report.judgement.exit_code == exits.DIVERGENCE and settings.finding_exit:
        return settings.finding_exit
    floor = report.judgement.coverage_floor
    is_under = floor is not None and bool(report.calls) and report.call_percent < floor
    return code or (exits.INCONCLUSIVE if is_under else 0)


def _check_formats(settings: Settings) -> None:
    from sdc_guard.errors import UsageError
    from sdc_guard.report.outputs import FORMATS

    for name in settings.report:
        if name not in FORMATS:
            raise UsageError(f"report format {name!r} ({settings.sources['report']}) is unknown; "
                             f"choose of {', '.join(FORMATS)}")
