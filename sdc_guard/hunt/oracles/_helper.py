"""Helper processes: the same trial where torch runs on another instruction set.

A helper reads a trial a line and answers with the bits of its results; asked to, it judges the
operators that ran there by their bounds.  It is started on first use and ends with its pipe.
"""

from __future__ import annotations

import atexit
import base64
import os
import select
import subprocess
import sys
import time
from typing import Any

import msgspec
import torch

from sdc_guard import bits
from sdc_guard.records import Record, Worst


class Bits(Record, frozen=True, kw_only=True):
    """A result as it stands in memory order of its elements."""

    dtype: str
    shape: tuple[int, ...]
    data: str


class Told(Record, frozen=True, kw_only=True):
    """A divergence that a helper found."""

    op: str
    word: str
    message: str
    dtype_class: str
    layout_class: str
    magnitude_class: str
    formula: str
    worst: Worst | None


class Question(Record, frozen=True, kw_only=True):
    """A trial as JSON, and whether the operators shall be judged."""

    trial: str
    judge: bool = False


class Answer(Record, frozen=True, kw_only=True):
    """What the call gave there.  ``failure``: what a helper could not do."""

    results: tuple[Bits | None, ...] = ()
    refusal: str = ""
    failure: str = ""
    told: tuple[Told, ...] = ()
    unjudged: bool = False


class Helper:
    """One process.  ``capability`` is what it says of itself after the start."""

    START_S, ANSWER_S = 120.0, 60.0

    def __init__(self, capability: str) -> None:
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c",
             "from sdc_guard.hunt.oracles._helper_main import main; main()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment, cwd=os.getcwd())
        self._buffer = b""
        atexit.register(self.close)
        first = self._line(self.START_S)
        self.capability = first.decode() if first is not None else ""

    @property
    def is_alive(self) -> bool:
        return bool(self.capability) and self.process.poll() is None

    def ask(self, trial: bytes, *, judge: bool = False) -> Answer:
        """The answer; one with ``failure`` where the process ended or said nothing for a minute,
        after which it is ended."""
        question = msgspec.json.encode(Question(trial=trial.decode(), judge=judge))
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(question + b"\n")
            self.process.stdin.flush()
            line = self._line(self.ANSWER_S)
        except OSError:
            line = None
        if line is None:
            code = self.process.poll()
            self.close()
            return Answer(failure="no answer in 60 s" if code is None else f"ended with {code}")
        return msgspec.json.decode(line, type=Answer)

    def _line(self, limit_s: float) -> bytes | None:
        assert self.process.stdout is not None
        number, deadline_s = self.process.stdout.fileno(), time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([number], [], [], left_s)[0]:
                return None
            chunk = os.read(number, 1 << 20)
            if not chunk:
                self.process.wait(timeout=5)
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def close(self) -> None:
        """End the process."""
        atexit.unregister(self.close)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was still to be written has no reader


_helpers: dict[tuple[int, str], Helper] = {}


def helper_for(capability: str) -> Helper | None:
    """The helper of this process for an instruction set, started if need be; None where it cannot
    run, or is of no other set than this process."""
    key = (os.getpid(), capability)
    found = _helpers.get(key)
    if found is None or (found.capability and not found.is_alive):
        found = _helpers[key] = Helper(capability)
        if found.capability == torch.backends.cpu.get_cpu_capability():
            found.close()
            found.capability = ""
    return found if found.is_alive else None


def bits_of(tensor: Any) -> Bits | None:
    """A result as :class:`Bits`; None for none, and for sparse ones."""
    if tensor is None or tensor.layout is not torch.strided:
        return None
    dense = bits.resolved(tensor.detach())
    return Bits(dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape),
                data=base64.b64encode(bits.raw(dense).tobytes()).decode("ascii"))
