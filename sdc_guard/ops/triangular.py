"""Systems with a triangular matrix: ``linalg_solve_triangular`` and ``triangular_solve``.

The solution has no useful forward bound (its error grows with the condition of the matrix), its
residual has one: ``sdc_guard.bounds.linalg``.  Contract: substitution, which OpenBLAS and MKL keep
by their conventional blocks (measured with MKL 2024.2); no contract on other devices.  Proof:
substitution with inverted diagonal blocks of any size.

Not judged: matrices with a diagonal element that is 0 or whose reciprocal is no normal number,
columns that an evaluation may overflow, and all calls while products may round their operands to
TF32 or bf16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._linalg import (
    BATCH,
    FLOATS,
    MATRIX,
    batch_labels,
    batch_moves,
    in_reduced_precision,
    relations,
    solution,
    transposed,
    triangle,
)
from sdc_guard.ops._lines import Broken
from sdc_guard.ops._registry import HostCall, Residual, blame_columns, blame_rows, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import Move, Symmetry, negate

aten = torch.ops.aten


def _names(call: BoundCall) -> tuple[str, str]:
    """Names of the matrix and of the right side."""
    return ("A", "self") if call.form.packet == "aten.triangular_solve" else ("self", "B")


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    left = bool(call.get("left", True))
    shape = tuple(held[0].shape[:-2])
    system, right = _names(call)
    columns = f"{FIXED} n" if left else f"n {FIXED}"
    last = {system: MATRIX, right: columns}
    named = {path: batch_labels(t, shape, last.get(call.form.argument_names[path[0]], columns))
             for path, t in call.tensors()}
    outputs = tuple(batch_labels(t, shape, columns if i == 0 else MATRIX)
                    for i, t in enumerate(held))
    return Axes(named, outputs)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Negating the right side negates the solution, bit for bit; so does negating the matrix, if
    its diagonal is read.  Parts of a batch keep their bits where every matrix starts on the
    same boundary of a vector (12,000 calls, 1 and 2 threads, MKL).  Columns do not: the width of
    the right side selects another kernel."""
    system, right = _names(call)
    signs: tuple[Symmetry, ...]
    if call.form.packet == "aten.triangular_solve":
        copied = Move("rerun", outputs=(1,))
        signs = tuple(Symmetry(f"negate {x}", (Move("negate", operands=(x,), outputs=(0,)), copied),
                               frozenset({"address", "bits"}), True) for x in (right, system))
    else:
        signs = (negate(right), negate(system))
    if call.get("unitriangular"):
        signs = signs[:1]
    return relations(call, *batch_moves(call, held), *signs)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    return int(held[0].numel() * call[_names(call)[0]].shape[-1])


def well_conditioned(
    generator: torch.Generator, dtype: torch.dtype, *shape: int
) -> Tensor:
    """A random matrix with a dominant diagonal."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (x + shape[-1] * torch.eye(shape[-1], dtype=torch.float64)).to(dtype)


def _samples_of(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")

        def system(*shape: int) -> Tensor:
            return well_conditioned(generator, dtype, *shape)

        if op is aten.triangular_solve:
            return [(aten.triangular_solve.default, (draw(7, 3), system(7, 7)), {}),
                    (aten.triangular_solve.default, (draw(3, 5, 2), system(3, 5, 5), False), {}),
                    (aten.triangular_solve.default, (draw(16, 4), system(16, 16), True, True), {}),
                    (aten.triangular_solve.default, (draw(9, 4), system(9, 9).t(), True, False,
                                                     True), {}),
                    (aten.triangular_solve.X, (draw(7, 3), system(7, 7)),
                     {"X": draw(7, 3), "M": draw(7, 7)})]
        solve = aten.linalg_solve_triangular
        up, low = {"upper": True}, {"upper": False}
        return [(solve.default, (system(7, 7), draw(7, 3)), up),
                (solve.default, (system(65, 65).t(), draw(65, 17)), low),
                (solve.default, (system(4, 8, 8), draw(4, 8, 8)), low),
                (solve.default, (system(3, 5, 5), draw(2, 3, 5, 4)), up),
                (solve.default, (system(5, 5), draw(4, 3, 10)[:, :, ::2]), {**low, "left": False}),
                (solve.default, (system(9, 9) / 9, draw(9, 2)), {**up, "unitriangular": True}),
                (solve.default, (system(1, 1), draw(1, 1)), up),
                (solve.out, (system(7, 7), draw(7, 3)), {**up, "out": draw(7, 3)})]

    return samples


def _clone_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """``triangular_solve`` returns a copy of the matrix."""
    wrong = bits.raw(bits.on_host(held[1])) != np.broadcast_to(
        bits.raw(bits.on_host(call["A"])), tuple(held[1].shape))
    return (1, np.asarray(wrong), "a copy of the matrix") if wrong.any() else None


def triangular(call: HostCall) -> tuple[Residual, ...]:
    """``T X = B`` or ``X T = B``: ``|T X - B| <= gamma_{n+2} |T||X|``."""
    system, right = _names(call.call)
    held = call.held[0]
    if not is_covered_float(held.dtype) or in_reduced_precision(held):
        return ()
    t = triangle(call.array(system), bool(call["upper"]), bool(call["unitriangular"]))
    if call.get("transpose", False):
        t = transposed(t)
    b, x = call.array(right), bits.values(held)
    if call.get("left", True):
        return (solution(held, [t], b, x, "|T X - B| <= gamma_{n+2} |T||X|", blame_columns),)
    return (solution(held, [transposed(t)], transposed(b), transposed(x),
                     "|X T - B| <= gamma_{n+2} |X||T|", blame_rows, is_row=True),)


for _op in (aten.linalg_solve_triangular, aten.triangular_solve):
    checked(_op, family="linalg", by="residual", axes=_axes, symmetries=_symmetries, flops=_flops,
            window=(*BATCH, "n"), samples=_samples_of(_op),
            invariant=_clone_fact if _op is aten.triangular_solve else None)(triangular)
