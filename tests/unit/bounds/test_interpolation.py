from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from sdc_guard.bounds.interpolation import (
    antialias_weights,
    cubic_weights,
    filter_value,
    floored_in_fp32,
    keys,
)

F = np.float32
U = 2.0**-24


def exact_keys(x: Fraction, a: Fraction) -> Fraction:
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a if x < 2 else Fraction(0)


def exact_cubic(size: int, out: int, align: bool) -> list[list[Fraction]]:
    rows = []
    for i in range(out):
        row = [Fraction(0)] * size
        r = (Fraction(size - 1, out - 1) * i if align
             else Fraction(size, out) * (i + Fraction(1, 2)) - Fraction(1, 2))
        for j in range(floor(r) - 1, floor(r) + 3):
            row[min(max(j, 0), size - 1)] += exact_keys(r - j, Fraction(-3, 4))
        rows.append(row)
    return rows


def cubic_in_fp32(size: int, out: int, align: bool) -> np.ndarray:
    """Every operation rounded to fp32, in one of the permitted orders."""
    found = np.zeros((out, size))
    step = F(size - 1) / F(out - 1) if align else F(size) / F(out)
    a = F(-0.75)
    for i in range(out):
        r = step * F(i) if align else step * (F(i) + F(0.5)) - F(0.5)
        low = np.floor(r)
        t = r - low
        x1, x2 = t, F(1) - t
        pieces = [((a * x - F(5) * a) * x + F(8) * a) * x - F(4) * a
                  for x in (x1 + F(1), x2 + F(1))]
        inner = [((a + F(2)) * x - (a + F(3))) * x * x + F(1) for x in (x1, x2)]
        for j, weight in enumerate((pieces[0], inner[0], inner[1], pieces[1])):
            found[i, min(max(int(low) + j - 1, 0), size - 1)] += float(weight)
    return found


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(("size", "out"), [(7, 12), (12, 7), (1, 5), (5, 97), (97, 2), (64, 64)])
def test_cubic_weights_are_exact_and_a_kernel_in_fp32_keeps_their_limit(
    size: int, out: int, align: bool
) -> None:
    matrix, limit = cubic_weights(size, out, align, None, U)
    exact = np.array([[float(w) for w in row] for row in exact_cubic(size, out, align)])
    assert np.abs(matrix - exact).max() < 2.0**-45
    assert (np.abs(cubic_in_fp32(size, out, align) - exact) <= limit).all()


@pytest.mark.parametrize("kind", ["linear", "cubic", "lanczos"])
@pytest.mark.parametrize(("size", "out"), [(7, 12), (12, 7), (33, 8), (97, 2), (9, 9)])
def test_antialias_weights_in_fp32_keep_their_limit(kind: str, size: int, out: int) -> None:
    matrix, limit = antialias_weights(kind, size, out, False, None, U)
    assert np.abs(matrix.sum(1) - 1).max() < 2.0**-45
    step = F(size) / F(out)
    stretch = max(step, F(1))
    for i in range(out):
        x = ((np.arange(size, dtype=F) - step * (F(i) + F(0.5))) + F(0.5)) * (F(1) / stretch)
        value = filter_value(x, kind).astype(F)
        weight = value / value.sum(dtype=F)
        assert (np.abs(weight - matrix[i]) <= limit[i]).all()


def test_triangle_weights_are_exact() -> None:
    matrix, _ = antialias_weights("linear", 5, 2, False, None, U)
    center = [Fraction(5, 4), Fraction(15, 4)]
    for i in range(2):
        values = [max(1 - abs(Fraction(2 * j + 1, 2) - center[i]) * Fraction(2, 5), Fraction(0))
                  for j in range(5)]
        exact = [float(v / sum(values)) for v in values]
        assert np.abs(matrix[i] - exact).max() < 2.0**-50


def test_a_kernel_s_slopes_are_what_the_derivation_says() -> None:
    x = np.linspace(-3.1, 3.1, 200_001)
    step = x[1] - x[0]
    for value, slope in ((keys(x, -0.75), 1.36), (filter_value(x, "cubic"), 1.4),
                         (filter_value(x, "linear"), 1.01), (filter_value(x, "lanczos"), 1.9)):
        assert np.abs(np.diff(value)).max() <= slope * step


def test_a_floor_in_fp32_moves_coordinates_just_below_an_integer_only() -> None:
    real = np.array([3.0, 4000 - 2.0**-14, 4000.5, 3 - 2.0**-30])
    assert floored_in_fp32(real, 2.0**-53).tolist() == [0.0, 2.0**-14, 0.0, 2.0**-30]
    assert not floored_in_fp32(real, U).any()


def test_a_missing_weight_is_outside_the_limit() -> None:
    matrix, limit = cubic_weights(7, 12, False, None, U)
    assert (np.abs(matrix[matrix != 0]) > limit[matrix != 0]).mean() > 0.9
