"""The parts of an LU factorization, multiplied in rational arithmetic, against the matrix."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.hunt.exact_numbers import Number, Reader

MAX_PRODUCTS = 1 << 17
"""More products of two rationals than this take long."""


def factors_miss(
    call: BoundCall, held: tuple[Tensor | None, ...], batch: tuple[int, ...], limit: float
) -> bool | None:
    """Whether ``P L U - A`` of ``linalg_lu`` is more than ``limit`` in the matrix ``batch``.

    True if it is at the entry where it is largest for the size of ``|L||U|``, False if it is at
    no entry; None between, for another operator, for numbers that are not finite or not real and
    for large matrices.
    """
    if call.form.packet != "aten.linalg_lu" or any(t is None for t in held):
        return None
    parts = [_matrix(t, batch) for t in (*held, call["A"])]
    if any(p is None for p in parts):
        return None
    order, lower, upper, a = parts
    if not upper or not lower or len(lower) * len(upper) * len(upper[0]) > MAX_PRODUCTS:
        return None
    rows = [next((j for j, p in enumerate(row) if p), None) for row in order]
    if None in rows:
        return None  # no permutation: that is another fact
    found = []
    for i, row in enumerate(rows):
        for j in range(len(a[i])):
            products = [x * y[j] for x, y in zip(lower[row], upper, strict=True)]
            defect = abs(sum(products, Fraction(0)) - a[i][j])
            size = sum(map(abs, products), Fraction(0))
            found.append((defect > 0 and not size, defect / size if size else defect, defect))
    if all(defect <= limit for _, _, defect in found):
        return False
    return True if max(found)[-1] > limit else None


def _matrix(tensor: Any, batch: tuple[int, ...]) -> Any:
    """The rows of one matrix; None where an element is no finite number."""
    reader = Reader(tensor)
    rows = [reader.line((*batch, i, slice(None))) for i in range(tensor.shape[-2])]
    return rows if all(_is_finite(n) for row in rows for n in row) else None


def _is_finite(number: Number) -> bool:
    return isinstance(number, Fraction)
