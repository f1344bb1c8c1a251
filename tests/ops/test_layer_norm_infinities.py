"""An infinite weight of a layer norm, where the deviation that it multiplies may be 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.ops import lookup

aten = torch.ops.aten


def _is_wrong(x: Tensor, value: float, place: int) -> bool:
    """Whether a result is told that holds ``value`` there; place 3 has an infinite weight."""
    weight, bias = torch.ones(8, dtype=x.dtype), torch.zeros(8, dtype=x.dtype)
    weight[3] = math.inf
    form = form_of(aten.native_layer_norm.default)
    call = BoundCall(form, form.bind((x, [8], weight, bias, 1.0), {}))
    held = call.run()
    held[0][0, place] = value
    spec = lookup(call.form.packet)
    assert spec is not None
    return bool(full_reference(make_plan(spec, call, held), call, held))


def test_a_deviation_of_unknown_sign_may_give_anything() -> None:
    constant = torch.full((1, 8), 1.1, dtype=torch.bfloat16)
    assert not any(_is_wrong(constant, v, 3) for v in (math.inf, -math.inf, math.nan))
    assert _is_wrong(constant, 1.0, 4), "a finite weight leaves no doubt"
    assert _is_wrong(constant, math.nan, 4)
