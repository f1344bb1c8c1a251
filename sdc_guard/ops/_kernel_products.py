"""Matrix products on the device: the checksum of all rows, and some elements computed again.

For ``mm``, ``addmm``, ``bmm`` and ``baddbmm`` of float16, bfloat16, float32 and float64.  Integer
products, which CUDA does not offer, and complex ones are left to the host; so is ``addbmm``.

The bound of :mod:`sdc_guard.ops._products` on an element is linear in ``|A||B|``, ``sum |a|``,
``sum |b|`` and ``|C0|``; :func:`element_error` reads its coefficients off ``bounds/products.py``.
The checksum's limit is its sum over the row, with one thing sharper than on the host: the rounding
of a result c is at most ``u |c| + eta / 2`` by the size of c itself (Higham 2002, section 2.2), and
``sum |c|`` is mostly far below ``|A||B| 1``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import products
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, FLOAT64, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._kernels import KernelCheck, KernelOf, KernelRun, Notes
from sdc_guard.ops._products import misread_number, operand_names
from sdc_guard.ops._registry import HostCall

if TYPE_CHECKING:
    from sdc_guard_kernels.operand_sums import OperandSums

SAMPLES = 32
"""Elements of a result that are computed again."""
SAMPLED_FROM = 32 * SAMPLES
"""Elements from which on a result is sampled: the sample stays a small part of the product."""

CHECKSUM = KernelCheck("checksum", "sum_j bound(c_ij), c w = A (B w)", unit="row")
COLUMN_CHECKSUM = KernelCheck("checksum", "sum_i bound(c_ij), w c = (w A) B", unit="column")
SAMPLE = KernelCheck("sample", products.FORMULA)

_ROUNDED_UP = 1.0 + 2.0**-40
"""More than the rounding of a few operations in float64."""
_FLOAT64_STEPS = 2.0**-50
"""A few roundings in float64."""


@dataclass(frozen=True, slots=True)
class ElementError:
    """``|c - exact| <= per_product |A||B| + per_a sum_k |a| + per_b sum_k |b| + per_addend |C0| +
    constant`` before the result is rounded."""

    per_product: float
    per_a: float
    per_b: float
    per_addend: float
    constant: float


def element_error(call: BoundCall, held: tuple[Tensor, ...]) -> ElementError:
    """The bound of ``product_reference`` and ``affine_reference`` as its coefficients; the rounding
    of the host's own float64 evaluation is left out."""
    left, right = operand_names(call)
    dtype, device_type = call[right].dtype, held[0].device.type
    k, acc = call[left].shape[-1], accumulator_of(dtype)
    u_in = products.input_rounding(dtype, device_type)

    def bound(abs_product: float, a: float, b: float) -> float:
        return float(products.product_error(
            k, abs_product, a, b, dtype, u_in, device_type))  # type: ignore[arg-type]

    constant = bound(0.0, 0.0, 0.0)
    per_product = max(0.0, bound(1.0, 0.0, 0.0) - float(own_rounding(k, 1.0)))
    per_product += products.split_rounding(dtype, device_type)
    per_a, per_b = bound(0.0, 1.0, 0.0) - constant, bound(0.0, 0.0, 1.0) - constant
    if left == "self":
        return ElementError(per_product, per_a, per_b, 0.0, constant)
    alpha, beta = _factors(call)
    host = HostCall(call, held)
    size = abs(alpha)
    per_product += gamma(k + 5, acc.u) - gamma(k, acc.u)
    per_product = size * per_product + misread_number(host, "alpha")
    flushed = acc.eta if alpha not in (0.0, 1.0) else 0.0
    per_addend = 0.0
    if beta:
        order = products.order_coefficient(k + 5, dtype, device_type, u_in)
        per_addend = order * abs(beta) + misread_number(host, "beta")
    return ElementError(per_product, size * per_a + flushed, size * per_b + flushed, per_addend,
                        size * constant + 4 * acc.eta)


def checksum_bytes(call: BoundCall) -> int:
    """Bytes that the checksum of a call reads: A, B, C and C0 once each; what is expanded, once."""
    left, right = operand_names(call)
    a, b = call[left], call[right]
    result_dtype: torch.dtype = call.get("out_dtype") or b.dtype
    results = math.prod(a.shape[:-1]) * b.shape[-1]
    total: int = _bytes(a) + _bytes(b) + results * result_dtype.itemsize
    if left != "self" and _factors(call)[1]:
        total += _bytes(call["self"])
    return total


