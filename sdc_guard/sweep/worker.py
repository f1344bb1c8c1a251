"""A process pinned to one unit: it says where it runs, then does what it is told until it is ended.

It is started from a process that has torch loaded and has computed nothing, so that it is ready at
once; variables that cap instruction sets are set before the first operator.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from sdc_guard.evidence.environment import collect_environment
from sdc_guard.plain_json import dumps, read_record
from sdc_guard.records import Record
from sdc_guard.sweep.declared import CORE, HOST, PartLost, Place
from sdc_guard.sweep.families import all_tests
from sdc_guard.sweep.golden import golden_of, software_key
from sdc_guard.sweep.messages import Confirm, Hello, Message, Stop, Visit, packed, unpacked
from sdc_guard.sweep.sensors import sensors_of
from sdc_guard.sweep.visit import Visitor

PR_SET_PDEATHSIG = 1


class Options(Record, frozen=True, kw_only=True):
    """What a worker is started with.

    ``cores`` are those that it is to run on; ``variables`` to set first; ``golden`` files of
    digests; ``log`` takes what libraries and crashes print; it ends with process ``parent``.
    """

    kind: str
    name: str
    index: int
    device: str
    num_threads: int
    cores: tuple[int, ...]
    variables: tuple[tuple[str, str], ...] = ()
    golden: tuple[str, ...] = ()
    log: str = ""
    parent: int = 0
    tells_environment: bool = False


def options_bytes(options: Options) -> bytes:
    """As :func:`run` takes them."""
    return dumps(options)


def run(pipe: Connection, data: bytes) -> None:
    """The life of a worker."""
    options = read_record(data, Options)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends this one
    _end_with(options.parent)
    _redirect(options.log)
    os.environ.update(options.variables)
    place = Place(kind=options.kind, name=options.name, device=options.device,
                  num_threads=options.num_threads)
    problem = _pinned(options)
    torch.set_num_threads(options.num_threads)

    def send(message: Message) -> None:
        pipe.send_bytes(packed(message))

    send(Hello(
        pid=os.getpid(), affinity=tuple(sorted(os.sched_getaffinity(0))), ran_on=current_core(),
        problem=problem, software=software_key(place),
        environment=collect_environment() if options.tells_environment else {}))
    visitor = Visitor(
        place=place, tests=all_tests(), send=send,
        golden=golden_of(place, [Path(name) for name in options.golden]),
        sense=sensors_of(options.kind, options.index), core=current_core)
    with contextlib.suppress(EOFError, OSError):  # the sweep has ended
        while True:
            task = unpacked(pipe.recv_bytes())
            if isinstance(task, Stop):
                return
            try:
                if isinstance(task, Visit):
                    send(visitor.visit(task))
                elif isinstance(task, Confirm):
                    send(visitor.confirm(task))
            except PartLost as lost:
                _end_as(lost)


def _pinned(options: Options) -> str:
    """Go to the cores; why that did not work, or nothing."""
    if options.kind not in (CORE, HOST):
        return ""
    wanted = set(options.cores)
    try:
        os.sched_setaffinity(0, wanted)
    except OSError as error:
        return (f"cannot be pinned to {sorted(wanted)}: {error.strerror or error}; it needs "
                "sched_setaffinity, which a container's seccomp profile or cpuset can forbid")
    got = os.sched_getaffinity(0)
    if got != wanted:
        return f"was pinned to {sorted(wanted)}, and may run on {sorted(got)}"
    core = current_core()
    if core not in wanted and core >= 0:
        return f"was pinned to {sorted(wanted)}, and runs on core {core}"
    return ""


def current_core() -> int:
    """The logical CPU that this thread is on; -1 where the C library does not tell."""
    try:
        return int(ctypes.CDLL(None).sched_getcpu())
    except (AttributeError, OSError):
        return -1


def _end_with(parent: int) -> None:
    """Never outlive the sweep, whatever ends it.  The process that forked this one is not the
    sweep's, so the sweep's end is noticed by the closed pipe, too."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and not Path(f"/proc/{parent}").exists():
        os._exit(0)


def _end_as(lost: PartLost) -> None:
    """What happened to a part happens to this process: the sweep tells and judges it."""
    os.write(2, f"{lost}\n".encode())
    if lost.signal_number is None:
        while True:  # until the sweep ends it, as it ends whatever is silent for too long
            signal.pause()
    with contextlib.suppress(OSError):  # SIGKILL has no handler
        signal.signal(lost.signal_number, signal.SIG_DFL)
    os.kill(os.getpid(), lost.signal_number)


def _redirect(log: str) -> None:
    """Standard output and error to the log: the sweep's own stay clean."""
    if not log:
        return
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(target, number)
    os.close(target)
    faulthandler.enable()


