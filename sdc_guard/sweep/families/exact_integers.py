"""F12: arithmetic and bit operations on integers, where one result is right: modulo 2^k, in any
order.  Expected values come from NumPy's 64-bit and Python's integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import gcd, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.sweep.declared import (
    CORE,
    GPU,
    HOST,
    Case,
    Made,
    Oracle,
    Place,
    SweepTest,
)
from sdc_guard.sweep.exact import encode_integers, tensor_of
from sdc_guard.sweep.families._exact_case import exact

SIZES = {"int64": 64, "int32": 32, "int16": 16, "int8": 8, "uint8": 8}
SHAPE_CORE, SHAPE_GPU = (127, 258), (1023, 2050)
NUM_PYTHON = 257

Integers = NDArray[np.int64]
Act = Callable[[Tensor, Tensor], Tensor]
Right = Callable[[Integers, Integers], Integers]


def drawn(random: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Integers:
    """Integers of every bit of the format."""
    if dtype == "uint8":
        return random.integers(0, 256, shape, dtype=np.int64)
    half = 1 << (SIZES[dtype] - 1)
    return random.integers(-half, half, shape, dtype=np.int64)


def _all_sum(x: Integers, y: Integers) -> Integers:
    """In Python's integers, one row at a time."""
    total = sum(sum(row) for row in x.tolist())
    return np.array(_wrapped(total), np.int64)


def _all_product(x: Integers, y: Integers) -> Integers:
    """Of the first row's odd numbers, so that it is not 0 modulo 2^64."""
    return np.array(_wrapped(prod(value | 1 for value in x[0].tolist())), np.int64)


def _wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _divisors(y: Integers) -> Integers:
    """1 to 127: no quotient overflows, in any format."""
    return (y & 126) + 1