def product_checks(
    *, row_share: float = 1.0, num_samples: int | None = None, columns: bool = False
) -> KernelOf:
    """The ``kernel`` of a product.

    Args:
        row_share: part of the blocks of rows whose checksum is formed, chosen anew in each launch;
            B is read whole all the same, unless its sums are remembered.
        num_samples: elements to compute again; ``SAMPLES`` for results of ``SAMPLED_FROM``
            elements and more, none for smaller ones, unless given.
        columns: form the checksums of all columns too, ``C' = B' A'``.  Rows see every element
            already; the two together name the one that is wrong, for a second pass.
    """

    def kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        left, right = operand_names(call)
        tensors = [call[left], call[right], held[0], *([call["self"]] if left != "self" else [])]
        if not all(_taken(t) for t in tensors) or not held[0].numel():
            return None
        samples = num_samples
        if samples is None:
            samples = SAMPLES if held[0].numel() >= SAMPLED_FROM else 0
        return _run(left, right, row_share, samples, columns)

    return kernel


def _run(
    left: str, right: str, row_share: float, num_samples: int, columns: bool
) -> KernelRun:
    from sdc_guard_kernels.product_checksum import product_checksum
    from sdc_guard_kernels.sampled_product import sampled_product

    known: dict[tuple[float, ...], tuple[Tensor, Tensor, Tensor | None]] = {}

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        a, b, c = call[left], call[right], held[0]
        alpha, beta = _factors(call)
        # The other things that the numbers depend on are the same for all calls of a site.
        key = (alpha, beta, products.input_rounding(b.dtype, c.device.type))
        if key not in known:
            known.clear()
            turned = _numbers(call, held, turned=True)[0] if columns else None
            known[key] = (*_numbers(call, held), turned)
        for_rows, for_elements, for_columns = known[key]
        addend = call["self"] if left != "self" and beta else None
        product_checksum(
            a, right_sums(b, notes), c, for_rows, notes.record(CHECKSUM), addend=addend,
            row_share=row_share, seed=notes.seed)
        if for_columns is not None:
            product_checksum(
                b.mT, right_sums(a.mT, notes), c.mT, for_columns, notes.record(COLUMN_CHECKSUM),
                addend=None if addend is None else _turned(addend))
        if num_samples:
            sampled_product(a, b, c, for_elements, notes.record(SAMPLE), seed=notes.seed,
                            num_samples=num_samples, addend=addend)

    return run


def right_sums(b: Tensor, notes: Notes) -> Tensor:
    """The sums of B's rows [kinds, batch or 1, K]: one pass over B in each forward and backward.

    A weight W usually comes as ``W.t()`` in the forward product and as W in the backward one.  What
    is remembered belongs to the matrix as it lies in memory: the first transposed use takes the
    sums of its rows too, which the backward product then finds.
    """
    from sdc_guard_kernels.operand_sums import by_rows, operand_sums

    matrix, transposed = _as_it_lies(b, by_rows)

    def sums(columns: bool) -> Callable[[], OperandSums]:
        return lambda: operand_sums(matrix, columns=columns)

    found = notes.remembered(matrix, "sums", sums(transposed))
    if not transposed:
        return found.rows
    if found.columns is None:
        found = notes.remembered(matrix, "sums of rows and columns", sums(True))
    assert found.columns is not None
    return found.columns


def _as_it_lies(b: Tensor, by_rows: Callable[[Tensor], bool]) -> tuple[Tensor, bool]:
    """B or its transpose, whichever has its columns beside each other; one matrix if all matrices
    of the batch are the same memory."""
    if b.dim() == 3 and b.stride(0) == 0:
        b = b[0]
    return (b, False) if by_rows(b) else (b.transpose(-1, -2), True)


def _turned(addend: Tensor) -> Tensor:
    """C0' of what broadcasts to C; a vector is a row of C, hence a column of C'."""
    if addend.dim() == 1:
        return addend[:, None]
    return addend.mT if addend.dim() > 1 else addend


