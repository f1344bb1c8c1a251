"""Workers in processes of their own, one task each at a time; one that dies or hangs is replaced.

The crew knows nothing of what a task is for.  It hands out tasks, hands on messages, and says
:class:`~sdc_guard.hunt.messages.Died` for a task whose worker was lost.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec

from sdc_guard.errors import SdcGuardError
from sdc_guard.hunt.messages import Again, Died, Found, Message, Options, Task, packed, unpacked
from sdc_guard.hunt.slot import Slot
from sdc_guard.hunt.worker import run

TICK_S = 0.2
START_LIMIT_S = 300.0
MAX_STILLBORN = 3
TAIL_BYTES = 16_000

NextTask = Callable[[], Task | None]
Take = Callable[[Task, Message], None]


@dataclass
class _Hand:
    """A worker; ``count`` and ``beats`` are its slot's when it last moved, at ``moved_s`` of
    ``monotonic``, and ``count_before`` the count when its task was handed out."""

    process: BaseProcess
    pipe: Connection
    slot: Slot
    log: Path
    task: Task | None = None
    is_fresh: bool = True
    count: int = 0
    beats: int = 0
    count_before: int = 0
    moved_s: float = 0.0


class Crew:
    """At most ``num_workers`` processes.  A worker whose trial has not changed for ``hang_s`` is
    ended, and one that says it may be hurt is replaced after its answer.  ``folder`` holds slots
    and logs while the crew lives."""

    def __init__(self, options: Options, folder: Path, *, num_workers: int, hang_s: float) -> None:
        self._options = msgspec.structs.replace(options, parent=os.getpid())
        self._folder, self._num_workers, self._hang_s = folder, num_workers, hang_s
        self._context = multiprocessing.get_context("spawn")
        self._hands: list[_Hand] = []
        self._spare: _Hand | None = None
        self._num_hired = self._num_stillborn = 0
        self._num_trials = 0

    @property
    def num_trials(self) -> int:
        """Trials begun, by all workers so far."""
        return self._num_trials

    def work(self, next_task: NextTask, take: Take, tick: Callable[[], None]) -> None:
        """Until ``next_task`` has none and all workers are idle.

        ``take`` is called with each message of a task; the last one of a task is an answer or
        ``Died``.  ``tick`` is called a few times a second.

        Raises:
            SdcGuardError: if workers end before they can do anything.
        """
        try:
            while True:
                self._assign(next_task)
                busy = [h for h in self._hands if h.task is not None]
                if not busy:
                    return
                ready = wait([h.pipe for h in busy], timeout=TICK_S)
                for hand in busy:
                    if hand.pipe in ready:
                        self._listen(hand, take)
                    else:
                        self._watch(hand, take)
                tick()
        finally:
            self.end()

    def end(self) -> None:
        """End all workers at once."""
        for hand in self._hands:
            _kill(hand)
        self._hands.clear()
        if self._spare is not None:
            _kill(self._spare)
            self._spare = None

    def _assign(self, next_task: NextTask) -> None:
        while True:
            hand = next((h for h in self._hands if h.task is None), None)
            if hand is None and len(self._hands) >= self._num_workers:
                return
            task = next_task()
            if task is None:
                return
            if hand is not None and isinstance(task, Again) and task.is_fresh and not hand.is_fresh:
                self._dismiss(hand)
                hand = None
            if hand is None:
                hand = self._hire()
            hand.task, hand.is_fresh, hand.moved_s = task, False, time.monotonic()
            hand.count_before = hand.slot.count()
            with contextlib.suppress(OSError):  # a dead one is found when it is listened to
                hand.pipe.send_bytes(packed(task))

    def _hire(self) -> _Hand:
        """The spare, which has had time to start.  There is none before a worker is replaced."""
        hand = self._started() if self._spare is None else self._spare
        is_replacement = self._num_hired > self._num_workers
        self._spare = self._started() if is_replacement else None
        self._hands.append(hand)
        return hand

    def _started(self) -> _Hand:
        self._num_hired += 1
        name = f"worker-{self._num_hired}"
        slot, log = self._folder / f"{name}.slot", self._folder / f"{name}.log"
        options = msgspec.structs.replace(self._options, slot=str(slot), log=str(log))
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=run, args=(theirs, packed(options)), name=name)
        process.start()
        theirs.close()
        return _Hand(process, ours, Slot(slot), log)

    def _listen(self, hand: _Hand, take: Take) -> None:
        try:
            message = unpacked(hand.pipe.recv_bytes())
        except (EOFError, OSError):
            self._lost(hand, "", take)
            return
        except ValueError as error:
            self._lost(hand, f"a message that cannot be read: {error}", take)
            return
        assert hand.task is not None
        task = hand.task
        self._num_stillborn = 0
        hand.moved_s = time.monotonic()
        if not isinstance(message, Found):
            self._counted(hand)
            hand.task = None
            if message.is_hurt:  # type: ignore[attr-defined]
                self._dismiss(hand)
        take(task, message)  # type: ignore[arg-type]

    def _watch(self, hand: _Hand, take: Take) -> None:
        """End a worker whose trial stands still."""
        if self._counted(hand):
            return
        beats = hand.slot.beats()
        if beats != hand.beats:
            hand.beats, hand.moved_s = beats, time.monotonic()
            return
        limit_s = self._hang_s if hand.count else START_LIMIT_S
        if time.monotonic() - hand.moved_s > limit_s:
            self._lost(hand, "hang", take)

    def _counted(self, hand: _Hand) -> bool:
        count = hand.slot.count()
        if count == hand.count:
            return False
        self._num_trials += count - hand.count
        hand.count, hand.moved_s = count, time.monotonic()
        return True

    def _lost(self, hand: _Hand, why: str, take: Take) -> None:
        task, trial = hand.task, hand.slot.trial()
        if not why:
            hand.process.join(timeout=5)
            why = _end_in_words(hand.process.exitcode)
        count = hand.slot.count()
        is_stillborn, num_trials = not count, count - hand.count_before
        self._dismiss(hand)
        tail = _tail(hand.log)
        if is_stillborn:
            self._num_stillborn += 1
            if self._num_stillborn >= MAX_STILLBORN:
                raise SdcGuardError(f"workers end before their first trial: {why}\n{tail}")
        assert task is not None
        take(task, Died(how=why, trial=trial, tail=tail, trials=num_trials))

    def _dismiss(self, hand: _Hand) -> None:
        self._counted(hand)
        _kill(hand)
        self._hands.remove(hand)


def _kill(hand: _Hand) -> None:
    """End a worker and what it has started."""
    pid = hand.process.pid
    if pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
    hand.process.kill()
    hand.process.join(timeout=10)
    hand.pipe.close()
    hand.slot.close()


def _end_in_words(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        try:
            return signal.Signals(-exit_code).name
        except ValueError:
            return f"signal {-exit_code}"
    return f"exit code {exit_code}"


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
