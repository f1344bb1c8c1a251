"""Our generators give the words that their authors publish."""

from __future__ import annotations

import numpy as np
import pytest

from sdc_guard.sweep.generators import mt19937, pairs, philox4x32


@pytest.mark.parametrize("seed", [0, 5489, 2**32 - 1])
def test_mt19937_gives_the_words_of_numpys(seed: int) -> None:
    right = np.random.RandomState(seed)._bit_generator.random_raw(1500)
    assert np.array_equal(mt19937(seed, 1500), right)


def test_mt19937_gives_the_published_ten_thousandth_word() -> None:
    # The C++ standard, [rand.predef]: the 10000th word of a generator with its default seed.
    assert int(mt19937(5489, 10_000)[-1]) == 4123659995
    assert mt19937(1, 0).size == 0


@pytest.mark.parametrize(("counter", "key", "right"), [
    # Known answers that come with Random123 (philox4x32, 10 rounds).
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], right: tuple[int, ...]
) -> None:
    got = philox4x32(np.array(counter, np.uint64)[:, None], key[0] | key[1] << 32)
    assert tuple(map(int, got[:, 0])) == right


def test_the_first_of_two_words_is_the_upper_half() -> None:
    assert pairs(np.array([1, 2], np.uint64)).tolist() == [(1 << 32) + 2]