ELEMENTWISE: tuple[tuple[str, str, Act, Right], ...] = (
    ("and", "aten.bitwise_and", lambda a, b: a & b, lambda x, y: x & y),
    ("or", "aten.bitwise_or", lambda a, b: a | b, lambda x, y: x | y),
    ("xor", "aten.bitwise_xor", lambda a, b: a ^ b, lambda x, y: x ^ y),
    ("not", "aten.bitwise_not", lambda a, b: ~a, lambda x, y: ~x),
    ("add", "aten.add", lambda a, b: a + b, lambda x, y: x + y),
    ("subtract", "aten.sub", lambda a, b: a - b, lambda x, y: x - y),
    ("multiply", "aten.mul", lambda a, b: a * b, lambda x, y: x * y),
    ("multiply and add", "aten.addcmul", lambda a, b: torch.addcmul(a, a, b, value=3),
     lambda x, y: x + 3 * x * y),
    ("minimum", "aten.minimum", torch.minimum, np.minimum),
    ("maximum", "aten.maximum", torch.maximum, np.maximum),
    ("floor division", "aten.floor_divide",
     lambda a, b: torch.floor_divide(a, (b & 126) + 1), lambda x, y: x // _divisors(y)),
    ("remainder", "aten.remainder",
     lambda a, b: torch.remainder(a, (b & 126) + 1), lambda x, y: x % _divisors(y)),
    ("shift left by 3", "aten.bitwise_left_shift", lambda a, b: a << 3, lambda x, y: x << 3),
    ("shift right by 3", "aten.bitwise_right_shift", lambda a, b: a >> 3, lambda x, y: x >> 3),
)
REDUCED: tuple[tuple[str, str, Act, Right, tuple[str, ...]], ...] = (
    ("sum", "aten.sum", lambda a, b: a.sum(), _all_sum, ("int64", "int32", "int8")),
    ("sum of columns", "aten.sum", lambda a, b: a.sum(0), lambda x, y: x.sum(0),
     ("int64", "int32")),
    ("sum of rows", "aten.sum", lambda a, b: a.sum(1), lambda x, y: x.sum(1),
     ("int64", "int16")),
    ("product of odd numbers", "aten.prod", lambda a, b: (a[0] | 1).prod(), _all_product,
     ("int64",)),
    ("largest of rows", "aten.amax", lambda a, b: a.amax(1).long(), lambda x, y: x.max(1),
     ("int64", "int32")),
    ("smallest of columns", "aten.amin", lambda a, b: a.amin(0).long(), lambda x, y: x.min(0),
     ("int64", "int16")),
    ("place of the largest", "aten.argmax", lambda a, b: a.argmax(1), lambda x, y: x.argmax(1),
     ("int64",)),
    ("cumsum of rows", "aten.cumsum", lambda a, b: a.cumsum(1), lambda x, y: x.cumsum(1),
     ("int64", "int32")),
    ("cumsum of columns", "aten.cumsum", lambda a, b: a.cumsum(0), lambda x, y: x.cumsum(0),
     ("int64",)),
    ("cumprod of odd numbers", "aten.cumprod", lambda a, b: (a | 1).cumprod(1),
     lambda x, y: (x | 1).cumprod(1), ("int64",)),
    ("differences", "aten.diff", lambda a, b: a.diff(dim=1), lambda x, y: np.diff(x, axis=1),
     ("int64",)),
    ("product of matrices", "aten.mm", lambda a, b: torch.mm(a, b.t()), lambda x, y: x @ y.T,
     ("int64",)),
)


def _make(
    act: Act, right: Right, dtype: str, result: str, shape: tuple[int, ...],
    random: np.random.Generator, place: Place,
) -> Made:
    x, y = (drawn(random, dtype, shape) for _ in range(2))
    bits = [encode_integers(v, dtype) for v in (x, y)]
    a, b = (tensor_of(v, dtype, place.device) for v in bits)
    return exact(lambda: (act(a, b),), (encode_integers(np.asarray(right(x, y)), result),), bits)


def _gcd(random: np.random.Generator, place: Place) -> Made:
    """Of products with a common factor; by Python's integers."""
    factor = random.integers(1, 1 << 20, NUM_PYTHON, dtype=np.int64)
    x, y = (factor * random.integers(1, 1 << 30, NUM_PYTHON, dtype=np.int64) for _ in range(2))
    right = np.array([gcd(i, j) for i, j in zip(x.tolist(), y.tolist(), strict=True)], np.int64)
    bits = [encode_integers(v, "int64") for v in (x, y)]
    a, b = (tensor_of(v, "int64", place.device) for v in bits)
    return exact(lambda: (torch.gcd(a, b),), (encode_integers(right, "int64"),), bits)


def result_shape(name: str, shape: tuple[int, int]) -> tuple[int, ...]:
    """Shape of a reduction's result, by its name."""
    rows, columns = shape
    return {
        "sum": (), "product of odd numbers": (), "sum of columns": (columns,),
        "smallest of columns": (columns,), "sum of rows": (rows,), "largest of rows": (rows,),
        "place of the largest": (rows,), "differences": (rows, columns - 1),
        "product of matrices": (rows, rows)}.get(name, shape)


def cases(place: Place) -> Sequence[Case]:
    """Every operation in its dtypes."""
    shape = SHAPE_GPU if place.kind == GPU else SHAPE_CORE
    size = "x".join(map(str, shape))
    found = [Case(label=f"{name} {dtype} {size}", op=op, dtype=dtype, shape=shape,
                  make=partial(_make, act, right, dtype, dtype, shape))
             for name, op, act, right in ELEMENTWISE for dtype in SIZES]
    found += [Case(label=f"{name} {dtype} {size}", op=op, dtype="int64",
                   shape=result_shape(name, shape),
                   make=partial(_make, act, right, dtype, "int64", shape))
              for name, op, act, right, dtypes in REDUCED for dtype in dtypes]
    found.append(Case(label=f"gcd int64 {NUM_PYTHON}", op="aten.gcd", dtype="int64",
                      shape=(NUM_PYTHON,), make=_gcd))
    return found


TESTS = (SweepTest(
    name="exact_integers", family="F12", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU", dtypes=tuple(SIZES), dwell_s=1.0,
    proves="Integer arithmetic, bit operations, sums, running sums and products of integers gave "
    "the one right result modulo 2^k, in each integer format.",
    cannot_prove="Says nothing about floating-point units; integer operations of other libraries "
    "than torch were not run.",
    cases=cases),)
