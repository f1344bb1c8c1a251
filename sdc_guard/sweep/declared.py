"""What a test of the sweep is, and what its file declares.

A test is a list of cases.  A case makes one computation ready together with the bits that it must
give; the runner (``visit.py``) makes it again and again and compares all bits each time.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Bits = NDArray[np.unsignedinteger[Any]]
"""Elements by their bits, in C order."""
Index = tuple[int, ...]

CORE, GPU, HOST = "core", "gpu", "host"
"""Kinds of unit: a logical CPU with one thread, a device, all cores of a host with all threads."""


class Oracle(enum.Enum):
    """Where the right answer comes from; what each cannot see is part of its meaning.

    ``EXACT``: known beforehand, from Python integers or in closed form.  ``GOLDEN``: a digest
    recorded on other hardware, for exactly this software.  ``PEER``: the other units of the same
    model.  ``SELF``: the same unit, a moment before; blind to what is always wrong.  ``CROSS``:
    another implementation that is bit-equal by construction.
    """

    EXACT = "exact"
    GOLDEN = "golden"
    PEER = "peer"
    SELF = "self"
    CROSS = "cross-implementation"


class Company(enum.Enum):
    """What the other units do meanwhile: the same test, nothing, or heavy products."""

    TOGETHER = "together"
    ALONE = "alone"
    LOADED = "loaded"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker runs: a unit of ``kind`` with tensors on ``device`` (``cpu``, ``cuda:0``),
    and how many threads an operator may use."""

    kind: str
    name: str
    device: str
    num_threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Made:
    """A case made ready.

    Attributes:
        run: computes the results; called many times, each time from the same inputs, whose memory
            no result shares.
        expected: their bits, one array of the same shape for each; None where no outside answer
            exists and the first run stands in (oracle SELF), its digest being compared with peers.
        inputs: bits of the operands, for what depends on them; may be empty.
        flops, num_bytes: work of one run: floating-point operations (2 for a multiply-add), and
            bytes of operands and results together.
        golden_key: what besides the software decides the digest; empty for no golden digest.
        subunit: names the part of the unit behind an element, such as ``SM 17``; None for none.
        num_checks: what one run checks, where that is not the number of its elements.
        isolate: asks parts of the unit again after a wrong result; None where there are none.
        trial: results of the run by which it was found out that the unit can do the case; they are
            compared, too, and taken out.
    """

    run: Callable[[], Sequence[Tensor | NDArray[Any]]]
    expected: Sequence[Bits] | None
    inputs: Sequence[Bits] = ()
    flops: int = 0
    num_bytes: int = 0
    golden_key: str = ""
    subunit: Callable[[Index], str] | None = None
    num_checks: int = 0
    isolate: Callable[[], Isolated] | None = None
    trial: list[Sequence[Tensor | NDArray[Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Isolated:
    """``place`` is the unit (``core 1``, ``cuda:2``) that alone explains what was wrong, empty for
    none; ``reason`` what was asked and answered."""

    place: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One computation: ``label`` is unique in its test and never changes its meaning; ``op`` is the
    operator or library call under test; ``shape`` that of the first result.

    ``make`` draws from the generator alone, so that test, label and seed give the same bits on any
    unit.  It raises :class:`Unsupported` where this unit cannot do it: if others of its model can,
    with the same software, that is a fault, unless it is :class:`Unavailable`.
    """

    label: str
    op: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[np.random.Generator, Place], Made]


class Unsupported(Exception):
    """This unit, or its software, cannot do a case; the text is the reason that is reported."""


class Unavailable(Unsupported):
    """For want of memory, processes, a network or a compiler.  That another unit has it, or this
    one at another time, says nothing of the hardware."""


def refusal(text: str, error: BaseException) -> Unsupported:
    """What to raise for an error of a library that refuses a case: ``text`` with the error's first
    line, :class:`Unavailable` if memory was short."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    is_short = isinstance(error, MemoryError) or is_short_of_memory(line)
    return (Unavailable if is_short else Unsupported)(f"{text}{line[:160]}")


def is_short_of_memory(text: str) -> bool:
    """Whether an error's text says that memory was short.  An illegal access, memory that overlaps,
    or a request for more than any case needs says no such thing: a wrong address or size does."""
    asked = _ASKED_BYTES.search(text)
    if asked is not None and int(asked[1][:MAX_DIGITS]) > MAX_CASE_BYTES:
        return False
    return _SHORT_OF_MEMORY.search(text) is not None


MAX_CASE_BYTES = 1 << 40
MAX_DIGITS = 30
_ASKED_BYTES = re.compile(r"tried to allocate (\d+) bytes", re.IGNORECASE)
_SHORT_OF_MEMORY = re.compile(
    r"(out of|not enough|insufficient|no|short of) memory|unable to allocate|memoryerror|"
    r"alloc[a-z]*:? .*memory|memory.* alloc|bad_alloc|alloc_failed|create a memory object",
    re.IGNORECASE)


class PartLost(BaseException):
    """A process that takes part in a test is gone or hangs; the text says which.  No test goes on
    after it, so it is no Exception: the worker ends by ``signal_number``, or for None hangs, too,
    and is judged as a worker that did so by itself."""

    def __init__(self, text: str, signal_number: int | None) -> None:
        super().__init__(text)
        self.signal_number = signal_number


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Stress beside the arithmetic: ``busy_s`` of runs, then ``idle_s`` of sleep, again and again
    (0: no sleep); ``does_alternate`` goes from case to case after each burst."""

    busy_s: float = 0.0
    idle_s: float = 0.0
    does_alternate: bool = False


@dataclass(frozen=True, kw_only=True)
class SweepTest:
    """What a file of ``families/`` declares as ``TESTS``, a tuple of these.

    Attributes:
        name: never changed later: histories and fleets compare by it.
        family: ``F1`` to ``F12``.
        oracles: where the right answers come from.
        kinds: the units that it can run on.
        blames: the smallest unit that it may blame, in words.
        dtypes: what it computes in.
        dwell_s: how long a unit should spend on it before a pass means what ``proves`` says.
        proves, cannot_prove: for the report, one sentence each.
        cases: the cases for a place.
        skip: the reason why a place cannot run it, empty if it can.
        company: what the other units do.
        pace: bursts and pauses.
        environments: variables to set before torch is loaded, one worker for each.
        is_repeatable: False if equal calls may differ: then nothing but EXACT decides.
    """

    name: str
    family: str
    oracles: tuple[Oracle, ...]
    kinds: tuple[str, ...]
    blames: str
    dtypes: tuple[str, ...]
    dwell_s: float
    proves: str
    cannot_prove: str
    cases: Callable[[Place], Sequence[Case]]
    skip: Callable[[Place], str] = lambda place: ""
    company: Company = Company.TOGETHER
    pace: Pace = Pace()
    environments: tuple[tuple[tuple[str, str], ...], ...] = ((),)
    is_repeatable: bool = True
