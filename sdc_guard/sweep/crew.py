"""The workers of a sweep: one process for each unit, forked from one that has torch loaded.

A worker that says nothing for too long is ended; one that is gone is told as :class:`Lost`, with
how it ended.  The crew knows nothing of what the tasks are for.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from sdc_guard.sweep.declared import HOST
from sdc_guard.sweep.forking import CONTEXT, begin
from sdc_guard.sweep.messages import Confirmed, Done, Hello, Message, Stop, Task, packed, unpacked
from sdc_guard.sweep.units import Unit
from sdc_guard.sweep.worker import Options, options_bytes, run

TAIL_BYTES = 4000
FATAL = b"Fatal Python error"
"""With this faulthandler begins what it says of a signal."""
PAUSE_S = 2.0
"""Of this process, beyond what it waited for: then nobody can say how long a worker was silent."""
UNKNOWN_EXIT = 255
"""What multiprocessing says of a worker when the process that forked it is gone."""
Variables = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Lost:
    """A worker that ended, or was ended because it hung: ``signal_name`` such as ``SIGSEGV``,
    empty for an exit; ``is_hang``; ``tail`` the end of what it printed."""

    signal_name: str
    exit_code: int | None
    is_hang: bool
    silent_s: float
    tail: str

    @property
    def words(self) -> str:
        """``hung: silent for 30 s``, ``ended by SIGSEGV``, ``exited with code 1``."""
        if self.is_hang:
            return f"hung: silent for {self.silent_s:.0f} s"
        if self.exit_code == UNKNOWN_EXIT:
            return "ended, and how is not known: the process that forked it is gone"
        if self.signal_name:
            return f"ended by {self.signal_name}"
        return f"exited with code {self.exit_code}"

    @property
    def is_from_outside(self) -> bool:
        """Ended by a signal that no computation raises, or with the process that forked it, and
        not by the crew because it hung."""
        return not self.is_hang and (self.exit_code == UNKNOWN_EXIT or self.signal_name in (
            "SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"))


class NotStarted(Exception):
    """A worker could not be forked, which says nothing about its unit; the text is the reason."""


@dataclass
class Hand:
    """A worker on a unit; ``task`` what it does, None when it waits."""

    unit: Unit
    variables: Variables
    process: BaseProcess
    pipe: Connection
    log: Path
    heard_s: float
    limit_s: float
    hello: Hello | None = None
    task: Task | None = None
    lost: Lost | None = field(default=None)

    @property
    def is_ready(self) -> bool:
        return self.hello is not None and not self.hello.problem and self.lost is None


class Crew:
    """``folder`` holds the workers' logs while the crew lives; a worker that is silent for
    ``hang_s`` hangs."""

    def __init__(
        self, folder: Path, *, hang_s: float, golden: Iterable[Path] = (),
        start_limit_s: float = 120.0,
    ) -> None:
        self._folder, self._hang_s, self._start_limit_s = folder, hang_s, start_limit_s
        self._golden = tuple(str(path.absolute()) for path in golden)
        self._num_started = 0
        self._listened_s = math.inf
        self.hands: list[Hand] = []

    def start(
        self, unit: Unit, variables: Variables = (), *, tells_environment: bool = False
    ) -> Hand:
        """A worker; it says :class:`Hello` when it is ready.

        Raises:
            NotStarted: for want of processes, memory or open files.
        """
        self._num_started += 1
        cores = unit.allowed_cores
        place = unit.place(len(cores) if unit.kind == HOST else 1)
        log = self._folder / f"worker-{self._num_started}.log"
        options = Options(
            kind=unit.kind, name=unit.name, index=unit.index, device=place.device,
            num_threads=place.num_threads, cores=cores, variables=variables,
            golden=self._golden, log=str(log), parent=os.getpid(),
            tells_environment=tells_environment)
        try:
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=run, args=(theirs, options_bytes(options)),
                                      name=f"sdc-guard {unit.name}", daemon=True)
            begin()
            process.start()
        except (OSError, EOFError) as error:
            why = str(error) or "the process that forks workers has ended"
            raise NotStarted(f"its worker could not be started: {why}; see ulimit -u and -n, and "
                             "the memory that is left") from error
        theirs.close()
        hand = Hand(unit, variables, process, ours, log, time.monotonic(), self._start_limit_s)
        self.hands.append(hand)
        return hand

    def send(self, hand: Hand, task: Task, *, limit_s: float | None = None) -> None:
        """Hand a task out; ``limit_s`` is how long it may be silent, where that is not the
        crew's."""
        hand.task, hand.heard_s = task, time.monotonic()
        hand.limit_s = self._hang_s if limit_s is None else limit_s
        with contextlib.suppress(OSError):  # a dead one is found when it is listened to
            hand.pipe.send_bytes(packed(task))

    def listen(self, timeout_s: float) -> list[tuple[Hand, Message | Lost]]:
        """What workers that are starting or at work have said since; each is lost only once."""
        busy = [h for h in self.hands if h.lost is None and (h.task is not None or h.hello is None)]
        if not busy:
            self._listened_s = math.inf
            return []
        ready = wait([h.pipe for h in busy], timeout=timeout_s)
        self._forgive_pause(busy, timeout_s)
        found: list[tuple[Hand, Message | Lost]] = []
        for hand in busy:
            if hand.pipe in ready:
                found += self._read(hand)
            elif time.monotonic() - hand.heard_s > hand.limit_s:
                found.append((hand, self._end(hand, is_hang=True)))
        return found

    def _forgive_pause(self, busy: Iterable[Hand], timeout_s: float) -> None:
        """A job that its scheduler suspends, or a frozen container, stops workers as well as this
        process: that time is not a worker's silence."""
        now_s = time.monotonic()
        pause_s = now_s - self._listened_s - timeout_s
        self._listened_s = now_s
        if pause_s > PAUSE_S:
            for hand in busy:
                hand.heard_s = min(now_s, hand.heard_s + pause_s)

    def _read(self, hand: Hand) -> list[tuple[Hand, Message | Lost]]:
        found: list[tuple[Hand, Message | Lost]] = []
        try:
            while hand.pipe.poll():
                message = unpacked(hand.pipe.recv_bytes())
                hand.heard_s = time.monotonic()
                if isinstance(message, Hello):
                    hand.hello = message
                elif isinstance(message, (Done, Confirmed)):
                    hand.task = None
                found.append((hand, message))
        except (EOFError, OSError, ValueError):
            found.append((hand, self._end(hand, is_hang=False)))
        return found

    def _end(self, hand: Hand, *, is_hang: bool) -> Lost:
        silent_s = time.monotonic() - hand.heard_s
        if is_hang:
            hand.process.kill()
        hand.process.join(timeout=10)
        code = hand.process.exitcode
        name = ""
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        hand.lost = Lost(name, code, is_hang, silent_s, _tail(hand.log))
        self._forget(hand)
        return hand.lost

    def stop(self, hand: Hand) -> None:
        """End one worker at once."""
        hand.process.kill()
        hand.process.join(timeout=10)
        self._forget(hand)

    def _forget(self, hand: Hand) -> None:
        hand.pipe.close()
        if hand in self.hands:
            self.hands.remove(hand)

    def close(self) -> None:
        """End all: those that wait by being told, those at work by force."""
        for hand in tuple(self.hands):
            if hand.task is None and hand.hello is not None:
                with contextlib.suppress(OSError):
                    hand.pipe.send_bytes(packed(Stop()))
                hand.process.join(timeout=1)
            self.stop(hand)


def _tail(log: Path) -> str:
    try:
        data = log.read_bytes()
    except OSError:
        return ""
    fatal = data.rfind(FATAL)  # beneath it a deep stack, and every module that is loaded
    part = data[-TAIL_BYTES:] if fatal < 0 else data[fatal:fatal + TAIL_BYTES]
    return part.decode("utf-8", "replace")
