"""Sampled elements of convolutions and of their gradients, recomputed by Triton kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.gamma import gamma
from sdc_guard.bounds.products import product_error
from sdc_guard.calls import BoundCall
from sdc_guard.formats import BFLOAT16, FLOAT64, accumulator_of, format_of
from sdc_guard.ops._convolutions import (
    backend_of,
    input_rounding,
    is_judged,
    is_slow,
    num_roundings,
    num_stored_on,
    window_of,
)
from sdc_guard.ops._kernels import KernelCheck, KernelRun, Notes
from sdc_guard.ops._shifts import Window

if TYPE_CHECKING:
    from sdc_guard_kernels.sampled_convolution import Factors, Plan

NUM_SAMPLES = 64
"""Elements of each result that are recomputed: at 64 a fault in 5 % of a result is missed in 4 of
100 checks, and a launch is a few programs."""


def dot_factors(
    num_terms: int, dtype: torch.dtype, device_type: str, u_in: float = 0.0, num_stored: int = 0
) -> Factors:
    """:func:`sdc_guard.bounds.convolution.dot_bound` as the numbers that a kernel takes: its bound
    before rounding is affine in ``sum|a b|`` and in ``sum|a|`` and ``sum|b|``."""
    from sdc_guard_kernels.sampled_convolution import Factors

    out, acc = format_of(dtype), accumulator_of(dtype)

    def bound(abs_sum: float, reach: float) -> float:
        return float(product_error(
            num_terms, np.asarray(abs_sum), reach, 0.0, dtype, u_in, device_type))

    absolute = bound(0.0, 0.0)
    narrow = out is not acc
    tail = out.tiny if out.emin == acc.emin and out.precision < acc.precision else 0.0
    return Factors(
        relative=bound(1.0, 0.0),  # with the rounding of a sum in float64
        absolute=absolute + FLOAT64.eta,
        operands=bound(0.0, 1.0) - absolute,
        stored=gamma(num_stored, out.u) if narrow else 0.0,
        stored_absolute=num_stored * out.eta if narrow else 0.0,
        u=out.u, tail=0.5 * out.eta + tail, largest=out.max)


def bias_factors(num_terms: int, dtype: torch.dtype, num_stored: int) -> Factors:
    """The limit of ``_bias_reference`` in ``ops/convolution.py``, likewise."""
    from sdc_guard_kernels.sampled_convolution import Factors

    out, acc = format_of(dtype), accumulator_of(dtype)
    narrow = out is not acc
    return Factors(
        relative=gamma(num_terms, acc.u) + gamma(num_terms, FLOAT64.u),
        absolute=2 * (num_terms + 1) * (acc.tiny if out is BFLOAT16 else acc.eta) + FLOAT64.eta,
        operands=0.0,
        stored=gamma(num_stored, out.u) if narrow else 0.0,
        stored_absolute=num_stored * out.eta if narrow else 0.0,
        u=out.u if narrow else 0.0, tail=0.5 * out.eta + out.tiny if narrow else 0.0,
        largest=out.max)


def _is_sampled(call: BoundCall, held: tuple[Tensor | None, ...]) -> bool:
    present = next((t for t in held if t is not None), None)
    return present is not None and bool(present.numel()) and is_judged(call, present)


def _kernel_window(window: Window) -> Any:
    from sdc_guard_kernels import sampled_convolution as kernels

    return kernels.Window(window.kernel, window.stride, window.padding, window.dilation)


def convolution_kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    """Sampled elements of a convolution or of a transposed one."""
    if not _is_sampled(call, held):
        return None
    from sdc_guard_kernels import sampled_convolution as kernels

    out, window, groups = held[0], window_of(call), int(call["groups"])
    transposed = bool(call["transposed"])
    device = out.device.type
    stored = 2 + (window.num_taps if transposed else 0) if is_slow(backend_of(call)) else 0
    terms = int(call["input"].shape[1]) // groups * window.num_taps + 1
    plan = kernels.plan_sums(
        out, call["input"], call["weight"], call["bias"], _kernel_window(window), groups,
        dot_factors(num_roundings(device, out.dtype, terms), out.dtype, device,
                    input_rounding(out.dtype, device), stored + num_stored_on(device)),
        scattered=transposed, num_samples=NUM_SAMPLES)
    check = KernelCheck("sample", "gamma_K sum|w x| + underflow + rounding, K products in float64")

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        kernels.check_samples(plan, held[0], call["input"], call["weight"], call["bias"],
                              notes.record(check), notes.seed)

    return run


def convolution_backward_kernel(
    call: BoundCall, held: tuple[Tensor, ...]
) -> KernelRun | None:
    """Sampled elements of the gradients of input, weight and bias."""
    if not _is_sampled(call, held):
        return None
    from sdc_guard_kernels import sampled_convolution as kernels

    plans = _gradient_plans(call, held)
    if not plans:
        return None
    transposed = bool(call["transposed"])
    formula = "gamma_K sum|a b| + underflow + rounding, K products in float64"

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        grad, x, weight = call["grad_output"], call["input"], call["weight"]
        large, small = (grad, x) if transposed else (x, grad)
        operands = {0: (grad, weight), 1: (large, small), 2: (grad, grad)}
        seed = notes.seed
        for i, plan in plans.items():
            record = notes.record(KernelCheck("sample", formula, i))
            kernels.check_samples(plan, held[i], *operands[i], None, record, seed + i)

    return run


def _gradient_plans(call: BoundCall, held: tuple[Tensor, ...]) -> dict[int, Plan]:
    from sdc_guard_kernels import sampled_convolution as kernels

    window, groups = window_of(call), int(call["groups"])
    transposed, slow = bool(call["transposed"]), is_slow(backend_of(call))
    grad, x, weight = call["grad_output"], call["input"], call["weight"]
    dtype, device = grad.dtype, grad.device.type
    u_in = input_rounding(dtype, device)
    num_images, extra = int(grad.shape[0]), num_stored_on(device)
    shape = _kernel_window(window)
    plans: dict[int, Plan] = {}
    if held[0] is not None and held[0].numel():
        stored = 2 + (0 if transposed else window.num_taps)
        terms = int(grad.shape[1]) // groups * window.num_taps
        plans[0] = kernels.plan_sums(
            held[0], grad, weight, None, shape, groups,
            dot_factors(num_roundings(device, dtype, terms), dtype, device, u_in,
                        stored * slow + extra),
            scattered=not transposed, num_samples=NUM_SAMPLES)
    if held[1] is not None and held[1].numel():
        large, small = (grad, x) if transposed else (x, grad)
        terms = num_roundings(device, dtype, num_images * math.prod(small.shape[2:]))
        plans[1] = kernels.plan_weight_gradients(
            held[1], large, small, shape, groups,
            dot_factors(terms, dtype, device, u_in, (num_images + 1) * slow + extra),
            num_samples=NUM_SAMPLES)
    if held[2] is not None and held[2].numel():
        terms = num_roundings(device, dtype, num_images * math.prod(grad.shape[2:]))
        plans[2] = kernels.plan_bias_gradients(
            held[2], grad, bias_factors(terms, dtype, (num_images + 1) * slow),
            num_samples=NUM_SAMPLES)
    return plans
