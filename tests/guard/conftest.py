"""One thread, since these tensors are tiny; and no guard outlives its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import sdc_guard
from sdc_guard import wrapping


@pytest.fixture(autouse=True)
def one_thread_and_no_guard_left() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    for model in list(wrapping._guards):
        sdc_guard.unwrap(model)
