"""Products of matrices, inner dimension k.

``|C - AB| <= (2 u_in + u_in^2) |A||B| + (1 + u_in)^2 gamma_k |A||B| + 2 k eta + eta_in (sum|a| +
sum|b|)``
plus the rounding of the result, for every summation order, with or without fused multiply-add
(Higham 2002, section 3.5, with a rounding or truncation of the inputs added).  ``u_in`` is the
rounding of the inputs (TF32; 0 without), ``eta`` the underflow threshold of the accumulator and
``eta_in`` that of the inputs: oneDNN's bf16 product reads subnormals as 0 and flushes products and
partial sums that are subnormal (``vdpbf16ps`` always does), so there both are the smallest normal.

With ``beta C0 + alpha A B`` the addend joins the sum as one more term, and the factors, given in
double precision, are rounded and multiplied: ``gamma_{k+5} (|alpha| |A||B| + |beta C0|)`` covers
every order.  Half formats on CUDA may add partial sums of a split inner dimension in the format of
the result (``allow_bf16_reduced_precision_reduction``, on by default): 8 more roundings of
``|A||B|`` in that format, a premise and not a theorem.

Tensor cores cut off where IEEE arithmetic rounds, so for them ``gamma_k`` gives way to the larger
coefficient of :mod:`sdc_guard.bounds.accumulators`, with its two terms for underflow; so do the
factors of C0.

Premises: no partial sum overflows; no Winograd, FFT, Strassen or emulated product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdc_guard.bounds.accumulators import models_of, worst_coefficient
from sdc_guard.bounds.gamma import own_rounding, rounding
from sdc_guard.formats import BFLOAT16, TFLOAT32, Format, accumulator_of, format_of

FORMULA = "((2 u_in + u_in^2) + (1 + u_in)^2 gamma_k) |A||B| + underflow + rounding(C)"


SPLIT_ROUNDINGS = 8


def fp32_precision(backend: Any) -> str:
    """How a backend computes fp32 matrix products: ``ieee``, ``tf32`` or ``bf16``.

    Versions of torch without the per-backend switch have the global one alone; where both exist
    the global one must not be read (torch raises if they were mixed).
    """
    switch = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if switch is None:
        reduced = "tf32" if backend is torch.backends.cuda else "bf16"
        return "ieee" if torch.get_float32_matmul_precision() == "highest" else reduced
    return str(switch)


def input_rounding(dtype: torch.dtype, device_type: str) -> float:
    """``u_in`` of a product of two tensors of ``dtype``: 0 unless fp32 products may be computed in
    TF32 or bf16 by ``torch.set_float32_matmul_precision`` or its per-backend switches.  Doubled,
    because hardware may truncate instead of rounding."""
    if dtype is not torch.float32:
        return 0.0
    backend = torch.backends.cuda if device_type == "cuda" else torch.backends.mkldnn
    return {"tf32": 2 * TFLOAT32.u, "bf16": 2 * BFLOAT16.u}.get(fp32_precision(backend), 0.0)


def split_rounding(dtype: torch.dtype, device_type: str) -> float:
    """Roundings of ``|A||B|`` by partial sums kept in the format of the result; 0 on a CPU."""
    if device_type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return 0.0
    return SPLIT_ROUNDINGS * format_of(dtype).u


def order_coefficient(
    num_terms: int, dtype: torch.dtype, device_type: str, u_in: float = 0.0
) -> float:
    """The factor of ``sum |a b|`` for sums of ``num_terms`` products in any order: gamma, or more
    where tensor cores may add them.

    Args:
        num_terms: number of products, and of single terms that join them.
        dtype: of the operands.
        device_type: ``cpu``, ``cuda``, ...
        u_in: see :func:`input_rounding`.
    """
    models = models_of(dtype, device_type, u_in)
    return worst_coefficient(num_terms, accumulator_of(dtype).u, models)


def product_error(
    k: int,
    abs_product: NDArray[Any],
    abs_a_sum: NDArray[Any] | float,
    abs_b_sum: NDArray[Any] | float,
    dtype: torch.dtype,
    u_in: float,
    device_type: str = "cpu",
) -> NDArray[Any]:
    """The bound before the result is rounded.

    Args:
        k: inner dimension.
        abs_product: ``|A||B|``, shape of C.
        abs_a_sum, abs_b_sum: ``sum_k |a_ik|`` and ``sum_k |b_kj|``, broadcastable to C.
        dtype: of the operands.
        u_in: rounding of the inputs, see :func:`input_rounding`.
        device_type: where the product was computed.
    """
    acc = accumulator_of(dtype)
    inputs = 2 * u_in + u_in * u_in
    order = (1 + u_in) ** 2 * order_coefficient(k, dtype, device_type, u_in)
    flushed = dtype is torch.bfloat16 or u_in > 0.0
    eta, eta_in = (acc.tiny, acc.tiny) if flushed else (acc.eta, 0.0)
    models, operand = models_of(dtype, device_type, u_in), format_of(dtype)
    if any(model.keeps_subnormal_results is False for model in models):
        eta = acc.tiny
    if any(model.keeps_subnormal_operands is False for model in models):
        eta_in = operand.tiny
    underflow = 2 * k * eta + eta_in * (abs_a_sum + abs_b_sum)
    for model in models:
        shifted = model.unnormalised(k, operand, (1 + u_in) * (abs_a_sum + abs_b_sum))
        underflow = underflow + shifted + model.underflow(k)
    return np.asarray((inputs + order) * abs_product + underflow + own_rounding(k, abs_product))


def product_bound(
    expected: NDArray[Any], error: NDArray[Any], out: Format
) -> NDArray[Any]:
    """``error`` and the rounding of the result to ``out``."""
    return np.asarray(error + rounding(np.abs(expected) + error, out))