def _numbers(
    call: BoundCall, held: tuple[Tensor, ...], *, turned: bool = False
) -> tuple[Tensor, Tensor]:
    """What the limits of rows and of elements are made of, on the device; those of the rows of C'
    where the product is ``turned``."""
    from sdc_guard_kernels import operand_sums, product_checksum, sampled_product

    left, right = operand_names(call)
    a, b, c = call[left], call[right], held[0]
    alpha, beta = _factors(call)
    error, out = element_error(call, held), format_of(c.dtype)
    if turned:
        a, b, c = b.mT, a.mT, c.mT
        error = replace(error, per_a=error.per_b, per_b=error.per_a)
    acc = accumulator_of(b.dtype)
    # A subnormal result may be flushed, see bounds.products.
    flushed = out.tiny if out.emin == acc.emin and out.precision < acc.precision else 0.0
    stored = 0.5 * out.eta + flushed
    num_inner, num_cols = b.shape[-2:]
    # Where a factor times alpha comes first, that must not overflow either.
    reach = abs(alpha) if abs(alpha) > 1.0 else 0.0

    matrix, transposed = _as_it_lies(b, operand_sums.by_rows)
    work = operand_sums.working_dtype(b.dtype)
    batches = matrix.shape[0] if matrix.dim() == 3 else 1
    plans = [operand_sums.sums_plan(batches, matrix.shape[-2], matrix.shape[-1], work,
                                    columns=columns) for columns in (False, True)]
    sums_error = plans[1].column_error if transposed else max(p.row_error for p in plans)
    used = [t.dtype for t in (a, b, c)]
    if left != "self" and beta:
        used.append(call["self"].dtype)
    work = product_checksum.working_dtype(*used)
    plan = product_checksum.checksum_plan(
        a.shape[0] if a.dim() == 3 else 1, a.shape[-2], num_inner, num_cols, work,
        a_by_rows=operand_sums.by_rows(a))
    inner = plan.inner_error + sums_error + plan.inner_error * sums_error
    # The sums of which the limit is made may be too small by as much as they err.
    up = _ROUNDED_UP / (1.0 - max(inner, plan.outer_error)) if inner < 0.5 else math.inf
    per_product = (error.per_product + abs(alpha) * (inner + _FLOAT64_STEPS)) * up
    constant = num_cols * (error.constant + stored) + 2.0 * abs(alpha) * plan.underflow
    constant += 2.0 * (num_cols * (error.per_a + error.per_product)) * plan.underflow
    rows = product_checksum.Numbers(
        alpha, beta, per_product, num_cols * error.per_a * up, error.per_b * up,
        (error.per_addend + abs(beta) * (plan.outer_error + _FLOAT64_STEPS)) * up,
        (out.u + plan.outer_error + _FLOAT64_STEPS) * up, (constant + 8 * FLOAT64.eta) * up,
        0.5 * out.max if error.per_product < 0.25 * max(abs(alpha), 1.0) else -1.0,
        0.25 * (FLOAT64 if work is torch.float64 else FLOAT32).max, reach)

    own = abs(alpha) * sampled_product.own_error(num_inner)
    underflow = (num_inner * (abs(alpha) + error.per_product) + 8) * FLOAT64.eta
    elements = sampled_product.SampleNumbers(
        alpha, beta, (error.per_product + own) * _ROUNDED_UP, error.per_a * _ROUNDED_UP,
        error.per_b * _ROUNDED_UP, (error.per_addend + abs(beta) * _FLOAT64_STEPS) * _ROUNDED_UP,
        (error.constant + underflow) * _ROUNDED_UP, out.u * _ROUNDED_UP, stored * _ROUNDED_UP,
        out.max, reach)
    return rows.tensor(c.device), elements.tensor(c.device)


def _factors(call: BoundCall) -> tuple[float, float]:
    return float(call.get("alpha", 1)), float(call.get("beta", 1))


def _taken(x: Tensor) -> bool:
    return is_covered_float(x.dtype) and x.layout is torch.strided and not bits.is_lazy(x)


def _bytes(x: Tensor) -> int:
    """Of the memory that a read of the whole tensor touches."""
    return x.dtype.itemsize * math.prod(
        size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
