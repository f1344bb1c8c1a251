"""``bench kernels`` at tiny sizes in the interpreter: figures, failures, time limits."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.bench.gpu import clock as clock_module
from sdc_guard.bench.gpu import gpt, steps
from sdc_guard.bench.gpu.asked_ops import is_asked_name
from sdc_guard.bench.gpu.bandwidth import copy_name
from sdc_guard.bench.gpu.call_costs import num_bytes, site_name
from sdc_guard.bench.gpu.clock import Clock
from sdc_guard.bench.gpu.figures import (
    FULL,
    TINY,
    CallCost,
    Copy,
    Figure,
    ProductCost,
    StepCost,
)
from sdc_guard.bench.gpu.job import TIME, Expected, Failed, Measured, Message, Setting
from sdc_guard.bench.gpu.jobs import JOBS
from sdc_guard.bench.gpu.notes import BenchNotes
from sdc_guard.bench.gpu.product import product_name
from sdc_guard.bench.gpu.run import run_jobs
from sdc_guard.bench.gpu.sizes import SIZES
from sdc_guard.bench.gpu.watchers import BUDGET, KERNELS, PLAIN, Rerun, Watcher
from sdc_guard.bench.workload import Workload
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.errors import UsageError
from sdc_guard.inject.override import KernelOverride
from tests.simulated_clock import SimulatedClock, simulated
from tests.unit.bench import gpu_jobs
from tests.unit.bench.gpu_jobs import messages_of

JOB = {job.name: job for job in JOBS}
aten = torch.ops.aten


def figures(told: list[Message]) -> dict[str, Figure]:
    return {m.name: m.figure for m in told if isinstance(m, Measured)}


def failures(told: list[Message]) -> dict[str, str]:
    return {m.name: m.reason for m in told if isinstance(m, Failed)}


def mm(a: torch.Tensor, b: torch.Tensor) -> BoundCall:
    form = form_of(aten.mm.default)
    return BoundCall(form, form.bind((a, b), {}))


def test_each_copy_is_measured_and_counted_twice() -> None:
    told = figures(messages_of(JOB["copies"]))
    assert set(told) == set(map(copy_name, SIZES[TINY].copy_bytes))
    for found, num in zip(told.values(), SIZES[TINY].copy_bytes, strict=True):
        assert isinstance(found, Copy)
        assert found.bytes_per_s == pytest.approx(2 * num / (found.time_ms.value * 1e-3))
    assert copy_name(1 << 32) == "copy of 4 GiB"


def test_a_product_is_measured_beside_its_check_and_its_rerun() -> None:
    with gpu_jobs.kernel_of_mm(gpu_jobs.toy):
        told = messages_of(JOB["bf16 product"]) + messages_of(JOB["other products"])
    assert not failures(told)
    found = figures(told)
    assert set(found) == {product_name(d, 32) for d in ("bf16", "fp16", "tf32", "fp32")}
    bf16 = found[product_name("bf16", 32)]
    assert isinstance(bf16, ProductCost)
    assert bf16.num_bytes == 3 * 32 * 32 * 2
    assert bf16.verdicts.num_over == 0
    assert 0 < bf16.verdicts.worst_share < 1
    assert bf16.verdicts.witnesses == ("checksum",)
    assert bf16.check_ms.low > 0
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_product_without_a_kernel_is_not_measured() -> None:
    with gpu_jobs.kernel_of_mm(None):
        told = messages_of(JOB["bf16 product"])
    assert not figures(told)
    assert "no kernel" in failures(told)[product_name("bf16", 32)]


def test_notes_keep_the_worst_and_remember_if_asked() -> None:
    a, b = torch.randn(9, 4).bfloat16(), torch.randn(4, 5).bfloat16()
    call, right = mm(a, b), a @ b
    notes = BenchNotes(right, seed=0, remembers=True)
    notes.launch(gpu_jobs.run_toy, call, (right,))
    assert notes.verdicts().num_over == 0
    notes.launch(gpu_jobs.run_toy, call, (gpu_jobs.off_by_one_bit(right),))
    notes.launch(gpu_jobs.run_toy, call, (right,))
    verdicts = notes.verdicts()
    assert verdicts.num_over == 1
    assert verdicts.worst_share > 1
    computed: list[int] = []
    for remembers in (True, False):
        notes = BenchNotes(right, seed=0, remembers=remembers)
        for _ in range(3):
            notes.remembered(b, "x", lambda: computed.append(1))
        notes.remembered(b, "y", lambda: computed.append(1))
    assert len(computed) == 2 + 4
    assert notes.seed != notes.seed


def test_every_call_of_a_step_is_found_and_checked() -> None:
    counted: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None
                               ) -> Any:
            counted[str(func)] += is_asked_name(str(func))
            return func(*args, **(kwargs or {}))

    training = gpt.build(SIZES[TINY].gpt, device="cpu", seed=0)
    with Count():
        training.step()
    assert counted["aten.mm.default"] > 5
    with gpu_jobs.kernel_of_mm(gpu_jobs.fails_for_wide):
        told = messages_of(JOB["calls"])
    found, failed = figures(told), failures(told)
    (names,) = (m.names for m in told if isinstance(m, Expected))
    assert set(names) <= set(found) | set(failed)
    assert {n.partition(" ")[0] for n in names} == {n for n, num in counted.items() if num}
    mms = [f for n, f in found.items() if n in names]
    assert mms
    assert all(isinstance(f, CallCost) and f.op == "aten.mm.default" for f in mms)
    assert all(f.verdicts.num_over == 0 for f in mms if isinstance(f, CallCost))
    wide = [n for n, reason in failed.items() if reason == "RuntimeError: too wide"]
    assert wide
    assert all("no kernel" in reason for n, reason in failed.items() if n not in wide)
    assert any("aten.mm.default fp32" in n for n in wide)  # of the calls that no step makes


def test_bytes_are_counted_once_where_a_dimension_is_expanded() -> None:
    a, b = torch.zeros(1, 4).expand(3, 4), torch.zeros(4, 5)
    assert num_bytes(mm(a, b), (torch.zeros(3, 5),)) == 4 * (4 + 20 + 15)
    assert site_name(mm(b.t(), b)) == "aten.mm.default fp32[5, 4]/[1, 5] fp32[4, 5]"


class Sleeper(Watcher):
    steps_per_turn = 1

    def __init__(self, clock: SimulatedClock, sleep_s: float, lasts: int = 10**6) -> None:
        self.clock = clock
        self.sleep_s = sleep_s
        self.lasts = lasts

    def step(self, training: Workload) -> None:
        self.lasts -= 1
        if not self.lasts:
            raise RuntimeError("worn out")
        self.clock.sleep(self.sleep_s)


def test_steps_take_turns_and_one_that_fails_costs_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unmakeable(setting: Setting, training: Workload) -> Watcher:
        raise UsageError("not installed")

    clock = simulated(clock_module, monkeypatch)
    watched = {PLAIN: lambda s, t: Sleeper(clock, 0.02),
               "double": lambda s, t: Sleeper(clock, 0.04),
               "worn": lambda s, t: Sleeper(clock, 0.0, lasts=3), "unmakeable": unmakeable}
    monkeypatch.setattr(steps, "WATCHERS", watched)
    told = messages_of(JOB["steps"])
    found, failed = figures(told), failures(told)
    double = found["step, double"]
    assert isinstance(double, StepCost)
    assert double.ratio.value == pytest.approx(2.0)
    assert double.total_ratio.value == pytest.approx(2.0)
    assert double.num_rounds == SIZES[TINY].step_rounds
    assert failed == {"step, unmakeable": "UsageError: not installed",
                      "step, worn": "RuntimeError: worn out"}
    assert isinstance(found["step, plain"], StepCost)


def test_steps_under_the_guard_say_what_was_checked() -> None:
    with gpu_jobs.kernel_of_mm(gpu_jobs.toy):
        told = messages_of(JOB["steps"])
    found, failed = figures(told), failures(told)
    assert set(found) | set(failed) == set(JOB["steps"].expects(gpu_jobs.TINY))
    budget, kernels = found[steps.step_name(BUDGET)], found.get(steps.step_name(KERNELS))
    assert isinstance(budget, StepCost)
    assert budget.seen.own_overhead_share is not None
    assert {op.op for op in budget.seen.ops if op.is_asked} >= {"aten.mm", "aten.sum"}
    assert isinstance(kernels, StepCost), failed
    ops = {op.op: op for op in kernels.seen.ops}
    assert ops["aten.mm"].calls_checked == ops["aten.mm"].calls > 0
    ((witness, num_checks),) = ops["aten.mm"].witnesses.items()
    assert witness.endswith("checksum")
    assert num_checks == ops["aten.mm"].calls
    assert ops["aten.sum"].calls_checked == 0  # its kernel is left out here
    assert 0 < (kernels.seen.share() or 0) < 1
    assert kernels.seen.num_alarms == kernels.seen.num_errors == 0


def test_without_the_plain_step_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = simulated(clock_module, monkeypatch)
    watched = {PLAIN: lambda s, t: Sleeper(clock, 0.0, lasts=2),
               "other": lambda s, t: Sleeper(clock, 0.0)}
    monkeypatch.setattr(steps, "WATCHERS", watched)
    told = messages_of(JOB["steps"])
    assert not figures(told)
    assert failures(told) == {"step, plain": "RuntimeError: worn out",
                              "step, other": "the plain step failed"}


def test_the_rerun_sees_every_asked_call_and_a_result_that_differs() -> None:
    training = gpt.build(SIZES[TINY].gpt, device="cpu", seed=0)
    rerun = Rerun()
    with rerun.around():
        rerun.step(training)
    assert rerun.seen().share() == 1.0
    assert rerun.seen().num_alarms == 0

    def double_first(info: Any, results: Any) -> None:
        if info.call_number == 0:
            results[0].mul_(2)

    with KernelOverride(aten.mm.default, double_first), rerun.around():
        rerun.step(training)
    assert rerun.seen().num_alarms == 1
    assert rerun.seen().messages == ("aten.mm.default: 1 calls differ",)


def test_a_step_of_the_gpt_trains_it() -> None:
    sizes = SIZES[TINY].gpt
    training = gpt.build(sizes, device="cpu", seed=0)
    assert gpt.num_parameters(sizes) == sum(p.numel() for p in training.model.parameters())
    assert 345e6 < gpt.num_parameters(SIZES[FULL].gpt) < 356e6
    before = [p.detach().clone() for p in training.model.parameters()]
    losses = [float(training.step()) for _ in range(2)]
    assert all(not torch.equal(a, b) for a, b in zip(before, training.model.parameters(),
                                                     strict=True))
    again = gpt.build(sizes, device="cpu", seed=0)
    assert [float(again.step()) for _ in range(2)] == losses


@pytest.mark.slow
def test_a_process_that_dies_or_hangs_costs_its_own_figure() -> None:
    saved: list[int] = []
    lines: list[str] = []
    jobs = (gpu_jobs.DIES, gpu_jobs.HANGS, gpu_jobs.FAILS)
    results = run_jobs(gpu_jobs.TINY, jobs, limit_s=300, stuck_s=1.0, tell=lines.append,
                       save=lambda now: saved.append(len(now.figures)))
    assert set(results.figures) == {"before", "after", "behind it", "right"}
    assert results.failures == {
        "deadly": "its process ended with exit code 3",
        "endless": "given up: no end after 1 s",
        "wrong": "ZeroDivisionError: integer division or modulo by zero",
        "the rest of: fails": "ValueError: between two figures"}
    assert results.missing("?") == results.failures
    assert saved[-1] == 4
    assert "after: measured" in lines


def test_the_limit_ends_a_process_that_works() -> None:
    """What works sleeps for ten minutes; three, for a process that starts and ends slowly."""
    started_s = time.monotonic()
    results = run_jobs(gpu_jobs.TINY, (gpu_jobs.WAITS,), limit_s=2.0)
    assert time.monotonic() - started_s < 180
    assert results.missing(TIME)["never begun"] == TIME
    assert not results.figures


def test_what_begins_late_is_not_measured() -> None:
    for name in ("copies", "bf16 product", "steps"):
        told = messages_of(JOB[name], limit_s=-1.0)
        assert failures(told) == dict.fromkeys(JOB[name].expects(gpu_jobs.TINY), TIME)
        assert not figures(told)


def test_a_cpu_s_clock_times_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = simulated(clock_module, monkeypatch)
    device_ms, host_ms = Clock("cpu").times_ms([lambda: clock.sleep(0.02), lambda: None])
    assert device_ms == host_ms
    assert device_ms == pytest.approx([20.0, 0.0])


@pytest.mark.gpu
def test_copies_and_a_product_are_measured_on_a_device() -> None:
    setting = Setting("cuda", TINY, 0)
    jobs = tuple(JOB[name] for name in ("device", "copies", "bf16 product"))
    results = run_jobs(setting, jobs, limit_s=300)
    assert not results.missing("not told"), results.failures
    product = results.figures[product_name("bf16", 32)]
    assert isinstance(product, ProductCost)
    assert product.verdicts.num_over == 0
    assert product.product_ms.low > 0
    assert product.check_ms.low > 0
