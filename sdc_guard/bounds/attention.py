"""Scaled dot-product attention, forward and backward, fused or not.

``s = c q k^T + mask``, ``p = exp(s - m)`` with m the row's maximum, ``l = sum p``, ``o = p v / l``,
``lse = m + log l``.  M queries, N keys, D and Dv the head sizes.

*Scores.*  The product has any order, then come the scale and the mask (and on CUDA the factor
``log2 e``), at most 6 roundings:

    |s^ - s| <= delta = (2 u_in + u_in^2 + gamma_{D+6}) |c| |q||k|^T + 2 u |s|

*Exponentials.*  A shift of m by its own error cancels, since one m serves p and l.  So, as in
:mod:`sdc_guard.bounds.softmax`, with ``g = e^{delta + u |s - m|} - 1``,

    r = g + phi (1 + g) + rho,

where ``rho = 10 u`` per block of keys is the rescaling when a later block has a larger maximum (two
roundings and an exponential of 4 ulp).  Premise for phi: fp32 kernels use a polynomial of 20 ulp
(``exp_u20``), half formats one whose constants give 1.1e-4 (``fexp_u20``, both in
``ATen/cpu/vec``); CUDA's ``ex2.approx`` is better than either.

*Forward.*  Half formats store p in their own format before the second product (``v``, ``eta_v``):

    |l^ - l| / l <= r_l = sum p r / l + h u,
    |o^ - o| <= (sum p |v| (r + gamma_{N+4} + v) / l + eta_v sum|v| + |o| r_l) / (1 - r_l) + 3 u
    |o|, |lse^ - lse| <= -log1p(-r_l) + phi |log l| + 3 u (|m| + |lse|).

*Backward*, with the given ``o`` and ``lse``: ``P = exp(s - lse)``, ``dP = do v^T``, ``d = sum do
o``, ``dS = P (dP - d)``, ``dq = c dS k``, ``dk = c dS^T q``, ``dv = P^T do``.  With r as above for
``|s - lse|`` in the place of ``|s - m|``, and ``b`` the number of blocks whose contributions a half
format adds up in itself,

    |dS^ - dS| <= P (r |dP - d| + (1 + r)((gamma_{Dv+1} + 2 u_in + u_in^2)(|do||v|^T + sum|do o|)
                  + 2 u |dP - d| + 2 Dv eta)) + v |dS| + eta_v + 2 tiny |dP - d| + eta
    |dv^ - dv| <= sum P |do| (r + gamma_M + (1 + b) v) + eta_v sum|do|

and likewise for dq and dk with one product more, whose terms underflow by ``2 N eta`` or
``2 M eta``.  ``tiny`` covers exponentials that are flushed; eta is the accumulator's underflow
threshold, or ``tiny`` where bf16 products are flushed.  Premises: those of :mod:`bounds.products`.
Where tensor cores may take the three products, the larger coefficient of
:mod:`bounds.accumulators` stands for each gamma; what subnormal operands cost in their alignment is
below half of ``eta_v`` times the other operand, which storing p adds, and in the scores below phi.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sdc_guard.bounds.accumulators import AccumulatorModel, models_of, worst_coefficient
from sdc_guard.bounds.softmax import exp_contract, exp_proof, growth, with_reference
from sdc_guard.formats import BFLOAT16, FLOAT32, FLOAT64, Format

Array = NDArray[np.float64]

POLYNOMIAL_ULPS = 20.0
FAST_EXPONENTIAL = 2.0**-13
QUERY_BLOCK = 32
KEY_BLOCKS = {"cpu": 512}
OTHER_KEY_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Machine:
    """What a kernel computes with: accumulator roundoff ``u``, input rounding ``u_in``, storage
    roundoff ``v`` and underflow ``eta_v`` of p (0 for none), underflow ``eta`` of products, the
    size of its blocks of keys, and how matrix units that may take the products add them."""

    acc: Format
    u: float
    u_in: float
    v: float
    eta_v: float
    eta: float
    key_block: int
    models: tuple[AccumulatorModel, ...] = ()

    def order(self, num_terms: int) -> float:
        """The factor of ``sum |a b|`` of the three products: gamma, or that of tensor cores."""
        return worst_coefficient(num_terms, self.u, self.models)

    @property
    def inputs(self) -> float:
        return 2 * self.u_in + self.u_in * self.u_in

    def contract_phi(self) -> float:
        """Relative error of the exponential by the kernels' sources."""
        if self.v:
            return FAST_EXPONENTIAL
        if self.acc is FLOAT64:
            return exp_contract(self.acc)
        return 2 * POLYNOMIAL_ULPS * self.u

    def proof_phi(self) -> float:
        """Relative error of the exponential by the premise of :mod:`bounds.elementwise`."""
        return max(exp_proof(self.acc), self.contract_phi())


