"""Elementwise functions.

A correctly rounded basic operation errs by one rounding.  An elementary function has a contract
in ulps only (vendor libraries document at most 4 ulp for the functions used here; the contract is
that figure with the rounding of its argument chain added by the caller).  Its *proof* limit is a
stated premise, not a theorem: a kernel that implements the function at all is right to half the
significand, ``|error| <= 2^(-p/2) |f| ``; anything beyond is a different number, not rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import rounding
from sdc_guard.formats import Format

ELEMENTARY_ULPS = 4.0


def rounded(expected: NDArray[Any], fmt: Format, num_roundings: int = 1) -> NDArray[Any]:
    """Bound of a chain whose every intermediate is at most ``|expected|``: n roundings."""
    return num_roundings * rounding(expected, fmt) * (1 + num_roundings * fmt.u)


def elementary(
    expected: NDArray[Any], compute: Format, out: Format, ulps: float = ELEMENTARY_ULPS
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(proof, contract) of an elementary function evaluated in ``compute``, stored in ``out``."""
    size = np.abs(expected)
    contract = 2 * ulps * compute.u * size + ulps * compute.eta
    proof = 2.0 ** (-compute.precision / 2) * size + 2 * compute.tiny
    return (
        np.asarray(proof + rounding(size + proof, out)),
        np.asarray(contract + rounding(size + contract, out)),
    )


def half_significand_of(size: NDArray[Any], fmt: Format) -> NDArray[Any]:
    """The premise above as a limit: ``2^(-p/2)`` of a size, and two smallest normals."""
    return np.asarray(2.0 ** (-fmt.precision / 2) * np.abs(size) + 2 * fmt.tiny)
