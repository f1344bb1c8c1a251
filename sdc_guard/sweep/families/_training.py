"""What the tests of training have in common: operands that no seed of a visit changes, since golden
digests are recorded for them, and operators that give equal bits each time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from sdc_guard.sweep.declared import Place
from sdc_guard.sweep.entropy import unit
from sdc_guard.sweep.placed import placed

FIXED_SEED = 20_251_101
DTYPES = ("float32", "bfloat16")


def fixed() -> np.random.Generator:
    return np.random.default_rng(FIXED_SEED)


def operand(random: np.random.Generator, shape: tuple[int, ...], dtype: str, place: Place,
            power: int = 0) -> Tensor:
    """Uniform in ``[-2^power, 2^power)``."""
    return placed(unit(random, shape, dtype, power), dtype, place.device)


def indices(random: np.random.Generator, shape: tuple[int, ...], end: int, place: Place) -> Tensor:
    """Integers of 0 to ``end - 1``."""
    drawn = random.integers(0, end, shape, dtype=np.int64)
    return placed(drawn.view(np.uint64), "int64", place.device)


@contextmanager
def same_each_time(place: Place) -> Iterator[None]:
    """On a GPU: kernels that do not add in the order of arrival, and no TF32.  One thread of a CPU
    has one order."""
    if not place.device.startswith("cuda"):
        yield
        return
    was = torch.are_deterministic_algorithms_enabled()
    was_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings(), torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        # cuBLAS asks for a fixed workspace; with one stream its results do not depend on it.
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was, warn_only=was_warning)
