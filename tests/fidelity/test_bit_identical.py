"""Training with the guard leaves the very bits that training without it leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sdc_guard
from tests.fidelity.models import BUILDERS, Job, bits_of, state_of

NUM_STEPS = 50
SOME = 0.3
"""Of each step: some calls are checked and some are not, also where a step takes 7 ms and planning
its calls for the first time takes longer."""
CALL_FLOOR = {
    "gpt-fp32": 0.95,
    "gpt-bf16": 0.95,
    "conv-batchnorm-dropout": 0.3,
    "lstm": 0.3,
    "activation-checkpointing": 0.9,
    "compiled": 0.3,
}


def _train(name: str, budget: float | str | None) -> tuple[Job, dict, sdc_guard.Coverage | None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(7)
    job = BUILDERS[name]()
    if budget is not None:
        sdc_guard.wrap(job.model, optimizer=job.optimizer, budget=budget, on_finding="skip")
    losses = [job.step() for _ in range(NUM_STEPS)]
    coverage = None
    if budget is not None:
        guard = job.model.sdc_guard
        assert guard.findings == []
        coverage = guard.coverage
        sdc_guard.unwrap(job.model)
    return job, state_of(job, losses), coverage


# Torch's own compiler uses torch.jit.script_method while it is imported.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("name", BUILDERS)
def test_guard_on_and_off_leave_equal_bits(name: str) -> None:
    plain, expected, _ = _train(name, None)
    frames = dict(torch._dynamo.utils.counters["frames"])
    breaks = dict(torch._dynamo.utils.counters["graph_break"])
    for budget in ("all", SOME, 0):
        job, state, coverage = _train(name, budget)
        for part in expected:
            assert state[part] == expected[part], f"{part} differs with budget={budget}"
        assert coverage is not None
        assert coverage.guard_errors == 0
        if budget == "all":
            assert coverage.call_share >= CALL_FLOOR[name], coverage
        if budget == SOME:
            assert coverage.calls_checked > 0
        if budget == 0:
            assert coverage.calls_checked == 0
        if plain.compiled:
            assert dict(torch._dynamo.utils.counters["frames"]) == frames
            assert dict(torch._dynamo.utils.counters["graph_break"]) == breaks
            region = [op for op in coverage.ops if "torch.compile" in op.op]
            assert region
            assert region[0].flops > 0
            assert region[0].flops_checked == 0
        assert list(job.model.state_dict()) == list(plain.model.state_dict())


def test_the_comparison_sees_one_flipped_bit() -> None:
    model = nn.Linear(3, 3)
    before = bits_of(dict(model.state_dict()))
    with torch.no_grad():
        model.weight.view(torch.int32)[0, 0] ^= 1
    assert bits_of(dict(model.state_dict())) != before
