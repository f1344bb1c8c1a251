"""F12: sorting, searching and counting, with the one right order known beforehand.

Numbers are drawn as integers, put in order by Python's sort, and handed to the operator in its
format; floats are finite patterns, ordered by the integers of their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.sweep.declared import (
    CORE,
    GPU,
    HOST,
    Bits,
    Case,
    Made,
    Oracle,
    Place,
    SweepTest,
)
from sdc_guard.sweep.exact import LAYOUTS, UNSIGNED, encode_integers, tensor_of
from sdc_guard.sweep.families._exact_case import exact

INTEGERS = {"int64": 64, "int32": 32, "int16": 16, "uint8": 8}
FLOATS = ("float64", "float32", "bfloat16", "float16")
COUNT_CORE, COUNT_GPU = 1 << 13, 1 << 15
NUM_BINS, NUM_TOP = 1000, 129

Keys = NDArray[np.int64]
Pick = Callable[[Tensor], Tensor]


def drawn(dtype: str, count: int, random: np.random.Generator) -> tuple[Bits, Keys]:
    """Bits in the format, and integers in the same order as the numbers.  All finite, no zero of
    a float; of 64 bits and of 32 no two are equal, in all likelihood."""
    if dtype in INTEGERS:
        bits = INTEGERS[dtype]
        low, high = (0, 1 << bits) if dtype == "uint8" else (-(1 << (bits - 1)), 1 << (bits - 1))
        keys = random.integers(low, high, count, dtype=np.int64)
        return encode_integers(keys, dtype), keys
    layout = LAYOUTS[dtype]
    infinity = ((1 << layout.exponent_bits) - 1) << (layout.precision - 1)
    sizes = random.integers(1, infinity, count, dtype=np.int64)
    is_negative = random.integers(0, 2, count) > 0
    sign = is_negative.astype(np.uint64) << np.uint64(layout.num_bits - 1)
    code = (sizes.astype(np.uint64) | sign).astype(UNSIGNED[layout.num_bits // 8])
    return code, np.where(is_negative, -sizes, sizes)


def order_of(keys: Keys, *, descending: bool = False) -> NDArray[np.int64]:
    """The stable order, by Python's sort."""
    held = keys.tolist()
    sign = -1 if descending else 1
    return np.array(sorted(range(len(held)), key=lambda i: sign * held[i]), np.int64)


def _values(
    pick: Pick, rank: Callable[[Keys], NDArray[np.int64]], dtype: str, count: int,
    random: np.random.Generator, place: Place,
) -> Made:
    bits, keys = drawn(dtype, count, random)
    held = tensor_of(bits, dtype, place.device)
    return exact(lambda: (pick(held),), (bits[rank(keys)],), (bits,))


def _places(
    pick: Pick, rank: Callable[[Keys], NDArray[np.int64]], dtype: str, count: int,
    random: np.random.Generator, place: Place,
) -> Made:
    bits, keys = drawn(dtype, count, random)
    held = tensor_of(bits, dtype, place.device)
    return exact(lambda: (pick(held),), (encode_integers(rank(keys), "int64"),), (bits,))


def _counted(
    run: Callable[[Tensor], Tensor], right: Callable[[list[int]], Sequence[int]], count: int,
    random: np.random.Generator, place: Place,
) -> Made:
    """Integers below NUM_BINS; answers by Python."""
    keys = random.integers(0, NUM_BINS, count, dtype=np.int64)
    # Each occurs: results have one shape.
    keys[:NUM_BINS] = np.arange(NUM_BINS)
    bits = encode_integers(keys, "int64")
    held = tensor_of(bits, "int64", place.device)
    expected = np.array(right(keys.tolist()), np.int64)
    return exact(lambda: (run(held),), (encode_integers(expected, "int64"),), (bits,))


