"""Named axes of a call: which dimensions of which operands move together with the result.

``"m k", "k n" -> "m n"`` says that rows of the result are rows of the first operand.  A relation
moves work along a name; a reference evaluates a window of a name.  ``.`` stands for a dimension
that may not be moved (a reduced one, or a broadcast dimension of size 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sdc_guard.calls import BoundCall, Path

Labels = tuple[str, ...]
FIXED = "."


@dataclass(frozen=True, slots=True)
class Axes:
    """Labels per dimension for every tensor operand (by path) and every flat result."""

    operands: dict[Path, Labels]
    outputs: tuple[Labels, ...]

    def movable(self) -> tuple[str, ...]:
        """Names that appear in at least one result, in order of appearance."""
        seen = dict.fromkeys(x for labels in self.outputs for x in labels)
        seen.pop(FIXED, None)
        return tuple(seen)

    def carriers(self, label: str) -> tuple[Path, ...]:
        """Operands that have the axis."""
        return tuple(p for p, labels in self.operands.items() if label in labels)


AxesOf = Callable[[BoundCall, tuple[Tensor, ...]], Axes]
"""Computes the axes of a call from its operands and its flat results."""


def size_of(axes: Axes, held: tuple[Tensor, ...], label: str) -> int:
    """Length of the axis, read off the first result that carries it."""
    for tensor, labels in zip(held, axes.outputs, strict=True):
        if label in labels:
            return int(tensor.shape[labels.index(label)])
    return 0


def narrow(tensor: Tensor, labels: Labels, label: str, start: int, length: int) -> Tensor:
    """The window ``[start, start + length)`` of the axis; the tensor itself without the axis."""
    if label not in labels:
        return tensor
    return tensor.narrow(labels.index(label), start, length)


def narrow_call(call: BoundCall, axes: Axes, label: str, start: int, length: int) -> BoundCall:
    """The call on the window ``[start, start + length)`` of the axis in every operand."""
    operands = axes.operands
    return call.mapped(lambda path, t: narrow(t, operands.get(path, ()), label, start, length))


def fixed_axes(*specs: str) -> Callable[[BoundCall], tuple[Labels, ...]]:
    """Labels written out as strings, one per tensor operand in order."""
    labels = tuple(tuple(s.split()) for s in specs)
    return lambda call: labels


def spelled(operands: tuple[str, ...], outputs: tuple[str, ...]) -> AxesOf:
    """Axes from strings such as ``("m k", "k n"), ("m n",)``.

    Strings pair with the tensor operands in schema order; operands without a string are fixed.
    A dimension of size 1 against a longer axis of the same name is a broadcast and is fixed.
    """
    operand_labels = tuple(tuple(s.split()) for s in operands)
    output_labels = tuple(tuple(s.split()) for s in outputs)

    def axes_of(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
        sizes: dict[str, int] = {}
        for tensor, labels in zip(held, output_labels, strict=False):
            sizes.update(zip(labels, tensor.shape, strict=True))
        named: dict[Path, Labels] = {}
        for (path, tensor), labels in zip(call.tensors(), operand_labels, strict=False):
            labels = labels[len(labels) - tensor.dim() :]
            named[path] = tuple(
                FIXED if tensor.shape[i] == 1 != sizes.get(x, 1) else x
                for i, x in enumerate(labels)
            )
        return Axes(named, output_labels)

    return axes_of


def broadcast_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Axes of a pointwise op: each result dimension is its own axis, operands align on the right.

    All results have the broadcast shape; an operand dimension of size 1 is fixed.
    """
    rank = held[0].dim() if held else 0
    shape = tuple(held[0].shape) if held else ()
    names = tuple(f"d{i}" for i in range(rank))
    named: dict[Path, Labels] = {}
    for path, tensor in call.tensors():
        lead = rank - tensor.dim()
        if lead < 0:  # an ``out=`` that the call has resized
            named[path] = (FIXED,) * tensor.dim()
            continue
        named[path] = tuple(
            names[lead + i] if tensor.shape[i] == shape[lead + i] else FIXED
            for i in range(tensor.dim())
        )
    return Axes(named, tuple(names for _ in held))


def leading_axes(num_fixed: int, rank: int, prefix: str = "r") -> Labels:
    """Names for a tensor whose last ``num_fixed`` dimensions may not be moved."""
    return tuple(f"{prefix}{i}" if i < rank - num_fixed else FIXED for i in range(rank))
