"""``bench kernels`` at tiny sizes in the interpreter: figures, failures, limits, page, command."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.bench.gpu import gpt, steps, watchers
from sdc_guard.bench.gpu.asked import MET, NOT_MEASURED, NOT_MET, asked
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
    GpuFile,
    Missing,
    Named,
    OpSeen,
    ProductCost,
    Seen,
    StepCost,
    Verdicts,
)
from sdc_guard.bench.gpu.job import TIME, Expected, Failed, Measured, Message, Setting
from sdc_guard.bench.gpu.jobs import JOBS
from sdc_guard.bench.gpu.notes import BenchNotes
from sdc_guard.bench.gpu.page import render
from sdc_guard.bench.gpu.product import product_name
from sdc_guard.bench.gpu.run import run_jobs
from sdc_guard.bench.gpu.sizes import SIZES
from sdc_guard.bench.gpu.watchers import BUDGET, KERNELS, PLAIN, RERUN, Rerun, Watcher
from sdc_guard.bench.gpu.write import read, write
from sdc_guard.bench.results import make_stamp
from sdc_guard.bench.workload import Workload
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.cli.main import main
from sdc_guard.errors import UsageError
from sdc_guard.guard import Guard
from sdc_guard.inject.override import KernelOverride
from sdc_guard.intervals import Interval
from tests.meta.tree import ROOT
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

    def __init__(self, sleep_s: float, lasts: int = 10**6) -> None:
        self.sleep_s = sleep_s
        self.lasts = lasts

    def step(self, training: Workload) -> None:
        self.lasts -= 1
        if not self.lasts:
            raise RuntimeError("worn out")
        time.sleep(self.sleep_s)


def test_steps_take_turns_and_one_that_fails_costs_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unmakeable(setting: Setting, training: Workload) -> Watcher:
        raise UsageError("not installed")

    watched = {PLAIN: lambda s, t: Sleeper(0.02), "double": lambda s, t: Sleeper(0.04),
               "worn": lambda s, t: Sleeper(0.0, lasts=3), "unmakeable": unmakeable}
    monkeypatch.setattr(steps, "WATCHERS", watched)
    told = messages_of(JOB["steps"])
    found, failed = figures(told), failures(told)
    double = found["step, double"]
    assert isinstance(double, StepCost)
    assert double.ratio.value == pytest.approx(2.0, rel=0.25)
    assert double.total_ratio.value == pytest.approx(2.0, rel=0.25)
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
    if "witnesses" not in inspect.signature(Guard).parameters:
        pytest.skip("this guard cannot be told to use kernels alone")
    assert isinstance(kernels, StepCost), failed
    ops = {op.op: op for op in kernels.seen.ops}
    assert ops["aten.mm"].calls_checked == ops["aten.mm"].calls > 0
    ((witness, num_checks),) = ops["aten.mm"].witnesses.items()
    assert witness.endswith("checksum")
    assert num_checks == ops["aten.mm"].calls
    assert ops["aten.sum"].calls_checked == 0
    assert 0 < (kernels.seen.share() or 0) < 1
    assert kernels.seen.num_alarms == kernels.seen.num_errors == 0


def test_without_the_plain_step_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = {PLAIN: lambda s, t: Sleeper(0.0, lasts=2), "other": lambda s, t: Sleeper(0.0)}
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
    started_s = time.monotonic()
    results = run_jobs(gpu_jobs.TINY, (gpu_jobs.WAITS,), limit_s=4.0)
    assert time.monotonic() - started_s < 30
    assert results.missing(TIME)["never begun"] == TIME
    assert not results.figures


def test_what_begins_late_is_not_measured() -> None:
    for name in ("copies", "bf16 product", "steps"):
        told = messages_of(JOB[name], limit_s=-1.0)
        assert failures(told) == dict.fromkeys(JOB[name].expects(gpu_jobs.TINY), TIME)
        assert not figures(told)


def around(value: float, spread: float = 0.0) -> Interval:
    return Interval(value=value, low=value - spread, high=value + spread, confidence=0.95)


def made(
    device: str = "cuda", form: str = FULL, *, check_ms: float = 0.1, step: float = 1.05,
    spread: float = 0.0, num_over: int = 0, num_checked: int = 5,
) -> GpuFile:
    """A file with figures of an invented device: copies at 4 TB/s, a product of 1.25 ms."""
    verdicts = Verdicts(witnesses=("checksum",), worst_share=0.25, num_over=num_over)
    ratio = check_ms / 1.25
    product = ProductCost(
        dtype="bf16", shape=(8192, 8192, 8192), num_rounds=9, product_ms=around(1.25),
        check_ms=around(check_ms), remembered_ms=around(0.07), rerun_ms=around(1.5),
        host_ms=around(0.01), check_ratio=around(ratio, spread), remembered_ratio=around(0.056),
        rerun_ratio=around(1.2), num_bytes=400_000_000, verdicts=verdicts)
    op = OpSeen(op="aten.mm", is_asked=True, calls=5, calls_checked=num_checked, witnesses={},
                not_tested={})
    seen = Seen(ops=(op,), num_alarms=0, num_errors=0, messages=(), own_overhead_share=None)
    found: list[Figure] = [
        Copy(num_bytes=2_000_000_000, num_rounds=9, time_ms=around(1.0)),
        Copy(num_bytes=1_000_000_000, num_rounds=9, time_ms=around(9.0)), product]
    found += [StepCost(watcher=name, description="", steps_per_turn=1, warmup_steps=3,
                       num_rounds=9, step_ms=around(50.0), ratio=around(step, spread),
                       total_ratio=around(step - 0.045, spread), seen=seen)
              for name in (PLAIN, KERNELS, BUDGET)]
    names = ["copy 2", "copy 1", product_name("bf16", 8192),
             *map(steps.step_name, (PLAIN, KERNELS, BUDGET))]
    return GpuFile(
        stamp=make_stamp("sdc-guard bench kernels", 3), device=device, form=form, model="a GPT",
        limit_s=420.0, elapsed_s=10.0,
        figures=tuple(Named(name=n, figure=f) for n, f in zip(names, found, strict=True)),
        missing=(Missing(name=steps.step_name(RERUN), reason=TIME),))


def test_what_is_asked_is_judged_by_the_figures() -> None:
    assert [a.verdict for a in asked(made())] == [MET] * 4
    worse = asked(made(check_ms=0.12, step=1.1))
    assert [a.verdict for a in worse] == [NOT_MET] * 4
    floor = worse[1].value
    assert floor is not None
    assert floor.value == pytest.approx(0.12 / (1e3 * 400e6 / 4e12))
    close = asked(made(spread=0.02))
    assert close[0].verdict == f"{MET}, but the limit is within the interval"
    partly = asked(made(num_checked=4))
    assert [a.verdict for a in partly] == [
        MET, MET, f"{NOT_MET}, only 80.00 % of the calls are checked", MET]
    for contents in (made(device="cpu"), made(form=TINY)):
        assert [a.verdict for a in asked(contents)] == [NOT_MEASURED] * 4


def test_the_page_shows_each_figure_or_says_that_there_is_none(tmp_path: Path) -> None:
    contents = made(num_over=7)
    write(tmp_path, contents)
    assert read(tmp_path) == contents
    page = (tmp_path / "kernels.md").read_text(encoding="utf-8")
    assert "| at most 8 % | 8.00 % [8.00, 8.00] | met |" in page
    assert "4000.0" in page
    assert "7 quantities over their limit" in page
    assert f"| rerun | not measured | not measured | not measured | not measured |  | {TIME} |" in (
        page)
    assert "say nothing about a GPU" not in page
    empty = GpuFile(stamp=make_stamp("x", 0), device="cuda", form=FULL, model="a GPT", limit_s=1.0,
                    elapsed_s=1.0, figures=(), missing=(Missing(name="device", reason="no"),))
    for heading in render(empty).split("## ")[1:]:
        assert NOT_MEASURED in heading.lower()
    with pytest.raises(UsageError, match=r"kernels\.json is no result"):
        read(tmp_path / "nowhere")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "kernels", *arguments])


def test_the_command_measures_a_part_and_writes_its_files(tmp_path: Path) -> None:
    done = bench("--quick", "--part", "device", "--part", "copies", "--out", str(tmp_path),
                 "--commit", "abc123", "--seed", "5")
    assert done.exit_code == 0, done.output
    found = read(tmp_path)
    assert found.stamp.commits == ("abc123",)
    assert found.stamp.seed == 5
    assert [named.name for named in found.figures] == ["device", "copy of 4 KiB", "copy of 16 KiB"]
    assert "copy of 4 KiB: measured" in done.stderr
    assert "**This is the tiny form on cpu" in done.stdout
    assert json.loads((tmp_path / "kernels.json").read_text())["form"] == TINY


def test_the_command_says_what_it_cannot_do(tmp_path: Path) -> None:
    on_cpu = bench("--out", str(tmp_path))
    assert on_cpu.exit_code == 2
    assert "give --device cuda, or --quick" in on_cpu.output
    unknown = bench("--quick", "--part", "tea")
    assert unknown.exit_code == 2
    assert "no part tea; there are: device, copies" in " ".join(unknown.output.split())
    late = bench("--quick", "--part", "steps", "--limit-s", "0.01", "--out", str(tmp_path))
    assert late.exit_code == 5
    assert [m.reason for m in read(tmp_path).missing] == [TIME] * len(watchers.WATCHERS)


def test_the_targets_need_no_network_where_all_is_installed() -> None:
    shown = subprocess.run(
        ["make", "--dry-run", "NO_INSTALL=1", "PYTHON=python-of-a-gpu", "test-gpu", "bench-gpu"],
        cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pip" not in shown
    assert "venv" not in shown
    assert re.search(r"python-of-a-gpu -m pytest .*-m gpu", shown)
    assert re.search(r"TRITON_INTERPRET=1 .*python-of-a-gpu -m pytest .*tests/kernels", shown)
    assert "bench kernels --device cuda" in shown


def test_a_cpu_s_clock_times_what_it_is_given() -> None:
    device_ms, host_ms = Clock("cpu").times_ms([lambda: time.sleep(0.02), lambda: None])
    assert device_ms == host_ms
    assert device_ms[0] >= 20.0 > device_ms[1]


@pytest.mark.slow
def test_all_of_it_runs_in_the_interpreter(tmp_path: Path) -> None:
    done = bench("--quick", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    found = read(tmp_path)
    measured, missing = ({n.name for n in found.figures}, {m.name: m.reason for m in found.missing})
    for job in JOBS:
        assert set(job.expects(gpu_jobs.TINY)) <= measured | set(missing)
    assert set(map(steps.step_name, (PLAIN, BUDGET, RERUN))) <= measured
    assert not {reason for reason in missing.values() if reason == TIME}
    assert "quantities over their limit" not in done.stdout


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