def _searched(
    is_right: bool, dtype: str, count: int, random: np.random.Generator, place: Place
) -> Made:
    """Places of drawn numbers among sorted ones, every fourth of which is met exactly."""
    bits, keys = drawn(dtype, count, random)
    order = order_of(keys)
    wanted_bits, wanted = drawn(dtype, count // 2, random)
    wanted_bits[::4], wanted[::4] = bits[: len(wanted[::4])], keys[: len(wanted[::4])]
    sorted_keys, side = keys[order], "right" if is_right else "left"
    expected = np.searchsorted(sorted_keys, wanted, side="right" if is_right else "left")
    row, asked = (tensor_of(b, dtype, place.device) for b in (bits[order], wanted_bits))
    return exact(lambda: (torch.searchsorted(row, asked, side=side),),
                 (encode_integers(expected.astype(np.int64), "int64"),), (bits, wanted_bits))


def _frequency(values: list[int]) -> list[int]:
    counts = [0] * NUM_BINS
    for value in values:
        counts[value] += 1
    return counts


def _case(label: str, op: str, dtype: str, count: int, make: Any) -> Case:
    return Case(label=label, op=op, dtype=dtype, shape=(count,), make=make)


def cases(place: Place) -> Sequence[Case]:
    """Sorts, orders, the largest, medians, searches, counts."""
    count = COUNT_GPU if place.kind == GPU else COUNT_CORE
    found: list[Case] = []
    for dtype in (*INTEGERS, *FLOATS):
        found += [
            _case(f"sort {dtype} {count}", "aten.sort", dtype, count, partial(
                _values, lambda t: t.sort()[0], order_of, dtype, count)),
            _case(f"stable order {dtype} {count}", "aten.sort", "int64", count, partial(
                _places, lambda t: t.sort(stable=True)[1], order_of, dtype, count)),
            _case(f"largest {NUM_TOP} {dtype} {count}", "aten.topk", dtype, NUM_TOP, partial(
                _values, lambda t: t.topk(NUM_TOP)[0],
                lambda keys: order_of(keys, descending=True)[:NUM_TOP], dtype, count))]
    for dtype in ("float32", "int64"):
        found += [
            _case(f"descending {dtype} {count}", "aten.sort", dtype, count, partial(
                _values, lambda t: t.sort(descending=True)[0],
                lambda keys: order_of(keys, descending=True), dtype, count)),
            _case(f"median {dtype} {count}", "aten.kthvalue", dtype, 1, partial(
                _values, lambda t: t.kthvalue(count // 2)[0].reshape(1),
                lambda keys: order_of(keys)[count // 2 - 1:][:1], dtype, count))]
        found += [_case(f"search {side} {dtype} {count}", "aten.searchsorted", "int64", count // 2,
                        partial(_searched, side == "right", dtype, count))
                  for side in ("left", "right")]
    found += [
        _case(f"bincount {count}", "aten.bincount", "int64", NUM_BINS, partial(
            _counted, lambda t: torch.bincount(t, minlength=NUM_BINS), _frequency, count)),
        _case(f"unique {count}", "aten._unique2", "int64", NUM_BINS, partial(
            _counted, torch.unique, lambda values: sorted(set(values)), count)),
        _case(f"counts of unique {count}", "aten._unique2", "int64", NUM_BINS, partial(
            _counted, lambda t: torch.unique(t, return_counts=True)[1], _frequency, count)),
        _case(f"nonzero {count}", "aten.nonzero", "int64", count - count // 3, partial(
            _nonzero, count))]
    return found


def _nonzero(count: int, random: np.random.Generator, place: Place) -> Made:
    places = np.sort(random.permutation(count)[count // 3:])
    values = np.zeros(count, np.int64)
    values[places] = random.integers(1, 1 << 31, len(places))
    bits = encode_integers(values, "int32")
    held = tensor_of(bits, "int32", place.device)
    return exact(lambda: (held.nonzero().reshape(-1),), (encode_integers(places, "int64"),),
                 (bits,))


TESTS = (SweepTest(
    name="exact_sort", family="F12", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU", dtypes=(*INTEGERS, *FLOATS), dwell_s=1.0,
    proves="Sorts, orders, searches and counts gave the one right answer, which comparisons of "
    "integers decide.",
    cannot_prove="Lengths other than those run, and what only comparisons of zeros, infinities or "
    "NaNs reach, are not covered.",
    cases=cases),)
