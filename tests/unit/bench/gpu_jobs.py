"""Jobs that die, hang or fail, for processes of their own, and a kernel check for ``aten.mm``."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sdc_guard.bench.gpu.figures import Copy
from sdc_guard.bench.gpu.job import Job, Message, Setting, Telling
from sdc_guard.calls import BoundCall
from sdc_guard.intervals import median
from sdc_guard.ops._kernels import KernelCheck, KernelRun, Notes

TINY = Setting("cpu", "tiny", 0)
CHECK = KernelCheck("checksum", "toy: |C - AB| <= |A||B| / 64", unit="row")


def figure() -> Copy:
    return Copy(num_bytes=8, num_rounds=1, time_ms=median([1.0]))


def messages_of(job: Job, setting: Setting = TINY, limit_s: float = 60.0) -> list[Message]:
    """What a job tells in this process."""
    told: list[Message] = []
    job.run(Telling(setting, told.append, time.monotonic() + limit_s))
    return told


def dies(telling: Telling) -> None:
    telling.attempt("before", figure)
    telling.attempt("deadly", lambda: os._exit(3))
    telling.attempt("after", figure)


def hangs(telling: Telling) -> None:
    telling.attempt("endless", lambda: time.sleep(600))  # type: ignore[arg-type,return-value]
    telling.attempt("behind it", figure)


def fails(telling: Telling) -> None:
    telling.attempt("wrong", lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    telling.attempt("right", figure)
    raise ValueError("between two figures")


def waits(telling: Telling) -> None:
    telling.attempt("waiting", lambda: time.sleep(600))  # type: ignore[arg-type,return-value]


def nothing(setting: Setting) -> tuple[str, ...]:
    return ()


def never_begun(setting: Setting) -> tuple[str, ...]:
    return ("never begun",)


DIES, HANGS, FAILS = (Job(f.__name__, f, nothing, until=1.0) for f in (dies, hangs, fails))
WAITS = Job("waits", waits, never_begun, until=1.0)


def run_toy(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
    from sdc_guard import bits
    from tests.kernels import noting  # imports triton, which a process that dies does not need

    a, right = (call[name] for name in ("self", "mat2"))
    b = notes.remembered(right, "values", lambda: bits.values(right))
    defects = abs(bits.values(a) @ b - bits.values(held[0])).max(-1)
    limits = (abs(bits.values(a)) @ abs(b)).max(-1) / 64
    noting.launch(noting, defects.tolist(), limits.tolist(), notes.record(CHECK), block=8, base=0)


def toy(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    return run_toy


def fails_for_wide(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    if held[0].shape[-1] == 32:
        raise RuntimeError("too wide")
    return run_toy


@contextmanager
def kernel_of_mm(kernel: object) -> Iterator[None]:
    """``aten.mm`` is checked by this kernel, and no other op by any."""
    from sdc_guard.ops import _registry, lookup

    assert lookup("aten.mm") is not None
    before = dict(_registry._SPECS)
    for packet, spec in before.items():
        if packet == "aten.mm" or spec.kernel is not None:
            own = kernel if packet == "aten.mm" else None
            _registry._SPECS[packet] = dataclasses.replace(spec, kernel=own)
    try:
        yield
    finally:
        _registry._SPECS.update(before)


def off_by_one_bit(result: Tensor) -> Tensor:
    """A copy with the top exponent bit of its first element flipped."""
    wrong = result.clone()
    words = wrong.view(torch.int16)
    words.view(-1)[0] ^= 1 << 14
    return wrong
