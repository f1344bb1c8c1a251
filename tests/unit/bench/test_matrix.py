"""The benchmark as a whole: runs add up, a process may die, costs and harm are measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from sdc_guard.bench import cost
from sdc_guard.bench.benchfile import BenchFile, read, write
from sdc_guard.bench.cells import FIRM, LOUD, MISSED, Cell, CleanCell, FaultTrial
from sdc_guard.bench.cost import measure_cost
from sdc_guard.bench.crew import Message, Refused, Tried, work
from sdc_guard.bench.harm import HarmRun
from sdc_guard.bench.matrix import Book, Wish
from sdc_guard.bench.workload import Workload
from sdc_guard.errors import UsageError
from tests.simulated_clock import simulated
from tests.unit.bench.small import Scripted, alarm, not_finite_workload, small_workload

WATCH = "NaN and loss-spike watch"
SMALL = "tests.unit.bench.small:small_workload"
FAULTY = "tests.unit.bench.small:faulty_workload"
DYING = "tests.unit.bench.small:dying_workload"


def wish(**other: object) -> Wish:
    given: dict[str, object] = {
        "detectors": (WATCH,), "workloads": (SMALL,), "dtypes": ("own",),
        "faults": ("single bit", "multi-bit"), "num": 3, "num_clean": 4}
    return Wish(**(given | other))  # type: ignore[arg-type]


def trial(index: int, outcome: str) -> FaultTrial:
    return FaultTrial(
        index=index, op="aten.mm.default", op_class="product", size="above 100", outcome=outcome,
        num_steps=1, alarms=(alarm("", cause="transient"),) if outcome == FIRM else (),
        num_false=0, fault=None, why="")


def book(known: BenchFile = BenchFile()) -> Book:  # noqa: B008 - frozen
    return Book(known, lambda contents: None, lambda text: None)


def test_what_is_known_is_not_measured_again() -> None:
    (job,) = wish().jobs(BenchFile())
    assert job.faults[:3] == (("single bit", 0), ("multi-bit", 0), ("single bit", 1))
    kept = book()
    for index in (0, 2):
        kept.take(job, Tried("single bit", index, 5, trial(index, FIRM)))
    kept.take(job, Tried("single bit", 1, 5, None))
    kept.take(job, Tried("multi-bit", 0, 5, trial(0, MISSED)))
    kept.take(job, CleanCell(
        detector=WATCH, workload=SMALL, dtype="own", device="cpu", seed=0, num_steps=44,
        num_checks=44, num_alarms=0, by_verdict={}, examples=()))
    kept.save()
    (rest,) = wish().jobs(kept.contents)
    assert rest.faults == (("multi-bit", 1), ("multi-bit", 2))
    assert rest.num_clean == 0
    (single, multi) = sorted(kept.contents.cells, key=lambda c: c.fault, reverse=True)
    assert (single.injected, single.not_injected, single.done) == (2, 1, ((0, 3),))
    assert single.causes == {"transient": 2}
    assert (multi.with_outcome(MISSED), multi.missed) == (1, ((0, 1),))
    assert not wish(num=1).jobs(kept.contents)


def test_unknown_faults_and_bad_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="no fault model 'gamma ray'"):
        wish(faults=("gamma ray",))
    with pytest.raises(UsageError, match="num=-1"):
        wish(num=-1)


@pytest.mark.slow
def test_processes_measure_and_one_that_dies_is_counted(tmp_path: Path) -> None:
    contents = BenchFile()
    kept = Book(contents, lambda file: write(tmp_path / "bench.json", file), lambda text: None)
    jobs = [*wish(num=1).jobs(contents), *wish(workloads=(DYING,), num=2, num_clean=0,
                                               faults=("single bit",)).jobs(contents)]
    deaths = work(jobs, kept.take, num_processes=2)
    kept.save()
    assert len(deaths) == 2
    assert all("exit code 9" in death for death in deaths)
    found = read(tmp_path / "bench.json")
    dying = Counter()
    for cell in found.cells:
        if cell.workload == DYING:
            assert cell.done == ((0, 2),)
            dying.update({LOUD: cell.with_outcome(LOUD)})
    assert dying[LOUD] == 2
    (clean,) = found.clean
    assert (clean.workload, clean.num_steps, clean.num_alarms) == (SMALL, 44, 0)
    assert {c.fault for c in found.cells if c.workload == SMALL} == {"single bit", "multi-bit"}


def test_an_exception_of_the_harness_is_no_loud_fault() -> None:
    said: list[Message] = []
    jobs = wish(workloads=(FAULTY,), faults=("single bit",), num=3, num_clean=0).jobs(BenchFile())
    deaths = work(jobs, lambda job, message: said.append(message), num_processes=1)
    assert len(deaths) == 1
    assert "exit code 1" in deaths[0]
    assert [m.index for m in said if isinstance(m, Tried)] == [0, 1]


def test_a_workload_that_cannot_be_built_is_said_so() -> None:
    said: list[Message] = []
    jobs = wish(workloads=("tests.unit.bench.small:nothing",), num=1).jobs(BenchFile())
    work(jobs, lambda job, message: said.append(message), num_processes=1)
    assert [type(message) for message in said] == [Refused]
    assert "nothing" in said[0].reason  # type: ignore[union-attr]


def test_a_job_ends_at_its_limit() -> None:
    said: list[Message] = []
    (job,) = wish().jobs(BenchFile())
    work([replace(job, limit_s=0.0)], lambda job, message: said.append(message), num_processes=1)
    assert [type(message) for message in said] == [CleanCell]


def test_the_cost_of_a_detector_is_what_it_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = simulated(cost, monkeypatch)

    class Slow(Scripted):
        def step(self, workload):  # type: ignore[no-untyped-def]
            clock.sleep(0.02)
            return super().step(workload)

    def build() -> Workload:
        workload = small_workload()
        step = workload.step

        def timed() -> Tensor:
            clock.sleep(0.01)
            return step()

        workload.step = timed  # type: ignore[method-assign]
        return workload

    slow, quick = (
        measure_cost(kind(), build, label="small", dtype="fp32", num_pairs=6, name="x")
        for kind in (Slow, Scripted))
    assert [slow.plain_ms, quick.plain_ms] == pytest.approx([10.0, 10.0])
    assert slow.ratio.value == pytest.approx(3.0)
    assert slow.total_ratio.low == pytest.approx(3.0)
    assert quick.total_ratio.value == pytest.approx(1.0)
    with pytest.raises(UsageError, match="num_pairs=0"):
        measure_cost(Scripted(), build, label="", dtype="", num_pairs=0, name="x")


def test_harm_is_measured_against_the_smallest_disturbance() -> None:
    run = HarmRun(small_workload, seed=0, num_steps=6, num_controls=3)
    found = run.measure("weight flip", range(12), label="small", dtype="fp32")
    again = run.measure("weight flip", range(12), label="small", dtype="fp32")
    assert found == again
    assert len(found.changes) == 12
    assert 0 < run.noise < 1e-2
    assert 0 < len(found.harmful) < 12
    last_bit = run.measure("low mantissa bit", range(6), label="small", dtype="fp32")
    assert len(last_bit.harmful) <= 3


def test_harm_to_a_loss_that_is_no_number_is_not_measured() -> None:
    with pytest.raises(UsageError, match="no finite number"):
        HarmRun(not_finite_workload, seed=0, num_steps=1, num_controls=2)


def test_examples_of_ours_are_kept_and_those_of_others_are_few() -> None:
    cell = Cell(detector="x", workload="w", dtype="d", fault="f", kind="transient", device="cpu",
                seed=0, max_steps=1)
    cell = cell.with_trials([trial(i, MISSED) for i in range(9)], [9], 5)
    assert len(cell.examples) == 5
    assert (cell.injected, cell.not_injected, cell.done, cell.missed) == (
        9, 1, ((0, 10),), ((0, 9),))
