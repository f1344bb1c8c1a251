"""F11: collectives of several processes whose answers are known to the bit.

Four ranks over gloo, each kept to a core, or one for each device over nccl.  After a wrong answer
every pair of ranks is asked on its own: a rank that is in no right pair, where all pairs without it
are right, is to blame.  A core alone makes the same case with four ranks of its own.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch

from sdc_guard import ranks
from sdc_guard.sweep.anatomy import wrong_elements
from sdc_guard.sweep.declared import (
    HOST,
    Bits,
    Case,
    Isolated,
    Made,
    Oracle,
    PartLost,
    Place,
    SweepTest,
    Unavailable,
    Unsupported,
)
from sdc_guard.sweep.families._collectives import Work, drawn
from sdc_guard.sweep.rank_group import RankGroup, Slot

NUM_RANKS = 4
"""Everywhere, so that a core alone and another host make the same bits."""
MAX_DEVICES = 8
COUNT, ODD_COUNT = 4096, 4099
PARTED = ("reduce_scatter", "all_to_all", "scatter")
"""Each rank gets a part, so the count is divisible."""
PAIR_REPEATS = 3
MAX_ISOLATION_S = 15.0
OPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("all_reduce sum", ("float64", "float32", "bfloat16", "float16", "int64", "int32", "int8")),
    ("all_reduce product", ("float64", "float32", "bfloat16", "float16")),
    ("all_reduce max", ("float32", "bfloat16", "int32")),
    ("all_reduce min", ("float64", "float16", "int64")),
    ("reduce_scatter", ("float32", "bfloat16", "float16", "int64")),
    ("reduce", ("float32", "int32")),
    ("broadcast", ("float32", "int8")),
    ("all_gather", ("float64", "float16", "int64")),
    ("all_to_all", ("bfloat16", "int32")),
    ("scatter", ("float32", "uint8")),
    ("send and receive", ("float32", "int64")),
)
Pair = tuple[int, int]
_groups: dict[tuple[str, int], RankGroup] = {}
"""By backend and number of ranks: met once, and kept while this process lives."""


def blamed(right: Iterable[Pair], wrong: Iterable[Pair]) -> tuple[int, ...]:
    """The ranks that explain which pairs are wrong: those in a wrong pair and in no right one.
    Empty where that leaves a wrong pair unexplained, or leaves nobody to trust."""
    cleared = {rank for pair in right for rank in pair}
    accused = {rank for pair in wrong for rank in pair} - cleared
    is_explained = all(accused.intersection(pair) for pair in wrong)
    return tuple(sorted(accused)) if cleared and is_explained else ()


def _group(backend: str, slots: Sequence[Slot]) -> RankGroup:
    group = _groups.get((backend, len(slots)))
    if group is None or not group.is_open:
        if backend == "nccl" and torch.cuda.is_initialized():
            raise Unavailable("this process uses CUDA itself, and cannot be forked any more")
        group = _groups[backend, len(slots)] = RankGroup(backend, slots)
    elif group.slots != tuple(slots):
        group.move(slots)
    return group


def _slots(backend: str, random: np.random.Generator) -> tuple[Slot, ...]:
    if backend == "nccl":
        return tuple(Slot(-1, f"cuda:{n}")
                     for n in range(min(torch.cuda.device_count(), MAX_DEVICES)))
    cores = sorted(os.sched_getaffinity(0))
    # Where there are more cores than ranks, each case takes others.
    order = random.permutation(len(cores)) if len(cores) > NUM_RANKS else range(len(cores))
    return tuple(Slot(cores[order[rank % len(cores)]]) for rank in range(NUM_RANKS))


def _make(
    op: str, dtype: str, count: int, backend: str, random: np.random.Generator, place: Place
) -> Made:
    num_ranks = len(_slots(backend, np.random.default_rng(0)))
    given, expected = drawn(op, dtype, num_ranks, count, random)
    slots = _slots(backend, random)  # after the operands, which are the same on every unit

    def run() -> list[Bits]:
        return _group(backend, slots).run(op, dtype, given)

    run()  # raises where the backend has no such collective
    reduced = op.startswith(("all_reduce", "reduce"))
    return Made(
        run=run, expected=expected, inputs=given,
        flops=(num_ranks - 1) * count if reduced and dtype.startswith(("float", "bfloat")) else 0,
        num_bytes=sum(bits.nbytes for bits in (*given, *expected)),
        isolate=partial(isolated, op, dtype, count, backend, slots)
        if len({slot.name for slot in slots}) > 1 else None)


def isolated(
    op: str, dtype: str, count: int, backend: str, slots: Sequence[Slot],
    meet: Callable[[str, Sequence[Slot]], RankGroup] = RankGroup,
) -> Isolated:
    """Every pair of ranks on its own, in new processes, a few times; who that leaves."""
    work = drawn(op, dtype, 2, count - count % 2, np.random.default_rng(0))
    answers: dict[Pair, bool] = {}
    end_s = time.monotonic() + MAX_ISOLATION_S
    for pair in itertools.combinations(range(len(slots)), 2):
        if time.monotonic() < end_s:
            answers[pair] = _is_right(op, dtype, work, meet, backend, [slots[n] for n in pair])
    right = [pair for pair, is_right in answers.items() if is_right]
    wrong = [pair for pair, is_right in answers.items() if not is_right]
    names = sorted({slots[rank].name for rank in blamed(right, wrong)})
    asked = (f"by pair: {len(wrong)} of {len(answers)} pairs of ranks are wrong, "
             f"{PAIR_REPEATS} times asked")
    if names:
        return Isolated(", ".join(names), f"{asked}; all have {' or '.join(names)} in them, and "
                                          "each without is right")
    pairs = ", ".join(f"{slots[i].name} with {slots[j].name}" for i, j in wrong[:6])
    return Isolated("", f"{asked}{f' ({pairs})' if pairs else ''}; that leaves no single one to "
                        "blame")


def _is_right(
    op: str, dtype: str, work: Work, meet: Callable[[str, Sequence[Slot]], RankGroup],
    backend: str, slots: Sequence[Slot],
) -> bool:
    given, expected = work
    try:
        group = meet(backend, slots)
    except (PartLost, Unsupported):
        return False
    try:
        return all(
            wrong_elements(have, right) is None
            for _ in range(PAIR_REPEATS)
            for have, right in zip(group.run(op, dtype, given), expected, strict=True))
    except (PartLost, Unsupported, RuntimeError):
        return False
    finally:
        group.close()


def cases(place: Place) -> Sequence[Case]:
    """Every collective in its dtypes; over nccl too, where there are devices to do it."""
    backends = ["gloo"]
    if place.kind == HOST and torch.cuda.device_count() > 1 and ranks.has_backend("nccl"):
        backends.append("nccl")
    found = []
    for backend in backends:
        num_ranks = len(_slots(backend, np.random.default_rng(0)))
        for op, dtypes in OPS:
            count = COUNT - COUNT % num_ranks if op in PARTED else ODD_COUNT
            length = {"all_gather": count * num_ranks, "reduce_scatter": count // num_ranks,
                      "scatter": count // num_ranks}.get(op, count)
            found += [Case(
                label=f"{op} {dtype} {count}" + ("" if backend == "gloo" else f" {backend}"),
                op=f"c10d.{op.partition(' ')[0]}", dtype=dtype, shape=(length,),
                make=partial(_make, op, dtype, count, backend)) for dtype in dtypes]
    return found


def _skip(place: Place) -> str:
    return "" if ranks.has_backend("gloo") else "this torch has no gloo"


TESTS = (SweepTest(
    name="exact_collective", family="F11", oracles=(Oracle.EXACT,), kinds=(HOST,),
    blames="core or GPU", dwell_s=2.0, skip=_skip,
    dtypes=("float64", "float32", "bfloat16", "float16", "int64", "int32", "int8", "uint8"),
    proves="Sums, products, extremes and moves of data among four processes gave the exact bits on "
    "every rank, each time.",
    cannot_prove="Other sizes, numbers of ranks and algorithms were not run; on one host gloo goes "
    "through the loopback device, so that no network card or link took part.",
    cases=cases),)
