"""The fused cells of CUDA: results made from their definition in fp32 stand in for a device's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.ops import lookup

aten = torch.ops.aten
Results = tuple[torch.Tensor, ...]


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x))


def lstm(a: Any, b: Any, c: Any, p: Any, q: Any) -> Results:
    i, f, g, o = (a + b + p + q).chunk(4, -1)
    i, f, g, o = sigmoid(i), sigmoid(f), torch.tanh(g), sigmoid(o)
    cell = f * c + i * g
    return o * torch.tanh(cell), cell, torch.cat([i, f, g, o], -1)


def lstm_backward(dh: Any, dc: Any, before: Any, cell: Any, workspace: Any) -> Results:
    i, f, g, o = workspace.chunk(4, -1)
    t = torch.tanh(cell)
    total = dh * o * (1 - t * t) + dc
    parts = (total * g * (1 - i) * i, total * before * (1 - f) * f, total * i * (1 - g * g),
             dh * t * (1 - o) * o)
    return torch.cat(parts, -1), total * f


def gru(a: Any, b: Any, h: Any, p: Any, q: Any) -> Results:
    (ar, az, an), (br, bz, bn) = (a + p).chunk(3, -1), (b + q).chunk(3, -1)
    r, z = sigmoid(ar + br), sigmoid(az + bz)
    n = torch.tanh(an + r * bn)
    return n + z * (h - n), torch.cat([r, z, n, h, bn], -1)


def gru_backward(dh: Any, workspace: Any) -> Results:
    r, z, n, h, bn = workspace.chunk(5, -1)
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (h - n) * (1 - z) * z
    dr = dn * bn * (1 - r) * r
    return torch.cat([dr, dz, dn], -1), torch.cat([dr, dz, dn * r], -1), dh * z


def stored(results: Results, dtype: torch.dtype) -> Results:
    return tuple(t.to(dtype) for t in results)


def calls(dtype: torch.dtype, scale: float) -> list[tuple[BoundCall, Results]]:
    generator = torch.Generator().manual_seed(int(scale))

    def draw(*shape: int) -> torch.Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(dtype)

    def wide(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(t.float() for t in tensors)

    found = []
    forward = [draw(5, 28), draw(5, 28), draw(5, 7), draw(28), draw(28)]
    results = stored(lstm(*wide(*forward)), dtype)
    found.append((aten._thnn_fused_lstm_cell, forward, results))
    grads = [draw(5, 7), draw(5, 7)]
    back = stored(lstm_backward(*wide(*grads, forward[2], *results[1:])), dtype)
    found.append((aten._thnn_fused_lstm_cell_backward_impl,
                  [*grads, forward[2], *results[1:], True],
                  (*back, back[0].float().sum(0).to(dtype))))
    forward = [draw(5, 21), draw(5, 21), draw(5, 7), draw(21), draw(21)]
    results = stored(gru(*wide(*forward)), dtype)
    found.append((aten._thnn_fused_gru_cell, forward, results))
    back = stored(gru_backward(*wide(grads[0], results[1])), dtype)
    sums = tuple(t.float().sum(0).to(dtype) for t in back[:2])
    found.append((aten._thnn_fused_gru_cell_backward, [grads[0], results[1], True],
                  (*back, *sums)))
    made = []
    for packet, args, held in found:
        form = form_of(packet.default)
        made.append((BoundCall(form, form.bind(tuple(args), {})), held))
    return made


@pytest.mark.parametrize("scale", [1, 4, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_right_result_is_inside_and_a_wrong_element_outside(
    dtype: torch.dtype, scale: float
) -> None:
    for call, held in calls(dtype, scale):
        spec = lookup(call.form.packet)
        assert spec is not None
        plan = make_plan(spec, call, held)
        assert not full_reference(plan, call, held), call.form.packet
        for output, tensor in enumerate(held):
            wrong = tensor.clone()
            place = int(np.argmax(np.abs(tensor.float().numpy())))
            wrong.view(-1)[place] *= 1.25 if dtype.itemsize == 2 else 1.001
            faulty = (*held[:output], wrong, *held[output + 1:])
            found = full_reference(plan, call, faulty)
            assert any(s.output == output for s in found), (call.form.packet, output)
