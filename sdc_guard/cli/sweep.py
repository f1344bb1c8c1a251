"""``sdc-guard sweep``: find the core or GPU that computes wrong numbers, without a model."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from sdc_guard.cli._progress import command_line
from sdc_guard.cli._sweep_fleet import Party, party_of
from sdc_guard.cli._sweep_progress import SweepProgress
from sdc_guard.cli._sweep_verdict import judged_sweep, said, tell
from sdc_guard.document.exits import CLEAN
from sdc_guard.errors import UsageError

if TYPE_CHECKING:
    from sdc_guard.document.schema import Report
    from sdc_guard.sweep.declared import SweepTest

DOCUMENT = "sweep.json"
QUICK_S, TWO_MINUTES_S, FIFTEEN_MINUTES_S, HOUR_S = 30.0, 120.0, 900.0, 3600.0
EXIT_MAPS = ("npd", "slurm", "megatron")


@click.command("sweep")
@click.option("--quick", is_flag=True, help="30 seconds; this is the default.")
@click.option("--2min", "two_minutes", is_flag=True, help="Two minutes.")
@click.option("--15min", "fifteen_minutes", is_flag=True, help="Fifteen minutes.")
@click.option("--soak", type=click.FloatRange(min=0, min_open=True), metavar="HOURS",
              help="So many hours.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), metavar="N",
              help="So many seconds, start included.")
@click.option("--cores", default="all", show_default=True, metavar="LIST",
              help="Logical CPUs: all, none, or 0,2-5.")
@click.option("--devices", default="all", show_default=True, metavar="LIST",
              help="all, cpu, none, cuda, or cuda:0,cuda:1; naming CUDA alone leaves the CPU out.")
@click.option("--tests", multiple=True, metavar="NAMES",
              help="Only these tests or families (F3); --list shows them.")
@click.option("--case", default="", metavar="LABEL", help="Only this case of the one test named.")
@click.option("--seed", type=click.IntRange(0, 2**62), help="The same seed gives the same "
              "operands.  [default: another one each time]")
@click.option("--golden", "goldens", multiple=True, metavar="FILE",
              type=click.Path(dir_okay=False, path_type=Path),
              help="Digests recorded on sound hardware, beside those shipped.")
@click.option("--write-golden", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Record this machine's digests there, if the sweep is clean.")
@click.option("--hang-s", type=click.FloatRange(min=1), default=30.0, show_default=True,
              help="A worker that is silent for longer hangs.")
@click.option("--fail-fast", is_flag=True, help="End at the first FAIL.")
@click.option("--fresh", is_flag=True, help="Do not go on where the last sweep stopped.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Where history and cursor are kept.  [default: the user's state folder]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              default=Path("build/sweep"), show_default=True, help="Folder for report and log.")
@click.option("--json", "as_json", is_flag=True, help="The report's JSON document on stdout.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--prom", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Metrics for node_exporter's textfile collector.")
@click.option("--ocp", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="OCP Test & Validation JSON lines.")
@click.option("--exit-map", type=click.Choice(EXIT_MAPS), help="Exit codes as node-problem-"
              "detector, Slurm's health check, or Megatron-LM read them.")
@click.option("--rendezvous", default="", metavar="tcp://HOST:PORT", help="Where the ranks of a "
              "launcher meet after the sweep, if it does not say; none: they do not.")
@click.option("--wait-s", type=click.FloatRange(min=0, max=86400), default=60.0, show_default=True,
              help="How long other ranks are waited for; those that do not come are missing.")
@click.option("--list", "is_list", is_flag=True, help="List the tests, and what a pass proves.")
@click.option("--quiet", "-q", is_flag=True, help="No progress; one line for the verdict.")
def command(
    quick: bool, two_minutes: bool, fifteen_minutes: bool, soak: float | None,
    seconds: float | None, cores: str, devices: str, tests: tuple[str, ...], case: str,
    seed: int | None, goldens: tuple[Path, ...], write_golden: Path | None, hang_s: float,
    fail_fast: bool, fresh: bool, state: Path | None, out: Path, as_json: bool,
    html: Path | None, prom: Path | None, ocp: Path | None, exit_map: str | None, rendezvous: str,
    wait_s: float, is_list: bool, quiet: bool,
) -> None:
    """Test cores and GPUs against answers that are known from outside.

    Exit code: 0 everything that was verified is right, 1 FAIL, 2 wrong usage, 3 SUSPECT, AMBIGUOUS
    or stopped early, 4 a test of ours failed, 5 nothing was verified.

    \b
    Examples:
      sdc-guard sweep
      sdc-guard sweep --2min --html sweep.html
      sdc-guard sweep --cores 3 --tests exact_product --seed 7 --seconds 10
      sdc-guard sweep --seconds 45 --exit-map slurm --out /var/lib/sdc-guard
      torchrun --nnodes 4 --nproc-per-node 1 --rdzv-endpoint head:29500 -m sdc_guard sweep --2min
      sdc-guard sweep --soak 8 --prom /var/lib/node_exporter/sdc_guard.prom
    """
    if not is_list:
        from sdc_guard.sweep.forking import begin

        try:
            begin()
        except OSError as error:
            advice = ("the current folder is gone: start from another"
                      if isinstance(error, FileNotFoundError) else
                      "see ulimit -n and -u, and the memory that is left")
            raise UsageError(f"no process can be started: {error.strerror or error}; {advice}"
                             ) from error
    from sdc_guard.sweep.families import chosen

    given = [s for s in (
        QUICK_S if quick else None, TWO_MINUTES_S if two_minutes else None,
        FIFTEEN_MINUTES_S if fifteen_minutes else None, soak and soak * HOUR_S, seconds)
        if s is not None]
    if len(given) > 1:
        raise UsageError("give one of --quick, --2min, --15min, --soak and --seconds")
    budget_s = given[0] if given else QUICK_S
    if any(map(math.isnan, (budget_s, hang_s, wait_s))):
        raise UsageError("nan is no time; give a number of seconds")
    wanted = chosen(_names(tests))
    if is_list:
        click.echo(_listed(wanted.values()))
        return
    if case and len(wanted) != 1:
        raise UsageError("--case needs --tests with the one test that has it")
    from sdc_guard.sweep.session import Session, Wanted, require_writable

    party = party_of(rendezvous, wait_s, budget_s)
    if party is not None:
        seed, devices = party.seed(seed), party.devices(cores, devices)
        out = party.folder(out)
    for path in (out / DOCUMENT, html, prom, ocp, write_golden):
        require_writable(path)
    _end_in_order()
    session = Session(Wanted(
        budget_s=budget_s, cores=cores, devices=devices, tests=wanted, case=case, seed=seed,
        goldens=goldens, write_golden=write_golden, hang_s=hang_s, is_fail_fast=fail_fast,
        is_fresh=fresh, state=state, out=out, command=command_line()))
    is_first = party is None or party.is_first
    with SweepProgress(quiet=quiet or as_json or not is_first) as progress:
        report = judged_sweep(session.run(progress.show))
    outputs = {"json": out / DOCUMENT, "html": html, "prom": prom, "ocp": ocp}
    if party is not None:
        report = party.meet(report, outputs)
    _finish(report, session.problems, as_json, outputs, exit_map, party)


def _finish(
    report: Report, problems: list[str], as_json: bool, outputs: dict[str, Path | None],
    exit_map: str | None, party: Party | None,
) -> None:
    from sdc_guard.report.outputs import rendered, write_outputs
    from sdc_guard.sweep.exit_map import mapped

    assert report.judgement is not None
    code = mapped(report.judgement.exit_code, exit_map)
    told = [f"warning: {problem}" for problem in problems]
    if party is None or party.is_first:
        told += said(rendered(report, "json" if as_json else "text"))
    told += [f"exit code {code}, {report.judgement.status}", *report.judgement.reasons]
    try:
        written = write_outputs(report, {name: path for name, path in outputs.items()
                                         if path is not None})
        told += [f"wrote {path}" for path in written]
    except UsageError as error:
        if report.judgement.exit_code == CLEAN:
            raise
        told.append(f"warning: {error}")  # a full disk must not hide what was found
    if party is not None:
        party.part(report)
    head = "" if party is None else f"rank {party.launch.rank}: "
    tell(f"{head}{line}" for line in told)
    if party is not None:
        party.leave(code)
    raise click.exceptions.Exit(code)


def _names(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


def _listed(tests: Iterable[SweepTest]) -> str:
    lines = []
    for test in tests:
        lines += [f"{test.family:<4}{test.name} ({', '.join(o.value for o in test.oracles)}; "
                  f"{', '.join(test.kinds)}; blames {test.blames}; {test.dwell_s:g} s)",
                  f"    a pass proves: {test.proves}",
                  f"    and cannot:    {test.cannot_prove}"]
    return "\n".join(lines)


def _end_in_order() -> None:
    """A health check that takes too long is sent SIGTERM first: the report is written all the
    same."""
    def stop(number: int, frame: FrameType | None) -> None:
        # timeout(1) sends it to the process and to its group: the second must not end the report.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
