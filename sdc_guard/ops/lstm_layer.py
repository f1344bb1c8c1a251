"""oneDNN's LSTM layer on a CPU: one direction of one layer over all steps.

*Forward.*  Each step is judged from the held output of the step before, its gates within the bound
of one product (:mod:`sdc_guard.bounds.products`, any order), the cell by running error analysis
(:mod:`sdc_guard.bounds.lstm`), which forgets what lies behind.  A wrong output is seen twice: where
it is, and in the step that follows from it.  ``hy`` is the last output, bit for bit.  The workspace
holds no numbers for anybody but the layer's own backward.

*Backward.*  The gates come from the held outputs in the same way; the gradients are carried back
through the steps with their bounds, which widen from step to step.  In half formats the workspace
keeps gates and cells in that format, and gradients between steps too.  The bounds tell much over
some ten steps; over fifty they are wider than the gradients themselves, and what is left is the
replay.

*Proof and contract.*  Both take products in any order.  The contract has 4 ulps for each elementary
function; the proof, half a significand (the stated premise of
:mod:`sdc_guard.bounds.elementwise`).  Nothing is judged where ``torch.backends.mkldnn.rnn`` allows
other formats, nor are other kinds of cells, which this torch never sends here.

*Place.*  Equal calls give equal bits.  Rolled batches are learned: whether they keep bits depends
on how oneDNN blocks the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.bounds.gamma import gamma
from sdc_guard.bounds.lstm import Step, step, step_backward
from sdc_guard.bounds.products import input_rounding, product_error
from sdc_guard.bounds.tracked import Tracked
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, Format, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList
from sdc_guard.ops._symmetry import RERUN, Symmetry, roll

aten = torch.ops.aten
LSTM = 2
FORMULA = "steps from the held outputs: products in any order, running error analysis of the cell"


def _is_known(call: BoundCall) -> bool:
    precision = getattr(getattr(torch.backends.mkldnn, "rnn", None), "fp32_precision", "none")
    return (call["mode"] == LSTM and call["num_layers"] == 1 and not call["batch_sizes"]
            and is_covered_float(call["input"].dtype) and precision in ("none", "ieee"))


def _product(a: F64, b: F64, dtype: torch.dtype, terms: int) -> tuple[F64, F64, F64]:
    """``a b^T``, its bound and ``|a||b|^T``; ``terms`` more join the sum."""
    size = np.abs(a) @ np.abs(b).T
    error = product_error(a.shape[-1] + terms, size, np.abs(a).sum(-1)[..., None],
                          np.abs(b).sum(-1), dtype, input_rounding(dtype, "cpu"))
    return a @ b.T, error, size


class _Layer:
    """The operands of a call, and its steps from the held outputs."""

    def __init__(self, call: HostCall, weights: tuple[str, str, str, str], output: F64) -> None:
        self.dtype: torch.dtype = call["input"].dtype
        self.out = format_of(self.dtype)
        self.x, self.output = call.array("input"), output
        self.w, self.v = call.array(weights[0]), call.array(weights[1])
        self.bias = self.bias_size = np.zeros(self.w.shape[0])
        if call["has_biases"]:
            first, second = call.array(weights[2]), call.array(weights[3])
            self.bias, self.bias_size = first + second, np.abs(first) + np.abs(second)
        shape = (self.x.shape[1], self.v.shape[1])
        self.h, self.c = call.array("hx_").reshape(shape), None
        self.reverse = bool(call["reverse"])

    def order(self) -> list[int]:
        steps = list(range(self.x.shape[0]))
        return steps[::-1] if self.reverse else steps

    def previous(self) -> dict[int, F64]:
        """The hidden state before each step."""
        order = self.order()
        return {t: self.output[order[k - 1]] if k else self.h for k, t in enumerate(order)}

    def steps(self, cell: F64, own: float, stored: Format, gates_kept: Format
              ) -> Iterator[tuple[int, Step]]:
        before = self.previous()
        state = Tracked.exact(cell, FLOAT32)
        for t in self.order():
            done = step(self.gates(self.x[t], before[t], gates_kept), state, own, stored)
            state = done.cell
            yield t, done

    def gates(self, x: F64, h: F64, kept: Format) -> Tracked:
        """One sum over both operands and the biases, whose own sum may be rounded to their
        format."""
        joined, weights = np.concatenate([x, h], -1), np.concatenate([self.w, self.v], -1)
        value, error, size = _product(joined, weights, self.dtype, 6)
        error = error + (gamma(joined.shape[-1] + 6, FLOAT32.u) + self.out.u) * self.bias_size
        error = error + (kept.u * (size + self.bias_size) if kept is not FLOAT32 else 0.0)
        return Tracked(value + self.bias, error, FLOAT32)


def _limits(fmt: Format) -> tuple[float, float]:
    """Relative errors of elementary functions: contract, proof."""
    return 2 * ELEMENTARY_ULPS * FLOAT32.u, 2.0 ** (-FLOAT32.precision / 2)


def _reference(parts: tuple[Tracked, Tracked], magnitude: F64 | float) -> Reference:
    contract, proof = parts
    known = np.isfinite(contract.value)
    return Reference(np.where(known, contract.value, 0.0),
                     np.where(known, np.maximum(proof.error, contract.error), np.inf),
                     np.where(known, contract.error, np.inf), FORMULA, magnitude)


def _stacked(parts: dict[int, Tracked]) -> Tracked:
    order = sorted(parts)
    return Tracked(np.stack([parts[t].value for t in order]),
                   np.stack([parts[t].error for t in order]), parts[order[0]].fmt)


def _operands_finite(layer: _Layer, *more: F64) -> bool:
    arrays = (layer.x, layer.output, layer.w, layer.v, layer.bias, layer.h, *more)
    return all(np.isfinite(a).all() and np.abs(a).max(initial=0.0) < 2.0**60 for a in arrays)


def lstm_layer(call: HostCall) -> tuple[Reference | None, ...]:
    """Every output from the held one before it, and the last hidden and cell state."""
    held = call.held
    if not _is_known(call.call) or not held[0].numel():
        return (None,) * 4
    output = bits.values(held[0])
    layer = _Layer(call, ("weight0", "weight1", "weight2", "weight3"), output)
    cell = call.array("cx_").reshape(layer.h.shape)
    if not _operands_finite(layer, cell):
        return (None,) * 4
    found = []
    for own in _limits(layer.out):
        done = dict(layer.steps(cell, own, layer.out, FLOAT32))
        last = done[layer.order()[-1]]
        found.append((_stacked({t: s.hidden.stored(layer.out) for t, s in done.items()}),
                      last.cell))
    outputs, cells = zip(*found, strict=True)
    size = tuple(held[2].shape)
    cells = tuple(Tracked(c.value.reshape(size), c.error.reshape(size), c.fmt) for c in cells)
    return (_reference(outputs, 0.0),
            Reference(output[layer.order()[-1]].reshape(tuple(held[1].shape)), 0.0, 0.0,
                      "exact: the last output"),
            _reference(cells, np.abs(cell).max(initial=0.0)), None)


def _gradient(call: HostCall, name: str, shape: tuple[int, ...]) -> F64:
    return call.array(name).reshape(shape) if isinstance(call[name], Tensor) else np.zeros(shape)


def lstm_layer_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Gradients of input, weights, biases and first states, carried back from step to step."""
    held = call.held
    if not _is_known(call.call) or not call["input"].numel():
        return (None,) * 7
    layer = _Layer(call, ("weight1", "weight2", "weight3", "weight4"), call.array("output"))
    cell = call.array("cx_tmp").reshape(layer.h.shape)
    shape = layer.h.shape
    grads = (_gradient(call, "grad_output", layer.output.shape),
             _gradient(call, "grad_hy", shape), _gradient(call, "grad_cy", shape))
    if not _operands_finite(layer, cell, *grads):
        return (None,) * 7
    found = zip(*(_carried_back(layer, cell, grads, own) for own in _limits(layer.out)),
                strict=True)
    references: list[Reference | None] = []
    for tensor, parts in zip(held, found, strict=True):
        if tensor is None or not is_covered_float(tensor.dtype):
            references.append(None)
            continue
        fmt, size = format_of(tensor.dtype), tuple(tensor.shape)
        contract, proof = (Tracked(p.value.reshape(size), p.error.reshape(size), p.fmt).stored(fmt)
                           for p in parts)
        references.append(_reference((contract, proof), np.abs(contract.value) + contract.error))
    return tuple(references)


