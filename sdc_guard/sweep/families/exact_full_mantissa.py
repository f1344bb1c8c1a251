"""F2: full mantissas, with answers that are exact or rounded once, in any order of addition.

Products of integers set few of a float's low bits; these set all.  Three ways to know the answer:

- *One term*: each row of A holds one number that is not 0, so an element of C is one product; all
  other terms are 0, whatever the order.  With +-2^k it is exact; with full mantissas on both sides
  it is the exact product rounded once, by the accumulator or, where that holds it, by the result.
- *Digits*: the terms are one number's bits, dealt out; each partial sum is a part of these bits.
- *Carries*: n terms of p - log2(n) bits and one exponent; no partial sum is longer than p bits.

Elementwise operators round once by IEEE 754 (sections 5.4.1 and 9.2 leave nothing open).  16-bit
formats are computed in float32 and rounded again: operands are chosen so that the float32 is exact,
or, in quotients and roots, that rounding twice is harmless (24 >= 2 p + 2).  The roots of float32
and float64 are NumPy's on a CPU: there torch 2.13 calls MKL's vector library, which is off by one
in the last place in 17 % and 1 % of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    refusal,
)
from sdc_guard.sweep.dyadic import Dyadic, Integers, full, product, quotient, root, signs, total
from sdc_guard.sweep.exact import LAYOUTS
from sdc_guard.sweep.families.exact_product import multiply
from sdc_guard.sweep.placed import placed

DTYPES = ("float64", "float32", "bfloat16", "float16")
SPREADS = {"float64": 60, "float32": 30, "bfloat16": 30, "float16": 2, "float8_e5m2": 2,
           "float8_e4m3fn": 1}
"""Binades above and below 1 of an operand: products and their low bits stay normal numbers."""
GAPS = {"float64": 40, "float32": 30, "bfloat16": 15, "float16": 12}
"""How much larger the first summand may be, in binades: where float32 is an intermediate, it holds
the sum."""
NUMPY_ROOTS = ("float64", "float32")
NUM_CARRIED = 8
NUM_DIGITS = 8
SUM_LENGTHS = {"float64": 1024, "float32": 1024, "bfloat16": 16, "float16": 64}
MM_CORE, MM_GPU = ((48, 96, 64), (65, 33, 31)), ((128, 512, 192), (129, 257, 65))
BATCH, SUMS, FLAT = 5, 67, (61, 67)

Draw = Callable[[np.random.Generator, str, int, int, int], "Terms"]


@dataclass(frozen=True, slots=True)
class Terms:
    """A [M, K], B [K, N] and C [M, N], which is A B rounded once."""

    left: Dyadic
    right: Dyadic
    product: Dyadic


def one_power(random: np.random.Generator, dtype: str, rows: int, length: int, columns: int
              ) -> Terms:
    """+-2^k times a full mantissa, one term for each element."""
    return _one_term(random, dtype, (rows, length, columns), 1)


def one_product(random: np.random.Generator, dtype: str, rows: int, length: int, columns: int
                ) -> Terms:
    """Full mantissa times full mantissa, one term for each element."""
    return _one_term(random, dtype, (rows, length, columns), LAYOUTS[dtype].precision)


def _one_term(
    random: np.random.Generator, dtype: str, shape: tuple[int, int, int], a_bits: int
) -> Terms:
    rows, length, columns = shape
    b_KN = full(random, (length, columns), LAYOUTS[dtype].precision, SPREADS[dtype])
    chosen_M = random.permutation(np.arange(rows) % length)
    a_M = full(random, (rows,), a_bits, SPREADS[dtype])
    return Terms(_sparse(chosen_M[:, None], a_M[:, None], length), b_KN,
                 product(a_M[:, None], b_KN[chosen_M]))


def digits(random: np.random.Generator, dtype: str, rows: int, length: int, columns: int) -> Terms:
    """Full mantissas X [N], their bits dealt out to rows of B; an element of C has the bits of X
    that its row asks for.  The highest is always among them, or -0 would depend on the order."""
    precision = LAYOUTS[dtype].precision
    x_N = full(random, (columns,), precision, SPREADS[dtype])
    mask_D = dealt(random, 1, precision, NUM_DIGITS)[0]
    place_D = random.permutation(length)[:NUM_DIGITS]
    b_KN = Dyadic(np.zeros((length, columns), np.int64), np.zeros((length, columns), np.int64))
    pieces_DN = x_N[None].only(mask_D[:, None])
    b_KN.mantissa[place_D], b_KN.exponent[place_D] = pieces_DN.mantissa, pieces_DN.exponent
    is_asked_MD = random.integers(0, 4, (rows, NUM_DIGITS), dtype=np.int64) > 0
    is_asked_MD |= mask_D >> (precision - 1) == 1
    scale_M = full(random, (rows,), 1, 2)
    a_MK = _sparse(np.broadcast_to(place_D, is_asked_MD.shape), Dyadic(
        scale_M.mantissa[:, None] * is_asked_MD,
        np.broadcast_to(scale_M.exponent[:, None], is_asked_MD.shape)), length)
    asked_M = (is_asked_MD * mask_D).sum(axis=1)
    return Terms(a_MK, b_KN, x_N[None].only(asked_M[:, None]).scaled(
        scale_M.mantissa[:, None], scale_M.exponent[:, None]))


def carries(random: np.random.Generator, dtype: str, rows: int, length: int, columns: int
            ) -> Terms:
    """Eight terms +-2^k b with one k in a row and one exponent in a column."""
    num_bits = LAYOUTS[dtype].precision - (NUM_CARRIED - 1).bit_length()
    b_KN = full(random, (length, columns), num_bits, 0)
    shift_N = random.integers(-2, 3, columns, dtype=np.int64)
    b_KN = b_KN.scaled(np.ones(1, np.int64), np.broadcast_to(shift_N, b_KN.exponent.shape))
    place_MT = random.permuted(np.tile(np.arange(length), (rows, 1)), axis=1)[:, :NUM_CARRIED]
    scale_M = full(random, (rows,), 1, 2)
    sign_MT = signs(random, place_MT.shape)
    a_MK = _sparse(place_MT, Dyadic(
        sign_MT, np.broadcast_to(scale_M.exponent[:, None], sign_MT.shape)), length)
    c_MN = (sign_MT[:, :, None] * b_KN.mantissa[place_MT]).sum(axis=1)
    return Terms(a_MK, b_KN, Dyadic(c_MN, scale_M.exponent[:, None] + b_KN.exponent[0]))


def dealt(random: np.random.Generator, rows: int, precision: int, pieces: int) -> Integers:
    """[rows, pieces] masks: each of ``precision`` bits is in one mask of its row."""
    masks = np.zeros((rows, pieces), np.int64)
    where = random.integers(0, pieces, (rows, precision), dtype=np.int64)
    bit = np.int64(1) << np.arange(precision, dtype=np.int64)
    np.bitwise_or.at(masks, (np.arange(rows)[:, None], where), bit)
    return masks


def _sparse(place_MT: Integers, terms_MT: Dyadic, length: int) -> Dyadic:
    """[M, length], 0 but for the terms at their places."""
    shape = (place_MT.shape[0], length)
    found = Dyadic(np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    np.put_along_axis(found.mantissa, place_MT, terms_MT.mantissa, axis=1)
    np.put_along_axis(found.exponent, place_MT, terms_MT.exponent, axis=1)
    return found


def _made(run: Callable[..., Tensor], operands: Sequence[Dyadic], expected: Bits, dtype: str,
          place: Place, flops: int) -> Made:
    inputs = [o.bits(dtype) for o in operands]
    tensors = [placed(bits, dtype, place.device) for bits in inputs]
    return Made(
        run=lambda: (run(*tensors),), expected=(expected,), inputs=inputs, flops=flops,
        num_bytes=sum(b.nbytes for b in inputs) + expected.nbytes)


def _make_mm(draw: Draw, dtype: str, shape: tuple[int, int, int], is_swapped: bool,
             random: np.random.Generator, place: Place) -> Made:
    rows, length, columns = shape
    flops = 2 * rows * length * columns
    if not is_swapped:
        terms = draw(random, dtype, rows, length, columns)
        return _made(multiply(dtype), (terms.left, terms.right), terms.product.bits(dtype), dtype,
                     place, flops)
    terms = draw(random, dtype, columns, length, rows)
    return _made(multiply(dtype), (terms.right.transposed(), terms.left.transposed()),
                 terms.product.transposed().bits(dtype), dtype, place, flops)


def _make_bmm(dtype: str, shape: tuple[int, int, int], random: np.random.Generator,
              place: Place) -> Made:
    all_terms = [one_product(random, dtype, *shape) for _ in range(BATCH)]
    stacked = [Dyadic(np.stack([p.mantissa for p in parts]), np.stack([p.exponent for p in parts]))
               for parts in zip(*((t.left, t.right, t.product) for t in all_terms), strict=True)]
    return _made(torch.bmm, stacked[:2], stacked[2].bits(dtype), dtype, place,
                 2 * BATCH * shape[0] * shape[1] * shape[2])


def _make_linear(dtype: str, shape: tuple[int, int, int], random: np.random.Generator,
                 place: Place) -> Made:
    """x's upper bits come through the weight, the lower ones are the bias: their sum has no
    carry."""
    rows, length, columns = shape
    precision = LAYOUTS[dtype].precision
    low = np.int64((1 << precision // 2) - 1)
    x_MK = full(random, (rows, length), precision, 0, is_signed=False)
    upper_MK = x_MK.only(np.broadcast_to(~low, x_MK.mantissa.shape))
    chosen_N = random.permutation(np.arange(columns) % length)
    scale_N = full(random, (columns,), 1, 3)
    bias_N = Dyadic(random.integers(1, low + 1, columns, dtype=np.int64) * scale_N.mantissa,
                    scale_N.exponent + 1 - precision)
    y_MN = upper_MK[:, chosen_N].scaled(scale_N.mantissa, scale_N.exponent)
    y_MN = Dyadic(y_MN.mantissa + bias_N.mantissa, y_MN.exponent)
    weight_NK = _sparse(chosen_N[:, None], scale_N[:, None], length)
    return _made(torch.nn.functional.linear, (upper_MK, weight_NK, bias_N), y_MN.bits(dtype),
                 dtype, place, 2 * rows * length * columns)


def _make_sum(name: str, dtype: str, dim: int, random: np.random.Generator, place: Place) -> Made:
    precision, length = LAYOUTS[dtype].precision, SUM_LENGTHS[dtype]
    if name == "sum_digits":
        x_R = full(random, (SUMS,), precision, 1)
        terms_RL = x_R[:, None].only(dealt(random, SUMS, precision, length))
        result_R = x_R
    else:
        num_bits = precision - (length - 1).bit_length()
        terms_RL = full(random, (SUMS, length), num_bits, 0)
        result_R = Dyadic(terms_RL.mantissa.sum(axis=1), terms_RL.exponent[:, 0])
    if name == "mean_carries":
        result_R = result_R.scaled(np.ones(1, np.int64),
                                   np.full(SUMS, 1 - length.bit_length(), np.int64))
    function = torch.mean if name == "mean_carries" else torch.sum
    operand = terms_RL if dim == 1 else terms_RL.transposed()
    return _made(lambda x: function(x, dim=dim), (operand,), result_R.bits(dtype), dtype, place,
                 SUMS * length)


def _make_elementwise(name: str, dtype: str, random: np.random.Generator, place: Place) -> Made:
    precision, spread = LAYOUTS[dtype].precision, SPREADS[dtype]
    half = (precision - 1) // 2
    b = full(random, FLAT, precision, spread)
    run: Callable[..., Tensor]
    operands: tuple[Dyadic, ...]
    if name == "scale":
        a = full(random, FLAT, 1, spread)
        run, operands, expected = torch.mul, (a, b), product(a, b)
    elif name == "mul":
        a = full(random, FLAT, precision, spread)
        run, operands, expected = torch.mul, (a, b), product(a, b)
    elif name == "add":
        a = full(random, FLAT, precision, 0)
        gap = random.integers(0, GAPS[dtype] + 1, FLAT, dtype=np.int64)
        b = Dyadic(b.mantissa, a.exponent - gap)
        run, operands, expected = torch.add, (a, b), total(a, b)
    elif name == "div":
        a = full(random, FLAT, precision, spread)
        run, operands, expected = torch.div, (a, b), quotient(a, b)
    elif name == "sqrt":
        a = full(random, FLAT, precision, spread, is_signed=False)
        run = _root_by_numpy if _is_by_numpy(dtype, place) else torch.sqrt
        operands, expected = (a,), root(a)
    else:
        a, b = full(random, FLAT, half, spread), full(random, FLAT, half, 0)
        c = full(random, FLAT, precision - 1, 0)
        c = Dyadic(c.mantissa, a.exponent + b.exponent)
        expected = Dyadic(a.mantissa * b.mantissa + c.mantissa, c.exponent)
        run, operands = torch.addcmul, (c, a, b)
    return _made(run, operands, expected.bits(dtype), dtype, place, FLAT[0] * FLAT[1])


def _is_by_numpy(dtype: str, place: Place) -> bool:
    return place.kind != GPU and dtype in NUMPY_ROOTS


def _root_by_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(np.sqrt(x.numpy()))


def _make_float8(dtypes: tuple[str, str], result: str, shape: tuple[int, int, int],
                 random: np.random.Generator, place: Place) -> Made:
    """One product of full mantissas for each element, by the library's scaled product."""
    terms = one_product(random, dtypes[0], *shape)
    if dtypes[1] != dtypes[0]:
        b_KN = full(random, terms.right.mantissa.shape, LAYOUTS[dtypes[1]].precision, 1)
        column_M = abs(terms.left.mantissa).argmax(axis=1)
        a_M = terms.left[np.arange(shape[0]), column_M]
        terms = Terms(terms.left, b_KN, product(a_M[:, None], b_KN[column_M]))
    inputs = [terms.left.bits(dtypes[0]), terms.right.transposed().bits(dtypes[1])]
    a, b = (placed(bits, dtype, place.device) for bits, dtype in zip(inputs, dtypes, strict=True))
    one = torch.ones((), device=place.device)
    expected = terms.product.bits(result)

    def run() -> tuple[Tensor]:
        return (torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one,
                                 out_dtype=getattr(torch, result)),)

    try:
        run()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise refusal(f"no product of {dtypes[0]} by {dtypes[1]}: ", error) from error
    return Made(run=run, expected=(expected,), inputs=inputs,
                flops=2 * shape[0] * shape[1] * shape[2],
                num_bytes=sum(x.nbytes for x in inputs) + expected.nbytes)


