"""Sampled groups of batch and group norms, recomputed by Triton kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from sdc_guard.bounds.gamma import gamma
from sdc_guard.bounds.norms import WIDEST, merge_depth
from sdc_guard.bounds.softmax import with_reference
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, FLOAT64, Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._kernels import KernelCheck, KernelOf, KernelRun, Notes

if TYPE_CHECKING:
    from sdc_guard_kernels.sampled_norm import Factors, Groups

NUM_GROUPS = 8
NUM_ELEMENTS = 128
"""Groups of each call that are recomputed, and elements of each group."""


@dataclass(frozen=True, slots=True)
class Described:
    """A batch norm: its first result that is no running statistic, whether it trains, the format of
    its sums by contract, and that of its elementwise part."""

    first: int
    training: bool
    sums: Format
    terms: Format


def is_judged(call: BoundCall, *devices: str) -> bool:
    """True for the group norms that have a bound, on one of the devices."""
    x = call["input"]
    return (x.device.type in devices and x.numel() > 0
            and all(is_covered_float(t.dtype) for _, t in call.tensors()))


def adds_in_any_order(x: Tensor) -> bool:
    """True where nothing is known of how a group norm merges its moments: channels-last kernels add
    squares, and CUDA's Welford merges as its threads are laid out."""
    return x.device.type != "cpu" or not x.is_contiguous()


