"""What every workload draws its numbers from: pure functions of a seed and a step number.

A batch depends on ``(seed, n)`` alone, so that steps can be repeated and resumed anywhere.  Batches
from :data:`HELD_OUT` on are never trained on; those of text come from files of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.demo.data import load_corpus

HELD_OUT = 1_000_000_000
"""Number of the first batch that is not for training."""


def draws(seed: int, n: int, stream: int = 0) -> np.random.Generator:
    """A generator of batch ``n``; no other ``(seed, n, stream)`` has its numbers."""
    return np.random.default_rng((seed, n, stream))


def text_batch(
    seed: int, n: int, *, batch_size: int, context: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Windows at random places of the demo's text: inputs and targets, int64
    [batch_size, context]; targets are inputs one byte later."""
    corpus = load_corpus()
    text = corpus.training if n < HELD_OUT else corpus.held_out
    windows = sliding_window_view(text, context + 1)
    places = draws(seed, n).integers(len(windows), size=batch_size)
    tokens = windows[places].astype(np.int64)
    return to_tensor(tokens[:, :-1], device), to_tensor(tokens[:, 1:], device)


def to_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """The same numbers, contiguous on a device; float64 becomes float32."""
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


@contextmanager
def random_numbers_of(seed: int, device: torch.device) -> Iterator[None]:
    """Let the device's global generator start at ``seed``, and put its state back at the end.

    Dropout and torch's initial weights take no generator, and must not depend on what was drawn
    before.  (``torch.manual_seed`` would seed all devices, and keeps a stack trace for each call.)
    """
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generator = torch.cuda.default_generators[index]
    else:
        generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
