"""Residual bounds against exact rationals: a right solution passes, a wrong one does not."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from sdc_guard.bounds import cholesky, householder, linalg, lu
from sdc_guard.formats import FLOAT32

N = 7
Rows = list[list[Fraction]]


def exact(a: np.ndarray[Any, Any]) -> Rows:
    return [[Fraction(float(x)) for x in row] for row in a]


def product(a: Rows, b: Rows) -> Rows:
    return [[sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0))
             for column in zip(*b, strict=True)] for row in a]


def draw(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def substituted(
    t: np.ndarray[Any, Any], b: np.ndarray[Any, Any], order: int
) -> np.ndarray[Any, Any]:
    """Back substitution in fp32, the sum in some order and with or without a reciprocal."""
    x = np.zeros_like(b)
    for i in reversed(range(len(t))):
        terms = [-(t[i, j] * x[j]) for j in range(i + 1, len(t))] + [b[i]]
        generator = np.random.default_rng(order)
        total = np.zeros_like(b[i])
        for k in generator.permutation(len(terms)):
            total = (total + terms[k]).astype(np.float32)
        x[i] = total * (np.float32(1) / t[i, i]) if order % 2 else total / t[i, i]
    return x


@pytest.mark.parametrize("order", range(6))
def test_substitution_in_any_order_keeps_its_bound(order: int) -> None:
    t = np.triu(draw(order, N, N)) + 0.3 * np.eye(N, dtype=np.float32)
    b = draw(order + 50, N, 3)
    x = substituted(t, b, order)
    limit = linalg.by_substitution([t.astype(np.float64)], x.astype(np.float64), FLOAT32)
    worst = Fraction(0)
    for i, row in enumerate(product(exact(t), exact(x))):
        for j, value in enumerate(row):
            gap = abs(value - Fraction(float(b[i, j])))
            assert gap <= Fraction(float(limit[i, j]))
            worst = max(worst, gap / Fraction(float(limit[i, j])))
    assert worst > Fraction(1, 1000)
    x[0] *= np.float32(1 + 2**-15)
    wrong = product(exact(t), exact(x))
    assert any(abs(v - Fraction(float(b[i, j]))) > Fraction(float(limit[i, j]))
               for i, row in enumerate(wrong) for j, v in enumerate(row))


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_inverted_blocks_keep_the_proof(size: int, seed: int) -> None:
    t = np.triu(draw(seed, N, N)) + 2 * np.eye(N, dtype=np.float32)
    b = draw(seed + 9, N, 2)
    x = np.zeros_like(b)
    for start in reversed(range(0, N, size)):
        block = slice(start, min(start + size, N))
        d = t[block, block]
        y = substituted(d, np.eye(len(d), dtype=np.float32), seed)
        s = b[block] - t[block, block.stop:] @ x[block.stop:]
        x[block] = y @ s
    limit = linalg.by_inverted_blocks([t.astype(np.float64)], x.astype(np.float64), FLOAT32)
    assert np.isfinite(limit).all()
    limit = np.broadcast_to(limit, x.shape)
    for i, row in enumerate(product(exact(t), exact(x))):
        for j, value in enumerate(row):
            assert abs(value - Fraction(float(b[i, j]))) <= Fraction(float(limit[i, j]))


def test_two_systems_add_up_and_ill_conditioned_ones_have_no_proof() -> None:
    t = np.triu(draw(0, N, N)) + 2 * np.eye(N, dtype=np.float32)
    low = np.ascontiguousarray(t.T)
    b = draw(1, N, 2)
    y = substituted(t, b, 0)
    x = substituted(low[::-1, ::-1], y[::-1], 1)[::-1]
    factors = [t.astype(np.float64), low.astype(np.float64)]
    limit = linalg.by_substitution(factors, x.astype(np.float64), FLOAT32)
    whole = product(exact(t), product(exact(low), exact(x)))
    for i, row in enumerate(whole):
        for j, value in enumerate(row):
            assert abs(value - Fraction(float(b[i, j]))) <= Fraction(float(limit[i, j]))
    steep = np.eye(40) - np.triu(np.ones((40, 40)), 1)
    assert np.isinf(linalg.by_inverted_blocks([steep], np.ones((40, 1)), FLOAT32)).all()


def test_singular_matrices_have_no_inverse_and_no_condition() -> None:
    batch = np.stack([np.eye(3), np.zeros((3, 3)), 2 * np.eye(3)])
    inverted = linalg.inverse(batch)
    assert np.isnan(inverted[1]).all()
    assert np.isfinite(inverted[[0, 2]]).all()
    assert np.isinf(linalg.condition(batch, inverted)[1]).all()
    assert not linalg.stays_finite([batch], np.ones((3, 3, 1)), FLOAT32)[1].any()


def eliminated(a: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Gaussian elimination with partial pivoting in fp32; packed factors and 1-based pivots."""
    packed, pivots = a.copy(), np.zeros(len(a), dtype=np.int32)
    for j in range(len(a)):
        p = j + int(np.argmax(np.abs(packed[j:, j])))
        packed[[j, p]] = packed[[p, j]]
        pivots[j] = p + 1
        packed[j + 1:, j] /= packed[j, j]
        packed[j + 1:, j + 1:] -= np.outer(packed[j + 1:, j], packed[j, j + 1:])
    return packed, pivots


