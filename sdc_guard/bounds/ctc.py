"""The forward-backward recursion of connectionist temporal classification, in logarithms.

For a target of S labels, spread with blanks to ``l`` of length 2S + 1, the sums over all alignments
obey (Graves et al. 2006)

    A_t(s) = lp_t(l_s) + log(e^{A_{t-1}(s)} + e^{A_{t-1}(s-1)} + [may skip] e^{A_{t-1}(s-2)}),

B the same from the end, and the loss is ``-log(e^{A_T(2S)} + e^{A_T(2S-1)})``.

*Bound.*  The logarithm of a sum of exponentials moves by at most the largest move of its operands,
so errors of one step pass on to the next as they are: they add up and do not multiply.  A kernel
evaluates ``m + log(sum e^{x_k - m})`` with m the largest of at most three: differences and
exponentials of 4 ulps err by 9u of a term (``d e^{-d} < 1``), their sum, between 1 and 3, by 2u
more and its logarithm, at most 1.1, by 9u; the sums with m and with lp by 2u of the results in
size.  In all ``24 u + 2 u (|A| + |lp|)`` a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.formats import FLOAT64

F64 = NDArray[np.float64]
ROUNDINGS = 24.0


def log_sum(*terms: F64) -> F64:
    """``log(sum e^x)`` elementwise; -inf where all terms are."""
    largest = np.maximum.reduce(terms)
    base = np.where(np.isfinite(largest), largest, 0.0)
    total: Any = sum(np.exp(x - base) for x in terms)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(total) + base)


def own_error(value: F64, u: float) -> F64:
    """What one sum adds to the error, for a result of that size; 0 where it is -inf."""
    size = np.where(np.isfinite(value), np.abs(value), 0.0)
    return np.asarray((u + 2 * FLOAT64.u) * (ROUNDINGS + 2 * size))


def spread(target: NDArray[np.int64], blank: int) -> NDArray[np.int64]:
    """Labels with a blank around each."""
    labels = np.full(2 * target.size + 1, blank, dtype=np.int64)
    labels[1::2] = target
    return labels


def _later(x: F64, by: int) -> F64:
    lead = np.full(min(by, x.size), -np.inf)
    return np.concatenate([lead, x[: x.size - lead.size]])


@dataclass(frozen=True, slots=True)
class Sums:
    """``A_t(s)`` [T, 2S + 1] and how far a kernel's may be off."""

    value: F64
    error: F64


def recursion(log_probs: F64, labels: NDArray[np.int64], u: float) -> Sums:
    """The sums from the first step; with steps and labels reversed, those from the end."""
    skip = np.zeros(labels.size, dtype=bool)
    skip[2:] = labels[2:] != labels[:-2]
    steps = log_probs[:, labels]
    value = np.full(steps.shape, -np.inf)
    error = np.zeros(steps.shape)
    value[0, :2] = steps[0, :2]
    for t in range(1, steps.shape[0]):
        before = value[t - 1]
        over = np.where(skip, _later(before, 2), -np.inf)
        value[t] = log_sum(before, _later(before, 1), over) + steps[t]
        error[t] = error[t - 1].max(initial=0.0) + own_error(value[t], u) + own_error(steps[t], u)
    return Sums(value, error)


def log_likelihood(sums: Sums, u: float) -> tuple[float, float]:
    """The logarithm of the probability of the target, and the limit on its error."""
    last = sums.value[-1]
    found = log_sum(*(np.asarray(x) for x in last[-2:]))
    error = sums.error[-1].max(initial=0.0) + own_error(found, u)
    return float(found), float(error)
