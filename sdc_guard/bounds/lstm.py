"""Running error analysis of LSTM steps, forward and backward.

One step, with gates ``a = W x + V h + b`` and ``i, f, o`` their logistic functions, ``g`` the
hyperbolic tangent of the third:

    c' = f c + i g,    h' = o tanh(c').

The logistic function has slope at most 1/4 and the hyperbolic tangent at most 1, so a gate known
within e gives a factor known within ``e / 4`` or ``e``, and its own rounding.  The rest is
:class:`sdc_guard.bounds.tracked.Tracked`.

A layer's output holds every h, so each step's gates follow from the *held* previous h: their error
is that of one product, whatever came before.  Only c is not held, and its error

    e(c') = f e(c) + |c| e(f) + i e(g) + |g| e(i) + ...

is damped by f < 1 at each step instead of growing.

*Backward*, with ``dh`` and ``dc`` what arrives from later steps and from above,

    dc += dh o (1 - tanh(c')^2),  da_i = dc g i (1 - i),  da_f = dc c f (1 - f),
    da_g = dc i (1 - g^2),        da_o = dh tanh(c') o (1 - o),  dc <- dc f,  dh <- V^T da,

so the error of dh grows by ``|V|^T`` and the gates' slopes at each step: a bound over many steps is
right and says little about the first of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdc_guard.bounds.tracked import Array, Tracked
from sdc_guard.formats import Format


def _elementary(value: Array, shift: Array, own: float, fmt: Format) -> Tracked:
    """Own relative error, and four smallest normals where an exponential under- or overflows."""
    error = shift + (own + 8 * 2.0**-53) * np.abs(value) + 4 * fmt.tiny
    return Tracked(value, error, fmt)


def logistic(x: Tracked, own: float) -> Tracked:
    """``1 / (1 + e^-x)``, by a kernel with relative error ``own``."""
    e = np.exp(-np.abs(x.value))
    value = np.where(x.value >= 0, 1.0, e) / (1.0 + e)
    return _elementary(value, x.error / 4, own, x.fmt)


def hyperbolic(x: Tracked, own: float) -> Tracked:
    """``tanh x``, by a kernel with relative error ``own``."""
    return _elementary(np.tanh(x.value), x.error, own, x.fmt)


@dataclass(frozen=True, slots=True)
class Step:
    """What a step computed: the four factors, the cells before and after, and the results."""

    i: Tracked
    f: Tracked
    g: Tracked
    o: Tracked
    before: Tracked
    cell: Tracked
    squashed: Tracked
    hidden: Tracked


def step(gates: Tracked, cell: Tracked, own: float, stored: Format) -> Step:
    """One step from gates [N, 4H] in the order i, f, g, o; the cell is kept in ``stored``."""
    i, f, g, o = (Tracked(v, e, gates.fmt) for v, e in zip(
        np.split(gates.value, 4, -1), np.split(gates.error, 4, -1), strict=True))
    i, f, o = (logistic(x, own) for x in (i, f, o))
    g = hyperbolic(g, own)
    after = (f * cell + i * g).stored(stored)
    squashed = hyperbolic(after, own)
    return Step(i, f, g, o, cell, after, squashed, o * squashed)


def rest(x: Tracked, power: int) -> Tracked:
    """``1 - x`` or ``1 - x^2``."""
    one = Tracked.exact(np.ones_like(x.value), x.fmt)
    return one - (x if power == 1 else x * x)


def step_backward(done: Step, grad_hidden: Tracked, grad_cell: Tracked
                  ) -> tuple[Tracked, Tracked]:
    """Gradients of the gates [N, 4H] and of the cell before."""
    grad_cell = grad_cell + grad_hidden * (done.o * rest(done.squashed, 2))
    parts = (grad_cell * done.g * (done.i * rest(done.i, 1)),
             grad_cell * done.before * (done.f * rest(done.f, 1)),
             grad_cell * done.i * rest(done.g, 2),
             grad_hidden * done.squashed * (done.o * rest(done.o, 1)))
    gates = Tracked(np.concatenate([p.value for p in parts], -1),
                    np.concatenate([p.error for p in parts], -1), grad_cell.fmt)
    return gates, grad_cell * done.f

