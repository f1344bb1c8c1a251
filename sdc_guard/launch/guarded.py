"""The guard of a process below ``sdc-guard run``: made at its first operator, ended at its exit."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from types import FrameType

from sdc_guard import CorruptionDetected, Guard, active
from sdc_guard.launch.exits import exit_with
from sdc_guard.launch.failing import Failure, failure_of
from sdc_guard.launch.launcher_error import write_launcher_error
from sdc_guard.launch.tracing import tracer
from sdc_guard.launch.waiting import RUN_FOLDER, given, tell_unguarded
from sdc_guard.records import Verdict
from sdc_guard.settings import Settings, resolve
from sdc_guard.wrapping import give_way

LIMIT_S = 120.0
"""A guard that takes longer to make is given up: something that it needs is held by the caller."""


class _Process:
    """The guard of this process, if it has one; a forked child has not."""

    def __init__(self, guard: Guard, settings: Settings, folder: Path) -> None:
        self.guard = guard
        self.settings = settings
        self.folder = folder
        self.pid = os.getpid()


_here: _Process | None = None


def start() -> None:
    """Guard this process from now on, on this thread.

    Raises:
        UsageError: if the environment holds a setting that is not allowed.
    """
    global _here
    settings = resolve(environ=given, reads_file=False)
    if not settings.enabled or (_here is not None and _here.pid == os.getpid()):
        return
    rank = os.environ.get("RANK", "") or "0"
    folder = Path(given[RUN_FOLDER]) / f"rank{rank}-pid{os.getpid()}"
    import_module("torch._dynamo")  # as any dispatch mode does at its first call, on any thread
    guard = _made(settings, folder)
    if guard is None:
        return
    give_way(guard)
    guard.attach()
    _here = _Process(guard, settings, folder)
    if _is_child():
        from multiprocessing import util

        # Ends without what runs at exit.
        util.Finalize(None, finish, exitpriority=0)
    elif threading.current_thread() is threading.main_thread():
        _end_at_sigterm()


def watch_thread() -> None:
    """Watch the calling thread too, if the guard of this process is on and no guard is here."""
    if (_here is not None and _here.pid == os.getpid() and active.is_running(_here.guard)
            and active.watcher() is None):
        try:
            _here.guard.attach()
        except Exception as error:  # a failure of the guard never stops the user's program
            _here.guard.note_gap(f"a thread could not be watched: {error!r}")


def _made(settings: Settings, folder: Path) -> Guard | None:
    """A guard, made on a thread of its own: there, no mode of the caller's is on, be it for
    inference, a default device or another dispatch mode."""
    made: list[Guard] = []
    failed: list[BaseException] = []

    def make() -> None:
        try:
            made.append(Guard(out=folder, trace=tracer(given, folder), **settings.for_guard()))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=make, name="sdc_guard start", daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if made:
        return made[0]
    tell_unguarded(repr(failed[0]) if failed else f"no guard was made within {LIMIT_S:.0f} s")
    return None


def _is_child() -> bool:
    """True in a process that ``multiprocessing`` made."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and processes.parent_process() is not None


def _end_at_sigterm() -> None:
    """Write the summary where the system asks a script to end that has no answer of its own.

    Not in one of several ranks: there a rank that waits for another in C would no longer die at
    once.
    """
    if os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("WORLD_SIZE", "1") != "1":
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: FrameType | None) -> None:
    finish(may_exit=False)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def finish(*, may_exit: bool = True) -> None:
    """End the guard of this process: its summary is written, and a finding that fails sets the exit
    code.  Never raises; does nothing in a forked child, or for the second time."""
    global _here
    here, _here = _here, None
    if here is None or here.pid != os.getpid():
        return
    try:
        failure = _ended(here)
        if failure is not None and may_exit and not _is_child() and here.settings.finding_exit:
            write_launcher_error(failure)
            exit_with(here.settings.finding_exit)
    except Exception:
        sys.stderr.write(f"sdc_guard failed at the end of the process:\n{traceback.format_exc()}")


def _ended(here: _Process) -> Failure | None:
    guard = here.guard
    error = getattr(sys, "last_value", None)
    if isinstance(error, BaseException):
        guard.note_exception(error)
    try:
        guard.detach()
    except Exception:  # a warning of a finding, where the user has made warnings errors
        tell_unguarded(traceback.format_exc())
    if not guard.findings:
        return None
    try:
        failure = failure_of(here.folder, here.settings)
        is_whole = not guard._events.failures.count
    except Exception:  # the folder is gone, the disk is full, the baseline cannot be read
        tell_unguarded(traceback.format_exc())
        failure, is_whole = None, False
    if failure is None and isinstance(error, CorruptionDetected):
        return Failure(f"SDC: {error}", 0.0)
    return failure if failure is not None or is_whole else _unlogged(guard)


def _unlogged(guard: Guard) -> Failure | None:
    """The first corruption that this process knows of, where its log does not tell them all: no
    baseline can be asked, so it fails."""
    found = [f for f in guard.findings if f.verdict is Verdict.CORRUPTION]
    if not found:
        return None
    sys.stderr.write("sdc_guard: the event log could not be written or read in full; a corruption "
                     f"was found: {found[0].message}\n")
    return Failure(f"SDC: {found[0].message}", time.time())
