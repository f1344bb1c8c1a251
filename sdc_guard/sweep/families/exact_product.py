"""F1: products of integers, exact in any order of addition.

With |a| <= m_a, |b| <= m_b and K m_a m_b at most the largest integer up to which the accumulator
holds every integer (2^53 for float64, 2^24 for float32 accumulation, 2^31 - 1 for int32), each
partial sum is an integer that the accumulator holds, so C is exact whatever the order and blocking
(Higham 2002, section 2.1).  Where the result's format is narrower than the accumulator (bfloat16,
float16) it is rounded once, to nearest even.

That a library accumulates so is probed first, with one product at the limit and one beyond it; one
that does not is reported as unsupported, not as a fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

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
    Unsupported,
    refusal,
)
from sdc_guard.sweep.exact import bits_of, encode_integers, tensor_of

LIMITS = {"float64": 2**53, "float32": 2**24, "bfloat16": 2**24, "float16": 2**24,
          "int8": 2**31 - 1}
"""Up to here, inclusive, the accumulator holds every integer."""
SIGNIFICANT_BITS = {"float64": 53, "float32": 24, "bfloat16": 8, "float16": 11, "int8": 7}
RESULTS = {"int8": "int32"}
MAX_RESULT = {"float16": 65504}
LAYOUTS = ("NN", "NT", "TN", "TT")
# M, K, N: odd tails, one column (gemv), one row, blocks, long sums.
SHAPES_CORE = ((64, 96, 80), (33, 65, 17), (96, 128, 1), (1, 160, 96), (129, 31, 63),
               (160, 192, 224), (16, 2048, 16))
SHAPES_GPU = ((256, 512, 384), (257, 511, 129), (512, 512, 512), (64, 8192, 64))
NUM_SAMPLES = 8

Multiply = Callable[[Tensor, Tensor], Tensor]


def largest_operand(dtype: str, length: int) -> int:
    """Largest m with ``length * m * m`` within the limit, and m a number of the format."""
    limit = LIMITS[dtype]
    if dtype in MAX_RESULT:
        limit = min(limit, MAX_RESULT[dtype])
    top: int = 2 ** SIGNIFICANT_BITS[dtype] - (dtype == "int8")
    return max(1, min(math.isqrt(limit // length), top))


def integers(
    random: np.random.Generator, shape: tuple[int, ...], largest: int
) -> NDArray[np.int64]:
    """Integers of -largest to largest, all bits in use."""
    return random.integers(-largest, largest + 1, shape, dtype=np.int64)


def product(a_MK: NDArray[np.int64], b_KN: NDArray[np.int64]) -> NDArray[np.int64]:
    """A B in 64-bit integers; some elements are computed once more in Python's.

    Raises:
        ArithmeticError: if these disagree.
    """
    c_MN = a_MK @ b_KN
    flat = c_MN.reshape(-1)
    for place in range(0, flat.size, max(1, flat.size // NUM_SAMPLES)):
        i, j = divmod(place, c_MN.shape[1])
        exact = sum(int(x) * int(y) for x, y in zip(a_MK[i], b_KN[:, j], strict=True))
        if exact != int(flat[place]):
            raise ArithmeticError(
                f"64-bit integers give {int(flat[place])} at [{i}, {j}], Python's give {exact}")
    return c_MN


def laid_out(bits: NDArray[np.unsignedinteger], dtype: str, device: str, is_transposed: bool
             ) -> Tensor:
    """The matrix, in row-major or in column-major memory.  A vector has one layout: with both
    strides 1 `torch._int_mm` of torch 2.13 gives wrong products on CPUs."""
    if is_transposed and min(bits.shape) > 1:
        return tensor_of(np.ascontiguousarray(bits.T), dtype, device).t()
    return tensor_of(bits, dtype, device)


def multiply(dtype: str, is_tf32: bool = False) -> Multiply:
    """The library's product; half-precision partial sums are forbidden, since they round twice."""
    if dtype == "int8":
        return torch._int_mm

    def product_of(a: Tensor, b: Tensor) -> Tensor:
        if a.device.type != "cuda":
            return torch.mm(a, b)
        flags = torch.backends.cuda.matmul
        before = (flags.allow_tf32, flags.allow_fp16_reduced_precision_reduction,
                  flags.allow_bf16_reduced_precision_reduction)
        try:
            flags.allow_tf32 = is_tf32
            flags.allow_fp16_reduced_precision_reduction = False
            flags.allow_bf16_reduced_precision_reduction = False
            return torch.mm(a, b)
        finally:
            (flags.allow_tf32, flags.allow_fp16_reduced_precision_reduction,
             flags.allow_bf16_reduced_precision_reduction) = before

    return product_of


