"""Some elements of a convolution, or of its gradients, recomputed in float64 and judged.

Every such element is a sum of products, over taps ``t`` and channels ``c`` of its group:

* *gathered* (a convolution; the input's gradient of a transposed one):
  ``y[n,o,p] = b[o] + sum_{c,t} w[o,c,t] x[n,c, p s + t d - pad]``
* *scattered* (a transposed convolution; the input's gradient of a plain one):
  ``y[n,o,p] = b[o] + sum_{c,t} w[c,o,t] x[n,c,i]`` over the i with ``i s + t d - pad = p``
* *correlated* (the weight's gradient): ``dw[a,b,t] = sum_{n,i} small[n,a,i] large[n,b, i s + t d -
  pad]``, and with 1 for ``large`` the bias's gradient.

Which elements: :mod:`sdc_guard_kernels.sampling`.  One, two and three spatial dimensions are one
case: missing ones have size 1.

Limit.  With S the sum of the products' sizes and T that of the operands', E = A S + B + C T and

    |got - exact| <= F + u |exact| + u F + tail,    F = E + G (S + E) + H;

the caller derives the eight :class:`Factors` from the bound of the operation.  *Own rounding:*
operands are widened exactly, products of formats up to float32 are exact in float64, and a sum of
K float64 products in any order errs by gamma_K(2^-53) S (Higham 2002, section 3.1), which A must
hold; a fused multiply-add only drops a rounding, so fusion stays on.  S, T and the limit come out
with a relative error below (K + 9) 2^-53: the limit is taken larger by a factor 1 + 2^-30, for K
up to 2^22, and by (K + 9) 2^-52 above that.

Not judged: an element whose S, or exact value with limit, reaches the format's largest number, or
whose limit is infinite; and a call with an operand that is not finite: kernels multiply the padding
of their blocks by what it meets, and oneDNN's bfloat16 ones were seen to make a NaN of an infinity
outside of the window.  Asking that reads the operands once; the answer stays on the device.

Grid: one program per ``SAMPLES`` elements, ``BLOCK`` terms at a time; lanes are added in the tree
of ``tl.sum``.  Memory: the terms of the sampled elements, nothing else: two reads per term.
Geometry, strides included, is read from a table on the device, so a launch passes few arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import widened
from sdc_guard_kernels.sampling import SEED_BIT, stratum
from sdc_guard_kernels.verdict import note

RANK = 3
LONG_SUM = 4096


class Window(NamedTuple):
    """Kernel size, stride, padding and dilation, each with one number per spatial dimension."""

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]


class Factors(NamedTuple):
    """The numbers of the limit (module's docstring); ``largest``: of the format of the result."""

    relative: float
    absolute: float
    operands: float
    stored: float
    stored_absolute: float
    u: float
    tail: float
    largest: float


class Plan(NamedTuple):
    """What a launch needs besides its operands; made once for shapes and strides."""

    table: Tensor
    factors: Tensor
    grid: tuple[int]
    num_samples: int
    samples: int
    block: int
    kind: str


@triton.jit
def _judge(  # type: ignore[no-untyped-def]
    record_ptr, factor_ptr, got, exact, size, operands, element, exists
):
    """Compare with the limit of the module's docstring and note the verdict."""
    e = tl.load(factor_ptr) * size + tl.load(factor_ptr + 1)
    e += tl.load(factor_ptr + 2) * operands
    f = e + tl.load(factor_ptr + 3) * (size + e) + tl.load(factor_ptr + 4)
    limit = f + tl.load(factor_ptr + 5) * (tl.abs(exact) + f) + tl.load(factor_ptr + 6)
    limit = limit * tl.load(factor_ptr + 8)
    largest = tl.load(factor_ptr + 7)
    # False for NaN.
    judged = exists & (size < largest) & (operands < float("inf"))
    judged = judged & (tl.abs(exact) + limit < largest)
    note(record_ptr, tl.abs(got - exact), limit, element, judged)


@triton.jit  # type: ignore[untyped-decorator]
def _sum_kernel(  # type: ignore[no-untyped-def]
    image_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    table_ptr,
    factor_ptr,
    record_ptr,
    seed,
    num_samples,
    SCATTERED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SAMPLES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    counter = tl.program_id(0).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES).to(tl.int64)
    element, exists = stratum(seed, counter, num_samples, tl.load(table_ptr))
    # The result's element in C order of [images, channels, space].
    rest = element
    size_2, size_1, size_0 = tl.load(table_ptr + 3), tl.load(table_ptr + 2), tl.load(table_ptr + 1)
    p_2 = rest % size_2
    rest = rest // size_2
    p_1 = rest % size_1
    rest = rest // size_1
    p_0 = rest % size_0
    rest = rest // size_0
    group_channels = tl.load(table_ptr + 4)
    num_channels = group_channels * tl.load(table_ptr + 5)
    channel = rest % num_channels
    image = rest // num_channels
    group = channel // group_channels
    place = image * tl.load(table_ptr + 6) + channel * tl.load(table_ptr + 7)
    place += p_0 * tl.load(table_ptr + 8) + p_1 * tl.load(table_ptr + 9)
    place += p_2 * tl.load(table_ptr + 10)
    got = widened(tl.load(out_ptr + place, mask=exists, other=0.0)).to(tl.float64)

    inner = tl.load(table_ptr + 11)
    image_row = image * tl.load(table_ptr + 12) + group * inner * tl.load(table_ptr + 13)
    weight_row = group * tl.load(table_ptr + 20)
    weight_row += (channel - group * group_channels) * tl.load(table_ptr + 21)
    kernel_1, kernel_2 = tl.load(table_ptr + 27), tl.load(table_ptr + 28)
    num_taps = tl.load(table_ptr + 26) * kernel_1 * kernel_2
    num_terms = inner * num_taps

    total = tl.zeros((SAMPLES, BLOCK), dtype=tl.float64)
    size = tl.zeros((SAMPLES, BLOCK), dtype=tl.float64)
    operands = tl.zeros((SAMPLES, BLOCK), dtype=tl.float64)
    lane = tl.arange(0, BLOCK).to(tl.int64)
    # Not `range`: its bound would have to be a launch argument in the interpreter of 3.6.
    start = num_terms * 0
    while start < num_terms:
        term = start + lane
        c = term // num_taps
        tap = term % num_taps
        t_2 = tap % kernel_2
        t_1 = tap // kernel_2 % kernel_1
        t_0 = tap // (kernel_1 * kernel_2)
        in_sum = exists[:, None] & (term < num_terms)[None, :]
        inside_0, i_0 = _linked(p_0, t_0, table_ptr + 29, table_ptr + 17, SCATTERED)
        inside_1, i_1 = _linked(p_1, t_1, table_ptr + 30, table_ptr + 18, SCATTERED)
        inside_2, i_2 = _linked(p_2, t_2, table_ptr + 31, table_ptr + 19, SCATTERED)
        at = image_row[:, None] + (c * tl.load(table_ptr + 13))[None, :]
        at += i_0 * tl.load(table_ptr + 14) + i_1 * tl.load(table_ptr + 15)
        at += i_2 * tl.load(table_ptr + 16)
        inside = in_sum & inside_0 & inside_1 & inside_2
        x = widened(tl.load(image_ptr + at, mask=inside, other=0.0)).to(tl.float64)
        at = c * tl.load(table_ptr + 22) + t_0 * tl.load(table_ptr + 23)
        at += t_1 * tl.load(table_ptr + 24) + t_2 * tl.load(table_ptr + 25)
        # Padding meets the weight, too: 0 times infinity is NaN here as in a kernel.
        w = tl.load(weight_ptr + weight_row[:, None] + at[None, :], mask=in_sum, other=0.0)
        w = widened(w).to(tl.float64)
        product = x * w
        total += product
        size += tl.abs(product)
        operands += tl.abs(x) + tl.abs(w)
        start += BLOCK

    exact, abs_sum, abs_operands = tl.sum(total, 1), tl.sum(size, 1), tl.sum(operands, 1)
    if HAS_BIAS:
        b = tl.load(bias_ptr + channel * tl.load(table_ptr + 38), mask=exists, other=0.0)
        b = widened(b).to(tl.float64)
        exact += b
        abs_sum += tl.abs(b)
    _judge(record_ptr, factor_ptr, got, exact, abs_sum, abs_operands, element, exists)


@triton.jit  # type: ignore[untyped-decorator]
def _linked(position, tap, window_ptr, size_ptr, SCATTERED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where a position [S] and a tap [B] of one dimension read the image, [S, B], and if inside;
    ``window_ptr``: stride, and 3 and 6 further padding and dilation."""
    stride, size = tl.load(window_ptr), tl.load(size_ptr)
    shift = (tap * tl.load(window_ptr + 6) - tl.load(window_ptr + 3))[None, :]
    if SCATTERED:
        ahead = position[:, None] - shift
        inside = ahead >= 0
        ahead = tl.where(inside, ahead, 0)
        index = ahead // stride
        inside = inside & (index * stride == ahead) & (index < size)
    else:
        index = (position * stride)[:, None] + shift
        inside = (index >= 0) & (index < size)
    return inside, tl.where(inside, index, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _correlation_kernel(  # type: ignore[no-untyped-def]
    large_ptr,
    small_ptr,
    out_ptr,
    table_ptr,
    factor_ptr,
    record_ptr,
    seed,
    num_samples,
    HAS_LARGE: tl.constexpr,
    SAMPLES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    counter = tl.program_id(0).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES).to(tl.int64)
    element, exists = stratum(seed, counter, num_samples, tl.load(table_ptr))
    # The gradient's element in C order of [rows, columns, taps].
    rest = element
    kernel_2, kernel_1, kernel_0 = (
        tl.load(table_ptr + 3), tl.load(table_ptr + 2), tl.load(table_ptr + 1))
    t_2 = rest % kernel_2
    rest = rest // kernel_2
    t_1 = rest % kernel_1
    rest = rest // kernel_1
    t_0 = rest % kernel_0
    rest = rest // kernel_0
    num_columns = tl.load(table_ptr + 5)
    column = rest % num_columns
    row = rest // num_columns
    group = row // tl.load(table_ptr + 4)
    place = row * tl.load(table_ptr + 6) + column * tl.load(table_ptr + 7)
    place += t_0 * tl.load(table_ptr + 8) + t_1 * tl.load(table_ptr + 9)
    place += t_2 * tl.load(table_ptr + 10)
    got = widened(tl.load(out_ptr + place, mask=exists, other=0.0)).to(tl.float64)

    size_0, size_1, size_2 = (
        tl.load(table_ptr + 12), tl.load(table_ptr + 13), tl.load(table_ptr + 14))
    positions = size_0 * size_1 * size_2
    num_terms = tl.load(table_ptr + 11) * positions
    small_row = row * tl.load(table_ptr + 16)

    total = tl.zeros((SAMPLES, BLOCK), dtype=tl.float64)
    size = tl.zeros((SAMPLES, BLOCK), dtype=tl.float64)
    operands = tl.zeros((SAMPLES, BLOCK), dtype=tl.float64)
    lane = tl.arange(0, BLOCK).to(tl.int64)
    start = num_terms * 0
    while start < num_terms:
        term = start + lane
        n = term // positions
        p = term % positions
        i_2 = p % size_2
        i_1 = p // size_2 % size_1
        i_0 = p // (size_1 * size_2)
        in_sum = exists[:, None] & (term < num_terms)[None, :]
        at = n * tl.load(table_ptr + 15) + i_0 * tl.load(table_ptr + 17)
        at += i_1 * tl.load(table_ptr + 18) + i_2 * tl.load(table_ptr + 19)
        product = tl.load(small_ptr + small_row[:, None] + at[None, :], mask=in_sum, other=0.0)
        product = widened(product).to(tl.float64)
        operands += tl.abs(product)
        if HAS_LARGE:
            inside_0, j_0 = _linked(t_0, i_0, table_ptr + 28, table_ptr + 25, False)
            inside_1, j_1 = _linked(t_1, i_1, table_ptr + 29, table_ptr + 26, False)
            inside_2, j_2 = _linked(t_2, i_2, table_ptr + 30, table_ptr + 27, False)
            at = ((group * num_columns + column) * tl.load(table_ptr + 21))[:, None]
            at += (n * tl.load(table_ptr + 20))[None, :]
            at += j_0 * tl.load(table_ptr + 22) + j_1 * tl.load(table_ptr + 23)
            at += j_2 * tl.load(table_ptr + 24)
            inside = in_sum & inside_0 & inside_1 & inside_2
            x = widened(tl.load(large_ptr + at, mask=inside, other=0.0)).to(tl.float64)
            operands += tl.abs(x)
            product = product * x
        total += product
        size += tl.abs(product)
        start += BLOCK
    _judge(record_ptr, factor_ptr, got, tl.sum(total, 1), tl.sum(size, 1), tl.sum(operands, 1),
           element, exists)


def plan_sums(
    out: Tensor, image: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int,
    factors: Factors, *, scattered: bool, num_samples: int,
) -> Plan:
    """The plan of a check of ``out`` [N, G O, space], gathered or scattered from ``image``.

    Args:
        image: [N, G C, space].
        weight: [G O, C, taps], or [G C, O, taps] where scattered.
        bias: [G O] or None.
        factors: of the limit, with ``relative`` at least gamma_K(2^-53), K the number of terms.
    """
    group_channels, inner = (int(t.shape[1]) // groups for t in (out, image))
    rows = weight.stride(0)
    weight_strides = (inner * rows, weight.stride(1), rows) if scattered else (
        group_channels * rows, rows, weight.stride(1))
    table = [
        out.numel(), *_three(out.shape[2:], 1), group_channels, groups,
        *out.stride()[:2], *_three(out.stride()[2:], 0),
        inner, *image.stride()[:2], *_three(image.stride()[2:], 0), *_three(image.shape[2:], 1),
        *weight_strides, *_three(weight.stride()[2:], 0), *_three(window.kernel, 1),
        *_three(window.stride, 1), *_three(window.padding, 0), *_three(window.dilation, 1),
        bias.stride(0) if bias is not None else 0,
    ]
    num_terms = inner * math.prod(window.kernel)
    return _plan(table, factors, num_terms, num_samples, out, "scattered" if scattered else
                 "gathered")


def plan_weight_gradients(
    out: Tensor, large: Tensor, small: Tensor, window: Window, groups: int, factors: Factors, *,
    num_samples: int,
) -> Plan:
    """The plan of a check of ``out`` [G A, B, taps], from ``large`` [N, G B, space] (a plain
    convolution's input) and ``small`` [N, G A, space] (the gradient of its result)."""
    table = [
        out.numel(), *_three(window.kernel, 1), int(out.shape[0]) // groups, int(out.shape[1]),
        *out.stride()[:2], *_three(out.stride()[2:], 0), *_small(small),
        *large.stride()[:2], *_three(large.stride()[2:], 0), *_three(large.shape[2:], 1),
        *_three(window.dilation, 1), *_three(window.padding, 0), *_three(window.stride, 1),
    ]
    return _plan(table, factors, _terms(small), num_samples, out, "correlated")


def plan_bias_gradients(
    out: Tensor, grad: Tensor, factors: Factors, *, num_samples: int
) -> Plan:
    """The plan of a check of ``out`` [O] against the sums of ``grad`` [N, O, space]."""
    table = [out.numel(), 1, 1, 1, 1, 1, out.stride(0), 0, 0, 0, 0, *_small(grad)]
    return _plan(table, factors, _terms(grad), num_samples, out, "summed")


def check_samples(
    plan: Plan, out: Tensor, image: Tensor, weight: Tensor, bias: Tensor | None, record: Tensor,
    seed: int,
) -> None:
    """Judge the sampled elements of ``out`` and note the verdict; operands as the plan's maker
    names them: image, weight and bias; or large and small; or grad twice."""
    seed |= SEED_BIT
    factors = _for_finite(plan.factors, image, weight, bias)
    if plan.kind in ("gathered", "scattered"):
        _sum_kernel[plan.grid](
            image, weight, weight if bias is None else bias, out, plan.table, factors, record,
            seed, plan.num_samples, SCATTERED=plan.kind == "scattered", HAS_BIAS=bias is not None,
            SAMPLES=plan.samples, BLOCK=plan.block)
        return
    _correlation_kernel[plan.grid](
        image, weight, out, plan.table, factors, record, seed, plan.num_samples,
        HAS_LARGE=plan.kind == "correlated", SAMPLES=plan.samples, BLOCK=plan.block)


def _for_finite(factors: Tensor, *operands: Tensor | None) -> Tensor:
    """The factors, with a largest number that judges nothing where an operand is not finite."""
    ends = [end for t in operands if t is not None and t.numel() for end in torch.aminmax(t)]
    if not ends:
        return factors
    finite = torch.isfinite(torch.stack(ends)).all()
    limited = factors.clone()
    at = Factors._fields.index("largest")
    limited[at] = torch.where(finite, factors[at], -1.0)
    return limited


def _plan(
    table: list[int], factors: Factors, num_terms: int, num_samples: int, out: Tensor, kind: str
) -> Plan:
    # A long sum has a program of its own; short ones share, eight to a program.
    samples, block = (1, 1024) if num_terms > LONG_SUM else (8, 128)
    num_samples = min(num_samples, max(1, out.numel()))
    inflation = 1.0 + max(2.0**-30, (num_terms + 9) * 2.0**-52)
    return Plan(
        torch.tensor(table, dtype=torch.int64, device=out.device),
        torch.tensor([*factors, inflation], dtype=torch.float64, device=out.device),
        (triton.cdiv(num_samples, samples),), num_samples, samples, block, kind)


def _three(numbers: Sequence[int], missing: int) -> tuple[int, ...]:
    """One number for each of three dimensions; the leading ones may be missing."""
    return (missing,) * (RANK - len(numbers)) + tuple(int(n) for n in numbers)


def _small(small: Tensor) -> tuple[int, ...]:
    return (int(small.shape[0]), *_three(small.shape[2:], 1), *small.stride()[:2],
            *_three(small.stride()[2:], 0))


def _terms(small: Tensor) -> int:
    return int(small.shape[0]) * math.prod(small.shape[2:])
