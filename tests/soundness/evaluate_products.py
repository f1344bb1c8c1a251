"""Matrix products, dots and outer products: any order, rounded or fused products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.formats import accumulator_of, format_of, is_covered_float
from tests.soundness.evaluate_sums import stored
from tests.soundness.evaluators import Emulation, evaluates
from tests.soundness.orders import dot, drawn_order, fused, fused_dot, summed, working

Array = NDArray[Any]
Held = tuple[Tensor, ...]
Rng = np.random.Generator
MOST_TERMS = 200_000
FACTORS = {"aten.mm": ("self", "mat2"), "aten.bmm": ("self", "mat2"), "aten.mv": ("self", "vec"),
           "aten.dot": ("self", "tensor"), "aten.vdot": ("self", "other"),
           "aten.addmm": ("mat1", "mat2"), "aten.addmv": ("mat", "vec"),
           "aten.baddbmm": ("batch1", "batch2")}


def _factors(call: BoundCall) -> tuple[Array, Array] | None:
    """``a[..., M, 1, K]`` and ``b[..., 1, N, K]`` in the accumulator's format, or None."""
    a, b = (call[name] for name in FACTORS[call.form.packet])
    if not is_covered_float(a.dtype) or a.dtype is not b.dtype or not a.shape[-1]:
        return None
    acc = working(accumulator_of(a.dtype))
    left, right = bits.values(a).astype(acc), bits.values(b).astype(acc)
    if b.dim() == 1:
        found = left, right
    else:
        found = left[..., :, None, :], np.swapaxes(right, -1, -2)[..., None, :, :]
    size = int(np.prod(np.broadcast_shapes(found[0].shape, found[1].shape)))
    return found if size <= MOST_TERMS else None


def _flushed(x: Array, tiny: float) -> Array:
    return np.where(np.abs(x) < tiny, x.dtype.type(0), x)


@evaluates("mm", "bmm", "mv", "dot", "vdot")
def products(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """The contract is the proof here; bf16 products may also flush what is subnormal."""
    found = _factors(call)
    if found is None or not held[0].numel():
        return
    a, b = found
    order = "fused" if rng.random() < 0.3 else drawn_order(rng, a.shape[-1])
    yield Emulation(order, 0, stored(dot(a, b, order, rng), held[0]), True)
    if held[0].dtype is torch.bfloat16 and call.form.packet in ("aten.mm", "aten.bmm"):
        tiny = format_of(torch.float32).tiny
        a, b = _flushed(a, tiny), _flushed(b, tiny)
        total = _flushed(summed(_flushed(a * b, tiny), "sequential", rng), tiny)
        yield Emulation("flushing subnormals", 0, stored(total, held[0]), True)


@evaluates("addmm", "addmv", "baddbmm")
def affine(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """``beta C + alpha A B``: the addend at the end, or as the first term of the sum."""
    found = _factors(call)
    if found is None or not held[0].numel() or call["self"].dtype is not held[0].dtype:
        return
    a, b = found
    of = a.dtype.type
    alpha, beta = (of(float(call.get(name, 1))) for name in ("alpha", "beta"))
    start = np.broadcast_to(bits.values(call["self"]).astype(a.dtype), tuple(held[0].shape))
    start = beta * start if beta else np.zeros_like(start)
    order = drawn_order(rng, a.shape[-1])
    last = alpha * dot(a, b, order, rng) + start
    yield Emulation(f"{order}, then the addend", 0, stored(last, held[0]), True)
    fused_last = fused(np.broadcast_to(alpha, start.shape), dot(a, b, order, rng), start)
    yield Emulation(f"{order}, then a fused addend", 0, stored(fused_last, held[0]), True)
    if alpha == 1:
        first = fused_dot(a, b, start)
        yield Emulation("fused from the addend on", 0, stored(first, held[0]), True)


@evaluates("addbmm")
def over_batches(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """One long sum over batches and the inner dimension."""
    a, b = call["batch1"], call["batch2"]
    if not is_covered_float(a.dtype) or call["self"].dtype is not held[0].dtype:
        return
    acc = working(accumulator_of(a.dtype))
    left = np.moveaxis(bits.values(a).astype(acc), 0, 1).reshape(a.shape[1], 1, -1)
    right = np.moveaxis(bits.values(b).astype(acc), 2, 0).reshape(1, b.shape[2], -1)
    size = left.shape[0] * right.shape[1] * left.shape[2]
    if not left.shape[-1] or size > MOST_TERMS:
        return
    alpha, beta = (acc(float(call.get(name, 1))) for name in ("alpha", "beta"))
    start = np.broadcast_to(bits.values(call["self"]).astype(acc), tuple(held[0].shape))
    order = drawn_order(rng, left.shape[-1])
    total = alpha * dot(left, right, order, rng) + (beta * start if beta else 0)
    yield Emulation(order, 0, stored(total, held[0]), True)


@evaluates("addr")
def outer(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """``beta C + alpha a b^T``, rounded one by one, or fused."""
    names = ("self", "vec1", "vec2")
    if any(call[n].dtype is not held[0].dtype for n in names):
        return
    if not is_covered_float(held[0].dtype):
        return
    acc = working(accumulator_of(held[0].dtype))
    c, a, b = (bits.values(call[n]).astype(acc) for n in names)
    alpha, beta = (acc(float(call.get(name, 1))) for name in ("alpha", "beta"))
    start = np.broadcast_to(beta * c if beta else acc(0), tuple(held[0].shape)).astype(acc)
    product = np.multiply.outer(alpha * a, b)
    yield Emulation("rounded", 0, stored(product + start, held[0]), True)
    left, right = np.broadcast_arrays((alpha * a)[:, None], b[None])
    yield Emulation("fused", 0, stored(fused(left, right, start), held[0]), True)
