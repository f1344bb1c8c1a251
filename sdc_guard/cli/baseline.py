"""``sdc-guard baseline``: keep a file of known divergences, so that only new ones fail."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdc_guard.cli._judging import ROOT, RUNS, judging_settings, require_runs
from sdc_guard.errors import UsageError
from sdc_guard.settings import BASELINE_FILE

if TYPE_CHECKING:
    from sdc_guard.document.schema import Judgement, Known
    from sdc_guard.report.baseline import Baseline

FILE = click.option("--baseline", "given", metavar="FILE",
                    type=click.Path(dir_okay=False, path_type=Path),
                    help=f"The baseline.  [default: that of the settings, else {BASELINE_FILE}]")


@click.group("baseline")
def command() -> None:
    """Write, check and prune a baseline: a text file with one line for each known divergence, its
    reason and the day until which it is excused.

    \b
    Examples:
      sdc-guard baseline write runs/a --reason "issue 12" --expires 2027-03-31
      sdc-guard baseline check runs/b
      sdc-guard baseline prune runs/b
    """


@command.command("write")
@RUNS
@FILE
@click.option("--reason", default="", help="Why the new lines are accepted.")
@click.option("--expires", default="", metavar="YYYY-MM-DD",
              help="Day until which the new lines excuse; renews expired ones met again.  "
                   "[default: the setting expiry, in days, else none]")
@ROOT
def write(
    runs: tuple[Path, ...], given: Path | None, reason: str, expires: str, root: Path | None
) -> None:
    """Add what RUN... found.  Lines that are there keep their reason and expiry; none is removed.

    Exit code: 0 written, 2 wrong usage or a damaged baseline, 4 internal error, 5 nothing was
    tested in RUN, so that nothing is written.

    \b
    Examples:
      sdc-guard baseline write runs/a --reason "known upstream" --expires 2027-03-31
      sdc-guard baseline write runs/cpu runs/gpu --baseline ci/known.txt
    """
    from sdc_guard.document.exits import NOTHING_TESTED
    from sdc_guard.report.baseline import Baseline, read_baseline, updated, write_baseline
    from sdc_guard.report.gather import gather

    require_runs(runs)
    settings = judging_settings(baseline=given)
    file = settings.baseline or BASELINE_FILE
    if not expires and settings.expiry is not None:
        expires = (date.today() + timedelta(days=settings.expiry)).isoformat()
    is_new = not file.exists()
    old = Baseline() if is_new else read_baseline(file)
    report = gather(runs, root=root)
    if not report.findings and not report.calls_checked:
        click.echo("nothing was tested, and nothing is written", err=True)
        raise click.exceptions.Exit(NOTHING_TESTED)
    baseline, num_new, num_renewed = updated(old, report, reason=reason, expires=expires)
    write_baseline(file, baseline)
    click.echo(f"{file}: {len(baseline.known)} known, {num_new} new, {num_renewed} renewed")
    if is_new:
        click.echo("so that git merges two branches' lines by itself, put this into "
                   f".gitattributes: {file.as_posix()} merge=union", err=True)
    if file != BASELINE_FILE and settings.sources["baseline"] == "default":
        click.echo(f"to use it: --baseline {file}, --sdc-baseline {file} with pytest, or baseline "
                   f'= "{file.as_posix()}" in [tool.sdc_guard]', err=True)


@command.command("check")
@RUNS
@FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@ROOT
def check(
    runs: tuple[Path, ...], given: Path | None, as_json: bool, root: Path | None
) -> None:
    """Check that the baseline can be read; given RUN..., compare it with what they found.

    Exit code: 0 as known, 1 something diverges that the baseline does not know, 2 wrong usage or a
    damaged baseline, 3 inconclusive, 4 internal error, 5 nothing tested.

    \b
    Examples:
      sdc-guard baseline check
      sdc-guard baseline check runs/b --baseline ci/known.txt
    """
    from sdc_guard.report.baseline import read_baseline

    file = judging_settings(baseline=given).baseline or BASELINE_FILE
    baseline = read_baseline(file)
    judged = _judgement(runs, baseline, root) if runs else None
    if as_json:
        from sdc_guard.plain_json import plain

        click.echo(json.dumps({"baseline": str(file), "known": len(baseline.known),
                               "judgement": plain(judged)}, allow_nan=False))
    else:
        _show(baseline, file, judged)
    raise click.exceptions.Exit(judged.exit_code if judged is not None else 0)


@command.command("prune")
@RUNS
@FILE
@ROOT
def prune(runs: tuple[Path, ...], given: Path | None, root: Path | None) -> None:
    """Remove the lines that RUN... show to be fixed or stale.

    Fixed: the operator was checked on that device with that torch, and the divergence did not
    occur.  Stale: the line has expired, or its torch is older than that of every RUN.  Give runs
    of all that the baseline was written from: every job, every test.

    Exit code: 0 done, 2 wrong usage or a damaged baseline, 4 internal error.

    \b
    Examples:
      sdc-guard baseline prune runs/a
      sdc-guard baseline prune runs/cpu runs/gpu --baseline ci/known.txt
    """
    from sdc_guard.report.baseline import read_baseline, without, write_baseline

    require_runs(runs)
    file = judging_settings(baseline=given).baseline or BASELINE_FILE
    baseline = read_baseline(file)
    judged = _judgement(runs, baseline, root)
    gone = (*judged.fixed, *judged.stale)
    write_baseline(file, without(baseline, gone))
    for word, items in (("fixed", judged.fixed), ("stale", judged.stale)):
        _show_lines(word, items)
    click.echo(f"{file}: {len(baseline.known) - len(gone)} known, {len(gone)} removed")


def _judgement(runs: tuple[Path, ...], baseline: Baseline, root: Path | None) -> Judgement:
    from sdc_guard.report.gather import gather
    from sdc_guard.report.judging import judge

    judged = judge(gather(runs, root=root), baseline=baseline, fail_on=("new",)).judgement
    if judged is None:
        raise UsageError("the report could not be judged")
    return judged


def _show(baseline: Baseline, file: Path, judged: Judgement | None) -> None:
    from sdc_guard.report.judging import is_expired

    expired = [k for k in baseline.known.values() if is_expired(k, date.today())]
    click.echo(f"{file}: {len(baseline.known)} known, {len(expired)} of them expired")
    if judged is None:
        return
    for reason in judged.reasons:
        click.echo(reason)
    for word, items in (("fixed", judged.fixed), ("stale", judged.stale),
                        ("carried", judged.carried)):
        _show_lines(word, items)
    for line in judged.environment_changes:
        click.echo(f"environment  {line}")


def _show_lines(word: str, items: tuple[Known, ...]) -> None:
    from sdc_guard.document.text import one_line

    for item in items:
        click.echo(one_line(f"{word}  {item.id} {item.verdict} in {item.op}, {item.where}"))
