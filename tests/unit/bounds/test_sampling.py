from __future__ import annotations

import itertools
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from sdc_guard.bounds.sampling import (
    BICUBIC,
    BILINEAR,
    BORDER,
    NEAREST,
    REFLECTION,
    ZEROS,
    folded,
    keys_slope,
    taps_of,
)

F = np.float32
U = 2.0**-24


def exact_real(g: Fraction, size: int, padding: int, align: bool) -> Fraction:
    real = (g + 1) * (size - 1) / 2 if align else ((g + 1) * size - 1) / 2
    if padding == REFLECTION:
        low, span = (Fraction(0), size - 1) if align else (Fraction(-1, 2), size)
        if span == 0:
            return Fraction(0)
        wave = abs(real - low) % (2 * span)
        real = min(wave, 2 * span - wave) + low
    return real if padding == ZEROS else min(max(real, Fraction(0)), Fraction(size - 1))


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", [ZEROS, BORDER, REFLECTION])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_linear_weights_are_exact_and_fp32_keeps_their_limit(
    size: int, padding: int, align: bool
) -> None:
    grid = np.random.default_rng(size).normal(size=300).astype(F)
    found = taps_of(grid.astype(np.float64), size, BILINEAR, padding, align, U)
    assert found.judged.all()
    for p, g in enumerate(grid):
        real = exact_real(Fraction(float(g)), size, padding, align)
        weights, limits = np.zeros(size), np.zeros(size)
        for tap in found.taps:
            if tap.inside[p]:
                weights[tap.index[p]] += tap.weight[p]
                limits[tap.index[p]] += tap.limit[p]
        exact = [float(max(1 - abs(real - j), Fraction(0))) for j in range(size)]
        assert np.abs(weights - exact).max() < 2.0**-48
        if padding == ZEROS:
            rounded = ((g + F(1)) / F(2) * F(size - 1) if align
                       else ((g + F(1)) * F(size) - F(1)) / F(2))
            low = np.floor(rounded)
            for place, weight in ((low, F(1) - (rounded - low)), (low + 1, rounded - low)):
                if 0 <= place < size:
                    assert abs(float(weight) - exact[int(place)]) <= limits[int(place)]


def test_a_fold_reflects_at_centers_or_at_edges() -> None:
    real = np.array([-1.0, -0.25, 0.0, 3.0, 4.0, 7.5])
    assert folded(real, 4, True).tolist() == [1.0, 0.25, 0.0, 3.0, 2.0, 1.5]
    assert folded(real, 4, False).tolist() == [0.0, -0.25, 0.0, 3.0, 3.0, -0.5]


@pytest.mark.parametrize("kind", [BILINEAR, NEAREST, BICUBIC])
def test_what_jumps_is_not_judged(kind: int) -> None:
    # Coordinates 3 and 2.5 of 9 elements with aligned corners.
    found = taps_of(np.array([-0.25, -0.375]), 9, kind, ZEROS, True, U)
    assert found.judged.tolist() == [True, kind != NEAREST]
    assert found.smooth.tolist() == [kind != BILINEAR, kind != NEAREST]


def test_coordinates_that_are_not_known_are_not_judged() -> None:
    grid = np.array([np.nan, np.inf, 1e30, 0.1])
    assert taps_of(grid, 9, BILINEAR, ZEROS, False, U).judged.tolist() == [False] * 3 + [True]
    assert not taps_of(grid, 900, BILINEAR, ZEROS, False, 2.0**-8).judged.any()


def test_cubic_taps_are_read_where_padding_puts_them() -> None:
    found = taps_of(np.array([-1.0]), 5, BICUBIC, REFLECTION, False, U)  # coordinate -1/2
    places = [int(t.index[0]) for t in found.taps]
    assert places == [2, 1, 0, 0, 1, 2]
    assert all(t.inside[0] for t in found.taps)


def test_slopes_are_the_derivative_of_the_kernel() -> None:
    a = Fraction(-3, 4)
    for n, x in itertools.product(range(-40, 41), (Fraction(1, 20),)):
        at = n * x
        size = abs(at)
        exact = (3 * (a + 2) * size**2 - 2 * (a + 3) * size if floor(size) < 1
                 else 3 * a * size**2 - 10 * a * size + 8 * a if size < 2 else Fraction(0))
        sign = (at > 0) - (at < 0)
        assert abs(float(sign * exact) - keys_slope(np.array(float(at)), -0.75)) < 2.0**-48
    x = np.linspace(-2.5, 2.5, 100_001)
    assert np.abs(np.diff(keys_slope(x, -0.75))).max() <= 4.51 * (x[1] - x[0])
