"""The harness of the models, on one that needs no other package."""

from __future__ import annotations

import pytest
import torch

from sdc_guard.inject.faults import TransientFlip
from tests.models import run
from tests.models.zoo import OWN


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_model_trains_to_equal_bits_with_nothing_found(name: str) -> None:
    row = run.try_model(name, 2)
    assert row["equal_bits"]
    assert row["findings"] == []
    assert row["guard_errors"] == 0
    assert row["flop_share"] >= 0.95
    assert row["checks"] > 100


def test_a_fault_shows_in_the_row() -> None:
    """It strikes the third training, which is the guarded one, or a replay of that."""
    with TransientFlip(torch.ops.aten.convolution_backward.default, 7, 0, 3, 25):
        row = run.try_model("u-net", 2)
    assert row["findings"] or not row["equal_bits"]
