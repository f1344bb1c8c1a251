"""The long forms of the campaigns: `make test-slow`."""

from __future__ import annotations

from functools import partial

import pytest

from sdc_guard.bench.detection import clean_run, continue_campaign, new_campaign
from sdc_guard.bench.results import render_campaign, render_clean
from sdc_guard.demo.training import build_step

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("model", "num", "required"),
                         [("transient", 2000, 0.999), ("repeated", 1000, 0.99)])
def test_detection_rate(dtype: str, model: str, num: int, required: float) -> None:
    build = partial(build_step, "tiny", dtype=dtype, seed=0)
    result = continue_campaign(new_campaign(f"tiny GPT, {dtype}", model, seed=2), build, num)
    rate = result.corruption
    assert rate.injected >= 0.95 * num, render_campaign(result)
    assert rate.detected >= required * rate.injected, render_campaign(result)
    assert not result.false_alarms, result.false_alarms


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_500_clean_steps_of_the_demo_gpt_find_nothing(dtype: str) -> None:
    build = partial(build_step, "demo", dtype=dtype, seed=0)
    result = clean_run(build, f"demo GPT, {dtype}", num_steps=500, seed=0, num_threads=1)
    assert result.num_findings == 0, render_clean(result)
