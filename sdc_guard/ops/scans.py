"""``cumsum``, ``cumprod`` and ``logcumsumexp``: the sum, product or log-sum-exp of every prefix.

Proof: any order within each prefix, in the format of the result (a parallel scan adds blocks):
``(k - 1) u sum|x|`` for a prefix of k, :mod:`sdc_guard.bounds.chains` for the others.  Contract on
a CPU: one term after the other in ``at::acc_type``, which there is fp64 for fp32 and fp32 for half
formats (``cpu_cum_base_kernel`` in ``aten/src/ATen/native/cpu/ReduceOpsKernel.cpp``), rounded once
to the result.  Integers are exact modulo 2^b.

Place: each line is scanned by itself, so other dimensions split and roll; on a CPU a line that
starts with the neutral element (0, 1, -inf) has the same prefixes after it, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import chains
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.bounds.gamma import own_rounding, stored
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, Format, accumulator_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._lines import dim_of
from sdc_guard.ops._reductions import input_flops
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll, split

aten = torch.ops.aten

NEUTRAL: dict[str, float] = {"aten.cumsum": 0, "aten.cumprod": 1, "aten.logcumsumexp": -math.inf}


def scan_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Every dimension but the scanned one is movable."""
    rank, dim = call["self"].dim(), dim_of(call)
    labels = tuple(FIXED if d == dim else f"d{d}" for d in range(rank))
    return Axes({(0,): labels}, tuple(labels for _ in held))


