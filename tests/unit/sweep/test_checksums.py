"""CRC-32 by Python's integers agrees with zlib, also of much that is never built."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from sdc_guard.errors import UsageError
from sdc_guard.sweep.checksums import crc32, crc32_of_doubled


def test_of_short_data() -> None:
    assert crc32(b"123456789") == 0xCBF43926  # the check value of its definition
    assert crc32(b"") == 0


@pytest.mark.parametrize(("length", "doublings"), [(1, 0), (3, 5), (100, 10)])
def test_of_repeated_data(length: int, doublings: int) -> None:
    block = np.random.default_rng(length).bytes(length)
    assert crc32_of_doubled(block, doublings) == zlib.crc32(block * 2**doublings)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(UsageError, match="doublings is -1"):
        crc32_of_doubled(b"a", -1)