def _four(tensor: Tensor, channels: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Sizes and strides of what follows the channels of [N, C, space], as three dimensions."""
    space = tensor.dim() - 2
    return [1] * (3 - space) + [int(s) for s in channels], (
        [0] * (3 - space) + list(tensor.stride()[2:]))


def _batch_groups(x: Tensor, out: Tensor) -> Groups:
    """Channels: elements are images and space."""
    from sdc_guard_kernels.sampled_norm import Groups

    sizes, strides = _four(x, tuple(x.shape[2:]))
    inner = math.prod(sizes)
    place = [sizes[1] * sizes[2], sizes[2], 1]
    return Groups(
        sizes=[int(x.shape[0]), *sizes], counts=[int(x.shape[1]), 1],
        group_strides=[x.stride(1), 0], strides=[x.stride(0), *strides],
        out_group_strides=[out.stride(1), 0],
        out_strides=[out.stride(0), *_four(out, tuple(out.shape[2:]))[1]],
        place_group_strides=[inner, 0], place_strides=[int(x.shape[1]) * inner, *place],
        parameter_steps=[1, 0, 0])


def _image_groups(x: Tensor, out: Tensor, groups: int) -> Groups:
    """Groups of channels of an image: elements are channels and space."""
    from sdc_guard_kernels.sampled_norm import Groups

    sizes, strides = _four(x, tuple(x.shape[2:]))
    inner, channels = math.prod(sizes), int(x.shape[1])
    size = channels // groups
    place = [inner, sizes[1] * sizes[2], sizes[2], 1]
    return Groups(
        sizes=[size, *sizes], counts=[int(x.shape[0]), groups],
        group_strides=[x.stride(0), size * x.stride(1)], strides=[x.stride(1), *strides],
        out_group_strides=[out.stride(0), size * out.stride(1)],
        out_strides=[out.stride(1), *_four(out, tuple(out.shape[2:]))[1]],
        place_group_strides=[channels * inner, size * inner], place_strides=place,
        parameter_steps=[0, size, 1])


def _stored(fmt: Format, etas: float) -> tuple[float, float, float]:
    return fmt.u, (0.5 + etas) * fmt.eta, fmt.max


def two_pass_factors(
    num: int, eps: float, sums: Format, terms: Format, out: Format, stats: Format
) -> Factors:
    """:func:`sdc_guard.bounds.batch_norm.two_pass` and the limits of ``ops/batch_norm.py``."""
    from sdc_guard_kernels.sampled_norm import Factors

    coarser = max(terms, stats, key=lambda f: f.u)
    return Factors(
        eps, gamma(num + 1, sums.u) + gamma(num + 1, FLOAT64.u), terms.u, 0.0, terms.eta,
        gamma(num + 3, sums.u) + gamma(num + 3, FLOAT64.u) + 3 * terms.u, 2 * num * terms.eta,
        coarser.u, max(terms.eta, stats.eta), 0.0, 0.0, 0.0, 0.0, terms.u + FLOAT64.u,
        stats.u, 0.5 * stats.eta, terms.u + FLOAT64.u, terms.eta, *_stored(out, 1.0),
        *_stored(stats, 1.0), math.inf, float(stats.emax < FLOAT32.emax))


def merged_factors(
    num: int, eps: float, acc: Format, out: Format, stats: Format, *, any_order: bool
) -> Factors:
    """:func:`sdc_guard.bounds.norms.moments`, generous in ``any_order``, and the limits of
    ``ops/group_norm.py``; the kernel's own sums are deeper than ours on the host."""
    from sdc_guard_kernels.sampled_norm import Factors, own_depth

    u, eta = with_reference(acc), acc.eta
    own = own_depth(num) * FLOAT64.u
    kept = stats.precision < acc.precision
    if any_order:
        mean, largest, square, mixed = 2 * (num + 4) * u, 0.0, 4 * (num + 4) * u, 0.0
    else:
        depth = merge_depth(num) * u
        mean, largest = 2 * (depth + own), u if num % WIDEST else 0.0
        square, mixed = (2 * (depth + own)) ** 2, 3 * (depth + own)
    few = 2 * (num + 4) * eta
    return Factors(
        eps, mean, 0.0, largest, few, 0.0, 0.0, 0.0, 0.0, square, mixed, few, few, u,
        stats.u if kept else 0.0, 0.5 * stats.eta if kept else 0.0, u, eta, *_stored(out, 16.0),
        *_stored(stats, 16.0), acc.max, 0.0)


FORMULAS = ("|w| (|x - m| D_r + (r + D_r)(D_m + 3 u (|x| + |m|))) + 2 u |.|",
            "D_m: the contract's sums of the group", "r at var + eps +- D_var")


def batch_norm_kernel(
    described: Callable[[BoundCall, tuple[Tensor, ...]], Described | None]
) -> KernelOf:
    """Sampled channels of a batch norm; ``described`` looks at a call."""

    def kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        d = described(call, held)
        if d is None or not 2 <= call["input"].dim() <= 5:
            return None
        from sdc_guard_kernels import sampled_norm as kernels

        x, out = call["input"], held[d.first]
        num = x.numel() // int(x.shape[1])
        mean, scale = _moments(call, held, d)
        if mean is None or scale is None:
            return None
        stats = format_of(mean.dtype)
        factors = two_pass_factors(num, float(call["eps"]), d.sums, d.terms,
                                   format_of(out.dtype), stats)
        plan = kernels.plan_groups(
            _batch_groups(x, out), mean, scale, call["weight"], call["bias"], factors,
            two_pass=True, given=not d.training, num_groups=NUM_GROUPS, num_elements=NUM_ELEMENTS)
        checks = [KernelCheck("sample", f, d.first + i) for i, f in enumerate(FORMULAS)]

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            mean, scale = _moments(call, held, d)
            assert mean is not None
            assert scale is not None
            made = [notes.record(check) for check in (checks if d.training else checks[:1])]
            kernels.check_groups(
                plan, call["input"], call["weight"], call["bias"], held[d.first], mean, scale,
                (made[0], made[d.training], made[2 * d.training]), notes.seed)

        return run

    return kernel


def _moments(
    call: BoundCall, held: tuple[Tensor, ...], d: Described
) -> tuple[Tensor | None, Tensor | None]:
    """The moments that the op has made, or those that it was given."""
    if d.training:
        return held[d.first + 1], held[d.first + 2]
    return call["running_mean"], call["running_var"]


def group_norm_kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    """Sampled groups of a group norm."""
    x = call["input"]
    if not is_judged(call, "cpu", "cuda") or not 2 <= x.dim() <= 5:
        return None
    from sdc_guard_kernels import sampled_norm as kernels

    out, mean, rstd = held
    groups = int(call["group"])
    num = x.numel() // (int(x.shape[0]) * groups)
    factors = merged_factors(num, float(call["eps"]), accumulator_of(x.dtype),
                             format_of(out.dtype), format_of(mean.dtype),
                             any_order=adds_in_any_order(x))
    plan = kernels.plan_groups(
        _image_groups(x, out, groups), mean, rstd, call["weight"], call["bias"], factors,
        two_pass=False, given=False, num_groups=NUM_GROUPS, num_elements=NUM_ELEMENTS)
    checks = [KernelCheck("sample", f, i) for i, f in enumerate(FORMULAS)]

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        out, mean, rstd = held
        records = (notes.record(checks[0]), notes.record(checks[1]), notes.record(checks[2]))
        kernels.check_groups(plan, call["input"], call["weight"], call["bias"], out, mean, rstd,
                             records, notes.seed)

    return run
