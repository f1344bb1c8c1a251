"""Each change does to the bits what its name says, and the same again from the same state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdc_guard.bench.sweep.changes import BANDS, Held, band, held
from sdc_guard.bench.sweep.kinds import KINDS, When
from sdc_guard.sweep.anatomy import hexfloat
from sdc_guard.sweep.exact import LAYOUTS, encode, tensor_of

FORMATS = [*LAYOUTS, "int8", "int32", "int64", "bool"]


def changed(name: str, dtype: str = "float32", number: int = 0, seed: int = 0,
            before: bytes = b"") -> tuple[np.ndarray, np.ndarray]:
    """The bits before and after."""
    target = held(tensor_of(encode(np.arange(1, 301) % 97, dtype), dtype), number, before)
    was = target.bits.copy()
    KINDS[name].change(target, np.random.default_rng(seed))
    return was, target.bits.copy()


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_bands_are_all_bits_once(dtype: str) -> None:
    width = 1 if dtype == "bool" else 8 * getattr(torch, dtype).itemsize
    places = [b for name in BANDS for b in band(LAYOUTS.get(dtype), width, name)]
    assert sorted(places) == list(range(width))


def test_trials_take_every_position_of_a_band_in_turn() -> None:
    found = set()
    for number in range(8):
        was, now = changed("bit: exponent, always", number=number, seed=number)
        (where,) = np.flatnonzero(was != now)
        found.add(int(was[where] ^ now[where]).bit_length() - 1)
    assert found == set(range(23, 31))


@pytest.mark.parametrize(("name", "least", "most"), [
    ("2 bits, always", 2, 2), ("3 to 8 bits, always", 3, 8), ("9 bits or more, always", 9, 32)])
def test_many_bits_are_of_one_element(name: str, least: int, most: int) -> None:
    for seed in range(10):
        was, now = changed(name, seed=seed)
        (where,) = np.flatnonzero(was != now)
        assert least <= int(was[where] ^ now[where]).bit_count() <= most


@pytest.mark.parametrize("num", [32, 64, 128])
def test_a_stride_strikes_every_so_many(num: int) -> None:
    where = np.flatnonzero(np.not_equal(*changed(f"stride {num}, always")))
    assert set(np.diff(where)) == {num}
    assert len(where) == len(range(int(where[0]), 300, num))


@pytest.mark.parametrize("value", [0, 1])
def test_a_stuck_lane_holds_its_value(value: int) -> None:
    for seed in range(20):
        was, now = changed(f"lane stuck at {value}", seed=seed)
        where = np.flatnonzero(was != now)
        assert len(set(where % 8)) <= 1
        assert all((int(now[i]) > int(was[i])) == bool(value) for i in where)


@pytest.mark.parametrize("dtype", list(LAYOUTS))
@pytest.mark.parametrize(("name", "value"), [("NaN", "nan"), ("Inf", "inf"), ("-0.0", "-0x0.0p+0")])
def test_special_values_are_what_they_are_called(dtype: str, name: str, value: str) -> None:
    was, now = changed(f"{name}, always", dtype)
    where = np.flatnonzero(was != now)
    if dtype == "float8_e4m3fn" and name == "Inf":
        assert not len(where)
        return
    assert [hexfloat(int(now[i]), dtype) for i in where] == [value]
    if name == "-0.0":
        assert was[where[0]] == 0  # where it is hardest to see


def test_one_ulp_is_the_next_number() -> None:
    was, now = changed("1 ulp, always")
    (where,) = np.flatnonzero(was != now)
    assert int(now[where]) - int(was[where]) == 1


def test_a_stale_line_holds_what_was_there() -> None:
    before = bytes(range(256)) * 5
    was, now = changed("stale line, always", before=before)
    where = np.flatnonzero(was != now)
    assert 0 < len(where) <= 16
    old = np.frombuffer(before, np.uint32)
    assert (now[where] == old[where]).all()
    assert (changed("stale line, always")[1][where] == 0).all()


def test_a_wrong_offset_brings_elements_of_the_same_result() -> None:
    was, now = changed("wrong offset, always")
    assert (was != now).any()
    assert set(now.tolist()) <= set(was.tolist())


@pytest.mark.parametrize("name", list(KINDS))
def test_the_same_state_gives_the_same_change(name: str) -> None:
    if KINDS[name].when is not When.ELEMENTS:
        assert (changed(name, seed=3)[1] == changed(name, seed=3)[1]).all()


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5)])
@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
def test_no_size_or_format_is_too_small(name: str, shape: tuple[int, ...], dtype: str) -> None:
    target = held(torch.ones(shape, dtype=getattr(torch, dtype)))
    KINDS[name].change(target, np.random.default_rng(0))
    if dtype == "bool":
        assert set(np.ravel(target.bits).tolist()) <= {0, 1}


def test_a_change_reaches_the_memory_of_views_and_of_complex_numbers() -> None:
    for result in (torch.zeros(6, 4).t(), torch.zeros(4, dtype=torch.complex64),
                   np.zeros(4, np.complex128)):
        target = held(result)
        assert isinstance(target, Held)
        KINDS["NaN, always"].change(target, np.random.default_rng(0))
        assert np.isnan(np.asarray(result)).sum() == 1
