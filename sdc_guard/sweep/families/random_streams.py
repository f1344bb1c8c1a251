"""F12: torch's random generators against our own in integers (``sweep/generators.py``).

CPU, a word for each number: ``randint`` of a range r below 2^28 gives word mod r, of a larger one
two words as one of 64 bits mod r; ``rand`` in float32 gives the low 24 bits times 2^-24, in float64
the low 53 bits of two words times 2^-53; ``randperm`` exchanges place i with i + word mod (n - i).
CUDA: number i of a ``randint`` with r below 2^28 is the first Philox word of counter
(offset, 0, i, 0) mod r, as long as there are threads for all numbers.

A torch that makes numbers from words in another way is found by a probe and reported as
unsupported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
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
    Unsupported,
)
from sdc_guard.sweep.exact import bits_of, encode, encode_integers
from sdc_guard.sweep.families._exact_case import exact
from sdc_guard.sweep.generators import mt19937, pairs, philox4x32

COUNT = 1 << 14
COUNT_PERMUTATION = 1 << 11
PROBE_SEED, PROBE_COUNT = 5489, 64
SMALL, LARGE = 1_000_003, 2**40 + 15

Draw = Callable[[torch.Generator, int], Tensor]
Right = Callable[[int, int], Bits]


def _modulo(limit: int) -> Right:
    def right(seed: int, count: int) -> Bits:
        words = mt19937(seed, count) if limit < 2**28 else pairs(mt19937(seed, 2 * count))
        return encode_integers((words % np.uint64(limit)).astype(np.int64), "int64")
    return right


def _fractions(dtype: str, digits: int) -> Right:
    def right(seed: int, count: int) -> Bits:
        words = mt19937(seed, count) if digits <= 32 else pairs(mt19937(seed, 2 * count))
        low = words & np.uint64((1 << digits) - 1)
        return encode(low.astype(np.int64), dtype, -digits)
    return right


def permutation(seed: int, count: int) -> Bits:
    """``randperm`` by Python's integers."""
    order = list(range(count))
    for i, word in enumerate(mt19937(seed, count - 1).tolist()):
        j = i + word % (count - i)
        order[i], order[j] = order[j], order[i]
    return encode_integers(np.array(order, np.int64), "int64")


def _all_bits(seed: int, count: int) -> Bits:
    """``random_`` on int32: 31 bits."""
    return encode_integers((mt19937(seed, count) % np.uint64(2**31)).astype(np.int64), "int32")


def philox_integers(seed: int, count: int, limit: int) -> Bits:
    """``randint`` on CUDA: one counter for each number, offset 0."""
    counters = np.zeros((4, count), np.uint64)
    counters[2] = np.arange(count)
    words = philox4x32(counters, seed)[0]
    return encode_integers((words % np.uint64(limit)).astype(np.int64), "int64")


def _randint(limit: int) -> Draw:
    return lambda g, count: torch.randint(0, limit, (count,), generator=g, device=g.device)


STREAMS: tuple[tuple[str, str, str, int, Draw, Right], ...] = (
    ("integers of one word", "aten.randint", "int64", COUNT, _randint(SMALL), _modulo(SMALL)),
    ("integers of 27 bits", "aten.randint", "int64", COUNT, _randint(2**27), _modulo(2**27)),
    ("integers of two words", "aten.randint", "int64", COUNT, _randint(LARGE), _modulo(LARGE)),
    ("all bits", "aten.random_", "int32", COUNT,
     lambda g, count: torch.empty(count, dtype=torch.int32).random_(generator=g), _all_bits),
    ("uniform float32", "aten.rand", "float32", COUNT,
     lambda g, count: torch.rand(count, generator=g), _fractions("float32", 24)),
    ("uniform float64", "aten.rand", "float64", COUNT,
     lambda g, count: torch.rand(count, generator=g, dtype=torch.float64),
     _fractions("float64", 53)),
    ("permutation", "aten.randperm", "int64", COUNT_PERMUTATION,
     lambda g, count: torch.randperm(count, generator=g), permutation),
)
ON_CUDA: tuple[tuple[str, str, str, int, Draw, Right], ...] = (
    ("Philox integers", "aten.randint", "int64", COUNT, _randint(SMALL),
     lambda seed, count: philox_integers(seed, count, SMALL)),
    ("Philox integers of 27 bits", "aten.randint", "int64", COUNT, _randint(2**27),
     lambda seed, count: philox_integers(seed, count, 2**27)),
)


_PROBED: set[tuple[str, str]] = set()
"""What passed in this process; what did not is asked again, for the unit may be at fault."""


def _probed(name: str, device: str) -> str:
    """Why this torch's numbers are not made as said above; empty if they are."""
    if (name, device) in _PROBED:
        return ""
    draw, right = next((d, r) for n, _, _, _, d, r in (*STREAMS, *ON_CUDA) if n == name)
    got = bits_of(draw(torch.Generator(device).manual_seed(PROBE_SEED), PROBE_COUNT))
    # One number that is right by chance has odds of at most 2^-16: another recipe agrees in none.
    if (got == right(PROBE_SEED, PROBE_COUNT)).any():
        _PROBED.add((name, device))
        return ""
    return f"torch {torch.__version__} makes {name} from its generator in another way"


def _make(
    name: str, count: int, draw: Draw, right: Right, random: np.random.Generator, place: Place
) -> Made:
    reason = _probed(name, place.device)
    if reason:
        raise Unsupported(reason)
    seed = int(random.integers(0, 2**32))

    def run() -> tuple[Tensor]:
        return (draw(torch.Generator(place.device).manual_seed(seed), count),)

    return exact(run, (right(seed, count),))


def cases(place: Place) -> Sequence[Case]:
    """Streams of the device's generator."""
    return tuple(
        Case(label=f"{name} {count}", op=op, dtype=dtype, shape=(count,),
             make=partial(_make, name, count, draw, right))
        for name, op, dtype, count, draw, right in (ON_CUDA if place.kind == GPU else STREAMS))


TESTS = (SweepTest(
    name="random_streams", family="F12", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU", dtypes=("int64", "int32", "float32", "float64"), dwell_s=1.0,
    proves="The generator's words, and the numbers made from them, were those of an implementation "
    "of our own in integers: long chains of 32-bit shifts, products and exclusive ors.",
    cannot_prove="Normal and other derived distributions are not covered: their logarithms and "
    "roots have no one right result.",
    cases=cases),)
