"""What ``bench kernels`` makes of its figures: limits, page, files, command and make targets."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sdc_guard.bench.gpu import steps, watchers
from sdc_guard.bench.gpu.asked import MET, NOT_MEASURED, NOT_MET, asked
from sdc_guard.bench.gpu.figures import (
    FULL,
    TINY,
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
from sdc_guard.bench.gpu.job import TIME
from sdc_guard.bench.gpu.jobs import JOBS
from sdc_guard.bench.gpu.page import render
from sdc_guard.bench.gpu.product import product_name
from sdc_guard.bench.gpu.watchers import BUDGET, KERNELS, PLAIN, RERUN
from sdc_guard.bench.gpu.write import read, write
from sdc_guard.bench.results import make_stamp
from sdc_guard.cli.main import main
from sdc_guard.errors import UsageError
from sdc_guard.intervals import Interval
from tests.meta.tree import ROOT
from tests.unit.bench import gpu_jobs


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    log = logging.getLogger("sdc_guard")
    before = log.level
    yield
    log.setLevel(before)


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
