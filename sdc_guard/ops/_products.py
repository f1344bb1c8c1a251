"""What all matrix products share: reference, bound, checksum, symmetries and samples.

A product is ``C = A B``, or ``beta C0 + alpha A B`` where it has an addend; its operands are
``self mat2``, ``self mat1 mat2`` or ``self batch1 batch2``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import products
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.gamma import gamma
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, accumulator_of, is_covered_float
from sdc_guard.ops._registry import F64, HostCall, Reference
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]

MIN_TILE = 16


def operand_names(call: BoundCall) -> tuple[str, str]:
    """Names of the left and the right factor: ``self mat2``, ``mat1 mat2`` or ``batch1 batch2``."""
    names = call.form.argument_names
    left = next((n for n in ("mat1", "batch1") if n in names), "self")
    return left, "batch2" if left == "batch1" else "mat2"


def product_reference(call: HostCall, a_MK: F64, b_KN: F64) -> tuple[F64, F64, F64]:
    """``A B`` in float64 (BLAS, not aten), its bound before the final rounding, and ``|A||B|``."""
    a_abs, b_abs = np.abs(a_MK), np.abs(b_KN)
    expected = a_MK @ b_KN
    abs_product = a_abs @ b_abs
    held = call.held[0]
    dtype, device_type = call[operand_names(call.call)[1]].dtype, held.device.type
    error = products.product_error(
        a_MK.shape[-1],
        abs_product,
        a_abs.sum(-1)[..., :, None],
        b_abs.sum(-2)[..., None, :],
        dtype,
        products.input_rounding(dtype, device_type),
        device_type,
    )
    return expected, error + products.split_rounding(dtype, device_type) * abs_product, abs_product


def misread_number(call: HostCall, name: str) -> float:
    """How far ``alpha`` or ``beta`` moves in a kernel that rounds it to the half format of the
    operands (seen on a CPU: an ``addmm`` without inner dimension); others use it as it is."""
    out = call.out_format()
    if out.precision >= FLOAT32.precision:
        return 0.0
    number = float(call.get(name, 1))
    return abs(float(nearest(number, out)) - number)


def factor_reach(alpha: float, a_MK: F64, b_KN: F64) -> F64:
    """``|alpha| max(|a|, |b|)`` of each row and column, [M, N]: some kernels multiply a factor by
    alpha first, and an infinity times a 0 is NaN."""
    rows = np.abs(a_MK).max(-1, initial=0.0)[..., :, None]
    columns = np.abs(b_KN).max(-2, initial=0.0)[..., None, :]
    return np.asarray(abs(alpha) * np.maximum(rows, columns))


def addend_coefficient(call: HostCall, k: int, dtype: torch.dtype) -> float:
    """The factor of ``|beta C0|``, which may be the first term of the sum of k products."""
    device_type = call.held[0].device.type
    u_in = products.input_rounding(dtype, device_type)
    return products.order_coefficient(k + 5, dtype, device_type, u_in)


def affine_reference(
    call: HostCall, addend: NDArray[Any], a_MK: F64, b_KN: F64
) -> tuple[F64, F64, F64]:
    """``beta C0 + alpha A B`` with its bound before the final rounding and the sum of the sizes.

    The factors and the two products are four more roundings, the addition a fifth; the addend
    may be the first term of the sum.  ``beta = 0`` ignores C0, NaN included; with ``alpha = 0``
    BLAS may ignore a product that is not finite, so there the size is infinite: not judged.  Some
    kernels multiply a factor by alpha before the product (MKL's complex ones of inner dimension 1):
    where that underflows, eta is multiplied by the other factor; where it overflows, see
    :func:`factor_reach`.
    """
    alpha, beta = float(call.get("alpha", 1)), float(call.get("beta", 1))
    product, error, abs_product = product_reference(call, a_MK, b_KN)
    start = beta * addend if beta else np.zeros(())
    # The product may overflow before a small alpha makes it small.
    size = max(abs(alpha), 1.0) * abs_product + np.abs(start)
    if not alpha:
        size = np.where(np.isfinite(abs_product), size, np.inf)
    size = np.maximum(size, factor_reach(alpha, a_MK, b_KN))
    expected = start + alpha * product
    dtype, k = call[operand_names(call.call)[1]].dtype, a_MK.shape[-1]
    acc = accumulator_of(dtype)
    extra = (gamma(k + 5, acc.u) - gamma(k, acc.u)) * abs(alpha) * abs_product
    extra = extra + addend_coefficient(call, k, dtype) * np.abs(start) + 4 * acc.eta
    extra = extra + misread_number(call, "alpha") * abs_product
    if beta:
        extra = extra + misread_number(call, "beta") * np.abs(addend)
    if alpha not in (0.0, 1.0):
        sums = np.abs(a_MK).sum(-1)[..., :, None] + np.abs(b_KN).sum(-2)[..., None, :]
        extra = extra + acc.eta * sums
    return expected, abs(alpha) * error + extra, size


def reference_of(call: HostCall) -> tuple[Reference | None, ...]:
    """The reference of a product, with its addend if it has one."""
    left, right = operand_names(call.call)
    a_MK, b_KN = call.array(left), call.array(right)
    addend = call.array("self") if left != "self" else None
    if not call.held[0].is_floating_point():
        product = a_MK.astype(np.int64) @ b_KN.astype(np.int64)
        if addend is not None:
            product = (int(call["beta"]) * addend.astype(np.int64) + int(call["alpha"]) * product)
        return exact_integers(call, product)
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    if addend is None:
        return judged(call, *product_reference(call, a_MK, b_KN))
    return judged(call, *affine_reference(call, addend, a_MK, b_KN))


def exact_integers(call: HostCall, value: NDArray[Any]) -> tuple[Reference]:
    """The value modulo 2^b for a result of b bits."""
    return (Reference(value.astype(bits.values(call.held[0]).dtype), 0.0, 0.0, "exact integers"),)


def judged(call: HostCall, expected: F64, error: F64, size: F64) -> tuple[Reference]:
    """The reference of a product whose bound holds for any order: proof and contract in one."""
    out = call.out_format()
    acc = accumulator_of(call[operand_names(call.call)[1]].dtype)
    bound = products.product_bound(expected, error, out)
    if out.emin == acc.emin and out.precision < acc.precision:
        bound = bound + out.tiny  # a subnormal result may be flushed, see bounds.products
    return (Reference(expected, bound, bound, products.FORMULA, size),)


def product_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """2 m n k, the count that :mod:`torch.utils.flop_counter` uses."""
    return 2 * held[0].numel() * int(call[operand_names(call)[1]].shape[-2])


def product_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Roll rows and columns; negate a factor (and the addend with it).

    Seen on CPU (MKL, oneDNN), 13 shapes, contiguous, transposed and sliced factors, 1 and 2
    threads: negation of either factor always bit-exact; rolls always in bf16 and fp16, in fp32 but
    for sizes of a few rows, in fp64 not where a size is odd (edge tiles sum in another order).
    Splits broke in a quarter of the fp32 cases and are not used.  Matrix-vector shapes go to gemv,
    whose order depends on the row: no rolls there.
    """
    left, right = operand_names(call)
    addend = ("self",) if left != "self" and isinstance(call["self"], Tensor) else ()
    signs = (negate(left, *addend), negate(right, *addend))
    rows, columns = held[0].shape[-2], held[0].shape[-1]
    if min(rows, columns) < 2:
        return (*signs, RERUN)
    known = held[0].dtype is not torch.float64 and min(rows, columns) >= MIN_TILE
    rows_on, columns_on = roll("m", known=known), roll("n", lane=True, known=known)
    # Copying the factor is the cost of a roll; columns and signs take a pass over the result more.
    often, rarely = rows_on, columns_on
    if call[left].numel() > call[right].numel() + held[0].numel():
        often, rarely = columns_on, rows_on
    return (often, often, rarely, often, signs[0], often, often, rarely, often, signs[1])


def checksums(call: HostCall) -> tuple[F64, F64, F64, str] | None:
    """``C w = A (B w)`` for w = 1 (Huang and Abraham 1984), ``beta C0 w + alpha A (B w)`` with an
    addend; any leading batch dimensions.

    Returns the expected row sums of C, the limit on their distance from the row sums of the held
    C, and the largest intermediate: the limit is the sum over the row of the element bounds,
    computed from ``|A| (|B| 1)``, plus our own rounding.
    """
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return None
    left, right = operand_names(call.call)
    a_MK, b_KN = call.array(left), call.array(right)
    addend = call.array("self") if left != "self" else None
    alpha, beta = (
        float(call.get(name, 1)) if left != "self" else 1.0 for name in ("alpha", "beta")
    )
    b_abs = np.abs(b_KN)
    rows = alpha * np.matmul(a_MK, b_KN.sum(-1)[..., None])[..., 0]
    abs_rows = np.matmul(np.abs(a_MK), b_abs.sum(-1)[..., None])[..., 0]
    n, k = b_KN.shape[-1], a_MK.shape[-1]
    dtype, device_type = call[right].dtype, held.device.type
    u_in = products.input_rounding(dtype, device_type)
    error = products.product_error(
        k, abs_rows, n * np.abs(a_MK).sum(-1), b_abs.sum((-2, -1))[..., None], dtype, u_in,
        device_type,
    )
    # What underflow may cost is there once; each element of the row may lose it.
    error = error + (n - 1) * products.product_error(
        k, np.zeros(()), 0.0, 0.0, dtype, u_in, device_type)
    error = abs(alpha) * (error + products.split_rounding(dtype, device_type) * abs_rows)
    size = abs(alpha) * abs_rows
    acc, out = accumulator_of(dtype), call.out_format()
    if addend is not None and beta:
        start = np.broadcast_to(beta * addend, tuple(held.shape))
        rows, size = rows + start.sum(-1), size + np.abs(start).sum(-1)
        misread = misread_number(call, "beta")
        error = error + misread * np.abs(np.broadcast_to(addend, tuple(held.shape))).sum(-1)
    if left != "self":
        error = error + misread_number(call, "alpha") * abs_rows
        error = error + addend_coefficient(call, k, dtype) * size + 4 * n * acc.eta
        if alpha not in (0.0, 1.0):
            error = error + acc.eta * (n * np.abs(a_MK).sum(-1) + b_abs.sum((-2, -1))[..., None])
    flushed = out.tiny if out.precision < acc.precision else out.eta
    limit = error + (size + error) * out.u + n * flushed
    return rows, limit * (1 + 2.0**-40), size, "sum_j bound(c_ij), c w = A (B w)"


PRODUCT: dict[str, Any] = {
    "family": "product", "symmetries": product_symmetries, "flops": product_flops,
    "checksum": checksums,
}
"""What every product registers."""


def factor(
    generator: torch.Generator, dtype: torch.dtype, *shape: int, transposed: bool = False
) -> Tensor:
    """A random factor; ``transposed`` has its last two dimensions swapped in memory."""
    if transposed:
        return factor(generator, dtype, *shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)
    if not dtype.is_floating_point:
        return torch.randint(-9, 10, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
