"""Ops that are linear in one operand: their matrix, and its rows times the operand in any order.

The matrix is found with unit vectors in float64; its entries are weights of an interpolation, a
filter, ones where values are copied and added.  Rounded to the accumulator's format they make a
correct evaluation of the op: products and their sum, in any order, fused or not.  Where all
weights of a row are equal and not 1 the row is an average: the sum comes first, then one product
or one division (gradients of averages are divided first).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.calls import BoundCall
from sdc_guard.formats import accumulator_of, format_of, is_covered_float
from tests.soundness.evaluate_sums import stored
from tests.soundness.evaluators import Emulation, evaluates
from tests.soundness.orders import dot, drawn_order, summed, working

Array = NDArray[Any]
Held = tuple[Tensor, ...]
Rng = np.random.Generator
MOST_COLUMNS = 700
MOST_ENTRIES = 1_500_000

GRADIENTS = tuple(f"{name}_backward" for name in (
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "avg_pool2d", "avg_pool3d",
    "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"))
IN_ONE = {
    **{name: "grad_output" for name in GRADIENTS},
    **{name: "self" for name in ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "avg_pool2d",
                                 "avg_pool3d", "col2im")},
    "unfold_backward": "grad_in",
    "embedding_dense_backward": "grad_output",
    "convolution": "input",
    "scatter_add": "src",
    "index_add": "source",
    "_embedding_bag": "weight",
    "_embedding_bag_forward_only": "weight",
}
"""By packet, the operand in which the first result is affine with weights that no format rounds, or
the reciprocal of a count."""

ADDENDS = ("self", "bias")

NARROW = frozenset(("scatter_add", "index_add", "embedding_dense_backward"))
"""What adds in the storage format: the proof must hold there too."""


def _wide(call: BoundCall) -> BoundCall:
    return call.mapped(lambda _, t: t.double() if t.is_floating_point() else t)


class _Matrix:
    """``out = start + sum_k weight[o, k] x[place[o, k]]``, rows padded with weight 0."""

    def __init__(self, call: BoundCall, name: str) -> None:
        call = _wide(call)
        x = call[name]
        zero = call.replaced(**{name: torch.zeros(x.shape, dtype=torch.float64)})
        start = bits.values(zero.run()[0])
        # What is added must not swallow the unit.
        added = [n for n in ADDENDS if n != name and isinstance(call.get(n), Tensor)]
        bare = zero.replaced(**{n: torch.zeros_like(call[n]) for n in added})
        columns = []
        for k in range(x.numel()):
            unit = torch.zeros(x.numel(), dtype=torch.float64)
            unit[k] = 1.0
            image = bits.values(bare.replaced(**{name: unit.view(x.shape)}).run()[0])
            columns.append(image.reshape(-1))
        dense = np.stack(columns, axis=-1)
        used = dense != 0
        count = max(int(used.sum(-1).max(initial=0)), 1)
        self.place = np.argsort(~used, axis=-1, kind="stable")[:, :count]
        self.weight = np.take_along_axis(dense, self.place, -1)
        self.start = start.reshape(-1)
        self.counts = used.sum(-1)
        shared = np.where(used.any(-1), np.abs(dense).max(-1), 1.0)
        alike = bool(((self.weight == shared[:, None]) | (self.weight == 0)).all())
        plain = "backward" not in call.form.name and not start.any()
        self.average = plain and alike and bool((shared != 1).any())


_known: OrderedDict[Any, _Matrix] = OrderedDict()


def _matrix(call: BoundCall, name: str) -> _Matrix | None:
    """The matrix of a call; kept, because only the operand changes from attack to attack where the
    others are no numbers."""
    key = []
    for argument, value in zip(call.form.argument_names, call.args, strict=True):
        if isinstance(value, Tensor):
            same = argument == name
            key.append((tuple(value.shape), None if same else bits.values(value).tobytes()))
        else:
            key.append(str(value))
    whole = (call.form.name, *key)
    if whole not in _known:
        _known[whole] = _Matrix(call, name)
        if len(_known) > 40:
            _known.popitem(last=False)
    return _known[whole]


def _linear(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    packet = call.form.packet.removeprefix("aten.")
    name = IN_ONE[packet]
    x, out = call[name], held[0]
    floats = [t for _, t in call.tensors() if t.is_floating_point()]
    if any(t.dtype is not out.dtype for t in floats) or not is_covered_float(out.dtype):
        return
    if not 0 < x.numel() <= MOST_COLUMNS or not 0 < x.numel() * out.numel() <= MOST_ENTRIES:
        return
    others = [t for t in floats if t is not x]
    if packet == "convolution" and rng.random() < 0.7:
        return  # another matrix for every attack
    if not all(bool(torch.isfinite(t).all()) for t in others) or call.get("mode") in (2,):
        return
    m = _matrix(call, name)
    if m is None or not np.isfinite(m.weight).all():
        return
    acc = working(accumulator_of(out.dtype))
    with np.errstate(all="ignore"):
        yield from _evaluated(m, bits.values(x).astype(acc).reshape(-1)[m.place],
                              m.weight.astype(acc), m.start.astype(acc), packet, out, rng)


def _evaluated(m: _Matrix, terms: Array, weight: Array, start: Array, packet: str, out: Tensor,
               rng: Rng) -> Iterator[Emulation]:
    order = "fused" if rng.random() < 0.3 else drawn_order(rng, terms.shape[-1] + 1)
    padded = np.where(weight == 0, weight.dtype.type(0), terms)
    if m.average:
        order = order if order != "fused" else "sequential"
        total = summed(padded, order, rng)
        factor = np.abs(weight).max(-1)
        value = total * factor if rng.random() < 0.5 else total / (1 / factor)
        value = np.where(factor == 0, start, value)
    else:
        first = rng.random() < 0.5
        ones = np.ones_like(start)[:, None]
        parts = ((start[:, None], padded), (ones, weight))
        a, b = (np.concatenate(p if first else p[::-1], axis=-1) for p in parts)
        value = dot(a, b, order, rng)
    yield Emulation(order, 0, stored(value, out), False)
    if packet in NARROW:
        fmt = format_of(out.dtype)
        total = start.copy()
        for k in rng.permutation(terms.shape[-1]):
            total = nearest(total + weight[:, k] * padded[:, k], fmt).astype(total.dtype)
        yield Emulation("one by one in the storage format", 0, stored(total, out), False)


evaluates(*IN_ONE)(_linear)
