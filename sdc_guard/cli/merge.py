"""``sdc-guard merge``: sweeps of several hosts as one: votes, outliers, rates, who is missing."""

from __future__ import annotations

from pathlib import Path

import click

from sdc_guard.cli._progress import command_line
from sdc_guard.cli._sweep_verdict import judged_sweep, said, tell
from sdc_guard.cli.sweep import EXIT_MAPS
from sdc_guard.errors import UsageError

MAX_HOSTS = 100_000
MAX_LIST_BYTES = 1 << 24


@click.command("merge")
@click.argument("sweeps", nargs=-1, metavar="SWEEP...", type=click.Path(path_type=Path))
@click.option("--expect", type=click.IntRange(1, MAX_HOSTS), metavar="N",
              help="So many hosts were to be swept; those without a document are missing.")
@click.option("--expect-hosts", default="", metavar="FILE|LIST",
              help="The hosts by name: a file with one on each line, or names with commas between.")
@click.option("--json", "as_json", is_flag=True, help="The document on stdout.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="One page that needs no network.")
@click.option("--exit-map", type=click.Choice(EXIT_MAPS), help="Exit codes as node-problem-"
              "detector, Slurm's health check, or Megatron-LM read them.")
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              default=Path("fleet.json"), show_default=True, help="Where the document is written.")
def command(
    sweeps: tuple[Path, ...], expect: int | None, expect_hosts: str, as_json: bool,
    html: Path | None, exit_map: str | None, out: Path,
) -> None:
    """Join SWEEP...: documents that `sdc-guard sweep` wrote on several hosts, partial ones too, or
    folders that hold sweep.json.

    Hosts vote on what has no exact answer: at least two that agree, and are more than half, outvote
    one that does not; two alone that differ are AMBIGUOUS.  A document that is damaged counts as
    missing, and both are told.

    Exit code: 0 everything that was verified is right, 1 FAIL, 2 wrong usage, 3 SUSPECT, AMBIGUOUS,
    a host missing, or a sweep that stopped early, 4 a test of ours failed, 5 nothing was verified.

    \b
    Examples:
      sdc-guard merge node-*.json
      sdc-guard merge node-*.json --expect-hosts node-1,node-2,node-3 -o fleet.json
      sdc-guard merge results/* --expect 64 --html fleet.html
    """
    from sdc_guard.report.outputs import rendered, write_outputs
    from sdc_guard.sweep.exit_map import mapped
    from sdc_guard.sweep.merging import merged, read_sweeps

    if not sweeps:
        raise UsageError("no SWEEP is given: name the documents that `sdc-guard sweep` wrote")
    reports, damaged = read_sweeps(sweeps)
    names = _hosts(expect_hosts)
    # A damaged document is of some host, whose name is known only where it is expected.
    missing = {} if names or expect else {
        f"host of {name}": "its document could not be read" for name in damaged}
    report = judged_sweep(merged(
        reports, title=f"sdc_guard: {command_line()}", expected=names, num_expected=expect,
        damaged=damaged, missing=missing))
    assert report.judgement is not None
    code = mapped(report.judgement.exit_code, exit_map)
    told = said(rendered(report, "json" if as_json else "text"))
    written = write_outputs(report, {"json": out, **({"html": html} if html else {})})
    tell((*told, f"exit code {code}, {report.judgement.status}", *report.judgement.reasons,
          *(f"wrote {path}" for path in written)))
    raise click.exceptions.Exit(code)


def _hosts(text: str) -> tuple[str, ...]:
    """The names in a file or a list, each once.

    Raises:
        UsageError: for a list without a name, or a file that cannot be read.
    """
    if not text:
        return ()
    path = Path(text)
    if path.is_file():
        try:
            if path.stat().st_size > MAX_LIST_BYTES:
                raise UsageError(f"--expect-hosts {text}: larger than {MAX_LIST_BYTES >> 20} MiB; "
                                 "name a file with one host on each line")
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"--expect-hosts {text} cannot be read: {error}") from error
    lines = [line.partition("#")[0] for line in text.splitlines()]
    names = tuple(dict.fromkeys(word for line in lines for word in line.replace(",", " ").split()))
    if not names:
        raise UsageError("--expect-hosts names no host; write node-1,node-2 or a file with one on "
                         "each line")
    return names
