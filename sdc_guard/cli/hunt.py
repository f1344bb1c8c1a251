"""``sdc-guard hunt``: search for operations that silently give wrong numbers."""

from __future__ import annotations

import json
import math
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdc_guard.cli._hunt_progress import HuntProgress
from sdc_guard.cli._judging import judging_settings
from sdc_guard.cli._progress import available_cores, command_line
from sdc_guard.errors import UsageError

if TYPE_CHECKING:
    from sdc_guard.document.schema import Report
    from sdc_guard.hunt.asking import Outcome

DEFAULT_MINUTES = 5.0
DOCUMENT, FINDINGS = "hunt.json", "findings"


@click.group("hunt", invoke_without_command=True)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True),
              help=f"How long to search.  [default: {DEFAULT_MINUTES:g}]")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="The same in seconds.")
@click.option("--examples", type=click.IntRange(min=1), metavar="N",
              help="Make N calls of each operator instead of searching for a time.")
@click.option("--ops", multiple=True, metavar="NAMES",
              help="Only these: names and globs such as sum, aten.mm, nn.functional.*, "
                   "my.module.function, separated by commas.")
@click.option("--trace", "traces", multiple=True, metavar="FILE",
              type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Only calls like those that `sdc-guard trace` wrote there.")
@click.option("--oracles", multiple=True, metavar="NAMES", help="Only these ways of judging.")
@click.option("--devices", default="cpu", show_default=True, metavar="NAMES")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True,
              help="The same seed draws the same calls.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--max-bytes", type=click.IntRange(min=1 << 12), default=1 << 28, show_default=True,
              help="Largest working set of a call.")
@click.option("--huge", is_flag=True,
              help="Operands of 2^31 elements too; give --max-bytes 10000000000 or more.")
@click.option("--hang-s", type=click.FloatRange(min=1), default=120.0, show_default=True,
              help="A call that takes longer hangs.")
@click.option("--corpus", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Folder in which hunts accumulate: what was found is made again first, and "
                   "rounds go on where the last hunt ended.")
