"""``make test-soundness``: every bound under attack by correct evaluations.

For each family of ops and each dtype, result elements are judged until ``--evaluations`` are
reached, and Hypothesis searches ``--examples`` calls, both shared out among the family's ops.
Writes ``soundness.json`` and ``soundness.md``.  Exit code 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from sdc_guard.bench.results import _joined, _told, make_stamp
from sdc_guard.ops import OpSpec, all_specs, complex_specs
from tests.soundness.attack import Cell, attack_cell
from tests.soundness.cases import Samples
from tests.soundness.results import as_json, as_page, broken, read, write

FLOATS = ("float64", "float32", "bfloat16", "float16")
COMPLEX = ("complex128", "complex64")
LEAST_EXAMPLES = 6
"""Hypothesis examples of a packet in a dtype, however many share the family's."""


@dataclass(frozen=True, slots=True)
class Job:
    """One packet in one dtype."""

    packet: str
    family: str
    dtype: str
    examples: int = 0
    evaluations: int = 0
    seed: int = 0


def spec_of(packet: str, dtype: str) -> OpSpec:
    """The spec that checks calls of this dtype."""
    return next(s for s in specs_of(dtype) if s.packet == packet)


def specs_of(dtype: str) -> tuple[OpSpec, ...]:
    """The specs that may check calls of a dtype."""
    return complex_specs() if dtype in COMPLEX else all_specs()


def why_not(spec: OpSpec, dtype: str) -> str:
    """Why a spec cannot be attacked in a dtype; empty where it can."""
    if not spec.judged:
        return "no bound: random, or checked by an exact fact alone"
    if spec.samples is None:
        return "runs on a CUDA device only"
    if not Samples(spec, getattr(torch, dtype), 0).calls:
        return "no samples in any floating dtype on a CPU"
    return ""


def run_job(job: Job) -> Cell:
    """One cell, in whatever process."""
    torch.set_num_threads(1)
    return attack_cell(spec_of(job.packet, job.dtype), getattr(torch, job.dtype),
                       examples=job.examples, evaluations=job.evaluations, seed=job.seed)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soundness.run", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    parser.add_argument("--families", nargs="*", default=None)
    parser.add_argument("--dtypes", nargs="*", default=[*FLOATS, *COMPLEX])
    parser.add_argument("--examples", type=int, default=1000, help="of Hypothesis")
    parser.add_argument("--evaluations", type=int, default=100_000, help="result elements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--add", action="store_true",
                        help="keep what a file in the folder says of other ops and dtypes")
    asked = parser.parse_args(arguments)

    jobs, skipped = [], {}
    for dtype in asked.dtypes:
        for spec in specs_of(dtype):
            if asked.families is not None and spec.family not in asked.families:
                continue
            if why := why_not(spec, dtype):
                skipped[spec.packet] = why
            else:
                jobs.append(Job(spec.packet, spec.family, dtype, seed=asked.seed))
    attacked = {job.packet for job in jobs}
    skipped = {packet: why for packet, why in skipped.items() if packet not in attacked}
    sizes = Counter((job.family, job.dtype) for job in jobs)
    jobs = [Job(j.packet, j.family, j.dtype,
                max(LEAST_EXAMPLES, math.ceil(asked.examples / sizes[j.family, j.dtype])),
                math.ceil(asked.evaluations / sizes[j.family, j.dtype]), j.seed) for j in jobs]
    cells = list(_cells(jobs, asked.processes))
    command = " ".join(["python -m tests.soundness.run", *_without_out(arguments)])
    stamp = make_stamp(command, asked.seed)
    found = broken(cells)
    print(f"{len(cells)} pairs of op and dtype, {sum(c.evaluations for c in cells):,} "
          f"evaluations: {len(found)} broken bounds")
    if asked.add and (before := read(asked.out)) is not None:
        made = {(c.packet, c.dtype) for c in cells}
        kept = [c for c in before[1] if (c.packet, c.dtype) not in made]
        stamp = _joined(before[0], stamp)
        cells = sorted([*kept, *cells], key=lambda c: (c.dtype, c.packet))
        skipped = {packet: why for packet, why in (before[2] | skipped).items()
                   if all(c.packet != packet for c in cells)}
    limits = {"examples": asked.examples, "evaluations": asked.evaluations}
    write(asked.out, as_json(stamp, cells, skipped, limits),
          as_page(_told(stamp), cells, skipped))
    return 1 if found else 0


def _cells(jobs: list[Job], processes: int) -> Iterator[Cell]:
    """The cells in the order of the jobs, each told as it is done."""
    started_s = time.perf_counter()
    if processes > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            made = pool.map(run_job, jobs, chunksize=4)
            for done, cell in enumerate(made, 1):
                yield _told_of(cell, done, len(jobs), started_s)
        return
    for done, job in enumerate(jobs, 1):
        yield _told_of(run_job(job), done, len(jobs), started_s)


def _told_of(cell: Cell, done: int, number: int, started_s: float) -> Cell:
    if done % 50 == 0 or cell.broken:
        seconds = time.perf_counter() - started_s
        print(f"{done} of {number}, {seconds:.0f} s: {cell.packet} {cell.dtype}", *cell.broken[:2],
              sep="\n  ", file=sys.stderr, flush=True)
    return cell


def _without_out(arguments: list[str]) -> list[str]:
    """The arguments without the folder, which is another one on every machine."""
    if "--out" not in arguments:
        return arguments
    place = arguments.index("--out")
    return arguments[:place] + arguments[place + 2 :]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
