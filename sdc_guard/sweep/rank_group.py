"""Processes that make a collective together: forked from the worker, one for each slot.

A slot is a core or a device that a rank is kept to.  Ranks are forked and not started, since a
worker has torch loaded; they run no operator but the collective, with one thread.  A rank that is
gone or does not answer ends the worker in the same way
(:class:`~sdc_guard.sweep.declared.PartLost`), so that the sweep judges it as it judges a worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from sdc_guard import ranks
from sdc_guard.sweep.declared import Bits, PartLost, Unavailable, Unsupported
from sdc_guard.sweep.exact import bits_of, tensor_of

LIMIT_S = 20.0
"""For meeting, and for each collective: less than a worker may be silent."""
REFUSAL_WAIT_S = 1.0
REFUSALS = ("invalid scalar type", "not support", "unsupported", "non-integral", "not implemented")
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Slot:
    """Where a rank runs: ``device`` ``cpu`` with ``core``, or ``cuda:N`` with ``core`` -1."""

    core: int
    device: str = "cpu"

    @property
    def name(self) -> str:
        """As units are called."""
        return f"core {self.core}" if self.device == "cpu" else self.device


@dataclass
class _Rank:
    pid: int
    pipe: Connection
    name: str


class RankGroup:
    """Ranks that have met.  ``backend`` is gloo or nccl.

    Raises:
        Unavailable: if they cannot meet: no loopback, no backend.
        PartLost: if one of them ended or hangs over it.
    """

    def __init__(self, backend: str, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)
        self._ranks: list[_Rank] = []
        with tempfile.TemporaryDirectory(prefix="sdc-guard-ranks-") as folder:
            store = Path(folder) / "store"
            try:
                for number in range(len(self.slots)):
                    self._ranks.append(self._fork(backend, number, store))
                refusals = [r for r in self._answers(LIMIT_S) if isinstance(r, str)]
            except BaseException:
                self.close()
                raise
        if refusals:
            self.close()
            raise Unavailable(f"{backend} ranks cannot meet: {refusals[0]}")

    def _fork(self, backend: str, number: int, store: Path) -> _Rank:
        ours, theirs = Pipe()
        slot = self.slots[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside idle threads
            pid = os.fork()
        if pid:
            theirs.close()
            return _Rank(pid, ours, f"rank {number} on {slot.name}")
        code = 1
        try:
            ours.close()
            for other in self._ranks:
                other.pipe.close()
            _serve(theirs, backend, number, self.slots, store)
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def run(self, op: str, dtype: str, given: Sequence[Bits]) -> list[Bits]:
        """The collective once: ``given`` and the result hold one array for each rank.

        Raises:
            Unsupported: if the backend has no such collective for the dtype.
            PartLost: if a rank ended or hangs over it.
        """
        for rank, slot, bits in zip(self._ranks, self.slots, given, strict=True):
            with contextlib.suppress(OSError):  # a dead one is found when it is listened to
                rank.pipe.send((op, dtype, bits, slot.core))
        answers = self._answers(LIMIT_S)
        refusals = [a for a in answers if isinstance(a, str)]
        if refusals:
            if any(word in refusals[0].lower() for word in REFUSALS):
                raise Unsupported(refusals[0])
            raise RuntimeError(f"{op} {dtype}: {refusals[0]}")
        return [a for a in answers if a is not None and not isinstance(a, str)]

    def move(self, slots: Sequence[Slot]) -> None:
        """Other cores from the next run on."""
        self.slots = tuple(slots)
        for rank, slot in zip(self._ranks, self.slots, strict=True):
            rank.name = f"{rank.name.partition(' on ')[0]} on {slot.name}"

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return bool(self._ranks)

    def _answers(self, limit_s: float) -> list[Bits | str | None]:
        """Each rank's result, or why it has none.  Where one refuses, the others may wait for it
        for ever: they are not waited for, and the group ends."""
        end_s = time.monotonic() + limit_s
        awaited = {rank.pipe: rank for rank in self._ranks}
        found: dict[int, Bits | str | None] = {}
        while awaited and time.monotonic() < end_s:
            for pipe in wait(list(awaited), timeout=max(0.0, end_s - time.monotonic())):
                assert isinstance(pipe, Connection)
                rank = awaited.pop(pipe)
                try:
                    found[rank.pid] = pipe.recv()
                except (EOFError, OSError) as error:
                    raise self._lost(rank) from error
                if isinstance(found[rank.pid], str):
                    end_s = min(end_s, time.monotonic() + REFUSAL_WAIT_S)
        if awaited:
            name = next(iter(awaited.values())).name
            order = [rank.pid for rank in self._ranks if rank.pid in found]
            self.close()
            if not any(isinstance(answer, str) for answer in found.values()):
                raise PartLost(f"{name} does not answer for {limit_s:.0f} s", None)
            return [found[pid] for pid in order]
        return [found[rank.pid] for rank in self._ranks]

    def _lost(self, rank: _Rank) -> PartLost:
        _, status = os.waitpid(rank.pid, 0)
        self._ranks.remove(rank)
        self.close()
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return PartLost(f"{rank.name} ended by {signal.Signals(-code).name}", -code)
        return PartLost(f"{rank.name} exited with code {code}", signal.SIGABRT)

    def close(self) -> None:
        """End all ranks."""
        for rank in self._ranks:
            rank.pipe.close()
            with contextlib.suppress(OSError):
                os.kill(rank.pid, signal.SIGKILL)
                os.waitpid(rank.pid, 0)
        self._ranks = []


def _serve(
    pipe: Connection, backend: str, number: int, slots: Sequence[Slot], store: Path
) -> None:
    """The life of a rank; it ends with the worker, and with its pipe."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    slot = slots[number]
    torch.set_num_threads(1)
    try:
        ranks.open_group(backend, str(store), number, len(slots), slot.device, LIMIT_S)
        pipe.send(None)
    except (OSError, RuntimeError, ValueError) as error:
        pipe.send(_said(error))
        return
    with contextlib.suppress(EOFError, OSError):
        while True:
            op, dtype, bits, core = pipe.recv()
            try:
                if core >= 0:
                    os.sched_setaffinity(0, {core})
                result = ranks.collective(op, tensor_of(bits, dtype, slot.device))
                pipe.send(bits_of(result))
            except (OSError, RuntimeError, ValueError, TypeError) as error:
                pipe.send(_said(error))


def _said(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
