"""Matrix times vector and vector times vector: ``mv``, ``addmv``, ``dot``, ``vdot``.

The bounds of a matrix product (:mod:`sdc_guard.bounds.products`), with one more rounding of every
part to a half format: gemv keeps ``beta y`` and the result there (``fp16_gemv_trans`` and its kin
in ``aten/src/ATen/native/BlasKernel.cpp``).

Seen with torch 2.13 on a CPU: ``addmv`` of bf16 with ``alpha = 0`` returns the addend without
``beta``, or uninitialised memory where beta is 0, for some shapes; that is a finding.

Place: the order of a gemv depends on the row, so only signs are known to keep the bits; rolled rows
are learned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import products
from sdc_guard.bounds.gamma import gamma
from sdc_guard.calls import BoundCall
from sdc_guard.formats import accumulator_of, is_covered_float
from sdc_guard.ops._kernel_reductions import dot_kernel
from sdc_guard.ops._products import Call, addend_coefficient, factor, factor_reach
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll

aten = torch.ops.aten


def factors(call: BoundCall) -> tuple[str, str]:
    """Names of the two factors."""
    names = call.form.argument_names
    if "mat" in names:
        return "mat", "vec"
    return "self", next(n for n in ("vec", "tensor", "other") if n in names)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    left, right = factors(call)
    if not held[0].is_floating_point():
        return (RERUN,)
    addend = ("self",) if left == "mat" else ()
    rows = (roll("m", known=False),) if held[0].dim() and held[0].shape[0] > 1 else ()
    return (*rows, negate(left, *addend), negate(right, *addend), RERUN)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Two per element of the left factor."""
    return 2 * int(call[factors(call)[0]].numel())


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
        if dtype.is_complex or dtype is torch.bool:
            return []
        x, y = factor(generator, dtype, 70), factor(generator, dtype, 140)[::2]
        if op in (aten.dot, aten.vdot):
            calls: list[Call] = [(op.default, (x, y), {}), (op.default, (y, y), {})]
            long = factor(generator, dtype, 3001)
            return [*calls, (op.default, (long, long), {})]
        mats = (factor(generator, dtype, 33, 70), factor(generator, dtype, 48, 70, transposed=True),
                factor(generator, dtype, 1, 70), factor(generator, dtype, 12, 90)[1:10, 7:77])
        if op is aten.mv:
            memory = torch.empty(33, dtype=dtype)
            return [*((op.default, (m, v), {}) for m in mats for v in (x, y)),
                    (op.out, (mats[0], x), {"out": memory})]
        start = factor(generator, dtype, 33)
        return [*((op.default, (factor(generator, dtype, m.shape[0]), m, x), k) for m in mats
                  for k in ({}, {"beta": 2, "alpha": -3}, {"beta": 0})),
                (aten.addmv_.default, (start.clone(), mats[0], y), {}),
                (op.out, (start, mats[0], x), {"out": torch.empty(33, dtype=dtype)})]

    return samples


def _integers(call: HostCall, a: Any, b: Any) -> tuple[Reference | None, ...]:
    product = np.asarray((a.astype(np.int64) * b.astype(np.int64)).sum(-1, dtype=np.int64))
    if "mat" in call.call.form.argument_names:
        start = call.array("self").astype(np.int64) if call["beta"] else 0
        product = int(call["beta"]) * start + int(call["alpha"]) * product
    exact = np.asarray(product).astype(bits.values(call.held[0]).dtype)
    return (Reference(exact, 0.0, 0.0, "exact integers modulo 2^b"),)


def _reference(call: HostCall) -> tuple[Reference | None, ...]:
    """gamma_k |A||b| and the rounding of the result, any order."""
    left, right = factors(call.call)
    held, dtype = call.held[0], call[right].dtype
    if not bits.has_values(dtype):
        return (None,)
    a, b = call.array(left), call.array(right)
    if not held.is_floating_point():
        return _integers(call, a, b) if a.dtype.kind == "i" or a.dtype.kind == "u" else (None,)
    if not is_covered_float(held.dtype):
        return (None,)
    out, acc, k = call.out_format(), accumulator_of(dtype), a.shape[-1]
    a_abs, b_abs = np.abs(a), np.abs(b)
    expected, size = np.asarray(a @ b), np.asarray(a_abs @ b_abs)
    device_type, magnitude = held.device.type, size
    error = products.product_error(k, size, a_abs.sum(-1), b_abs.sum(), dtype,
                                   products.input_rounding(dtype, device_type), device_type)
    error = error + products.split_rounding(dtype, device_type) * size
    if left == "mat":
        alpha, beta = float(call["alpha"]), float(call["beta"])
        start = beta * call.array("self") if beta else np.zeros(())
        if not alpha:
            magnitude = np.where(np.isfinite(size), size, np.inf)
        extra = gamma(k + 5, acc.u) - gamma(k, acc.u)
        error = abs(alpha) * (error + extra * size)
        error = error + addend_coefficient(call, k, dtype) * np.abs(start)
        error = error + (4 + 2 * abs(alpha)) * acc.eta
        if alpha not in (0.0, 1.0):  # a factor times alpha may underflow before the product
            error = error + acc.eta * (a_abs.sum(-1) + b_abs.sum())
        expected, size = start + alpha * expected, abs(alpha) * size + np.abs(start)
        magnitude = np.maximum(size, magnitude)
        magnitude = np.maximum(magnitude, factor_reach(alpha, a, b[:, None])[..., 0])
    if out.precision < acc.precision:
        error = error + 3 * out.u * size + 4 * out.tiny
    bound = products.product_bound(expected, error, out)
    return (Reference(expected, bound, bound, products.FORMULA, magnitude),)


def _register(op: Any, operands: tuple[str, ...], outputs: tuple[str, ...], text: str) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        return _reference(call)

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="product", operands=operands, outputs=outputs, symmetries=_symmetries,
            flops=_flops, window=("m",), samples=_samples(op),
            kernel=dot_kernel if op in (aten.dot, aten.vdot) else None)(reference)


_register(aten.mv, ("m k", "k"), ("m",), "A matrix times a vector.")
_register(aten.addmv, ("m", "m k", "k"), ("m",), "``beta c + alpha A b``.")
_register(aten.dot, ("k", "k"), ("",), "The sum of products of two vectors.")
_register(aten.vdot, ("k", "k"), ("",), "The sum of products of two real vectors.")