@pytest.mark.parametrize("seed", range(4))
def test_elimination_keeps_its_bound(seed: int) -> None:
    a = draw(seed, N, N)
    packed, pivots = eliminated(a)
    lower, upper = lu.unpacked(packed.astype(np.float64))
    order = lu.permutation(pivots, N)
    proof, contract = lu.limits(lower, upper, FLOAT32)
    rows = a[order]
    for i, row in enumerate(product(exact(lower), exact(upper))):
        for j, value in enumerate(row):
            gap = abs(value - Fraction(float(rows[i, j])))
            assert gap <= Fraction(float(contract[i, j]))
    assert (proof >= contract).all()
    by_rows, by_columns = lu.growth_by_elimination(a.astype(np.float64))
    size = np.abs(lower) @ np.abs(upper)
    assert by_rows.item() == pytest.approx(size.sum(-1).max(), rel=1e-3)
    assert by_columns.item() == pytest.approx(size.sum(-2).max(), rel=1e-3)


def test_growth_doubles_in_every_step_of_the_worst_case() -> None:
    n = 70
    a = np.eye(n) - np.tril(np.ones((n, n)), -1)
    a[:, -1] = 1.0
    assert lu.growth_by_elimination(a)[0].item() > 2.0 ** (n - 1)
    assert not lu.stays_finite(1e20 * a, FLOAT32)[1].any()
    assert lu.stays_finite(np.eye(5), FLOAT32)[0].all()


def test_swaps_follow_each_other() -> None:
    order = lu.permutation(np.array([[3, 3, 3], [1, 2, 3]]), 3)
    assert order.tolist() == [[2, 0, 1], [0, 1, 2]]
    rows = np.arange(6.0).reshape(3, 2)
    assert lu.permuted(rows, order)[0].tolist() == [[4, 5], [0, 1], [2, 3]]


@pytest.mark.parametrize("seed", range(4))
def test_cholesky_and_its_inverse_keep_their_bounds(seed: int) -> None:
    x = draw(seed, N, N)
    a = (x @ x.T + np.eye(N, dtype=np.float32)).astype(np.float32)
    a = np.tril(a) + np.tril(a, -1).T
    lower = np.zeros_like(a)
    for j in range(N):
        s = a[j, j] - (lower[j, :j] * lower[j, :j]).sum(dtype=np.float32)
        lower[j, j] = np.sqrt(s)
        for i in range(j + 1, N):
            s = a[i, j] - (lower[i, :j] * lower[j, :j]).sum(dtype=np.float32)
            lower[i, j] = s / lower[j, j]
    wide = lower.astype(np.float64)
    _, contract = cholesky.limits(wide, FLOAT32)
    for i, row in enumerate(product(exact(lower), exact(lower.T))):
        for j, value in enumerate(row[: i + 1]):
            assert abs(value - Fraction(float(a[i, j]))) <= Fraction(float(contract[i, j]))
    unit = np.eye(N, dtype=np.float32)
    y = substituted(lower[::-1, ::-1], unit[::-1], seed)[::-1]
    inverse = (y.T @ y).astype(np.float32)
    limit, _ = cholesky.inverse_limits(wide, FLOAT32)
    whole = product(exact(lower), product(exact(lower.T), exact(inverse)))
    for i, row in enumerate(whole):
        for j, value in enumerate(row):
            assert abs(value - (i == j)) <= Fraction(float(limit[i, j]))
    assert cholesky.stays_definite(np.tril(a).astype(np.float64), FLOAT32).all()
    assert not cholesky.stays_definite(np.ones((N, N)), FLOAT32).any()


def test_reflectors_are_applied_in_their_order() -> None:
    packed = np.array([[9.0, 9.0], [1.0, 9.0], [0.0, 1.0]])
    v = householder.vectors(packed, 2)
    assert v.tolist() == [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    tau = np.array([1.0, 1.0])
    first = np.eye(3) - np.outer(v[:, 0], v[:, 0])
    second = np.eye(3) - np.outer(v[:, 1], v[:, 1])
    c = np.arange(6.0).reshape(3, 2)
    assert (householder.applied(v, tau, c, transpose=False) == first @ second @ c).all()
    assert (householder.applied(v, tau, c, transpose=True) == second @ first @ c).all()
    assert householder.are_orthogonal(v, tau).all()
    assert not householder.are_orthogonal(v, 0.7 * tau).any()
    assert not householder.are_orthogonal(1e30 * v, 0 * tau).any()


def test_column_norms_do_not_overflow() -> None:
    a = np.array([[3e300, 0.0], [4e300, 1.0]])
    assert householder.column_norms(a).tolist() == [[pytest.approx(5e300), 1.0]]
    assert householder.column_norms(np.zeros((0, 2))).tolist() == [[0.0, 0.0]]
