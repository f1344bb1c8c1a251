"""Matrix product ``C = A B``: every summation order stays within gamma_k |A||B| (Higham 3.5)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds import products
from sdc_guard.calls import BoundCall
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll

aten = torch.ops.aten


def product_reference(call: HostCall, a_MK: F64, b_KN: F64) -> tuple[F64, F64, F64]:
    """``A B`` in float64 (BLAS, not aten), its bound before the final rounding, and ``|A||B|``."""
    a_abs, b_abs = np.abs(a_MK), np.abs(b_KN)
    expected = a_MK @ b_KN
    abs_product = a_abs @ b_abs
    held = call.held[0]
    error = products.product_error(
        a_MK.shape[-1],
        abs_product,
        a_abs.sum(-1)[..., :, None],
        b_abs.sum(-2)[..., None, :],
        call["mat2" if call.get("mat2") is not None else "batch2"].dtype,
        products.input_rounding(held.dtype, held.device.type),
    )
    return expected, error, abs_product


def product_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """2 m n k, the count that :mod:`torch.utils.flop_counter` uses."""
    names = call.form.argument_names
    right = "mat2" if "mat2" in names else "batch2"
    return 2 * held[0].numel() * int(call[right].shape[-2])


def product_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Roll rows and columns; negate an operand.  No roll where the product is a matrix-vector one:
    BLAS switches to gemv, whose order depends on the row."""
    rows, columns = held[0].shape[-2], held[0].shape[-1]
    left = "batch1" if "batch1" in call.form.argument_names else (
        "mat1" if "mat1" in call.form.argument_names else "self")
    found = []
    if min(rows, columns) > 1:
        found += [roll("m"), roll("n", lane=True), roll("m")]
    if left == "self":
        found.append(negate(left))
    return (*found, RERUN) if not found else tuple(found)


def checksums(call: HostCall, a_MK: F64, b_KN: F64) -> tuple[F64, F64, F64, str]:
    """``C w = A (B w)`` for w = 1 (Huang and Abraham 1984).

    Returns the expected row sums of C, the limit on the difference from the row sums of the held
    C, and nothing else: the limit is the sum over the row of the element bounds, each
    ``gamma_k |A||B| + rounding(C)``, computed from ``|A| (|B| 1)``, plus our own rounding.
    """
    held = call.held[0]
    out = call.out_format()
    rows = a_MK @ b_KN.sum(-1)
    b_abs = np.abs(b_KN)
    abs_rows = np.abs(a_MK) @ b_abs.sum(-1)
    n = b_KN.shape[-1]
    error = products.product_error(
        a_MK.shape[-1],
        abs_rows,
        n * np.abs(a_MK).sum(-1),
        b_abs.sum(),
        call["mat2"].dtype,
        products.input_rounding(held.dtype, held.device.type),
    )
    limit = error + (abs_rows + error) * out.u + n * out.eta
    return rows, limit * (1 + 2.0**-40), abs_rows, "sum_j bound(c_ij), c w = A (B w)"


@checked(
    aten.mm,
    family="product",
    operands=("m k", "k n"),
    outputs=("m n",),
    symmetries=product_symmetries,
    flops=product_flops,
    window=("m", "n"),
    checksum=lambda call: checksums(call, call.array("self"), call.array("mat2")),
)
def mm(call: HostCall) -> tuple[Reference | None, ...]:
    """|C - AB| <= gamma_k |A||B| + rounding(C), any order (Higham 2002, section 3.5)."""
    if not call.held[0].is_floating_point():
        exact = call.array("self").astype(np.int64) @ call.array("mat2").astype(np.int64)
        return (Reference(exact, 0.0, 0.0, "exact integers"),)
    expected, error, size = product_reference(call, call.array("self"), call.array("mat2"))
    bound = products.product_bound(expected, error, call.out_format())
    return (Reference(expected, bound, bound, products.FORMULA, size),)
