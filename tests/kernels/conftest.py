"""The interpreter computes with NumPy, which warns where a device does not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _as_on_a_device() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield
