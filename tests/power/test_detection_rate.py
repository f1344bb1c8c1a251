"""Most injected faults are found and called corruption: a short campaign on the tiny GPT.

The long campaigns on the demo's GPT are `sdc-guard bench detection`; reports/ has their results.
"""

from __future__ import annotations

from functools import partial

import pytest

from sdc_guard.bench.detection import Campaign, continue_campaign, new_campaign
from sdc_guard.bench.results import render_campaign
from sdc_guard.demo.training import build_step

NUM_TRANSIENTS, NUM_REPEATED = 150, 60


def campaign(model: str, dtype: str, num: int) -> Campaign:
    build = partial(build_step, "tiny", dtype=dtype, seed=0)
    return continue_campaign(new_campaign(f"tiny GPT, {dtype}", model, seed=0), build, num)


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_single_transient_faults_are_called_corruption(dtype: str) -> None:
    result = campaign("transient", dtype, NUM_TRANSIENTS)
    rate = result.corruption
    assert rate.injected == NUM_TRANSIENTS, render_campaign(result)
    assert rate.detected >= 0.99 * rate.injected, render_campaign(result)
    assert not result.false_alarms, result.false_alarms
    assert result.causes.get("persistent hardware", 0) == 0, render_campaign(result)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_repeated_faults_are_found(dtype: str) -> None:
    result = campaign("repeated", dtype, NUM_REPEATED)
    rate = result.named
    assert rate.injected >= 0.95 * NUM_REPEATED, render_campaign(result)
    assert rate.detected >= 0.95 * rate.injected, render_campaign(result)
    assert not result.false_alarms, result.false_alarms
