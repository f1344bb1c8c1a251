"""Softmax and log-softmax with their gradients; :mod:`sdc_guard.bounds.softmax` has the bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds import softmax as bounds
from sdc_guard.bounds.gamma import rounding
from sdc_guard.bounds.sums import lane_depth
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._kernel_rows import row_limits, rows_along, same_shape
from sdc_guard.ops._kernels import KernelCheck, KernelOf, KernelRun, Notes
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll, split

aten = torch.ops.aten
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


def softmax_dim(call: BoundCall) -> int:
    """The reduced dimension, counted from the front."""
    return int(int(call["dim"]) % max(call.args[0].dim(), 1))


def softmax_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Every dimension but the reduced one may be moved."""
    rank, dim = held[0].dim(), softmax_dim(call)
    labels = tuple(FIXED if d == dim else f"d{d}" for d in range(rank))
    return Axes({path: labels for path, t in call.tensors() if t.dim() == rank}, (labels,))


def _along(call: BoundCall, held: tuple[Tensor, ...], *odd: str) -> tuple[Symmetry, ...]:
    """Split and roll along the longest kept dimension; ``odd`` operands negate the result.

    Seen on CPU in all four formats, 1 and 2 threads, for contiguous, transposed, sliced and
    expanded operands: with the last dimension reduced all are bit-exact.  With another one
    reduced the SIMD lanes run over the dimensions inside it, and threads take equal shares of all
    kept elements, so a move can put an element from a vector body into a scalar tail, where ``exp``
    differs by an ulp: rolls along a dimension outside are exact where no share ends within a row,
    the rest is learned and not promised.
    """
    dim = softmax_dim(call)
    shape = held[0].shape
    sizes = {d: int(n) for d, n in enumerate(shape) if d != dim and n > 1}
    outside = {d: n for d, n in sizes.items() if d < dim}
    signed = (negate(*odd),) if odd else ()
    if not sizes:
        return (*signed, RERUN)
    last = dim == len(shape) - 1
    whole_rows = math.prod(outside.values()) % torch.get_num_threads() == 0
    chosen = outside or sizes
    axis = f"d{max(chosen, key=lambda d: chosen[d])}"
    return (split(axis, known=last),
            roll(axis, lane=not outside, known=last or (bool(outside) and whole_rows)), *signed)


def forward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rows are independent of each other."""
    return _along(call, held)


def backward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """The gradient is linear in ``grad_output``."""
    return _along(call, held, "grad_output")


def flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Five operations per element."""
    return 5 * held[0].numel()


class _Premises:
    """What the contract of an op's kernel rests on, by its result and its operand's format."""

    def __init__(self, result: Tensor, source: Format, dim: int) -> None:
        acc = accumulator_of(result.dtype)
        n = max(int(result.shape[dim]), 1) if result.dim() else 1
        last = dim == max(result.dim() - 1, 0)
        self.depth = lane_depth(n, acc) if last else n - 1
        # ATen's CPU kernels keep some intermediates in the dtype of the input: a row's sum when the
        # last dimension is reduced (LogSoftmaxKernelImpl.h, serial_vec_log_softmax_lastdim_range),
        # the exponentials in the scalar tail when another one is (seen: 1.9 roundings).
        self.v = source.u if source.precision < FLOAT32.precision else 0.0
        self.v_terms = 0.0 if last else self.v
        self.flush = acc.tiny if last else acc.tiny + source.eta

    def limits(self, result: Tensor) -> Any:
        """The same for a kernel."""
        return row_limits(
            result, depth=self.depth, phi=bounds.exp_contract(accumulator_of(result.dtype)),
            storage_u=self.v, term_u=self.v_terms, flush=self.flush, num_eta=8.0)


SOFTMAX_FORMULA = "p ((1 + r_i)(1 + 4u) / (1 - r_S) - 1)"
LOG_SOFTMAX_FORMULA = "u |d_i| - log(1 - r_S) + (phi + v)|log S| + v + u |l_i|"
GRADIENT_FORMULA = "|y| ((h + 1) u sum|g y| + 3 u (|g| + |T|))"
LOG_GRADIENT_FORMULA = (
    "e^y (h u sum|g| + (phi + 3u)|G|) + 2 u (|g| + e^y |G|) + tiny sum|g|")


