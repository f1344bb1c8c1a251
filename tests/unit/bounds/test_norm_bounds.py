"""Layer-norm bounds against kernels that round every step to 11 bits, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds import norms
from sdc_guard.bounds.softmax import with_reference
from sdc_guard.formats import Format
from tests.unit.bounds import toy

FINE = Format("fine", 11, -60, 60)
U = with_reference(FINE)
EPS = 2.0**-10


def fl(x: Fraction) -> Fraction:
    return toy.rounded(x, FINE)


def row(seed: int, n: int = 12) -> np.ndarray:
    """Some rows far from zero, some centred."""
    generator = np.random.default_rng(seed)
    raw = generator.standard_normal(n) * 2.0 ** generator.integers(-3, 3)
    raw = raw + generator.choice([0.0, 1.0, 30.0])
    return np.array([float(fl(Fraction(float(x)))) for x in raw])


def welford(x: list[Fraction]) -> tuple[Fraction, Fraction]:
    """Mean and variance by updating, as ``RowwiseMoments`` does within a lane."""
    mean, squares = Fraction(0), Fraction(0)
    for count, value in enumerate(x, 1):
        delta = fl(value - mean)
        mean = fl(mean + fl(delta * fl(Fraction(1, count))))
        squares = fl(squares + fl(delta * fl(value - mean)))
    return mean, fl(squares / len(x))


def textbook(x: list[Fraction]) -> tuple[Fraction, Fraction]:
    """``mean x^2 - mean^2``, the worst formula in use."""
    n = len(x)
    mean = fl(toy.running_sum(x, FINE) / n)
    square = fl(toy.dot(x, x, FINE) / n)
    return mean, fl(square - fl(mean * mean))


def rstd_of(var: Fraction) -> Fraction | None:
    inside = fl(var + Fraction(EPS))
    return fl(1 / fl(toy.sqrt(inside))) if inside > 0 else None


def true_moments(x: list[Fraction]) -> tuple[Fraction, Fraction]:
    mean = sum(x) / len(x)
    var = sum((v - mean) ** 2 for v in x) / len(x)
    return mean, 1 / toy.sqrt(var + Fraction(EPS))


def allowed(limit: float) -> Fraction:
    return Fraction(float(limit)) * (1 + Fraction(1, 2**40)) + Fraction(FINE.eta)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(("algorithm", "proof"), [(welford, False), (welford, True),
                                                  (textbook, True)])
def test_moments_and_the_normalised_row_stay_within_their_bounds(
    seed: int, algorithm: object, proof: bool
) -> None:
    x = row(seed)
    values = toy.fractions(x)
    mean, var = algorithm(values)  # type: ignore[operator]
    rstd = rstd_of(var)
    limits = norms.moments(x[None], EPS, U, 0.0, proof=proof)
    true_mean, true_rstd = true_moments(values)
    assert abs(mean - true_mean) <= allowed(limits.mean_error[0, 0])
    if not np.isfinite(limits.rstd_error[0, 0]):
        return
    assert rstd is not None
    assert abs(rstd - true_rstd) <= allowed(limits.rstd_error[0, 0])
    weight, bias = Fraction(3, 2), Fraction(1, 4)
    offset = fl(-rstd * mean)
    computed = [fl(fl(fl(fl(v * rstd) + offset) * weight) + bias) for v in values]
    true = [(v - true_mean) * true_rstd * weight + bias for v in values]
    y = np.array([float(t) for t in true])
    error = norms.forward_error(x[None], limits, float(weight), y[None], U)[0]
    assert all(abs(c - t) <= allowed(e) for c, t, e in zip(computed, true, error, strict=True))


def test_the_contract_breaks_for_the_textbook_formula_and_not_for_updating() -> None:
    """What makes a contract worth having: it tells the two apart."""
    broken = 0
    for seed in range(40):
        x = row(seed)
        values = toy.fractions(x)
        limits = norms.moments(x[None], EPS, U, 0.0, proof=False)
        rstd = rstd_of(textbook(values)[1])
        _, true_rstd = true_moments(values)
        limit = limits.rstd_error[0, 0]
        if np.isfinite(limit) and (rstd is None or abs(rstd - true_rstd) > allowed(limit)):
            broken += 1
    assert broken > 0


def test_leftover_elements_cost_more_than_whole_vectors() -> None:
    x = np.zeros((1, 33))
    x[0, -1] = 1000.0
    whole = norms.moments(x[:, 1:], EPS, U, 0.0, proof=False).mean_error
    left = norms.moments(x, EPS, U, 0.0, proof=False).mean_error
    assert left - whole > 0.5 * U * 1000.0


@pytest.mark.parametrize("seed", range(25))
def test_gradients_stay_within_their_bounds(seed: int) -> None:
    n, rows = 9, 5
    x = np.stack([row(100 * seed + i, n) for i in range(rows)])
    grad = np.stack([row(100 * seed + 50 + i, n) for i in range(rows)])
    moments = [welford(toy.fractions(r)) for r in x]
    means = [m for m, _ in moments]
    rstds = [rstd_of(v) or Fraction(1) for _, v in moments]
    mean = np.array([[float(m)] for m in means])
    rstd = np.array([[float(r)] for r in rstds])
    dx_limit = norms.input_gradient_error(grad, x, mean, rstd, n, U, FINE.eta)
    dg_limit = norms.weight_gradient_error(grad, x, mean, rstd, rows, U, FINE.eta)
    db_limit = norms.bias_gradient_error(grad, rows, U, FINE.eta)
    dg_terms: list[list[Fraction]] = [[] for _ in range(n)]
    dg_true = [Fraction(0)] * n
    for i in range(rows):
        values, dy, m, r = toy.fractions(x[i]), toy.fractions(grad[i]), means[i], rstds[i]
        s, d = toy.dot(dy, values, FINE), toy.running_sum(dy, FINE)
        cube = fl(fl(fl(fl(fl(d * m) - s) * r) * r) * r)
        beta = fl(cube * fl(Fraction(1, n)))
        c = fl(fl(-beta * m) - fl(fl(d * r) * fl(Fraction(1, n))))
        computed = [fl(fl(fl(r * g) + fl(beta * v)) + c) for g, v in zip(dy, values, strict=True)]
        z = [(v - m) * r for v in values]
        inner = sum(g * q for g, q in zip(dy, z, strict=True)) / n
        true = [r * (g - sum(dy) / n - q * inner) for g, q in zip(dy, z, strict=True)]
        assert all(abs(a - b) <= allowed(e)
                   for a, b, e in zip(computed, true, dx_limit[i], strict=True))
        offset = fl(-r * m)
        for j in range(n):
            dg_terms[j].append(fl(dy[j] * fl(fl(r * values[j]) + offset)))
            dg_true[j] += dy[j] * z[j]
    for j in range(n):
        assert abs(toy.running_sum(dg_terms[j], FINE) - dg_true[j]) <= allowed(dg_limit[j])
        column = toy.fractions(grad[:, j])
        assert abs(toy.running_sum(column, FINE) - sum(column)) <= allowed(db_limit[j])


def test_depths_are_those_of_the_kernels() -> None:
    assert norms.merge_depth(5) == 5
    assert norms.merge_depth(4096) == 16 + 12 + 16
    assert norms.row_depth(1000) >= 1000


def test_rows_whose_intermediates_overflow_are_told() -> None:
    """A sum of eight 1e38 does not fit fp32 (3.4e38), nor does the square of 1e20."""
    x = np.array([[1e38] * 8, [1e20] * 8, [-3e38, 3e38] * 4, [1e18] * 8])
    mean, variance = norms.out_of_range(x, 3.4e38)
    assert mean[:, 0].tolist() == [True, False, True, False]
    assert variance[:, 0].tolist() == [True, True, True, False]


def test_a_mean_of_subnormals_may_lose_a_spacing_in_each_term() -> None:
    eta = 2.0**-149
    x = np.full((1, 5), 3 * eta)
    without = norms.moments(x, EPS, U, 0.0, proof=False).mean_error
    limits = norms.moments(x, EPS, U, eta, proof=False).mean_error
    assert (limits - without >= 5 * eta).all()
