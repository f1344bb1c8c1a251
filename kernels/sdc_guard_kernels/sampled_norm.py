"""Some groups of a batch or group norm: moments of the whole group, and some elements, in float64.

A group is a channel of all images (batch norm) or some channels of one image (group norm), of n
elements, addressed by four indices e; groups by two.  With the group's mean m and biased variance
V, or with given ones,

    r = (V + eps)^{-1/2},      y = (x - m) r w + b.

Which groups, and which elements of a group: :mod:`sdc_guard_kernels.sampling`.

Limits: with A = mean|x|, X = max|x|, M = sum (x - m)^2, Q = V + m^2,

    D_m = a1 A + a2 |m| + a3 X + a4,
    two passes:  D_M = n D_m^2 + c1 (M + n D_m^2) + c2,   D_V = D_M / n + c3 (M + D_M) / n + c4,
    merged:      D_V = b1 Q + b2 (sqrt(V Q) + V) + b3 + b4 A,
    D_r:         r at V + eps +- (D_V + u_r (V + eps)), and 4 u_r of the larger one,
    |y^ - y| <= |w| (|x - m| D_r + (r + D_r)(D_m + 3 u (|x| + |m|))) + 2 u (|y| + |w (x - m) r| +
                |b|) + 4 eta (1 + |m| + |x|),

D_m, D_M and D_r with the rounding to the format in which moments are kept, the results with that of
their own; the caller derives :class:`Factors` from ``sdc_guard.bounds``.  *Own rounding:* a sum of
n terms in n / BLOCK steps and a tree of unspecified order over BLOCK lanes; :func:`own_depth` is
the number of roundings on a path, which the factors must hold.  Limits are enlarged by 2^-30 for
the rounding of their own evaluation.

Not judged: a group whose moments are not finite, and what a permitted evaluation may overflow: the
sum of squares and the elements' intermediates against the largest numbers of the formats.

Grid: one program per sampled group.  Memory: the group twice (mean, then squares), and the drawn
elements.  Geometry, strides included, is read from a table on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import widened
from sdc_guard_kernels.sampling import SEED_BIT, stratum
from sdc_guard_kernels.verdict import note

LARGEST_BLOCK = 1024


class Factors(NamedTuple):
    """The numbers of the limits.  ``largest_sum`` bounds the group's sums, in the accumulator;
    ``squares_kept`` is 1 where the sum of squares is stored like the moments."""

    eps: float
    a1: float
    a2: float
    a3: float
    a4: float
    c1: float
    c2: float
    c3: float
    c4: float
    b1: float
    b2: float
    b3: float
    b4: float
    root_u: float
    kept_u: float
    kept_eta: float
    u: float
    eta: float
    out_u: float
    out_tail: float
    out_largest: float
    stats_u: float
    stats_tail: float
    stats_largest: float
    largest_sum: float
    squares_kept: float


class Groups(NamedTuple):
    """How groups and their elements lie: two sizes and strides of groups, four of elements."""

    sizes: Sequence[int]
    counts: Sequence[int]
    group_strides: Sequence[int]
    strides: Sequence[int]
    out_group_strides: Sequence[int]
    out_strides: Sequence[int]
    place_group_strides: Sequence[int]
    place_strides: Sequence[int]
    """The same of a contiguous result: the number of an element in C order."""
    parameter_steps: Sequence[int]
    """Elements of weight and bias per step of the two group indices and of the first of e."""


class Plan(NamedTuple):
    """What a launch needs besides its operands; made once for shapes and strides."""

    table: Tensor
    factors: Tensor
    num_groups: int
    block: int
    elements: int
    given: bool
    two_pass: bool


@triton.jit
def _offset(i, table_ptr, stride_ptr):  # type: ignore[no-untyped-def]
    """Address of element i of a group: its four indices by the sizes at ``table_ptr + 2``."""
    size_3, size_2, size_1 = (
        tl.load(table_ptr + 5), tl.load(table_ptr + 4), tl.load(table_ptr + 3))
    at = i % size_3 * tl.load(stride_ptr + 3)
    i = i // size_3
    at += i % size_2 * tl.load(stride_ptr + 2)
    i = i // size_2
    at += i % size_1 * tl.load(stride_ptr + 1)
    return at + i // size_1 * tl.load(stride_ptr)


@triton.jit  # type: ignore[untyped-decorator]
def _norm_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    mean_ptr,
    scale_ptr,
    table_ptr,
    factor_ptr,
    out_record_ptr,
    mean_record_ptr,
    rstd_record_ptr,
    seed,
    num_samples,
    GIVEN: tl.constexpr,
    TWO_PASS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    ELEMENTS: tl.constexpr,
):
    counter = tl.program_id(0).to(tl.int64)
    groups_1 = tl.load(table_ptr + 1)
    group, _ = stratum(seed, counter, num_samples, tl.load(table_ptr) * groups_1)
    g_0, g_1 = group // groups_1, group % groups_1
    inner = tl.load(table_ptr + 3) * tl.load(table_ptr + 4) * tl.load(table_ptr + 5)
    num = inner * tl.load(table_ptr + 2)
    n = num.to(tl.float64)
    x_row = x_ptr + g_0 * tl.load(table_ptr + 6) + g_1 * tl.load(table_ptr + 7)
    given_at = g_0 * tl.load(table_ptr + 27) + g_1 * tl.load(table_ptr + 28)
    root_u, kept_u = tl.load(factor_ptr + 13), tl.load(factor_ptr + 14)
    kept_eta = tl.load(factor_ptr + 15)
    largest_sum = tl.load(factor_ptr + 24)
    eps = tl.load(factor_ptr)

    if GIVEN:
        mean = widened(tl.load(mean_ptr + given_at)).to(tl.float64)
        given_at = g_0 * tl.load(table_ptr + 29) + g_1 * tl.load(table_ptr + 30)
        variance = widened(tl.load(scale_ptr + given_at)).to(tl.float64)
        mean_error = mean * 0.0
        variance_error = mean * 0.0
        reach = mean * 0.0
        stats_reach = mean * 0.0
    else:
        lane = tl.arange(0, BLOCK).to(tl.int64)
        total = tl.zeros((BLOCK,), dtype=tl.float64)
        abs_total = tl.zeros((BLOCK,), dtype=tl.float64)
        largest = tl.zeros((BLOCK,), dtype=tl.float64)
        # Not `range`: its bound would have to be a launch argument in the interpreter of 3.6.
        start = num * 0
        while start < num:
            i = start + lane
            at = _offset(i, table_ptr, table_ptr + 8)
            x = widened(tl.load(x_row + at, mask=i < num, other=0.0)).to(tl.float64)
            total += x
            abs_total += tl.abs(x)
            largest = tl.maximum(largest, tl.abs(x))
            start += BLOCK
        mean = tl.sum(total, 0) / n
        abs_mean = tl.sum(abs_total, 0) / n
        top = tl.max(largest, 0)
        squared = tl.zeros((BLOCK,), dtype=tl.float64)
        start = num * 0
        while start < num:
            i = start + lane
            at = _offset(i, table_ptr, table_ptr + 8)
            x = widened(tl.load(x_row + at, mask=i < num, other=0.0)).to(tl.float64)
            deviation = tl.where(i < num, x - mean, 0.0)
            squared += deviation * deviation
            start += BLOCK
        squares = tl.sum(squared, 0)
        variance = squares / n
        size = variance + mean * mean
        mean_error = tl.load(factor_ptr + 1) * abs_mean + tl.load(factor_ptr + 2) * tl.abs(mean)
        mean_error += tl.load(factor_ptr + 3) * top + tl.load(factor_ptr + 4)
        mean_error += kept_u * (tl.abs(mean) + mean_error) + kept_eta
        if TWO_PASS:
            shifted = n * mean_error * mean_error
            error = shifted + tl.load(factor_ptr + 5) * (squares + shifted)
            error += tl.load(factor_ptr + 6)
            error += kept_u * (squares + error) + kept_eta
            variance_error = error / n + tl.load(factor_ptr + 7) * (squares + error) / n
            variance_error += tl.load(factor_ptr + 8)
            # The sum of squares is stored, and the sum may be: both must fit.
            spread = tl.sqrt(variance) + tl.abs(mean)
            reach = n * (variance + tl.abs(mean))
            narrow = tl.load(factor_ptr + 25) > 0.0
            stats_reach = tl.where(narrow, reach, n * spread * (1.0 + spread))
        else:
            mixed = tl.sqrt(variance * size) + variance
            variance_error = tl.load(factor_ptr + 9) * size + tl.load(factor_ptr + 10) * mixed
            variance_error += tl.load(factor_ptr + 11) + tl.load(factor_ptr + 12) * abs_mean
            fits = (n * abs_mean + 2.0 * top < largest_sum) & (4.0 * n * size < largest_sum)
            reach = tl.where(fits, tl.sqrt(n * size), float("inf"))
            stats_reach = reach

    rstd = 1.0 / tl.sqrt(variance + eps)
    slack = variance_error + root_u * (eps + variance)
    lowest = 1.0 / tl.sqrt(variance + eps + slack)
    room = variance + eps - slack
    highest = tl.where(room > 0.0, 1.0 / tl.sqrt(tl.where(room > 0.0, room, 1.0)), float("inf"))
    rstd_error = tl.maximum(highest - rstd, rstd - lowest) + 4.0 * root_u * highest
    if GIVEN == 0:
        rstd_error += kept_u * (rstd + rstd_error) + kept_eta

    slot = tl.arange(0, ELEMENTS).to(tl.int64)
    # Each group has a seed of its own.
    i, exists = stratum(seed + 1 + group, slot, ELEMENTS, num)
    at = _offset(i, table_ptr, table_ptr + 8)
    x = widened(tl.load(x_row + at, mask=exists, other=0.0)).to(tl.float64)
    at = _offset(i, table_ptr, table_ptr + 14)
    at += g_0 * tl.load(table_ptr + 12) + g_1 * tl.load(table_ptr + 13)
    got = widened(tl.load(out_ptr + at, mask=exists, other=0.0)).to(tl.float64)
    channel = g_0 * tl.load(table_ptr + 24) + g_1 * tl.load(table_ptr + 25)
    channel += i // inner * tl.load(table_ptr + 26)
    w = tl.zeros((ELEMENTS,), dtype=tl.float64) + 1.0
    b = tl.zeros((ELEMENTS,), dtype=tl.float64)
    if HAS_WEIGHT:
        w = tl.load(weight_ptr + channel * tl.load(table_ptr + 31), mask=exists, other=0.0)
        w = widened(w).to(tl.float64)
    if HAS_BIAS:
        b = tl.load(bias_ptr + channel * tl.load(table_ptr + 32), mask=exists, other=0.0)
        b = widened(b).to(tl.float64)
    u, eta = tl.load(factor_ptr + 16), tl.load(factor_ptr + 17)
    y = (x - mean) * rstd * w + b
    deviation, together = tl.abs(x - mean), tl.abs(x) + tl.abs(mean)
    limit = deviation * rstd_error + (rstd + rstd_error) * (mean_error + 3.0 * u * together)
    limit = tl.abs(w) * limit
    limit += 2.0 * u * (tl.abs(y) + tl.abs(w) * deviation * rstd + tl.abs(b))
    limit += 4.0 * eta * (1.0 + together)
    limit += tl.load(factor_ptr + 18) * (tl.abs(y) + limit) + tl.load(factor_ptr + 19)
    limit *= 1.0 + 1.0 / 1073741824
    # Kernels scale by ``w r`` first, or x and m by r before the weight makes them small.
    reach = reach + (1.0 + tl.abs(w)) * (1.0 + rstd) * (1.0 + together) + tl.abs(b)
    out_largest = tl.load(factor_ptr + 20)
    judged = exists & (reach < out_largest) & (tl.abs(y) + limit < out_largest)
    at = _offset(i, table_ptr, table_ptr + 20)
    place = at + g_0 * tl.load(table_ptr + 18) + g_1 * tl.load(table_ptr + 19)
    note(out_record_ptr, tl.abs(got - y), limit, place, judged)

    if GIVEN == 0:
        # One quantity each, in the shape that a record takes.
        index = group + tl.arange(0, 1).to(tl.int64)
        zero = (index - group).to(tl.float64)
        stats_u, stats_tail = tl.load(factor_ptr + 21), tl.load(factor_ptr + 22)
        stats_largest = tl.load(factor_ptr + 23)
        at = g_0 * tl.load(table_ptr + 27) + g_1 * tl.load(table_ptr + 28)
        got = widened(tl.load(mean_ptr + at)).to(tl.float64)
        limit = mean_error + stats_u * (tl.abs(mean) + mean_error) + stats_tail + zero
        limit *= 1.0 + 1.0 / 1073741824
        fits = stats_reach + zero < stats_largest
        judged = fits & (tl.abs(mean) + limit < stats_largest)
        note(mean_record_ptr, tl.abs(got - mean) + zero, limit, index, judged)
        at = g_0 * tl.load(table_ptr + 29) + g_1 * tl.load(table_ptr + 30)
        got = widened(tl.load(scale_ptr + at)).to(tl.float64)
        limit = rstd_error + stats_u * (rstd + rstd_error) + stats_tail + zero
        limit *= 1.0 + 1.0 / 1073741824
        judged = fits & (rstd + limit < stats_largest)
        note(rstd_record_ptr, tl.abs(got - rstd) + zero, limit, index, judged)


def own_depth(num: int) -> int:
    """Roundings on the longest path of the kernel's own sums of ``num`` terms, and of the division
    by their number."""
    block = _block(num)
    return -(-num // block) + block


def plan_groups(
    groups: Groups, mean: Tensor, scale: Tensor, weight: Tensor | None, bias: Tensor | None,
    factors: Factors, *, two_pass: bool, given: bool, num_groups: int, num_elements: int,
) -> Plan:
    """The plan of a check of some groups.

    Args:
        groups: geometry of input and result.
        mean, scale: [groups 0] or [groups 0, groups 1]: the moments among the results, mean and
            reciprocal deviation; where ``given``, the mean and the variance to normalise with.
        weight, bias: [channels] or None.
        two_pass: which of the two errors of a variance (module's docstring).
    """
    num = 1
    for size in groups.sizes:
        num *= size
    table = [
        *groups.counts, *groups.sizes, *groups.group_strides, *groups.strides,
        *groups.out_group_strides, *groups.out_strides, *groups.place_group_strides,
        *groups.place_strides, *groups.parameter_steps, *_two(mean), *_two(scale),
        0 if weight is None else weight.stride(0), 0 if bias is None else bias.stride(0),
    ]
    elements = min(num_elements, int(triton.next_power_of_2(num)))
    return Plan(
        torch.tensor(table, dtype=torch.int64, device=mean.device),
        torch.tensor(factors, dtype=torch.float64, device=mean.device),
        min(num_groups, groups.counts[0] * groups.counts[1]), _block(num), elements, given,
        two_pass)


def check_groups(
    plan: Plan, x: Tensor, weight: Tensor | None, bias: Tensor | None, out: Tensor, mean: Tensor,
    scale: Tensor, records: tuple[Tensor, Tensor, Tensor], seed: int,
) -> None:
    """Judge elements of ``out`` (index: the element), and of sampled groups mean and reciprocal
    deviation (index: the group) unless they are given; ``records``: one for each."""
    _norm_kernel[(plan.num_groups,)](
        x, x if weight is None else weight, x if bias is None else bias, out, mean, scale,
        plan.table, plan.factors, *records, seed | SEED_BIT, plan.num_groups, GIVEN=plan.given,
        TWO_PASS=plan.two_pass, HAS_WEIGHT=weight is not None, HAS_BIAS=bias is not None,
        BLOCK=plan.block, ELEMENTS=plan.elements)


def _block(num: int) -> int:
    return min(LARGEST_BLOCK, max(16, int(triton.next_power_of_2(num))))


def _two(tensor: Tensor) -> tuple[int, int]:
    """Strides of a vector or matrix of groups."""
    strides = tensor.stride()
    return (strides[0], strides[1] if len(strides) > 1 else 0)