def _carried_back(layer: _Layer, cell: F64, grads: tuple[F64, F64, F64], own: float
                  ) -> tuple[Tracked, ...]:
    kept = layer.out
    done = dict(layer.steps(cell, own, kept, kept))
    before = layer.previous()
    grad_output, grad_hy, grad_cy = grads
    hidden, state = (Tracked.exact(g, FLOAT32) for g in (grad_hy, grad_cy))
    inputs: dict[int, Tracked] = {}
    gates: dict[int, Tracked] = {}
    for t in reversed(layer.order()):
        arriving = (hidden + Tracked.exact(grad_output[t], FLOAT32)).stored(kept)
        kept_step = Step(*(getattr(done[t], n).stored(kept) for n in Step.__slots__))
        gates[t], state = step_backward(kept_step, arriving, state)
        gates[t] = gates[t].stored(kept)
        inputs[t] = _back(gates[t], layer.w, layer.dtype).stored(kept)
        hidden = _back(gates[t], layer.v, layer.dtype).stored(kept)
    order = layer.order()
    rows = Tracked(np.concatenate([gates[t].value for t in order]),
                   np.concatenate([gates[t].error for t in order]), FLOAT32)
    w = _back(_turned(rows), np.concatenate([layer.x[t] for t in order]), layer.dtype)
    v = _back(_turned(rows), np.concatenate([before[t] for t in order]), layer.dtype)
    bias = _back(_turned(rows), np.ones((rows.value.shape[0], 1)), layer.dtype)
    return _stacked(inputs), w, v, bias, bias, hidden, state


