"""A sweep under a launcher: this rank's share, and what all ranks make of their sweeps together."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdc_guard.cli._progress import command_line
from sdc_guard.cli._sweep_verdict import judged_sweep
from sdc_guard.errors import UsageError

if TYPE_CHECKING:
    from sdc_guard.document.schema import Report
    from sdc_guard.sweep.launched import Launch
    from sdc_guard.sweep.rendezvous import Meeting

FLEET = "fleet.json"
INTERRUPTED_WAIT_S = 2.0


def party_of(rendezvous: str, wait_s: float, budget_s: float) -> Party | None:
    """The other ranks, where a launcher has started this process; None for a sweep of its own.

    Raises:
        UsageError: if ``rendezvous`` cannot be read.
    """
    if not rendezvous and "RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
        return None
    from sdc_guard.sweep.launched import launch_of

    try:
        launch = launch_of(os.environ, rendezvous)
    except UsageError as error:
        if rendezvous:
            raise
        # What a launcher says in its own words must not keep a host from being tested.
        click.echo(f"warning: no rendezvous: {error}; this host is swept alone", err=True)
        return None
    return None if launch is None else Party(launch, wait_s, budget_s)


class Party:
    """All ranks of one launch, seen from one of them; it says at once which host it is on."""

    def __init__(self, launch: Launch, wait_s: float, budget_s: float) -> None:
        from sdc_guard.sweep.launched import take_share
        from sdc_guard.sweep.rendezvous import Meeting
        from sdc_guard.sweep.units import host_name

        self.launch, self.host = launch, host_name()
        self._meeting: Meeting = Meeting(launch, self.host, wait_s=wait_s,
                                         open_limit_s=budget_s + wait_s)
        self._present: list[int] = []
        self._outcome: bytes | None = None
        take_share(launch)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which speaks for all."""
        return self.launch.rank == 0

    def seed(self, given: int | None) -> int:
        """The same on all ranks."""
        return self.launch.seed if given is None else given

    def devices(self, cores: str, given: str) -> str:
        """This rank's share, unless devices are named."""
        if given != "all":
            return given
        import torch

        from sdc_guard.sweep.launched import share_of_devices

        return share_of_devices(self.launch, torch.cuda.device_count())

    def folder(self, out: Path) -> Path:
        """A folder of its own: ``out`` may be one that all hosts share."""
        self._out = out
        name = "".join(c if c.isalnum() or c in "-._" else "_" for c in self.host)
        return out / f"{name}-rank-{self.launch.rank}"

    def meet(self, report: Report, outputs: dict[str, Path | None]) -> Report:
        """On rank 0 the fleet's report, which takes the place of its own in ``outputs``; on the
        others their own, with what the vote says of them.  Judged.  A meeting that cannot be held
        is told, and leaves the report as it is."""
        from sdc_guard.sweep.rendezvous import Unreachable

        if report.sweep is not None and report.sweep.is_partial:
            self._meeting.wait_s = min(self._meeting.wait_s, INTERRUPTED_WAIT_S)
        try:
            return self._lead(report, outputs) if self.is_first else self._follow(report)
        except (Unreachable, KeyboardInterrupt) as error:
            reason = str(error) or "interrupted"
            click.echo(f"warning: rank {self.launch.rank}: the ranks did not meet: {reason}; each "
                       "host stands alone, and sdc-guard merge can join their documents", err=True)
            return self._alone(report, outputs, reason) if self.is_first else report

    def _lead(self, report: Report, outputs: dict[str, Path | None]) -> Report:
        from sdc_guard.document.reading import read_document, write_document
        from sdc_guard.report.outputs import write_outputs
        from sdc_guard.sweep.merging import merged

        gathered = self._meeting.gather()
        reports, damaged = [report], dict(gathered.damaged)
        for rank, data in sorted(gathered.documents.items()):
            try:
                reports.append(read_document(data, f"the document of rank {rank}"))
                self._present.append(rank)
            except UsageError as error:
                damaged[rank] = str(error)
        missing = {f"{host or 'unknown host'}, rank {rank}": (
            "it was there at the start, and its document did not come" if host
            else "it was never there") for rank, host in gathered.missing.items()}
        missing |= {f"rank {rank}": "its document was damaged" for rank in damaged}
        fleet = judged_sweep(merged(
            reports, title=f"sdc_guard: {command_line()}", missing=missing,
            damaged={f"rank {rank}": why for rank, why in damaged.items()}))
        own = outputs["json"]
        assert own is not None
        write_outputs(report, {"json": own})
        outputs["json"] = self._out / FLEET
        self._outcome = write_document(fleet)
        return fleet

    def _alone(self, report: Report, outputs: dict[str, Path | None], reason: str) -> Report:
        """Without the store nobody is there but this rank."""
        from sdc_guard.sweep.merging import merged

        missing = {f"rank {rank}": f"the ranks did not meet: {reason}"
                   for rank in range(1, self.launch.world_size)}
        outputs["json"] = self._out / FLEET
        return judged_sweep(merged([report], title=f"sdc_guard: {command_line()}",
                                   missing=missing))

    def _follow(self, report: Report) -> Report:
        from sdc_guard.document.reading import read_document, write_document
        from sdc_guard.sweep.merging import about_host, with_votes

        self._meeting.show(write_document(report))
        data = self._meeting.learn()
        if data is None:
            click.echo(f"warning: rank {self.launch.rank}: rank 0 did not say what the fleet "
                       "found", err=True)
            return report
        fleet = read_document(data, "what rank 0 found")
        entries = about_host(fleet, self.host)
        return judged_sweep(with_votes(report, entries)) if entries else report

    def part(self, report: Report) -> None:
        """Once all is written: rank 0 tells the others, who then end."""
        from sdc_guard.sweep.rendezvous import Unreachable

        if not self.is_first or self._outcome is None:
            return
        # A launcher ends all ranks when one ends with a finding: what is left to do here is short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            self._meeting.tell(self._outcome, self._present)
        except Unreachable as error:
            click.echo(f"warning: the other ranks could not be told: {error}", err=True)

    def leave(self, code: int) -> None:
        """A thread that is inside a store which does not answer cannot be ended otherwise."""
        if self._meeting.is_stuck:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