def cases(place: Place) -> Sequence[Case]:
    """Every kind of sum and elementwise operator in every dtype; shapes in turn."""
    return tuple(_cases(place, MM_GPU if place.kind == GPU else MM_CORE))


def _cases(place: Place, shapes: Sequence[tuple[int, int, int]]) -> Iterator[Case]:
    draws: dict[str, Draw] = {"one_power": one_power, "one_product": one_product,
                              "digits": digits, "carries": carries}
    for number, (name, draw) in enumerate(draws.items()):
        for turn, dtype in enumerate(DTYPES):
            for is_swapped in (False, True):
                m, k, n = shape = shapes[(number + turn + is_swapped) % len(shapes)]
                side = "right" if is_swapped else "left"
                yield Case(label=f"{name} {side} {dtype} {m}x{k}x{n}", op="aten.mm", dtype=dtype,
                           shape=(m, n), make=partial(_make_mm, draw, dtype, shape, is_swapped))
    for dtype in DTYPES:
        m, k, n = shape = (17, 24, 19)
        yield Case(label=f"bmm {dtype}", op="aten.bmm", dtype=dtype, shape=(BATCH, m, n),
                   make=partial(_make_bmm, dtype, shape))
        m, k, n = shape = shapes[0]
        yield Case(label=f"linear {dtype}", op="aten.linear", dtype=dtype, shape=(m, n),
                   make=partial(_make_linear, dtype, shape))
        for name in ("sum_digits", "sum_carries", "mean_carries"):
            for dim in (0, 1):
                yield Case(label=f"{name} {dtype} dim {dim}", op=f"aten.{name.partition('_')[0]}",
                           dtype=dtype, shape=(SUMS,), make=partial(_make_sum, name, dtype, dim))
        for name in ("scale", "mul", "add", "div", "sqrt", "addcmul"):
            library = "numpy" if name == "sqrt" and _is_by_numpy(dtype, place) else "aten"
            yield Case(label=f"{name} {dtype}", dtype=dtype, shape=FLAT,
                       op=f"{library}.{'mul' if name == 'scale' else name}",
                       make=partial(_make_elementwise, name, dtype))
    for dtypes in (("float8_e4m3fn", "float8_e4m3fn"), ("float8_e5m2", "float8_e4m3fn")):
        for result in ("float32", "bfloat16"):
            yield Case(label=f"one_product {dtypes[0]} by {dtypes[1]} in {result}",
                       op="aten._scaled_mm", dtype=result, shape=(48, 64),
                       make=partial(_make_float8, dtypes, result, (48, 96, 64)))


TESTS = (SweepTest(
    name="exact_full_mantissa", family="F2", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU", dtypes=(*DTYPES, "float8_e4m3fn", "float8_e5m2"), dwell_s=3.0,
    proves="Products, sums, quotients and roots of numbers with all mantissa bits in use came out "
    "right to the last bit, against answers computed in integers.",
    cannot_prove="Sums of many full products in one order are not among them (F3 repeats those), "
    "and data or kernels that were not run are not covered.",
    cases=cases),)
