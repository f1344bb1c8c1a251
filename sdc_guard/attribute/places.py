"""The cause: the *identical* call somewhere else.

Moving work in index space detects a fault, and never decides who made it.  Here the same operands
(bits, strides, alignment) go through the same kernel with the same number of threads on another
core of this machine, or on another device.  Wrong there too: ``software``.  Right there and wrong
here every time: ``persistent hardware``, and which place.  No second place: ``unknown``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.records import Attribution, Cause, Vote

NUM_REPEATS = 3
MAX_CORES = 8


def find_cause(
    call: BoundCall,
    held: tuple[Tensor, ...],
    output: int,
    repeatable: bool,
    votes: list[Vote],
    reason: str,
) -> Attribution:
    """Attribute a corruption of result ``output``.

    A result that did not come out again is ``transient``.  A repeatable one is taken to every core
    that this process may use (at most ``MAX_CORES``), ``NUM_REPEATS`` times each.
    """
    if not repeatable:
        return Attribution(
            cause=Cause.TRANSIENT,
            place=str(held[output].device),
            votes=tuple(votes),
            reason=f"{reason}; right when repeated at the same place",
        )
    elsewhere = _other_places(call, held, output)
    cause, place, why = _decide(elsewhere)
    return Attribution(
        cause=cause, place=place, votes=(*votes, *elsewhere), reason=f"{reason}; {why}"
    )


def unattributed(votes: list[Vote], reason: str, place: str) -> Attribution:
    """No cause is sought for verdicts other than corruption."""
    return Attribution(cause=Cause.UNKNOWN, place=place, votes=tuple(votes), reason=reason)


def _decide(votes: list[Vote]) -> tuple[Cause, str, str]:
    places = sorted({v.place for v in votes})
    wrong = {p: sum(v.result == "held" for v in votes if v.place == p) for p in places}
    total = {p: sum(v.result != "failed" for v in votes if v.place == p) for p in places}
    places = [p for p in places if total[p]]
    if len(places) < 2:
        return Cause.UNKNOWN, "", "there is no second place on this machine to ask"
    always = [p for p in places if wrong[p] == total[p]]
    never = [p for p in places if wrong[p] == 0]
    tally = ", ".join(f"{p}: wrong {wrong[p]} of {total[p]}" for p in places)
    if len(always) == len(places):
        return Cause.SOFTWARE, "", f"the identical call is wrong everywhere ({tally})"
    if always and len(always) + len(never) == len(places):
        return Cause.PERSISTENT_HARDWARE, ", ".join(always), f"wrong at one place only ({tally})"
    return Cause.UNKNOWN, "", f"the places do not agree ({tally})"


def _other_places(call: BoundCall, held: tuple[Tensor, ...], output: int) -> list[Vote]:
    device = held[output].device
    if device.type == "cpu":
        return _other_cores(call, held, output)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    return [
        vote
        for index in range(min(count, MAX_CORES))
        for vote in _ask(
            f"cuda:{index}", lambda i=index: _on_device(call, f"cuda:{i}"), held[output], output
        )
    ]


def _other_cores(call: BoundCall, held: tuple[Tensor, ...], output: int) -> list[Vote]:
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[:MAX_CORES]
    votes: list[Vote] = []
    for core in cores:
        with _all_threads_on(core) as pinned:
            if pinned:
                votes += _ask(f"core {core}", call.run_identical, held[output], output)
    return votes


def _ask(place: str, run: object, held: Tensor, output: int) -> list[Vote]:
    votes = []
    for _ in range(NUM_REPEATS):
        try:
            results = run()  # type: ignore[operator]
            result = (
                "held"
                if bits.bits_equal(bits.on_host(results[output]), bits.on_host(held))
                else "expected"
            )
        except RuntimeError as error:
            result = "failed"
            votes.append(
                Vote(
                    place=place,
                    method=f"identical call: {error}"[:200],
                    identical=True,
                    result=result,
                )
            )
            continue
        votes.append(Vote(place=place, method="identical call", identical=True, result=result))
    return votes


def _on_device(call: BoundCall, device: str) -> tuple[Tensor, ...]:
    """The call on another device, operands moved as raw images with their layout."""

    def moved(_: object, tensor: Tensor) -> Tensor:
        if tensor.device.type == "cpu":
            return tensor
        flat = tensor.detach().as_strided((bits.span(tensor),), (1,), tensor.storage_offset())
        return flat.to(device).as_strided(tuple(tensor.shape), tensor.stride(), 0)

    return call.mapped(moved).run_identical()


@contextmanager
def _all_threads_on(core: int) -> Iterator[bool]:
    """Put every thread of this process on one core for a moment, so that a multi-threaded kernel
    runs with its own partition of the work and on that core alone.  Each thread gets its own
    mask back.  Yields False where the system does not allow it."""
    masks: dict[int, set[int]] = {}
    try:
        for task in Path("/proc/self/task").iterdir():
            tid = int(task.name)
            try:
                masks[tid] = os.sched_getaffinity(tid)
                os.sched_setaffinity(tid, {core})
            except OSError:
                masks.pop(tid, None)
        yield bool(masks)
    finally:
        for tid, mask in masks.items():
            try:
                os.sched_setaffinity(tid, mask)
            except ProcessLookupError:
                continue
