"""``sdc-guard report``: what was checked and what diverged, for a person and for CI."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdc_guard.cli._judging import ROOT, RUNS, judging_options, judging_settings, require_runs
from sdc_guard.errors import UsageError

if TYPE_CHECKING:
    from sdc_guard.document.schema import Report

_F = TypeVar("_F", bound=Callable[..., Any])

_HELP = {
    "html": "One page that needs no network.",
    "json": "The document that all formats are made from.",
    "junit": "JUnit XML (xunit2).",
    "sarif": "SARIF 2.1.0, for code scanning.",
    "markdown": "Markdown, at most 1,000 KiB.",
    "comment": "Markdown for a comment on a pull request, at most 64 KB.",
    "prom": "Metrics for node_exporter's textfile collector.",
    "ocp": "JSON lines of OCP Test & Validation 2.0.",
}
_STDOUT = "-"
SUMMARY_LIMIT_BYTES = 1024 << 10
_MARGIN_BYTES = 1024
_LEAST_BYTES = 2000


def _format_options(command: _F) -> _F:
    for name, text in reversed(_HELP.items()):
        command = click.option(f"--{name}", f"as_{name}", is_flag=False, flag_value="",
                               metavar="[FILE]", help=text)(command)
    return command


@click.command("report")
@RUNS
@_format_options
@click.option("--github", is_flag=True,
              help="Write the step's summary to $GITHUB_STEP_SUMMARY, and annotations to stdout.")
@click.option("--baseline", "baseline_file", metavar="FILE",
              type=click.Path(dir_okay=False, path_type=Path),
              help="Known divergences, written by `sdc-guard baseline write`.")
@judging_options
@click.option("--title", default="", help="Of the report.")
@ROOT
@click.option("--out", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for formats without a FILE.  [default: the run's folder if one is "
                   "given, else the current one]")
@click.option("--schema", is_flag=True, help="Print the document's JSON Schema and end.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever was found.")
def command(
    runs: tuple[Path, ...], github: bool, baseline_file: Path | None,
    fail_on: tuple[str, ...], policies: tuple[str, ...], coverage_floor: float | None, title: str,
    root: Path | None, out: Path | None, schema: bool, exit_zero: bool, **formats: str | None,
) -> None:
    """Report on RUN...: folders of runs, event logs, bundles or earlier reports (JSON).

    What fails is said by the options below, else by the settings (`sdc-guard config show`); known
    is what sdc-guard-baseline.txt in the current folder lists, if no other baseline is named.
    Without a format the report is printed.  FILE is optional (report.html, report.json,
    report.junit.xml, report.sarif, report.md, comment.md, sdc_guard.prom,
    report.ocp.jsonl), and "-" is stdout.

    Exit code: 0 clean, 1 a divergence that fails, 2 wrong usage, 3 inconclusive, a run that did not
    end in order, or coverage below the floor, 4 internal error, 5 nothing tested.

    \b
    Examples:
      sdc-guard report runs/a
      sdc-guard report runs/a --html --json
      sdc-guard report runs/a runs/b --junit=junit.xml --sarif=sdc.sarif --fail-on new
      sdc-guard report runs/a --baseline sdc-guard-baseline.txt --github
      sdc-guard report report.json --html=again.html
    """
    if schema:
        from sdc_guard.document.json_schema import json_schema

        click.echo(json.dumps(json_schema(), indent=1, sort_keys=True))
        return
    require_runs(runs)
    outputs = _outputs(formats, runs, out)
    report = _judged(runs, root=root, title=title, baseline_file=baseline_file, fail_on=fail_on,
                     policies=policies, coverage_floor=coverage_floor)
    _write(report, outputs)
    if github:
        _to_github(report)
    elif not outputs:
        _print(report, "text")
    judged = report.judgement
    assert judged is not None
    if outputs or github:
        for line in (f"exit code {judged.exit_code}, {judged.status}", *judged.reasons):
            click.echo(line, err=True)
    raise click.exceptions.Exit(0 if exit_zero else judged.exit_code)


def _judged(
    runs: tuple[Path, ...], *, root: Path | None, title: str, baseline_file: Path | None,
    fail_on: tuple[str, ...], policies: tuple[str, ...], coverage_floor: float | None,
) -> Report:
    from sdc_guard.report.baseline import read_baseline
    from sdc_guard.report.gather import gather
    from sdc_guard.report.judging import judge

    chosen = judging_settings(fail_on=fail_on, policies=policies, coverage_floor=coverage_floor,
                              baseline=baseline_file)
    baseline = read_baseline(chosen.baseline) if chosen.baseline is not None else None
    return judge(gather(runs, root=root, title=title), policy=chosen.policy,
                 fail_on=chosen.fail_on, coverage_floor=chosen.coverage_floor, baseline=baseline)


def _outputs(
    formats: dict[str, str | None], runs: tuple[Path, ...], out: Path | None
) -> dict[str, Path]:
    """Where each format that was asked for goes, by its name."""
    from sdc_guard.report.outputs import FORMATS

    folder = out if out is not None else runs[0] if os.path.isdir(runs[0]) else Path()
    paths: dict[str, Path] = {}
    for option, file in formats.items():
        if file is None:
            continue
        name = option.removeprefix("as_")
        path = Path(file) if file else folder / FORMATS[name].file
        if path.is_dir():
            raise UsageError(f"--{name} {path}: that is a folder; name the runs before the "
                             f"options, and a file as --{name}=FILE")
        if path in paths.values():
            raise UsageError(f"--{name} {path}: another format goes there")
        paths[name] = path
    return paths


def _write(report: Report, outputs: dict[str, Path]) -> None:
    from sdc_guard.report.outputs import write_outputs

    written = write_outputs(
        report, {name: path for name, path in outputs.items() if str(path) != _STDOUT})
    for name, path in outputs.items():
        if str(path) == _STDOUT:
            _print(report, name)
    for path in written:
        click.echo(f"wrote {path}", err=True)


def _print(report: Report, name: str) -> None:
    from sdc_guard.report.outputs import rendered

    click.echo(rendered(report, name), nl=False)


def _to_github(report: Report) -> None:
    """The summary is appended: other tools of the same step write there too, and the limit is for
    all of them."""
    from sdc_guard.render.annotations import annotations
    from sdc_guard.render.markdown import SUMMARY_BYTES, markdown

    click.echo(annotations(report), nl=False)
    name = os.environ.get("GITHUB_STEP_SUMMARY", "")
    if not name:
        click.echo("GITHUB_STEP_SUMMARY is not set: no summary is written", err=True)
        return
    path = Path(name)
    try:
        used = path.stat().st_size if path.exists() else 0
        left = min(SUMMARY_BYTES, SUMMARY_LIMIT_BYTES - _MARGIN_BYTES - used)
        if left < _LEAST_BYTES:
            click.echo(f"the step's summary holds {used} bytes of {SUMMARY_LIMIT_BYTES}: nothing "
                       "is added", err=True)
            return
        with path.open("ab") as file:
            file.write(markdown(report, max_bytes=left).encode())
    except OSError as error:
        raise UsageError(f"GITHUB_STEP_SUMMARY={name} cannot be written: {error}") from error
