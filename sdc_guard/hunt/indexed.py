"""Tables that are read by index: a longer one has indices at its end, too."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from sdc_guard.hunt.promises import base_of
from sdc_guard.hunt.trial import Literal, Operand, Scalar, Trial

ALONG_DIM = frozenset({"index_select", "gather", "take_along_dim", "index_add", "index_fill",
                       "index_copy", "scatter", "scatter_add", "scatter_reduce", "index_reduce"})
"""Functions whose indices stand for places along ``dim`` of the first operand."""
ONLY_READ = frozenset({"index_select", "gather", "take_along_dim"})


@dataclass(frozen=True, slots=True)
class Table:
    """Operand ``place`` is read along ``dim`` by the operand ``index``; ``is_only_read``: no other
    operand, and no result, shares that size."""

    place: int
    dim: int
    index: int
    is_only_read: bool


def indexed_tables(trial: Trial, names: list[str], operands: list[Operand]) -> tuple[Table, ...]:
    """The tables of a call; none where it is not known how they are read."""
    base = base_of(trial.target)
    by_name = {name: place for place, name in enumerate(names)}
    if base == "embedding" and "weight" in by_name:
        index = by_name.get("indices", by_name.get("input"))
        found = Table(by_name["weight"], 0, -1 if index is None else index, True)
    elif base in ALONG_DIM and "index" in by_name and operands and operands[0].shape:
        given = [*trial.args[1:2], *([trial.kwargs["dim"]] if "dim" in trial.kwargs else [])]
        dims = [int(a.text) for a in given if isinstance(a, Scalar) and a.kind == "int"]
        if not dims:
            return ()
        found = Table(0, dims[0] % len(operands[0].shape), by_name["index"],
                      base in ONLY_READ)
    else:
        return ()
    is_index = found.index >= 0 and not operands[found.index].free and isinstance(
        operands[found.index].values, Literal) and operands[found.index].dtype in (
            "int64", "int32")
    return (found,) if is_index else ()


def moved_to_the_end(operand: Operand, old: int, new: int) -> Operand:
    """The indices of a table that has grown from ``old`` to ``new`` rows: those into the rear half
    keep their distance from its end."""
    if not isinstance(operand.values, Literal):
        return operand
    index = np.frombuffer(operand.values.bytes, dtype=operand.dtype)
    moved = np.where((index >= old // 2) & (index < old), index + (new - old), index)
    return msgspec.structs.replace(
        operand, values=Literal.of(moved.astype(operand.dtype).tobytes()))
