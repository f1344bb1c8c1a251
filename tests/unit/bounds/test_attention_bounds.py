"""Attention bounds against a kernel that rounds every step to 11 bits, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds import attention as bounds
from sdc_guard.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from tests.unit.bounds import toy

FINE = Format("fine", 11, -60, 60)
M, N, D = 3, 5, 4
SCALE = Fraction(1, 2)
Rows = list[list[Fraction]]


def fl(x: Fraction) -> Fraction:
    return toy.rounded(x, FINE)


def machine() -> bounds.Machine:
    return bounds.Machine(FINE, FINE.u + FLOAT64.u, 0.0, 0.0, 0.0, FINE.eta, 512)


def operands(seed: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    size = 2.0 ** generator.integers(-2, 2)
    return tuple(
        np.array([[float(fl(Fraction(float(x * size)))) for x in r]
                  for r in generator.standard_normal(shape)])
        for shape in ((M, D), (N, D), (N, D), (M, D)))


def rows(array: np.ndarray) -> Rows:
    return [toy.fractions(r) for r in array]


def columns(matrix: Rows) -> Rows:
    return [list(c) for c in zip(*matrix, strict=True)]


def product(a: Rows, b: Rows, exact: bool) -> Rows:
    """``A B`` with every step rounded, or exact."""
    return [[sum(x * y for x, y in zip(r, c, strict=True)) if exact else toy.dot(r, c, FINE)
             for c in columns(b)] for r in a]


def forward(q: Rows, k: Rows, v: Rows, exact: bool) -> tuple[Rows, list[Fraction]]:
    keep = (lambda x: x) if exact else fl
    scores = [[keep(SCALE * s) for s in r] for r in product(q, columns(k), exact)]
    out, lse = [], []
    for r in scores:
        top = max(r)
        p = [keep(toy.exp(keep(s - top))) for s in r]
        total = sum(p) if exact else toy.running_sum(p, FINE)
        weighted = product([p], v, exact)[0]
        inverse = keep(1 / total)
        out.append([keep(x * inverse) for x in weighted])
        lse.append(keep(top + keep(toy.log(total))))
    return out, lse


def backward(
    q: Rows, k: Rows, v: Rows, do: Rows, out: Rows, lse: list[Fraction], exact: bool
) -> tuple[Rows, Rows, Rows]:
    keep = (lambda x: x) if exact else fl
    scores = [[keep(SCALE * s) for s in r] for r in product(q, columns(k), exact)]
    p = [[keep(toy.exp(keep(s - z))) for s in r] for r, z in zip(scores, lse, strict=True)]
    dp = product(do, columns(v), exact)
    d = [product([a], columns([b]), exact)[0][0] for a, b in zip(do, out, strict=True)]
    ds = [[keep(x * keep(y - z)) for x, y in zip(pr, dr, strict=True)]
          for pr, dr, z in zip(p, dp, d, strict=True)]
    scaled = [[keep(SCALE * x) for x in r] for r in ds]
    return (product(scaled, k, exact), product(columns(scaled), q, exact),
            product(columns(p), do, exact))


def floats(matrix: Rows) -> np.ndarray:
    return np.array([[float(x) for x in r] for r in matrix])


def ratio(computed: Rows, true: Rows, limit: np.ndarray) -> Fraction:
    return max(abs(a - b) / (Fraction(float(e)) + Fraction(FINE.eta))
               for ra, rb, re in zip(computed, true, limit, strict=True)
               for a, b, e in zip(ra, rb, re, strict=True))


def forward_ratios(seed: int) -> list[Fraction]:
    q, k, v, _ = operands(seed)
    m = machine()
    scores = float(SCALE) * q @ k.T
    delta = bounds.score_error(float(SCALE) * np.abs(q) @ np.abs(k).T, scores, D, m)
    top = scores.max(-1, keepdims=True)
    p = np.exp(scores - top)
    total = p.sum(-1, keepdims=True)
    g = bounds.shift_growth(delta, top - scores, m.u)
    out_limits, lse_limits = bounds.forward_limits(p, g, total, v, p @ v / total, top, m)
    computed = forward(rows(q), rows(k), rows(v), exact=False)
    true = forward(rows(q), rows(k), rows(v), exact=True)
    return [ratio(computed[0], true[0], out_limits.contract),
            ratio([computed[1]], [true[1]], lse_limits.contract.T)]


def backward_ratios(seed: int) -> list[Fraction]:
    q, k, v, do = operands(seed)
    m = machine()
    held_out, held_lse = forward(rows(q), rows(k), rows(v), exact=False)
    scores = float(SCALE) * q @ k.T
    delta = bounds.score_error(float(SCALE) * np.abs(q) @ np.abs(k).T, scores, D, m)
    lse = np.array([[float(x)] for x in held_lse])
    out = floats(held_out)
    p = np.exp(scores - lse)
    g = bounds.shift_growth(delta, np.abs(scores - lse), m.u)
    difference = do @ v.T - (do * out).sum(-1, keepdims=True)
    size = np.abs(do) @ np.abs(v).T + np.abs(do * out).sum(-1, keepdims=True)
    limits = bounds.backward_limits(p, g, difference, size, q, k, do, float(SCALE), m)
    arguments = (rows(q), rows(k), rows(v), rows(do), held_out, held_lse)
    computed, true = backward(*arguments, exact=False), backward(*arguments, exact=True)
    return [ratio(c, t, limit.contract)
            for c, t, (limit, _) in zip(computed, true, limits, strict=True)]


@pytest.mark.parametrize("ratios", [forward_ratios, backward_ratios])
def test_every_error_is_inside_and_some_come_near(ratios: object) -> None:
    found = np.array([[float(x) for x in ratios(seed)] for seed in range(20)])  # type: ignore[operator]
    assert found.max() <= 1
    # The exponential of 20 ulp that the contract allows is not the toy's, which is exact.
    assert found.max(0).min() >= 0.01


def test_proofs_are_wider_than_contracts() -> None:
    m = bounds.machine(FLOAT32, FLOAT32, 0.0, "cpu")
    assert m.proof_phi() > m.contract_phi() > 0
    half = bounds.machine(BFLOAT16, FLOAT32, 0.0, "cpu")
    assert half.v == BFLOAT16.u
    assert half.contract_phi() == bounds.FAST_EXPONENTIAL
    assert bounds.machine(FLOAT16, FLOAT32, 0.0, "cuda").key_block == 64


def test_masked_scores_add_nothing() -> None:
    scores = np.array([[1.0, -np.inf]])
    m = bounds.machine(FLOAT32, FLOAT32, 0.0, "cpu")
    delta = bounds.score_error(np.array([[1.0, 1.0]]), scores, 4, m)
    assert np.all(np.isfinite(bounds.shift_growth(delta, scores.max() - scores, m.u)))
