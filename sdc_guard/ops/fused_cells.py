"""One step of an LSTM or GRU cell, fused: CUDA kernels, forward and backward.

The products come from ``mm`` and are checked there; these kernels add them up and apply the gates.
With ``i, f, o, r, z`` logistic functions and ``g, n`` hyperbolic tangents of sums of the given
gates and biases,

    LSTM:  c' = f c + i g,  h' = o tanh(c');      GRU:  n = tanh(a_n + r b_n),  h' = n + z (h - n),

and the workspace keeps what the backward needs: (i, f, g, o) or (r, z, n, h, b_n).  Everything is
computed in fp32 for half formats and rounded once.  Bounds by running error analysis
(:mod:`sdc_guard.bounds.lstm`), sums of up to four numbers in any order; bias gradients are sums of
the held gates' gradients.  Contract and proof differ in the elementary functions as in
:mod:`sdc_guard.ops.lstm_layer`.

*Source*: ``aten/src/ATen/native/cuda/RNN.cu``.  No CPU has these kernels, so no relation is marked
as seen to hold: rolled batches are learned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.bounds.lstm import Step, hyperbolic, logistic, rest, step, step_backward
from sdc_guard.bounds.tracked import Tracked
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList
from sdc_guard.ops._symmetry import RERUN, Symmetry, roll

aten = torch.ops.aten
FORMULA = "running error analysis"
Results = tuple[Tracked | None, ...]
"""None for results that are sums of held ones, or masked out."""


def _axes(call: BoundCall, held: tuple[Tensor | None, ...]) -> Axes:
    def labels(t: Tensor | None) -> tuple[str, ...]:
        if t is None:
            return ()
        return ("n", FIXED) if t.dim() == 2 else (FIXED,) * t.dim()

    return Axes({p: labels(t) for p, t in call.tensors()}, tuple(labels(t) for t in held))


def _symmetries(call: BoundCall, held: tuple[Tensor | None, ...]) -> tuple[Symmetry, ...]:
    sums = any(t is not None and t.dim() == 1 for t in held)
    return (RERUN,) if sums else (roll("n", known=False), RERUN)


def _flops(call: BoundCall, held: tuple[Tensor | None, ...]) -> int:
    return 20 * sum(int(t.numel()) for t in held if t is not None)


def _no_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    return []


def _limits(fmt: Format) -> tuple[float, float]:
    return 2 * ELEMENTARY_ULPS * fmt.u, 2.0 ** (-fmt.precision / 2)


def _sum(fmt: Format, *terms: F64) -> Tracked:
    """A sum in any order."""
    size: Any = sum(np.abs(t) for t in terms)
    error = gamma(len(terms) - 1, fmt.u) * size + own_rounding(len(terms), size)
    return Tracked(np.asarray(sum(terms)), error, fmt)


def _operand(call: HostCall, name: str, like: F64 | None = None) -> F64:
    """The operand, zeros where it is left out."""
    if isinstance(call.get(name), Tensor):
        return call.array(name)
    return np.zeros(() if like is None else like.shape)


def _fused(*packets: Any) -> Callable[[Callable[[HostCall, Format, float], Results]], None]:
    def decorate(evaluate: Callable[[HostCall, Format, float], Results]) -> None:
        def reference(call: HostCall) -> tuple[Reference | None, ...]:
            held = call.held
            first = next(t for _, t in call.call.tensors())
            if not is_covered_float(first.dtype) or not first.numel():
                return (None,) * len(held)
            compute = accumulator_of(first.dtype)
            with np.errstate(all="ignore"):
                contract, proof = (evaluate(call, compute, own) for own in _limits(compute))
                return tuple(_judged(t, c, p, held) for t, c, p in zip(
                    held, contract, proof, strict=True))

        reference.__doc__ = evaluate.__doc__
        reference.__module__ = __name__
        checked(*packets, family="recurrent", axes=_axes, symmetries=_symmetries, flops=_flops,
                samples=_no_samples)(reference)

    return decorate


def _judged(held: Tensor | None, contract: Tracked | None, proof: Tracked | None,
            all_held: Any) -> Reference | None:
    if held is None or contract is None or proof is None:
        return None
    out = format_of(held.dtype)
    contract, proof = contract.stored(out), proof.stored(out)
    known = np.isfinite(contract.value)
    return Reference(np.where(known, contract.value, 0.0),
                     np.where(known, np.maximum(proof.error, contract.error), np.inf),
                     np.where(known, contract.error, np.inf), FORMULA,
                     np.where(known, 4 * (np.abs(contract.value) + contract.error), np.inf))


def _column_sum(call: HostCall, output: int, source: int, compute: Format) -> Tracked | None:
    """The bias gradient: a held gradient summed over the batch."""
    if call.held[output] is None or call.held[source] is None:
        return None
    gates = bits.values(call.held[source])
    size = np.abs(gates).sum(0)
    error = gamma(gates.shape[0], compute.u) * size + own_rounding(gates.shape[0], size)
    return Tracked(gates.sum(0), error, compute)


def _joined(parts: tuple[Tracked, ...]) -> Tracked:
    return Tracked(np.concatenate([p.value for p in parts], -1),
                   np.concatenate([p.error for p in parts], -1), parts[0].fmt)


@_fused(aten._thnn_fused_lstm_cell)
def lstm_cell(call: HostCall, compute: Format, own: float) -> Results:
    """Hidden state, cell and gates."""
    gates = _sum(compute, call.array("input_gates"), call.array("hidden_gates"),
                 _operand(call, "input_bias"), _operand(call, "hidden_bias"))
    done = step(gates, Tracked.exact(call.array("cx"), compute), own, compute)
    return done.hidden, done.cell, _joined((done.i, done.f, done.g, done.o))


@_fused(aten._thnn_fused_lstm_cell_backward_impl)
def lstm_cell_backward(call: HostCall, compute: Format, own: float) -> Results:
    """Gradients of the gates, of the cell before, and their sums."""
    before, cell = call.array("cx"), call.array("cy")
    i, f, g, o = (Tracked.exact(x, compute)
                  for x in np.split(call.array("workspace"), 4, -1))
    after = Tracked.exact(cell, compute)
    squashed = hyperbolic(after, own)
    done = Step(i, f, g, o, Tracked.exact(before, compute), after, squashed, o * squashed)
    gates, grad_cell = step_backward(
        done, *(Tracked.exact(_operand(call, name, cell), compute)
                for name in ("grad_hy", "grad_cy")))
    return gates, grad_cell, _column_sum(call, 2, 0, compute)


@_fused(aten._thnn_fused_gru_cell)
def gru_cell(call: HostCall, compute: Format, own: float) -> Results:
    """Hidden state and what the backward needs."""
    a_r, a_z, a_n = np.split(call.array("input_gates"), 3, -1)
    b_r, b_z, b_n = np.split(call.array("hidden_gates"), 3, -1)
    biases = [np.split(_operand(call, name), 3, -1) if isinstance(call.get(name), Tensor)
              else [np.zeros(())] * 3 for name in ("input_bias", "hidden_bias")]
    (c_r, c_z, c_n), (d_r, d_z, d_n) = biases
    r, z = (logistic(_sum(compute, *terms), own)
            for terms in ((a_r, b_r, c_r, d_r), (a_z, b_z, c_z, d_z)))
    inner = _sum(compute, b_n, d_n)
    n = hyperbolic(_sum(compute, a_n, c_n) + r * inner, own)
    before = Tracked.exact(call.array("hx"), compute)
    return n + z * (before - n), _joined((r, z, n, before, inner))


@_fused(aten._thnn_fused_gru_cell_backward)
def gru_cell_backward(call: HostCall, compute: Format, own: float) -> Results:
    """Gradients of both gates, of the state before, and the gates' sums."""
    r, z, n, before, inner = (Tracked.exact(x, compute)
                              for x in np.split(call.array("workspace"), 5, -1))
    grad = Tracked.exact(call.array("grad_hy"), compute)
    grad_n = grad * rest(z, 1) * rest(n, 2)
    grad_z = grad * (before - n) * (rest(z, 1) * z)
    grad_r = grad_n * inner * (rest(r, 1) * r)
    return (_joined((grad_r, grad_z, grad_n)), _joined((grad_r, grad_z, grad_n * r)), grad * z,
            _column_sum(call, 3, 0, compute), _column_sum(call, 4, 1, compute))
