from __future__ import annotations

from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np

from sdc_guard.bounds.lstm import hyperbolic, logistic, step, step_backward
from sdc_guard.bounds.tracked import Tracked
from sdc_guard.formats import FLOAT32

getcontext().prec = 60
F = np.float32
OWN = 8 * FLOAT32.u


def exact_logistic(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def exact_tanh(x: Decimal) -> Decimal:
    e = (2 * x).exp()
    return (e - 1) / (e + 1)


def drawn(seed: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(num_steps, 4, 4)).astype(F) * F(3),
            generator.normal(size=(4, 1)).astype(F))


def test_factors_are_exact_and_their_arguments_errors_are_damped() -> None:
    x = Tracked(np.array([-90.0, -3.5, 0.0, 1.25, 40.0]), np.full(5, 1e-3), FLOAT32)
    for function, exact, slope in ((logistic, exact_logistic, 0.25), (hyperbolic, exact_tanh, 1)):
        found = function(x, OWN)
        for value, argument in zip(found.value, x.value, strict=True):
            assert abs(Decimal(float(value)) - exact(Decimal(float(argument)))) <= Decimal(2.0**-50)
        for shift in (-1e-3, 1e-3):
            moved = np.array([float(exact(Decimal(float(a)) + Decimal(shift))) for a in x.value])
            assert (np.abs(moved - found.value) <= found.error).all()
        assert (found.error <= slope * 1e-3 + 2 * OWN).all()


def test_cells_in_fp32_stay_inside_their_bounds_over_many_steps() -> None:
    gates, start = drawn(0, 60)
    state = Tracked.exact(start.astype(np.float64), FLOAT32)
    cell = start
    exact = [Decimal(float(c)) for c in start[:, 0]]
    for t in range(60):
        done = step(Tracked.exact(gates[t].astype(np.float64), FLOAT32), state, OWN, FLOAT32)
        state = done.cell
        a = gates[t]
        i, f, o = (F(1) / (F(1) + np.exp(-a[:, k:k + 1])) for k in (0, 1, 3))
        cell = f * cell + i * np.tanh(a[:, 2:3])
        hidden = o * np.tanh(cell)
        for n in range(4):
            ai, af, ag, ao = (Decimal(float(v)) for v in a[n])
            exact[n] = exact_logistic(af) * exact[n] + exact_logistic(ai) * exact_tanh(ag)
            result = exact_logistic(ao) * exact_tanh(exact[n])
            assert abs(Decimal(float(cell[n, 0])) - exact[n]) <= Decimal(state.error[n, 0])
            assert abs(Decimal(float(hidden[n, 0])) - result) <= Decimal(done.hidden.error[n, 0])
    assert state.error.max() < 2.0**-17  # damped, not grown


def test_a_step_back_is_exact_in_rational_arithmetic_and_bounds_fp32() -> None:
    gates, start = drawn(1, 1)
    done = step(Tracked.exact(gates[0].astype(np.float64), FLOAT32),
                Tracked.exact(start.astype(np.float64), FLOAT32), OWN, FLOAT32)
    grads = np.random.default_rng(2).normal(size=(2, 4, 1)).astype(F)
    found, before = step_backward(
        done, *(Tracked.exact(g.astype(np.float64), FLOAT32) for g in grads))
    for n in range(4):
        i, f, g, o, c, s = (Fraction(float(getattr(done, name).value[n, 0]))
                            for name in ("i", "f", "g", "o", "before", "squashed"))
        dh, dc = (Fraction(float(x[n, 0])) for x in grads)
        dc += dh * o * (1 - s * s)
        exact = (dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g),
                 dh * s * o * (1 - o))
        values = [getattr(done, k).value[n, 0].astype(F)
                  for k in ("i", "f", "g", "o", "before", "squashed")]
        fi, ff, fg, fo, fc, fs = values
        fdc = grads[1][n, 0] + grads[0][n, 0] * fo * (F(1) - fs * fs)
        computed = (fdc * fg * fi * (F(1) - fi), fdc * fc * ff * (F(1) - ff),
                    fdc * fi * (F(1) - fg * fg), grads[0][n, 0] * fs * fo * (F(1) - fo))
        for k in range(4):
            assert abs(Fraction(float(found.value[n, k])) - exact[k]) <= Fraction(2.0**-45)
            assert abs(float(computed[k]) - float(exact[k])) <= found.error[n, k]
        assert abs(Fraction(float(before.value[n, 0])) - dc * f) <= Fraction(2.0**-45)