def machine(
    storage: Format, acc: Format, u_in: float, device_type: str, dtype: torch.dtype | None = None
) -> Machine:
    """The arithmetic of a kernel for operands of format ``storage``, and of ``dtype`` (None: no
    matrix unit takes them)."""
    half = storage.precision < FLOAT32.precision
    return Machine(
        acc,
        with_reference(acc),
        u_in,
        storage.u if half else 0.0,
        storage.eta if half else 0.0,
        acc.tiny if storage is BFLOAT16 or u_in else acc.eta,
        KEY_BLOCKS.get(device_type, OTHER_KEY_BLOCK),
        () if dtype is None else models_of(dtype, device_type, u_in),
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """One limit per result."""

    proof: Array
    contract: Array


def score_error(abs_scores: Array, scores: Array, head_size: int, k: Machine) -> Array:
    """``delta``; ``abs_scores`` is ``|c| |q||k|^T``, masked entries of ``scores`` are -inf."""
    finite = np.where(np.isfinite(scores), np.abs(scores), 0.0)
    return np.asarray((k.inputs + k.order(head_size + 6)) * abs_scores + 2 * k.u * finite)


def shift_growth(delta: Array, distance: Array, u: float) -> Array:
    """``g`` for a score error ``delta`` and a distance ``|s - m|`` (infinite where masked)."""
    return growth(delta + u * np.where(np.isfinite(distance), distance, 0.0))


def forward_limits(
    p: Array,
    g: Array,
    total: Array,
    value: Array,
    out: Array,
    top: Array,
    k: Machine,
) -> tuple[Limits, Limits]:
    """Limits of ``o`` and of ``lse``, before they are stored.

    Args:
        p: ``exp(s - m)``, 0 where masked, [..., M, N].
        g: see :func:`shift_growth`.
        total: ``l``, [..., M, 1], 1 for rows without a key.
        value: [..., N, Dv].
        out: ``o``, [..., M, Dv].
        top: ``m``, [..., M, 1], finite.
    """
    num_keys = p.shape[-1]
    abs_value = np.abs(value)
    plain = p @ abs_value / total
    grown = (p * g) @ abs_value / total
    flushed = (k.eta_v + 2 * k.acc.tiny) * abs_value.sum(-2, keepdims=True)
    weighted = (p * g).sum(-1, keepdims=True) / total
    rho = 10 * k.u * math.ceil(num_keys / k.key_block)
    log_total = np.log(total)
    lse = np.abs(top + log_total)
    inner = k.order(num_keys + 4) + k.inputs
    outs: list[Array] = []
    lses: list[Array] = []
    for phi in (k.proof_phi(), k.contract_phi()):
        r_sum = np.minimum(weighted * (1 + phi) + phi + rho + num_keys * k.u, 1 - 2.0**-20)
        numerator = grown * (1 + phi) + plain * (phi + rho + inner + k.v) * (1 + k.v) + flushed
        outs.append((numerator + np.abs(out) * r_sum) / (1 - r_sum) + 3 * k.u * np.abs(out)
                    + 2 * num_keys * k.eta)
        lses.append(-np.log1p(-r_sum) + phi * np.abs(log_total) + 3 * k.u * (np.abs(top) + lse))
    return Limits(*outs), Limits(*lses)


def backward_limits(
    p: Array,
    g: Array,
    difference: Array,
    abs_difference: Array,
    query: Array,
    key: Array,
    grad_out: Array,
    scale: float,
    k: Machine,
) -> tuple[tuple[Limits, Array], ...]:
    """Limits of ``dq``, ``dk`` and ``dv`` before they are stored, each with the largest
    intermediate behind an element: a half format keeps dS and partial sums in itself.

    Args:
        p: ``P``, 0 where masked, [..., M, N].
        g: see :func:`shift_growth`.
        difference: ``dP - d``.
        abs_difference: ``|do||v|^T + sum|do o|``.
        query, key, grad_out: [..., M, D], [..., N, D], [..., M, Dv].
        scale: ``c``.
    """
    num_queries, num_keys = p.shape[-2:]
    head_size = grad_out.shape[-1]
    query_blocks = math.ceil(num_queries / QUERY_BLOCK)
    key_blocks = math.ceil(num_keys / k.key_block)
    c = abs(scale)
    abs_q, abs_k, abs_do = np.abs(query), np.abs(key), np.abs(grad_out)
    abs_ds = np.abs(p * difference)
    # The error of dS is first + phi * second, so its products are made once for both phi.
    wide = (1 + g) * ((k.order(head_size + 1) + k.inputs) * abs_difference * p
                      + 2 * k.u * abs_ds + 2 * head_size * k.eta * p)
    flush = 2 * k.acc.tiny * (np.abs(difference) + abs_difference) + k.eta
    first = g * abs_ds + wide + k.v * abs_ds + k.eta_v + flush
    second = (1 + g) * abs_ds + wide
    found: dict[str, list[Array]] = {"q": [], "k": [], "v": []}
    turned = np.swapaxes(p, -1, -2)
    grown = np.swapaxes(p * g, -1, -2) @ abs_do
    plain = turned @ abs_do
    flushed = (k.eta_v + 2 * k.acc.tiny) * abs_do.sum(-2, keepdims=True)
    products = {
        "q": (first @ abs_k, second @ abs_k, abs_ds @ abs_k),
        "k": tuple(np.swapaxes(x, -1, -2) @ abs_q for x in (first, second, abs_ds)),
    }
    sizes = {"q": (num_keys, key_blocks), "k": (num_queries, query_blocks)}
    for proof, phi in ((True, k.proof_phi()), (False, k.contract_phi())):
        for name, (one, two, size) in products.items():
            terms, blocks = sizes[name]
            roundings = terms if proof else blocks
            order = k.order(terms + 4) + k.inputs + roundings * k.v
            found[name].append(c * ((one + phi * two) * (1 + order) + order * size)
                               + 2 * (1 + c) * terms * k.eta + roundings * k.eta_v)
        roundings = num_queries if proof else query_blocks
        order = k.order(num_queries + 4) + k.inputs + roundings * k.v
        found["v"].append((grown * (1 + phi) + plain * (phi + k.v)) * (1 + order)
                          + order * plain + flushed + 2 * num_queries * k.eta
                          + roundings * k.eta_v)
    inner = abs_ds.max((-2, -1), keepdims=True)
    return (
        (Limits(*found["q"]), np.maximum(c * products["q"][2], inner)),
        (Limits(*found["k"]), np.maximum(c * products["k"][2], inner)),
        (Limits(*found["v"]), plain),
    )
