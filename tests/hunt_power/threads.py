"""A call under some number of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def with_threads(num: int, call: Callable[[], Any]) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        return call()
    finally:
        torch.set_num_threads(before)
