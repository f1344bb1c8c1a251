"""The gradient scaler's two kernels.

``_amp_foreach_non_finite_check_and_unscale_``: every gradient times ``inv_scale``, one rounding, or
left as it is where ``inv_scale`` is 1; ``found_inf`` becomes 1 if any gradient is not finite and
keeps its value else (``aten/src/ATen/native/cuda/AmpKernels.cu`` and its CPU twin).
``_amp_update_scale_``: the scale shrinks by the backoff factor after a non-finite gradient, grows
after ``growth_interval`` good steps if it stays finite.

Place: list elements are independent; ``found_inf`` is the same in any order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.gamma import own_rounding, rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._lists import list_axes
from sdc_guard.ops._pointwise import compute_format
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry

aten = torch.ops.aten


def _reversed_gradients(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The list in the other order, on private images."""
    gradients, found, inverse = call.args
    images = [bits.snapshot(t) for t in reversed(gradients)]
    flag = bits.snapshot(found)
    call.form.call((images, flag, inverse))
    return (*reversed(images), flag)


REVERSED = Symmetry("reverse gradients", (Move("custom", function=_reversed_gradients),),
                    frozenset({"address", "tile"}), True)


def _unscale_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (REVERSED,) if call.form.overwrites else (RERUN,)


def _unscale_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    calls: SampleList = []
    for inverse, spoiled in ((2.0**-5, False), (0.3, False), (1.0, False), (0.5, True)):
        gradients = [draw(9, 40), draw(40, 13).t(), draw(700)]
        if spoiled:
            gradients[1][3, 4] = float("inf")
        calls.append((aten._amp_foreach_non_finite_check_and_unscale_.default,
                      (gradients, torch.zeros(1), torch.tensor([inverse])), {}))
    return calls


@checked(aten._amp_foreach_non_finite_check_and_unscale, family="optimizer", axes=list_axes,
         symmetries=_unscale_symmetries, samples=_unscale_samples)
def unscale(call: HostCall) -> tuple[Reference | None, ...]:
    """Gradients times ``inv_scale``, and whether one is not finite."""
    inverse = float(bits.values(call["inv_scale"]).ravel()[0])
    results: list[Reference | None] = []
    all_finite = True
    for tensor in call["self"]:
        gradient = bits.values(tensor)
        all_finite = all_finite and bool(np.isfinite(gradient).all())
        if not is_covered_float(tensor.dtype):
            results.append(None)
            continue
        out = format_of(tensor.dtype)
        product = gradient * inverse
        limit = rounding(product, compute_format(out)) + own_rounding(1, product)
        if compute_format(out) is not out:
            limit = limit + rounding(np.abs(product) + limit, out)
        limit = limit * 0 if inverse == 1.0 else limit
        results.append(Reference(product, limit, limit, "1 rounding", np.abs(product)))
    flag = bits.values(call["found_inf"]) if all_finite else np.ones(tuple(call["found_inf"].shape))
    return (*results, Reference(flag, 0.0, 0.0, "exact"))


def _scale_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                tuple((FIXED,) * t.dim() for t in held))


def _scale_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype is not torch.float32:
        return []
    return [
        (aten._amp_update_scale_.default,
         (torch.tensor([scale]), torch.tensor([steps], dtype=torch.int32), torch.tensor([found]),
          factor, 0.5, 5), {})
        for scale, steps, found, factor in (
            (65536.0, 1, 0.0, 2.0), (3.0, 4, 0.0, 1.1), (3.0, 4, 1.0, 2.0), (3e38, 4, 0.0, 2.0))
    ]


@checked(aten._amp_update_scale, family="optimizer", axes=_scale_axes, symmetries=(RERUN,),
         samples=_scale_samples)
def update_scale(call: HostCall) -> tuple[Reference | None, ...]:
    """The next scale, 2 roundings, and the number of good steps, exact."""
    scale, steps = call.array("self"), call.array("growth_tracker")
    if call.array("found_inf").any():
        expected, tracker = scale * float(call["scale_backoff_factor"]), steps * 0
    elif int(steps.ravel()[0]) + 1 == int(call["growth_interval"]):
        grown = scale * float(call["scale_growth_factor"])
        fits = np.isfinite(nearest(grown, FLOAT32))
        expected, tracker = np.where(fits, grown, scale), steps * 0
    else:
        expected, tracker = scale, steps + 1
    same = expected is scale
    limit = np.zeros(scale.shape) if same else 2 * rounding(expected, FLOAT32)
    return (Reference(expected, limit, limit, "2 roundings of the product"),
            Reference(tracker, 0.0, 0.0, "exact"))