def _turned(x: Tracked) -> Tracked:
    return Tracked(x.value.T, x.error.T, x.fmt)


def _back(x: Tracked, weights: F64, dtype: torch.dtype) -> Tracked:
    """``x weights`` with x's errors; 2 more terms for sums kept between steps."""
    size = np.abs(x.value) + x.error
    error = _product(size, weights.T, dtype, 2 + x.value.shape[-1])[1]
    return Tracked(x.value @ weights, error + x.error @ np.abs(weights), FLOAT32)


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Batches move together; weights' gradients and the workspace do not move."""
    names = call.form.argument_names
    sequences = {"input", "output", "grad_output"}
    states = {"hx_", "cx_", "cx_tmp", "hy_", "cy_", "grad_hy", "grad_cy"}

    def labels(name: str, t: Tensor) -> tuple[str, ...]:
        if len(held) == 4 and name in sequences and t.dim() == 3:
            return (FIXED, "n", FIXED)
        if len(held) == 4 and name in states and t.dim() == 2:
            return ("n", FIXED)
        return (FIXED,) * t.dim()

    results = ("output", "hy_", "cy_", "") if len(held) == 4 else ("",) * len(held)
    return Axes({p: labels(names[p[0]], t) for p, t in call.tensors()},
                tuple(() if t is None else labels(r, t)
                      for r, t in zip(results, held, strict=True)))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    if len(held) != 4:
        return (RERUN,)
    return (roll("n", known=False), RERUN)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Products with both weights, forward; three times as many backward."""
    x, hidden = call["input"], int(call["hidden_size"])
    steps = int(x.shape[0]) * int(x.shape[1])
    return 8 * steps * hidden * (int(x.shape[2]) + hidden) * (1 if len(held) == 4 else 3)


_SIZES = ((4, 3, 5, 6, True, False), (7, 2, 9, 16, False, True), (1, 5, 3, 4, True, True),
          (12, 1, 8, 33, True, False))


def _operands(generator: torch.Generator, dtype: torch.dtype, size: tuple[Any, ...]
              ) -> tuple[list[Tensor], list[Any]]:
    steps, batch, inputs, hidden, biases, reverse = size

    def draw(*shape: int) -> Tensor:
        return (0.5 * torch.randn(shape, generator=generator)).to(dtype)

    weights = [draw(4 * hidden, inputs), draw(4 * hidden, hidden)]
    weights += [draw(4 * hidden), draw(4 * hidden)] if biases else weights
    states = [draw(batch, hidden), draw(batch, hidden)]
    return [draw(steps, batch, inputs), *weights, *states], [reverse, hidden, biases]


@cache
def computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN has this layer in that format on this CPU: bfloat16 needs AVX-512."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    tensors, (reverse, hidden, biases) = _operands(torch.Generator(), dtype, _SIZES[0])
    try:
        aten.mkldnn_rnn_layer.default(
            *tensors, reverse, [], LSTM, hidden, 1, biases, False, False, True)
    except RuntimeError:
        return False
    return True


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if not computes(dtype):
        return []
    calls: SampleList = []
    for size in _SIZES:
        tensors, (reverse, hidden, biases) = _operands(generator, dtype, size)
        calls += [(aten.mkldnn_rnn_layer.default,
                   (*tensors, reverse, [], LSTM, hidden, 1, biases, False, False, train), {})
                  for train in ((True, False) if size is _SIZES[0] else (True,))]
    return calls


def _backward_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    calls: SampleList = []
    for op, args, _ in _samples(generator, dtype):
        if not args[-1]:
            continue
        output, hy, cy, workspace = op(*args)
        tensors, (reverse, _, mode, hidden, _, biases) = args[:7], args[7:13]
        grads = [torch.randn(t.shape, generator=generator).to(dtype) for t in (output, hy, cy)]
        for chosen in (grads, [grads[0], None, None]):
            calls.append((aten.mkldnn_rnn_layer_backward.default, (
                *tensors, output, hy, cy, *chosen, reverse, mode, hidden, 1, biases, True, False,
                [], False, workspace), {}))
    return calls


checked(aten.mkldnn_rnn_layer, family="recurrent", axes=_axes, symmetries=_symmetries,
        flops=_flops, window=("n",), scratch=(3,), samples=_samples)(lstm_layer)
checked(aten.mkldnn_rnn_layer_backward, family="recurrent", axes=_axes, symmetries=_symmetries,
        flops=_flops, samples=_backward_samples)(lstm_layer_backward)
