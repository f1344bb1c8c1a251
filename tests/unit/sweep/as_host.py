"""A rank that is a host of its own, on one machine: ``python as_host.py ARGUMENT...`` is
``sdc-guard ARGUMENT...`` on host ``node-RANK``.

``$TEST_MADE`` puts a made-up sweep in the place of a real one; ``$TEST_WRONG_HOST`` names a host
whose digests come out wrong; ``$TEST_KILLED_HOST`` one that is killed when it has checked
something.  No product code knows of any of them.

``$TEST_RANKS`` (``0,1,2``) makes a process of each rank after one start of Python, with its output
in ``rank-N.out`` and ``rank-N.err`` of the folder ``$TEST_LOGS``; the exit codes go to stdout.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec

from sdc_guard.cli.main import main
from sdc_guard.document.schema import Report, SweptDigest
from sdc_guard.sweep.session import Session
from sdc_guard.sweep.sweeping import Sweeping
from tests.unit.sweep.made_sweeps import KEY, OTHER, RIGHT, sweep_of


def as_host() -> None:
    """Name the host, plant what the test asks for, and run the command line."""
    host = os.environ["SDC_GUARD_HOST"] = f"node-{os.environ['RANK']}"
    original_run, original_sweep = Session.run, Sweeping.run

    def run(self: Session, show: object) -> Report:
        digest = OTHER if os.environ.get("TEST_WRONG_HOST") == host else RIGHT
        if os.environ.get("TEST_MADE"):
            return sweep_of(host, (digest, digest))
        report = original_run(self, show)  # type: ignore[arg-type]
        assert report.sweep is not None
        digests = tuple(SweptDigest(key=KEY, unit=u.id, digest=digest, test="exact_product")
                        for u in report.sweep.units if u.kind == "core")
        sweep = msgspec.structs.replace(report.sweep, digests=digests)
        return msgspec.structs.replace(report, sweep=sweep)

    def sweep(self: Sweeping, tick: object) -> None:
        if os.environ.get("TEST_KILLED_HOST") == host:
            def kill(sweeping: Sweeping) -> None:
                if sweeping.checks:
                    os.kill(os.getpid(), signal.SIGKILL)
            tick = kill
        original_sweep(self, tick)  # type: ignore[arg-type]

    Session.run = run  # type: ignore[method-assign,assignment]
    Sweeping.run = sweep  # type: ignore[method-assign,assignment]
    main(sys.argv[1:], prog_name="sdc-guard")


def fork(rank: str, logs: Path) -> int:
    """The process of that rank."""
    pid = os.fork()
    if pid:
        return pid
    os.environ["RANK"] = rank
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(logs / f"rank-{rank}.{name}", os.O_WRONLY | os.O_CREAT, 0o644), number)
    as_host()
    raise AssertionError("the command line always exits")


if __name__ == "__main__":
    if "TEST_RANKS" not in os.environ:
        as_host()
    pids = [fork(rank, Path(os.environ["TEST_LOGS"]))
            for rank in os.environ["TEST_RANKS"].split(",")]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    sys.stdout.write(f"{codes}\n")