def forward_kernel(formula: str, *, logarithm: bool = False, safe: bool = False) -> KernelOf:
    """Every element of a softmax, judged on its device."""

    def of_site(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        if not same_shape(call, held[0], "self"):
            return None
        from sdc_guard_kernels.softmax_rows import plan, softmax_rows

        x, result, dim = call["self"], held[0], softmax_dim(call)
        rows = rows_along(dim, x, result)
        if rows is None:
            return None
        limits = _Premises(result, format_of(x.dtype), dim).limits(result)
        site = plan(rows, limits, result.dtype, result.device, logarithm=logarithm, safe=safe)

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            record = notes.record(KernelCheck("reference", formula))
            softmax_rows(call["self"], held[0], record, site)

        return run

    return of_site


def backward_kernel(formula: str, *, logarithm: bool = False) -> KernelOf:
    """Every element of a softmax's gradient, judged on its device."""

    def of_site(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        if not same_shape(call, held[0], "grad_output", "output"):
            return None
        from sdc_guard_kernels.softmax_backward_rows import plan, softmax_backward_rows

        grad, output, result, dim = call["grad_output"], call["output"], held[0], softmax_dim(call)
        rows = rows_along(dim, grad, output, result)
        if rows is None:
            return None
        limits = _Premises(result, format_of(grad.dtype), dim).limits(result)
        site = plan(rows, limits, result.dtype, result.device, logarithm=logarithm)

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            record = notes.record(KernelCheck("reference", formula))
            softmax_backward_rows(call["grad_output"], call["output"], held[0], record, site)

        return run

    return of_site


class _Case:
    """One call with the reduced dimension last, and what its kernel computes with."""

    def __init__(self, call: HostCall, *operands: str) -> None:
        self.dim = softmax_dim(call.call)
        self.rank = call.held[0].dim()
        self.arrays: list[F64] = [self._last(call.array(name)) for name in operands]
        self.out = call.out_format()
        self.acc = accumulator_of(call.held[0].dtype)
        self.u = bounds.with_reference(self.acc)
        self.n = max(self.arrays[0].shape[-1], 1)
        premises = _Premises(call.held[0], call.format(operands[0]), self.dim)
        self.depth, self.v = premises.depth, premises.v
        self.v_terms, self.flush = premises.v_terms, premises.flush

    def _last(self, array: F64) -> F64:
        return np.moveaxis(array, self.dim, -1) if array.ndim else array.reshape(1)

    def back(self, array: Any) -> F64:
        """An array with the reduced dimension last, in the layout of the result."""
        array = np.asarray(array, dtype=np.float64)
        return np.moveaxis(array, -1, self.dim) if self.rank else array.reshape(())

    def reference(
        self,
        expected: F64,
        bound: Callable[[int, float], F64],
        formula: str,
        magnitude: F64 | float = 0.0,
    ) -> tuple[Reference]:
        """``bound(depth, phi)`` for proof and contract, the result's own rounding added."""
        limits = []
        for depth, phi in ((self.n, bounds.exp_proof(self.acc)),
                           (self.depth, bounds.exp_contract(self.acc))):
            error = bound(depth, phi)
            if self.out.precision < self.acc.precision:
                error = error + rounding(np.abs(expected) + error, self.out)
            limits.append(self.back(error + subnormal(self.acc)))
        size = self.back(np.broadcast_to(magnitude, expected.shape))
        return (Reference(self.back(expected), limits[0], limits[1], formula, size),)


def subnormal(acc: Format) -> float:
    """Roundings whose result is subnormal: a handful."""
    return 8 * acc.eta


def _exponentials(x: F64) -> tuple[F64, F64, F64]:
    """``x - max``, its exponential, and the sum."""
    d = x - x.max(-1, keepdims=True)
    e = np.exp(d)
    return d, e, e.sum(-1, keepdims=True)


def _judged(call: HostCall) -> bool:
    return is_covered_float(call.held[0].dtype) and call.held[0].numel() > 0


def _rows(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def forward_samples(op: Any) -> Callable[[torch.Generator, torch.dtype], list[Call]]:
    """Representative calls for a dtype; none where the op does not take it."""
    def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
        if not is_covered_float(dtype):
            return []
        x = _rows(generator, dtype, 37, 51)
        return [
            (op.default, (x, -1, False), {}),
            (op.default, (_rows(generator, dtype, 6, 33, 17), 1, False), {}),
            (op.default, (x.t(), 1, False), {}),
            (op.out, (x, 1, False), {"out": torch.empty_like(x)}),
        ]

    return samples


def backward_samples(op: Any) -> Callable[[torch.Generator, torch.dtype], list[Call]]:
    """Representative calls for a dtype; none where the op does not take it."""
    def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
        if not is_covered_float(dtype):
            return []
        calls: list[Call] = []
        for shape, dim in (((37, 51), 1), ((6, 33, 17), 1)):
            x = _rows(generator, torch.float64, *shape)
            y = x.log_softmax(dim) if "log" in str(op) else x.softmax(dim)
            g = _rows(generator, dtype, *shape)
            calls.append((op.default, (g, y.to(dtype), dim, dtype), {}))
        g, y = calls[0][1][:2]
        calls.append((op.default, (g.t().contiguous().t(), y, 1, dtype), {}))
        target = "grad_input" if op is aten._softmax_backward_data else "out"
        calls.append((op.out, (g, y, 1, dtype), {target: torch.empty_like(g)}))
        return calls

    return samples


@checked(
    aten._softmax,
    family="softmax",
    axes=softmax_axes,
    symmetries=forward_symmetries,
    flops=flops,
    window=("d0", "d1", "d2", "d3"),
    kernel=forward_kernel(SOFTMAX_FORMULA),
    samples=forward_samples(aten._softmax),
)
def softmax(call: HostCall) -> tuple[Reference | None, ...]:
    """``exp(x - max) / sum exp(x - max)``; see :mod:`sdc_guard.bounds.softmax`."""
    if not _judged(call):
        return (None,)
    case = _Case(call, "self")
    with np.errstate(all="ignore"):
        d, e, total = _exponentials(case.arrays[0])
        distance = np.abs(d)
        return case.reference(
            e / total,
            lambda depth, phi: bounds.softmax_error(
                distance, e, total, depth, case.u, phi + case.v_terms, case.flush),
            SOFTMAX_FORMULA,
        )


@checked(
    aten._log_softmax,
    family="softmax",
    axes=softmax_axes,
    symmetries=forward_symmetries,
    flops=flops,
    window=("d0", "d1", "d2", "d3"),
    kernel=forward_kernel(LOG_SOFTMAX_FORMULA, logarithm=True),
    samples=forward_samples(aten._log_softmax),
)
def log_softmax(call: HostCall) -> tuple[Reference | None, ...]:
    """``x - max - log sum exp(x - max)``; see :mod:`sdc_guard.bounds.softmax`."""
    if not _judged(call):
        return (None,)
    case = _Case(call, "self")
    with np.errstate(all="ignore"):
        d, e, total = _exponentials(case.arrays[0])
        distance = np.abs(d)
        return case.reference(
            d - np.log(total),
            lambda depth, phi: bounds.log_softmax_error(
                distance, e, total, depth, case.u, phi, case.v),
            LOG_SOFTMAX_FORMULA,
            distance,
        )


@checked(
    aten._softmax_backward_data,
    family="softmax",
    axes=softmax_axes,
    symmetries=backward_symmetries,
    flops=flops,
    window=("d0", "d1", "d2", "d3"),
    kernel=backward_kernel(GRADIENT_FORMULA),
    samples=backward_samples(aten._softmax_backward_data),
)
def softmax_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``y (g - sum g y)``; see :mod:`sdc_guard.bounds.softmax`."""
    if not _judged(call):
        return (None,)
    case = _Case(call, "grad_output", "output")
    grad, output = case.arrays
    with np.errstate(all="ignore"):
        product = grad * output
        expected = output * (grad - product.sum(-1, keepdims=True))
        size = np.abs(product).sum(-1, keepdims=True) + np.abs(grad)
        return case.reference(
            expected,
            lambda depth, _: bounds.softmax_gradient_error(grad, output, depth, case.u, case.v),
            GRADIENT_FORMULA,
            size,
        )


@checked(
    aten._log_softmax_backward_data,
    family="softmax",
    axes=softmax_axes,
    symmetries=backward_symmetries,
    flops=flops,
    window=("d0", "d1", "d2", "d3"),
    kernel=backward_kernel(LOG_GRADIENT_FORMULA, logarithm=True),
    samples=backward_samples(aten._log_softmax_backward_data),
)
def log_softmax_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``g - exp(y) sum g``; see :mod:`sdc_guard.bounds.softmax`.  A subnormal exponential has few
    digits or is flushed, which the sum multiplies."""
    if not _judged(call):
        return (None,)
    case = _Case(call, "grad_output", "output")
    grad, output = case.arrays
    with np.errstate(all="ignore"):
        p = np.exp(output)
        size = (1 + p) * np.abs(grad).sum(-1, keepdims=True)
        flushed = np.where(p < 2 * case.acc.tiny, case.flush, 0.0) * np.abs(grad).sum(
            -1, keepdims=True)
        return case.reference(
            grad - p * grad.sum(-1, keepdims=True),
            lambda depth, phi: flushed + bounds.log_softmax_gradient_error(
                grad, p, depth, case.u, phi, case.v),
            LOG_GRADIENT_FORMULA,
            size,
        )