@click.option("--resume", is_flag=True, help="End the interrupted hunt in --corpus.")
@click.option("--fresh", is_flag=True, help="Begin again; --corpus keeps what was found.")
@click.option("--import", "imports", multiple=True, metavar="MODULE",
              help="Import this first in each process: it registers the operators to hunt.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              default=Path("build/hunt"), show_default=True, help="Folder for the report.")
@click.option("--write-test", "tests", type=click.Path(file_okay=False, path_type=Path),
              metavar="DIR", help="Write a regression test for each finding there.")
@click.option("--json", "as_json", is_flag=True, help="The report's JSON document on stdout.")
@click.option("--baseline", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Known divergences, written by `sdc-guard baseline write`.")
@click.option("--fail-on", multiple=True, metavar="new|any|regression|coverage<N",
              help="As `sdc-guard report` has it.  [default: new]")
@click.option("--policy", "policies", multiple=True, metavar="VERDICT=ACTION",
              help="What a verdict does: fail, inconclusive or report.")
@click.pass_context
def command(
    context: click.Context, minutes: float | None, seconds: float | None, examples: int | None,
    ops: tuple[str, ...], traces: tuple[Path, ...], oracles: tuple[str, ...], devices: str,
    seed: int, workers: int | None, max_bytes: int, huge: bool, hang_s: float,
    corpus: Path | None, tests: Path | None, resume: bool, fresh: bool, imports: tuple[str, ...],
    out: Path, as_json: bool, baseline: Path | None, fail_on: tuple[str, ...],
    policies: tuple[str, ...],
) -> None:
    """Search for calls of operators that give wrong numbers without an error.

    Exit code: 0 nothing diverged that the baseline does not know, 1 something did, 2 wrong usage,
    3 inconclusive or interrupted, 4 internal error, 5 nothing was tested.

    \b
    Examples:
      sdc-guard hunt --minutes 5
      sdc-guard hunt --ops "sum,mm,*norm*" --examples 200 --seed 7
      sdc-guard hunt --minutes 60 --corpus runs/corpus --out runs/hunt
      sdc-guard hunt --baseline reports/hunt/known.txt --json > hunt.json
      sdc-guard hunt --trace runs/trace.jsonl --write-test tests/regressions
      sdc-guard hunt verify build/hunt/findings/01-a/0123456789abcdef.py --python venv/bin/python
    """
    if context.invoked_subcommand is not None:
        return
    from sdc_guard.document.schema import SCHEMA_VERSION, Report
    from sdc_guard.hunt.asking import FRESH, GO_ON, RESUME, Asked, hunted
    from sdc_guard.hunt.document import with_scripts
    from sdc_guard.report.baseline import read_baseline
    from sdc_guard.report.judging import judge
    from sdc_guard.report.outputs import rendered, write_outputs

    settings = judging_settings(fail_on=fail_on or ("new",), policies=policies, baseline=baseline)
    known = read_baseline(settings.baseline) if settings.baseline is not None else None
    judge(Report(schema_version=SCHEMA_VERSION, tool_version="", created_utc="", title="",
                 sources=()), policy=settings.policy, fail_on=settings.fail_on,
          baseline=known)  # raises for what is wrong there before anything is hunted
    if sum(given is not None for given in (minutes, seconds, examples)) > 1:
        raise UsageError("give one of --minutes, --seconds and --examples")
    if resume and fresh:
        raise UsageError("give one of --resume and --fresh")
    limit_s = seconds if seconds is not None else 60 * (minutes or DEFAULT_MINUTES)
    if math.isnan(limit_s) or math.isnan(hang_s):
        raise UsageError("nan is no time; give a number of minutes or seconds")
    if not _names((devices,)):
        raise UsageError("--devices names none; leave it out for cpu")
    for folder in (out, tests):
        _require_writable(folder)
    asked = Asked(
        seed=seed, limit_s=None if examples is not None else limit_s, examples=examples,
        ops=_names(ops), traces=traces, oracles=_names(oracles), imports=_names(imports),
        num_workers=workers or available_cores(), num_cores=available_cores(),
        max_bytes=max_bytes, is_huge=huge, hang_s=hang_s, devices=_names((devices,)),
        corpus=corpus, start=RESUME if resume else FRESH if fresh else GO_ON,
        bundles=out / "bundles", command=command_line())
    with HuntProgress() as progress:
        outcome = hunted(asked, tick=progress.show, tell=progress.say)
    judged = partial(judge, policy=settings.policy, fail_on=settings.fail_on,
                     coverage_floor=settings.coverage_floor, baseline=known)
    try:
        files = _written(outcome, out, tests)
        report = judged(with_scripts(outcome.report, files))
        write_outputs(report, {"json": out / DOCUMENT})
    except UsageError:  # the disk has filled up meanwhile: the report is shown all the same
        click.echo(rendered(judged(outcome.report), "json" if as_json else "text"), nl=False)
        raise
    _tell(report, out, as_json, len(files))
    assert report.judgement is not None
    raise click.exceptions.Exit(report.judgement.exit_code)


def _names(given: tuple[str, ...]) -> tuple[str, ...]:
    """The words of options that take a list, or are given again and again."""
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


def _require_writable(folder: Path | None) -> None:
    """Raises UsageError before a hunt whose results could not be written."""
    if folder is None:
        return
    whole = folder.absolute()
    there = next(p for p in (whole, *whole.parents) if p.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UsageError(f"{folder} cannot be written: {there} is no folder that you may write to")


def _written(outcome: Outcome, out: Path, tests: Path | None) -> tuple[Path, ...]:
    """Scripts, issue texts and regression tests.  What an earlier hunt has left there goes."""
    from sdc_guard.hunt.findings import write_findings, write_tests

    found = list(outcome.found)
    try:
        for old in (out / FINDINGS).glob("[0-9][0-9]-*"):
            shutil.rmtree(old, ignore_errors=True)
        files = write_findings(out / FINDINGS, found)
        if tests is not None:
            for path in write_tests(tests, found):
                click.echo(f"wrote {path}", err=True)
    except OSError as error:
        raise UsageError(f"the findings cannot be written: {error}") from error
    return files


def _tell(report: Report, out: Path, as_json: bool, num_files: int) -> None:
    from sdc_guard.report.outputs import rendered

    click.echo(rendered(report, "json" if as_json else "text"), nl=False)
    assert report.judgement is not None
    for line in (f"exit code {report.judgement.exit_code}, {report.judgement.status}",
                 *report.judgement.reasons, f"wrote {out / DOCUMENT}",
                 *([f"wrote {out / FINDINGS}: scripts and issue texts"] if num_files else [])):
        click.echo(line, err=True)


@command.command("verify")
@click.argument("script", type=click.Path(path_type=Path))
@click.option("--python", "pythons", multiple=True, required=True, metavar="PATH",
              help="An interpreter with torch; may be repeated.")
@click.option("--timeout-s", type=click.FloatRange(min=0, min_open=True), default=300.0,
              show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def verify_command(
    script: Path, pythons: tuple[str, ...], timeout_s: float, as_json: bool
) -> None:
    """Run a finding's SCRIPT under other interpreters and say under which torch it is wrong.

    Exit code: 1 if it is wrong under any of them, 3 if it could not be run under one, else 0; 2
    wrong usage.

    \b
    Examples:
      sdc-guard hunt verify 0123456789abcdef.py --python python3.12 --python venv-2.8/bin/python
    """
    from sdc_guard.document import exits
    from sdc_guard.hunt.script_runs import FAILED, RIGHT
    from sdc_guard.hunt.verify import table, verify
    from sdc_guard.plain_json import plain

    rows = verify(script, pythons, timeout_s=timeout_s)
    click.echo(json.dumps(plain(rows), allow_nan=False) if as_json else table(rows))
    words = {row.word for row in rows}
    code = exits.INCONCLUSIVE if FAILED in words else exits.CLEAN
    raise click.exceptions.Exit(exits.DIVERGENCE if words - {RIGHT, FAILED} else code)
