"""Ordinary trainings, which ``make report`` runs under the guard (``pytest --sdc-guard``): the
report on ourselves.  Alone, they only say that the losses are numbers."""

from __future__ import annotations

import math

import pytest
import torch

from sdc_guard.bench.workloads.table import DTYPES, WORKLOADS, build_workload

NUM_STEPS = 6
SMALL = sorted(set(WORKLOADS) - {"gpt-demo"})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SMALL)
def test_training(name: str, dtype: str) -> None:
    workload = build_workload(name, dtype, seed=0)
    losses = [float(workload.step()) for _ in range(NUM_STEPS)]
    assert all(math.isfinite(loss) for loss in losses)


def test_the_gradient_of_an_embedding_in_bfloat16() -> None:
    """It is added in the storage format, where a sum stagnates: ``precision``, and known."""
    table = torch.zeros(4, 8, dtype=torch.bfloat16, requires_grad=True)
    torch.nn.functional.embedding(torch.zeros(4096, dtype=torch.int64), table).sum().backward()
    assert table.grad is not None
    assert table.grad.max() <= 4096
