"""Rounding-error arithmetic.  Higham, *Accuracy and Stability of Numerical Algorithms* (2002).

For ``bound=`` of :func:`sdc_guard.checked` there are:

=================================== ==========================================================
:func:`from_reference`              from the reference's own operations; the default
:func:`sum_any_order`               a sum of n terms
:func:`matrix_product`              a product of matrices
:func:`roundings`                   single operations, elementwise
:func:`stored`                      the rounding of the result to its dtype
:func:`ulps`                        a declared limit, which proves nothing
:func:`rounded`, :func:`erf`        for the reference: a rounding to a half format; erf in NumPy
=================================== ==========================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdc_guard.bounds.blocks import (
        Block,
        from_reference,
        matrix_product,
        roundings,
        stored,
        sum_any_order,
        ulps,
    )
    from sdc_guard.bounds.derived import rounded
    from sdc_guard.bounds.following import erf

_HOME = {
    "Block": "blocks",
    "erf": "following",
    "from_reference": "blocks",
    "matrix_product": "blocks",
    "rounded": "derived",
    "roundings": "blocks",
    "stored": "blocks",
    "sum_any_order": "blocks",
    "ulps": "blocks",
}

__all__ = [
    "Block",
    "erf",
    "from_reference",
    "matrix_product",
    "rounded",
    "roundings",
    "stored",
    "sum_any_order",
    "ulps",
]


def __getattr__(name: str) -> Any:
    """Load a block when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'sdc_guard.bounds' has no attribute {name!r}")
    return getattr(import_module(f"sdc_guard.bounds.{_HOME[name]}"), name)