def other_lines(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Split and roll of the longest other dimension."""
    dim = dim_of(call)
    sizes = {d: n for d, n in enumerate(held[0].shape) if d != dim and n > 1}
    if not sizes:
        return ()
    longest = f"d{max(sizes, key=lambda d: sizes[d])}"
    return split(longest), roll(longest, lane=True)


def _led(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The prefixes after a lead of neutral elements."""
    x, dim = call["self"], dim_of(call)
    lead = 1 + visit % 5
    shape = [lead if d == dim else n for d, n in enumerate(x.shape)]
    neutral = torch.full(shape, NEUTRAL[call.form.packet], dtype=x.dtype, device=x.device)
    got = call.replaced(self=torch.cat([neutral, x], dim)).run()[0]
    return (got.narrow(dim, lead, x.shape[dim]),)


LED = Symmetry("lead with neutral elements", (Move("custom", function=_led),),
               frozenset({"address", "core", "tile", "lane"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    x = call["self"]
    found = list(other_lines(call, held))
    if x.dim() and held[0].device.type == "cpu" and x.dtype is held[0].dtype:
        found.append(LED)
    if call.form.packet == "aten.cumsum" and x.is_floating_point():
        found.append(negate("self"))
    return tuple(found) or (RERUN,)


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        integers = () if op is aten.logcumsumexp else (torch.int64, torch.bool)
        if dtype not in (*FLOATS, *integers):
            return []
        draw = draw_values(generator, dtype, "any")
        operands = [draw(9, 37), draw(37, 9).t(), draw(8, 70)[1:7, 3:67], draw(3, 5, 7), draw(211)]
        if op is aten.cumprod and dtype.is_floating_point:
            operands = [((1 + x / 32) * torch.sign(x)).to(dtype) for x in operands]
        calls: SampleList = [(op.default, (x, d), {}) for x in operands for d in (0, -1)]
        calls.append((op.default, (draw(), 0), {}))
        if dtype in FLOATS:
            calls.append((op.out, (operands[0], 1), {"out": draw(9, 37)}))
        if dtype is torch.float32 and op is not aten.logcumsumexp:
            calls.append((op.default, (operands[0], 1), {"dtype": torch.float64}))
        return calls

    return samples


Prefixes = Callable[[HostCall, Any, int, Format, Format], tuple[Any, Any, Any]]
"""From the call, its values, the dimension, the format of the result and that of a CPU's
accumulator: expected, proof and contract before the result is rounded."""


def _counts(x: Any, dim: int) -> Any:
    """How many elements each prefix has."""
    shape = [1] * x.ndim
    shape[dim] = x.shape[dim]
    return np.arange(1.0, x.shape[dim] + 1).reshape(shape)


def _register(op: Any, integer: Any, prefixes: Prefixes, formula: str, text: str) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        given, held = call["self"], call.held[0]
        if not given.numel() or not bits.has_values(given.dtype):
            return (None,)
        shape, dim = tuple(held.shape), dim_of(call.call)
        x = call.array("self")
        x = x if x.ndim else x.reshape(1)
        if not is_covered_float(held.dtype):
            if x.dtype.kind == "f" or held.is_floating_point() or held.is_complex():
                return (None,)
            exact = integer(x.astype(np.int64), axis=dim, dtype=np.int64)
            exact = exact.astype(bits.values(held).dtype).reshape(shape)
            return (Reference(exact, 0.0, 0.0, "exact integers modulo 2^b"),)
        out = call.out_format()
        on_cpu = held.device.type == "cpu"
        inner = FLOAT64 if out.precision >= 24 else accumulator_of(held.dtype)
        with np.errstate(all="ignore"):
            x = x if given.dtype is held.dtype else nearest(x, out)
            expected, proof, contract = prefixes(call, x, dim, out, inner if on_cpu else out)
            if on_cpu and inner is not out:
                contract = stored(contract, expected, out)
            # A number by itself is stored as it came: of formats up to fp64 it needs no rounding.
            proof = np.where(_counts(x, dim) == 1, contract, np.maximum(proof, contract))
            if given.dtype is not held.dtype:
                proof, contract = proof + out.u * np.abs(expected), contract * 2 + proof
            magnitude = np.where(np.isfinite(expected), 0.0, np.inf)
        return (Reference(expected.reshape(shape), proof.reshape(shape), contract.reshape(shape),
                          formula, magnitude.reshape(shape)),)

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="scan", axes=scan_axes, symmetries=_symmetries, flops=input_flops,
            reduction=True, window=("d0", "d1", "d2", "d3"),
            deterministic=op is not aten.cumsum, samples=_samples(op))(reference)


def _wide(out: Format) -> Any:
    return np.longdouble if out is FLOAT64 else np.float64


def _sums(call: HostCall, x: Any, dim: int, out: Format, inner: Format) -> tuple[Any, Any, Any]:
    wide = _wide(out)
    expected = np.cumsum(x, axis=dim, dtype=wide).astype(np.float64)
    size = np.cumsum(np.abs(x), axis=dim)
    added = _counts(x, dim) - 1
    # Our own additions, and the rounding of a longer format's sum to float64.
    stored_here = FLOAT64.u * np.abs(expected)
    own = np.where(added > 0,
                   added * float(np.finfo(wide).eps) * size + stored_here + FLOAT64.eta, 0.0)
    growing = np.where(size < out.max, size, np.inf)
    return (expected, added * out.u * growing + own,
            added * inner.u * np.where(size < inner.max, size, np.inf) + own)


def _products(call: HostCall, x: Any, dim: int, out: Format, inner: Format) -> tuple[Any, Any, Any]:
    expected = np.cumprod(x, axis=dim, dtype=_wide(out)).astype(np.float64)
    low, high = (np.cumsum(b, axis=dim) for b in chains.binades(x))
    has_zero = np.logical_or.accumulate(x == 0, axis=dim)
    multiplied = _counts(x, dim) - 1
    own = np.where(has_zero | (multiplied == 0), 0.0, own_rounding(x.shape[dim], expected))
    proof, contract = (
        chains.product_error(multiplied, expected, low, high, has_zero, fmt) + own
        for fmt in (out, inner)
    )
    return expected, proof, contract


def _log_sums(call: HostCall, x: Any, dim: int, out: Format, inner: Format) -> tuple[Any, Any, Any]:
    wide = _wide(out)
    u = float(np.finfo(wide).eps) / 2
    expected = np.logaddexp.accumulate(x.astype(wide), axis=dim).astype(np.float64)
    largest = np.maximum.accumulate(np.where(np.isfinite(x), np.abs(x), 0.0), axis=dim)
    counts = _counts(x, dim)
    own = chains.log_add_error(counts, largest, u, 4 * ELEMENTARY_ULPS * u)
    loose = chains.log_add_error(counts, largest, out.u, 2.0 ** (-out.precision / 2))
    tight = chains.log_add_error(counts, largest, inner.u, 2 * ELEMENTARY_ULPS * inner.u)
    return expected, loose + own, tight + own


_register(aten.cumsum, np.cumsum, _sums, "(k - 1) u sum|x| of the prefix", "Sums of all prefixes.")
_register(aten.cumprod, np.cumprod, _products, "gamma_{k-1} |p| of the prefix",
          "Products of all prefixes.")
_register(aten.logcumsumexp, np.logaddexp.accumulate, _log_sums,
          "k (u (max|x| + log k + 1) + 3 phi)", "Log-sum-exp of all prefixes.")
