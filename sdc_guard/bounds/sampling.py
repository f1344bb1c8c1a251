"""Sampling an image at real coordinates: places, weights and how far a kernel's may be off.

*Coordinate.*  A grid value g means ``r = (g + 1)(n - 1) / 2`` with aligned corners, else
``((g + 1) n - 1) / 2``, of n elements.  Every intermediate of either form, in any order, is at most
``(|g| + 1) n + 1`` and there are at most four roundings, of which halvings are exact: r is off by
at most ``2 u ((|g| + 1) n + 1)``.  Padding with the border clips r, which moves no two numbers
apart.  Padding by reflection folds r into a triangle wave, which does not either; its difference,
remainder and sum add ``4 u (|r| + n + 1)``.  A remainder of a floating division is exact, and the
quotient of two such numbers never rounds up to an integer that it is not, so the fold does not
jump.

*Linear.*  The weight ``max(0, 1 - |r - j|)`` of element j has slope 1 at most: with r off by D it
errs by ``D + 2 u``, also where floor(r) jumps and also of elements that D brings into reach.
*Cubic.*  ``40 u + 1.5 D`` (:mod:`sdc_guard.bounds.interpolation`).  *Nearest.*  No error, but
nothing can be said within D of a half.

*Slopes*, which the gradient of the grid needs.  Linear: -1 and 1, exact; they jump where r is an
integer, so nothing can be said within D of one.  Cubic: the derivative of Keys' kernel is
continuous, its own slope is at most 4.5 (``|k''|`` of a = -3/4), and Horner's scheme with partial
results of at most 12 errs by at most ``40 u``: in all ``40 u + 4.5 D``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.interpolation import EVALUATION, keys
from sdc_guard.formats import FLOAT64

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
BILINEAR, NEAREST, BICUBIC = 0, 1, 2
ZEROS, BORDER, REFLECTION = 0, 1, 2

FURTHEST = 2.0**20
"""Coordinates beyond this, where kernels' integers may overflow, are not judged."""

CLOSEST = 0.25
"""Errors of coordinates beyond this are not judged: more elements than the taps could be in
reach."""


@dataclass(frozen=True, slots=True)
class Tap:
    """One element in reach of each point: its place, whether there is one, its weight and slope
    with their errors."""

    index: I64
    inside: NDArray[np.bool_]
    weight: F64
    limit: F64
    slope: F64
    slope_limit: F64


@dataclass(frozen=True, slots=True)
class Taps:
    """All taps along one dimension.  ``judged``: where weights are known; ``smooth``: where slopes
    are; ``scale``: what a step of the grid is in elements, 0 where padding flattens it."""

    taps: tuple[Tap, ...]
    judged: NDArray[np.bool_]
    smooth: NDArray[np.bool_]
    scale: F64


def folded(real: F64, size: int, align: bool) -> F64:
    """Reflection at the centers of the outermost elements, or at their outer edges."""
    low, span = (0.0, size - 1.0) if align else (-0.5, float(size))
    if span == 0:
        return np.zeros_like(real)
    wave = np.mod(np.abs(real - low), 2 * span)
    return np.minimum(wave, 2 * span - wave) + low


def _folds(real: F64, size: int, align: bool) -> F64:
    """The slope of :func:`folded`: 1 or -1; 0 where all folds into one place."""
    low, span = (0.0, size - 1.0) if align else (-0.5, float(size))
    if span == 0:
        return np.zeros_like(real)
    y = real - low
    return np.where(np.mod(np.abs(y), 2 * span) < span, 1.0, -1.0) * np.where(y < 0, -1.0, 1.0)


def keys_slope(x: F64, a: float) -> F64:
    """Derivative of Keys' kernel."""
    size = np.abs(x)
    inner = (3 * (a + 2) * size - 2 * (a + 3)) * size
    outer = (3 * a * size - 10 * a) * size + 8 * a
    return np.sign(x) * np.where(size < 1, inner, np.where(size < 2, outer, 0.0))


def taps_of(grid: F64, size: int, kind: int, padding: int, align: bool, u: float) -> Taps:
    """The taps of a grid's coordinates along a dimension of ``size`` elements."""
    u = u + 2 * FLOAT64.u
    usable = np.isfinite(grid) & (np.abs(grid) * size < FURTHEST)
    grid = np.where(usable, grid, 0.0)
    real = (grid + 1) * (size - 1) / 2 if align else ((grid + 1) * size - 1) / 2
    off = 2 * u * ((np.abs(grid) + 1) * size + 1)
    near = np.abs(real - np.rint(real)) <= off
    scale = np.full(grid.shape, (size - 1) / 2 if align else size / 2)
    if kind != BICUBIC and padding != ZEROS:
        if padding == REFLECTION:
            off = off + 4 * u * (np.abs(real) + size + 1)
            near |= np.abs(real - np.rint(real)) <= off
            scale = scale * _folds(real, size, align)
            real = folded(real, size, align)
        scale = np.where((real <= 0) | (real >= size - 1), 0.0, scale)
        real = np.clip(real, 0.0, size - 1.0)
    usable &= off < CLOSEST
    shifts: tuple[int, ...] = (0,)
    if kind == NEAREST:
        usable &= np.abs(real - np.floor(real) - 0.5) > off
        low = np.rint(real)
    else:
        low = np.floor(real)
        shifts = tuple(range(-2, 4) if kind == BICUBIC else range(-1, 3))
    taps = []
    for shift in shifts:
        place = low + shift
        apart = real - place
        weight, limit, slope, slope_limit = _weights(kind, apart, off, u)
        if kind == BICUBIC and padding != ZEROS:
            if padding == REFLECTION:
                place = folded(place, size, align)
            place = np.clip(place, 0, size - 1)
        inside = (place >= 0) & (place < size)
        index = np.clip(place, 0, max(size - 1, 0)).astype(np.int64)
        taps.append(Tap(index, inside, weight, limit, slope, slope_limit))
    smooth = usable & (~near if kind == BILINEAR else True)
    return Taps(tuple(taps), usable, smooth, scale)


def _weights(kind: int, apart: F64, off: F64, u: float) -> tuple[F64, F64, F64, F64]:
    zero = np.zeros_like(apart)
    if kind == NEAREST:
        return zero + 1.0, zero, zero, zero
    if kind == BILINEAR:
        reached = np.abs(apart) < 1 + off
        slope = np.where((apart >= 0) & (apart < 1), -1.0,
                         np.where((apart < 0) & (apart > -1), 1.0, 0.0))
        return (np.maximum(1.0 - np.abs(apart), 0.0), np.where(reached, off + 2 * u, 0.0), slope,
                zero)
    reached = np.abs(apart) < 2 + off
    return (keys(apart, -0.75), np.where(reached, EVALUATION * u + 1.5 * off, 0.0),
            keys_slope(apart, -0.75), np.where(reached, EVALUATION * u + 4.5 * off, 0.0))
