"""What solvers and factorizations share: axes of a batch of matrices, relations, residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import linalg
from sdc_guard.bounds.products import input_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of
from sdc_guard.ops._axes import FIXED, Labels
from sdc_guard.ops._generic import copied
from sdc_guard.ops._registry import Blame, Residual
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, roll, split

FLOATS = (torch.float64, torch.float32)
"""LAPACK has no other real formats."""
BATCH = ("b0", "b1", "b2", "b3")
"""Axes along which residuals may be evaluated in part."""
MATRIX = f"{FIXED} {FIXED}"


def batch_labels(tensor: Tensor, shape: tuple[int, ...], last: str) -> Labels:
    """Labels of a batch of matrices (``last`` spells two dimensions), vectors (one) or numbers, the
    batch aligned on the right with one of sizes ``shape``."""
    own = tuple(last.split())
    lead = tensor.dim() - len(own)
    skipped = len(shape) - lead
    return tuple(f"b{i + skipped}" if tensor.shape[i] == shape[i + skipped] else FIXED
                 for i in range(lead)) + own


def batch_moves(
    call: BoundCall, held: tuple[Tensor, ...], matrix_dims: int = 2
) -> tuple[Symmetry, ...]:
    """Relations along the longest axis of the batch.  MKL's results depend on where in a vector a
    matrix starts, so they hold in general only where all matrices start on the same boundary (seen
    in 40,000 calls of all solvers and factorizations, 1 and 2 threads)."""
    shape = tuple(held[0].shape)
    shape = shape[: len(shape) - matrix_dims]
    longest = max(range(len(shape)), key=lambda i: shape[i], default=-1)
    if longest < 0 or shape[longest] < 2:
        return ()
    label = f"b{longest}"
    every = [*(t for _, t in call.tensors()), *(t for t in held if t is not None)]
    even = all(_starts_evenly(t) for t in every if t.is_floating_point() and t.dim() >= 2)
    return (split(label, known=even), roll(label, known=even))


def _starts_evenly(tensor: Tensor) -> bool:
    num_bytes = tensor.shape[-1] * tensor.shape[-2] * tensor.element_size()
    return num_bytes % bits.ALIGNMENT_BYTES == 0 and all(
        s * tensor.element_size() % bits.ALIGNMENT_BYTES == 0 for s in tensor.stride()[:-2])


def _identical(call: BoundCall, visit: int) -> tuple[Tensor | None, ...]:
    return copied(call).run_identical()


Undo = Callable[[Tensor], Tensor]
IDENTICAL = Symmetry("identical on copies", (Move("custom", function=_identical),),
                     frozenset({"address"}), True)
"""For ``out=`` overloads: the layout of the result selects the kernel, and the functional form lays
out its own."""


def relations(call: BoundCall, *several: Symmetry) -> tuple[Symmetry, ...]:
    """The relations of a call, which never are none."""
    return (IDENTICAL,) if call.form.is_out else (*several, RERUN)


def scaled(
    operand: str, undo: tuple[Undo | None, ...], *, known: bool, near: float = 2.0**20
) -> Symmetry:
    """The operand times 4 multiplies results by powers of 2, which ``undo`` takes back (None: no
    claim about that result).

    Exact where nothing underflows or overflows; made only for operands whose elements are 0 or
    within a factor ``near`` of 1.
    """

    def moved(call: BoundCall, visit: int) -> tuple[Tensor | None, ...]:
        none = (None,) * len(undo)
        tensor = call[operand]
        size = np.abs(bits.values(tensor))
        if not ((size == 0) | ((size >= 1 / near) & (size <= near))).all():
            return none
        if not bits.is_injective(tensor):
            return none
        image = bits.empty_image(tensor)
        torch.mul(bits.distinct(tensor), 4.0, out=bits.distinct(image))
        got = call.replaced(**{operand: image}).run()
        return tuple(None if back is None or t is None else back(t)
                     for t, back in zip(got, undo, strict=True))

    outputs = tuple(i for i, back in enumerate(undo) if back is not None)
    return Symmetry(f"scale {operand}", (Move("custom", outputs=outputs, function=moved),),
                    frozenset({"address", "bits"}), known)


def same(result: Tensor) -> Tensor:
    return result


def times(factor: float) -> Undo:
    return lambda result: result * factor


def upper_times(factor: float) -> Undo:
    """For factors packed in one matrix: only the upper one is multiplied."""
    return lambda result: torch.where(
        torch.ones_like(result, dtype=torch.bool).triu(), result * factor, result)


def in_reduced_precision(tensor: Tensor) -> bool:
    """True while products of this dtype may round their operands (TF32 and the like), which no
    bound of a factorization includes."""
    return input_rounding(tensor.dtype, tensor.device.type) > 0.0


def measured(limit: Any, tensor: Tensor) -> Any:
    """A contract where it was measured, which is on CPUs; infinite elsewhere."""
    return limit if tensor.device.type == "cpu" else np.full_like(limit, np.inf)


def triangle(a: NDArray[Any], upper: bool, unit: bool = False) -> NDArray[Any]:
    """The triangle that an op reads, ones on its diagonal if it is said to be unit."""
    t = np.triu(a) if upper else np.tril(a)
    if unit:
        i = np.arange(min(a.shape[-2:]))
        t[..., i, i] = 1.0
    return t


def transposed(a: NDArray[Any]) -> NDArray[Any]:
    return np.swapaxes(a, -1, -2)


def solution(
    held: Tensor,
    factors: list[NDArray[Any]],
    b: NDArray[Any],
    x: NDArray[Any],
    formula: str,
    blame: Blame,
    *,
    is_row: bool = False,
    output: int = 0,
) -> Residual:
    """The residual ``|T_1 ... T_m X - B|`` of a solution by triangular systems.

    ``is_row``: the op solves ``X A = B``, and everything is given transposed.  Columns that are not
    finite, or with which a sum may overflow, are wrong where no evaluation for the true solution
    overflows, and not judged elsewhere.
    """
    fmt = format_of(held.dtype.to_real())
    right = np.abs(b)
    size = linalg.largest(np.maximum(linalg.solution_size(factors, x) + right, np.abs(x)))
    inside = np.isfinite(x).all(-2, keepdims=True) & ~(4 * size >= fmt.max)
    outside = np.where(linalg.stays_finite(factors, right, fmt), 0.0, np.inf) \
        if not inside.all() else np.inf
    x = np.where(inside, x, 0.0)
    product = x
    safe = np.ones((1, 1), dtype=bool)
    for t in reversed(factors):
        product = np.matmul(t, product)
        safe = safe & linalg.divides_safely(t, fmt)
    contract = linalg.by_substitution(factors, x, fmt)
    proof = np.maximum(contract, linalg.by_inverted_blocks(factors, x, fmt))
    parts: list[Any] = [np.where(inside, np.abs(product - b), np.inf)]
    parts += [np.where(inside, np.where(safe, limit, np.inf), outside)
              for limit in (proof, measured(contract, held))]
    if is_row:
        parts = [transposed(p) for p in parts]
    return Residual(output, parts[0], parts[1], parts[2], formula, 0.0, blame)
