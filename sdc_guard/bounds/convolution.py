"""Convolutions and their gradients: dot products of K terms, some of them padding.

Every result of a convolution, of its transpose and of their gradients is a sum of products of an
element of one operand and an element of another, so the bound of a matrix product holds
(:mod:`sdc_guard.bounds.products`) with K terms: channels of a group times taps; one more for the
bias.  Padding adds terms that are exactly 0.

A kernel that lowers the convolution to matrix products may also *store* partial results in the
format of the result: col2im adds one column per tap there, and the gradient of the weight is added
up there image by image (``ConvolutionMM2d.cpp``, ``NaiveConvolutionTranspose2d.cpp``).  With R such
roundings of partial sums, none larger than ``S = sum|a b|``,

    |got - exact| <= E + gamma_R(u_out) (S + E) + R eta_out,     E = the bound of the products,

which is a theorem again, for every order.  In fp32 and fp64 the format is the accumulator's own and
these additions are among the K already counted.

Premises: no partial sum overflows; no Winograd, no FFT (NNPACK's Winograd broke ``gamma_K S`` by a
factor of 2871, and ATen's depthwise 3x3 kernel for ARM is Winograd too).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import gamma
from sdc_guard.bounds.products import product_bound, product_error
from sdc_guard.formats import accumulator_of, format_of

FORMULA = "gamma_K sum|a b| + gamma_R(u_out) sum|a b| + underflow + rounding"


def dot_bound(
    num_terms: int,
    expected: NDArray[Any],
    abs_sum: NDArray[Any],
    largest: float,
    dtype: torch.dtype,
    u_in: float = 0.0,
    num_stored: int = 0,
    device_type: str = "cpu",
) -> NDArray[Any]:
    """The bound of the module's docstring, the rounding of the result included.

    Args:
        num_terms: K.
        expected: the exact sums.
        abs_sum: ``sum|a b|``, the bias included.
        largest: the largest element of either operand (matters where subnormals are flushed).
        dtype: of operands and result.
        u_in: rounding of the inputs, see :func:`sdc_guard.bounds.products.input_rounding`.
        num_stored: R; ignored where the result has the accumulator's format.
        device_type: where the convolution was computed.
    """
    out, acc = format_of(dtype), accumulator_of(dtype)
    reach = num_terms * largest
    error = product_error(num_terms, abs_sum, reach, reach, dtype, u_in, device_type)
    if out is not acc and num_stored:
        error = error + gamma(num_stored, out.u) * (abs_sum + error) + num_stored * out.eta
    bound = product_bound(expected, error, out)
    if out.emin == acc.emin and out.precision < acc.precision:
        bound = bound + out.tiny  # a subnormal result may be flushed, see bounds.products
    return np.asarray(bound)