def require_exact_sums(dtype: str, device: str) -> None:
    """Probe: a sum that ends at the limit, and one beyond it, which the result's format rounds.

    Raises:
        Unsupported: if a product of integers is not what its bound says.
    """
    if (dtype, device) in _PROBED:
        return
    reason = probed(dtype, device)
    if reason:
        raise Unsupported(reason)
    _PROBED.add((dtype, device))


_PROBED: set[tuple[str, str]] = set()
"""What passed in this process; what did not is asked again, for the unit may be at fault."""


def probed(dtype: str, device: str) -> str:
    """Why a product is not exact here, or nothing.

    Raises:
        Unsupported: if there is no such product.
    """
    for above in (0, 1):
        a_MK, b_KN = probe_operands(dtype, above)
        exact = product(a_MK, b_KN)
        result = RESULTS.get(dtype, dtype)
        if above and dtype == "int8":
            continue  # what is beyond int32 is not defined
        expected = encode_integers(exact, result)
        try:
            a, b = (tensor_of(encode_integers(x, dtype), dtype, device) for x in (a_MK, b_KN))
            got = bits_of(multiply(dtype)(a, b))
        except RuntimeError as error:
            raise refusal(f"no product of {dtype}: ", error) from error
        if above and not np.array_equal(got, expected) and dtype in ("bfloat16", "float16"):
            continue  # the accumulator rounded first: beyond the limit nothing is promised
        wrong = np.flatnonzero(got != expected)
        if len(wrong):
            first = int(wrong[0])
            return (f"a sum of {dtype} {'one beyond' if above else 'at'} the limit "
                    f"{LIMITS[dtype]} gives bits {int(got.reshape(-1)[first]):#x}, not "
                    f"{int(expected.reshape(-1)[first]):#x}: it is accumulated in another way")
    return ""


def probe_operands(dtype: str, above: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A [16, K] and B [K, 16] whose sums grow to the limit of the format and end ``above`` more:
    K - 1 equal terms, and one that fills up."""
    limit = min(LIMITS[dtype], MAX_RESULT.get(dtype, LIMITS[dtype]))
    length = 64
    m = largest_operand(dtype, length)
    a_MK = np.full((16, length), m, np.int64)
    b_KN = np.full((length, 16), m, np.int64)
    rest = limit - (length - 1) * m * m
    top = 2 ** SIGNIFICANT_BITS[dtype] - (dtype == "int8")
    factor = next((f for f in range(min(top, rest), 0, -1) if rest % f == 0 and rest // f <= top),
                  1)
    a_MK[:, -1], b_KN[-1, :] = factor, min(rest // factor, top)
    if above:
        a_MK = np.concatenate([a_MK, np.ones((16, 1), np.int64)], axis=1)
        b_KN = np.concatenate([b_KN, np.full((1, 16), above, np.int64)], axis=0)
    return a_MK, b_KN


def _make(
    dtype: str, shape: tuple[int, int, int], layout: str, random: np.random.Generator,
    place: Place,
) -> Made:
    require_exact_sums(dtype, place.device)
    rows, length, columns = shape
    largest = largest_operand(dtype, length)
    a_MK = integers(random, (rows, length), largest)
    b_KN = integers(random, (length, columns), largest)
    bits = [encode_integers(x, dtype) for x in (a_MK, b_KN)]
    result = RESULTS.get(dtype, dtype)
    expected = encode_integers(product(a_MK, b_KN), result)
    a = laid_out(bits[0], dtype, place.device, layout[0] == "T")
    b = laid_out(bits[1], dtype, place.device, layout[1] == "T")
    run = multiply(dtype)
    return Made(
        run=lambda: (run(a, b),), expected=(expected,), inputs=bits,
        flops=2 * rows * length * columns,
        num_bytes=bits[0].nbytes + bits[1].nbytes + expected.nbytes)


def cases(place: Place) -> Sequence[Case]:
    """Every dtype and shape, each with one of the four layouts."""
    return tuple(_cases(SHAPES_GPU if place.kind == GPU else SHAPES_CORE))


def _cases(shapes: Sequence[tuple[int, int, int]]) -> Iterator[Case]:
    for number, shape in enumerate(shapes):
        for turn, dtype in enumerate(LIMITS):
            layout = LAYOUTS[(number + turn) % len(LAYOUTS)]
            yield Case(
                label=f"{dtype} {'x'.join(map(str, shape))} {layout}",
                op="aten._int_mm" if dtype == "int8" else "aten.mm",
                dtype=RESULTS.get(dtype, dtype), shape=(shape[0], shape[2]),
                make=partial(_make, dtype, shape, layout))


TESTS = (SweepTest(
    name="exact_product", family="F1", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU", dtypes=tuple(LIMITS), dwell_s=2.0,
    proves="Products of integers came out right to the last bit, in every dtype and layout here, "
    "against answers computed in integers.",
    cannot_prove="Integers set few of a float's low bits: operands with full mantissas are F2's, "
    "and shapes or kernels that were not run are not covered.",
    cases=cases),)
