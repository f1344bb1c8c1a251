"""Elementwise formulas and losses, fused and unfused, in other orders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.formats import accumulator_of, is_covered_float
from tests.soundness.evaluate_sums import stored
from tests.soundness.evaluators import Emulation, evaluates
from tests.soundness.orders import SHALLOW, drawn_order, fused, summed, working

Array = NDArray[Any]
Held = tuple[Tensor, ...]
Rng = np.random.Generator


def _operands(call: BoundCall, held: Tensor, *names: str) -> list[Array] | None:
    """The named tensors in the format that the kernel computes in, broadcast to the result; None
    where they are not all of the result's dtype."""
    tensors = [call.get(name) for name in names]
    if not is_covered_float(held.dtype) or any(
            not isinstance(t, Tensor) or t.dtype is not held.dtype for t in tensors):
        return None
    acc = working(accumulator_of(held.dtype))
    shape = tuple(held.shape)
    return [np.broadcast_to(bits.values(t).astype(acc), shape).copy() for t in tensors]


def _fused(a: Array | Any, b: Array, c: Array) -> Array:
    return fused(np.broadcast_to(np.asarray(a, dtype=c.dtype), c.shape), b, c)


@evaluates("add", "sub", "rsub")
def additions(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """``a + alpha b`` with one rounding or two."""
    found = _operands(call, held[0], "self", "other")
    if found is None:
        return
    a, b = found
    alpha = a.dtype.type(float(call.get("alpha", 1)))
    if call.form.packet == "aten.rsub":
        a, b = b, a
    if call.form.packet != "aten.add":
        alpha = -alpha
    yield Emulation("fused", 0, stored(_fused(alpha, b, a), held[0]), True)
    yield Emulation("rounded", 0, stored(a + alpha * b, held[0]), True)


@evaluates("addcmul", "addcdiv")
def products_added(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """``a + v b c`` and ``a + v b / c``, products in either order, the last one fused or not."""
    found = _operands(call, held[0], "self", "tensor1", "tensor2")
    if found is None:
        return
    a, b, c = found
    v = a.dtype.type(float(call.get("value", 1)))
    if call.form.packet == "aten.addcdiv":
        forms = {"v (b / c)": a + v * (b / c), "(v b) / c": a + (v * b) / c,
                 "fused v (b / c)": _fused(v, b / c, a)}
    else:
        forms = {"v (b c)": a + v * (b * c), "(v b) c": a + (v * b) * c,
                 "fused (v b) c": _fused(v * b, c, a), "fused v (b c)": _fused(v, b * c, a)}
    for name, value in forms.items():
        yield Emulation(name, 0, stored(value, held[0]), True)


@evaluates("lerp")
def lerps(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """``a + w (b - a)`` below one half, ``b - (b - a)(1 - w)`` above, fused or not."""
    found = _operands(call, held[0], "self", "end")
    weight = call["weight"]
    if found is None:
        return
    a, b = found
    of = a.dtype.type
    if isinstance(weight, Tensor):
        if weight.dtype is not held[0].dtype:
            return
        w = np.broadcast_to(bits.values(weight).astype(of), a.shape)
    else:
        w = np.full(a.shape, of(float(weight)))
    near = np.abs(w) < 0.5
    rounded = np.where(near, a + w * (b - a), b - (b - a) * (1 - w))
    yield Emulation("rounded", 0, stored(rounded, held[0]), True)
    with_fma = np.where(near, _fused(w, b - a, a), _fused(w - 1, b - a, b))
    yield Emulation("fused", 0, stored(with_fma, held[0]), True)


LOSSES = ("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss",
          "binary_cross_entropy_with_logits", "binary_cross_entropy")


@evaluates(*LOSSES)
def losses(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """The kernel's own terms, added in any order."""
    if call["reduction"] == 0 or call.form.is_out or not is_covered_float(held[0].dtype):
        return
    terms = bits.values(call.replaced(reduction=0).run()[0])
    acc = working(accumulator_of(held[0].dtype))
    flat = terms.reshape(1, -1).astype(acc)
    if not flat.size:
        return
    order = drawn_order(rng, flat.shape[-1])
    for name in (order, "pairwise"):
        total = summed(flat, name, rng)
        value = total / acc(flat.shape[-1]) if call["reduction"] == 1 else total
        yield Emulation(f"terms added {name}", 0, stored(value, held[0]), name in SHALLOW)
