"""Several terms at one place: sums, products, means and extremes of what an index sends there.

*Sums.*  A place that gets m terms beside its own value makes m additions, in any order:

    |computed - exact| <= m u sum|x|           (Jeannerod and Rump 2013, any m),

one rounding of the sum for m = 1, nothing for m = 0.  ATen's CPU kernels add one term after the
other in the *storage* format (``scatter_add`` and ``index_add`` in ``TensorAdvancedIndexing.cpp``,
``ScatterGatherKernel.cpp``; measured: a half sum stagnates), so the proof has that format's u.  The
contract has fp32 and one rounding to the storage format: what a half sum of many terms loses is
reported as a loss of precision.

*Products.*  m roundings of the product, and for terms that underflow m eta times the product of all
factors above 1, which also bounds every intermediate.  *Means* divide the stored sum by the count,
which a half format holds up to 1/u only.  *Extremes* are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.bounds.gamma import rounding, stored
from sdc_guard.formats import FLOAT64, Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._registry import Reference

Array = NDArray[Any]

FORMULA = "m u sum|x| in fp32 for m terms, rounding to the storage format"


@dataclass(frozen=True, slots=True)
class Sent:
    """What an index sends: ``before`` [size], places and terms [N], and by how many roundings of
    the storage format a term may be off (a factor that is multiplied in)."""

    before: Array
    place: Array
    terms: Array
    term_roundings: int = 0


def sent_reference(sent: Sent, reduce: str, include_self: bool, held: Tensor) -> Reference | None:
    """The reference of a result [size] for ``sum``, ``prod``, ``mean``, ``amax`` or ``amin``."""
    size = sent.before.size
    count = np.bincount(sent.place, minlength=size)
    before = sent.before if include_self else _without(sent.before, count, reduce)
    shape = tuple(held.shape)
    if not is_covered_float(held.dtype):
        expected = _reduced(before, sent, reduce)
        if reduce == "mean":
            share = np.maximum(count + include_self, 1)
            expected = np.where(count > 0, np.floor_divide(expected, share), before)
        exact = expected.astype(before.dtype, copy=False).reshape(shape)
        return Reference(exact, 0.0, 0.0, "exact")
    out, acc = format_of(held.dtype), accumulator_of(held.dtype)
    expected = _reduced(before, sent, reduce)
    if reduce in ("amax", "amin"):
        return Reference(expected.reshape(shape), 0.0, 0.0, "exact")
    roundings = np.maximum(count - (not include_self), 0).astype(np.float64)
    limits: list[Array] = []
    if reduce == "prod":
        above = _reduced(np.maximum(np.abs(before), 1), Sent(before, sent.place,
                         np.maximum(np.abs(sent.terms), 1)), "prod")
        for fmt in (out, acc):
            limits.append(_product_error(expected, above, roundings, fmt))
        magnitude = above
    else:
        magnitude = _reduced(np.abs(before), Sent(before, sent.place, np.abs(sent.terms)), "sum")
        for fmt in (out, acc):
            limits.append(_sum_error(expected, magnitude, roundings, count * sent.term_roundings,
                                     fmt, out))
    proof, contract = limits
    if acc is not out:
        contract = np.where(roundings > 0, stored(contract, expected, out), contract)
    if reduce == "mean":
        share = np.where(count > 0, count + include_self, 1).astype(np.float64)
        expected = expected / share
        lost = np.where(share > 1 / out.u, np.inf, 0.0)
        proof, contract = (
            np.where(count > 0, stored(limit / share, expected, out) + lost
                     + 2 * FLOAT64.u * np.abs(expected), limit)
            for limit in (proof, contract))
    return Reference(expected.reshape(shape), np.maximum(proof, contract).reshape(shape),
                     contract.reshape(shape), FORMULA, magnitude.reshape(shape))


def _reduced(before: Array, sent: Sent, reduce: str) -> Array:
    if before.dtype.kind == "f" and reduce in ("sum", "mean"):
        added = np.bincount(sent.place, weights=sent.terms, minlength=before.size)
        touched = np.bincount(sent.place, minlength=before.size) > 0
        return np.where(touched, before + added, before)
    result = before.copy()
    function = {"sum": np.add, "mean": np.add, "prod": np.multiply, "amax": np.maximum,
                "amin": np.minimum}[reduce]
    function.at(result, sent.place, sent.terms.astype(before.dtype, copy=False))
    return result


def _without(before: Array, count: Array, reduce: str) -> Array:
    """What was there before, replaced by what changes nothing where something is sent."""
    if reduce in ("amax", "amin"):
        if before.dtype.kind == "f":
            neutral: Any = -np.inf if reduce == "amax" else np.inf
        elif before.dtype.kind == "b":
            neutral = reduce == "amin"
        else:
            info = np.iinfo(before.dtype)
            neutral = info.min if reduce == "amax" else info.max
    else:
        neutral = 1 if reduce == "prod" else 0
    return np.where(count > 0, np.asarray(neutral, dtype=before.dtype), before)


def _sum_error(expected: Array, size: Array, roundings: Array, of_terms: Array, fmt: Format,
               out: Format) -> Array:
    own = (roundings + 1) * FLOAT64.u * size
    error = roundings * fmt.u * size
    error = np.where(roundings == 1, np.minimum(error, rounding(expected, fmt)), error)
    error = (error + of_terms * (out.u * size + out.eta)) * (1 + 4 * out.u)
    return np.where((roundings > 0) | (of_terms > 0), error + own, 0.0)


def _product_error(expected: Array, above: Array, roundings: Array, fmt: Format) -> Array:
    relative = roundings * (fmt.u + FLOAT64.u)
    grown = np.where(relative < 0.5, relative / (1 - np.minimum(relative, 0.5)), np.inf)
    with np.errstate(invalid="ignore"):
        error = grown * np.abs(expected) + roundings * fmt.eta * above
    return np.where(roundings > 0, error, 0.0)
