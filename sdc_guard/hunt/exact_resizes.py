"""Linear and cubic interpolation: each result is a weighted sum of the elements around a place."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

from sdc_guard.calls import BoundCall
from sdc_guard.hunt.exact_lines import product, total
from sdc_guard.hunt.exact_numbers import Number, Reader

Index = tuple[int, ...]
Weights = list[tuple[int, Fraction]]
_SHARPNESS = Fraction(-3, 4)
"""The coefficient of the cubic kernel that ``torch.nn.functional.interpolate`` documents."""
_RANKS = {"upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_trilinear3d": 3,
          "upsample_bicubic2d": 2}
_SCALES = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}


def resized(call: BoundCall, output: int, index: Index) -> Number | None:
    """The exact element ``index`` of an interpolated image of floating numbers; None for any other
    operator and for images of integers, of which the rounding is not documented."""
    name = call.form.packet.removeprefix("aten.")
    rank = _RANKS.get(name)
    if rank is None or output or "self" not in call.form.argument_names:
        return None
    x = call["self"]
    if not x.dtype.is_floating_point:
        return None
    ways = [_weights(i, n, m, call["align_corners"], call.get(scale), "cubic" in name)
            for i, n, m, scale in zip(index[-rank:], x.shape[-rank:], call["output_size"],
                                      _SCALES[rank], strict=True)]
    reader, lead = Reader(x), index[:-rank]
    return total([
        product((math.prod(w for _, w in way), reader[(*lead, *(p for p, _ in way))]))
        for way in itertools.product(*ways)])


def _weights(place: int, size: int, out: int, aligned: bool, scale: float | None, is_cubic: bool
             ) -> Weights:
    """The places of the operand that one result is made of, with their weights other than 0."""
    if size == out:  # kernels copy it, whatever the scale
        return [(place, Fraction(1))]
    if aligned:
        real = Fraction(place * (size - 1), out - 1) if out > 1 else Fraction(0)
    else:
        step = 1 / Fraction(scale) if scale is not None and scale > 0 else Fraction(size, out)
        real = step * (place + Fraction(1, 2)) - Fraction(1, 2)
        real = real if is_cubic else max(real, Fraction(0))
    low = math.floor(real)
    part = real - low
    found = ([(low + k, _cubic(abs(part - k))) for k in (-1, 0, 1, 2)] if is_cubic
             else [(low, 1 - part), (low + 1, part)])
    return [(min(max(p, 0), size - 1), w) for p, w in found if w]


def _cubic(away: Fraction) -> Fraction:
    """Keys's kernel."""
    a = _SHARPNESS
    if away <= 1:
        return ((a + 2) * away - (a + 3)) * away ** 2 + 1
    return ((away - 5) * away + 8) * away * a - 4 * a
