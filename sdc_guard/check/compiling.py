"""Symmetries compiled for a call site: each kind of move as a function that recomputes the call.

``split`` calls the op on narrowed views; ``roll`` copies only the operands that carry the axis and
keeps their memory layout (a transposed operand made contiguous would run another kernel).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, Path
from sdc_guard.check.relations import Piece, Pieces, Relation, Runner
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._places import negated
from sdc_guard.ops._symmetry import OUTERMOST, Move, Symmetry

FLAT_MULTIPLE = 64
"""Flat splits fall on multiples of this many elements, so that no element changes between a
kernel's vector body and its scalar tail (16 fp32 lanes, unrolled by 4 at most)."""


def compile_symmetry(
    symmetry: Symmetry, call: BoundCall, held: Sequence[Tensor], axes: Axes, num_parts: int = 2
) -> Relation | None:
    """The relation for calls that look like ``call``; None where the symmetry does not apply.

    With ``num_parts`` above 2 only relations that work slice by slice apply, in so many slices.
    """
    runners: list[Runner] = []
    covers: set[int] = set()
    for move in symmetry.moves:
        if num_parts > 2 and move.how not in ("split", "flat"):
            return None
        compiled = _COMPILERS[move.how](move, call, held, axes, num_parts)
        if compiled is None:
            return None
        runner, covered = compiled
        runners.append(runner)
        covers |= covered
    return Relation(symmetry, tuple(runners), frozenset(covers))


Compiled = tuple[Runner, set[int]] | None


def _outermost(held: Sequence[Tensor], axes: Axes) -> str | None:
    candidates = [
        (stride, label)
        for label, stride, size in zip(
            axes.outputs[0], held[0].stride(), held[0].shape, strict=True
        )
        if label != FIXED and size > 1
    ]
    return max(candidates)[1] if candidates else None


def _covered(move: Move, held: Sequence[Tensor], axes: Axes, label: str) -> dict[int, int]:
    """Covered results and the dimension in which each carries the axis."""
    allowed = range(len(held)) if move.outputs is None else move.outputs
    return {
        i: axes.outputs[i].index(label)
        for i in allowed
        if i < len(axes.outputs) and held[i] is not None and label in axes.outputs[i]
    }


def _axis(move: Move, held: Sequence[Tensor], axes: Axes) -> tuple[str, int, dict[int, int]] | None:
    label = _outermost(held, axes) if move.axis == OUTERMOST else move.axis
    if label is None:
        return None
    covered = _covered(move, held, axes, label)
    if not covered:
        return None
    output, dim = next(iter(covered.items()))
    size = int(held[output].shape[dim])
    return (label, size, covered) if size > 1 else None


def _carrier_dims(axes: Axes, label: str) -> dict[Path, int]:
    return {p: labels.index(label) for p, labels in axes.operands.items() if label in labels}


Parts = tuple[tuple[int, int], ...]


def _cuts(size: int, multiple: int, num_parts: int) -> tuple[Parts, Parts]:
    """Two ways to cut an axis into (start, length), on multiples where it is long enough: in two
    parts near 1/2 and near 1/3; or in ``num_parts`` and one more.  Later parts come first, so that
    no part but the last stays in its place."""
    if num_parts > 2:
        return _even(size, multiple, num_parts), _even(size, multiple, num_parts + 1)
    step = multiple if size > 3 * multiple else 1
    cuts = [max(size // k // step * step, 1) for k in (2, 3)]
    halves, thirds = (((cut, size - cut), (0, cut)) for cut in cuts)
    return halves, thirds


def _even(size: int, multiple: int, num_parts: int) -> Parts:
    length = max(1, -(-size // num_parts))
    if length > multiple:
        length = length // multiple * multiple
    return tuple((s, min(length, size - s)) for s in reversed(range(0, size, length)))


def _compile_split(
    move: Move, call: BoundCall, held: Sequence[Tensor], axes: Axes, num_parts: int
) -> Compiled:
    found = _axis(move, held, axes)
    if found is None:
        return None
    label, size, covered = found
    dims = _carrier_dims(axes, label)
    overrides = dict(move.overrides)
    others = max(1, held[next(iter(covered))].numel() // size)
    cuts = _cuts(size, FLAT_MULTIPLE // math.gcd(others, FLAT_MULTIPLE), num_parts)

    def run(call: BoundCall, held: Sequence[Tensor], visit: int) -> Pieces:
        base = call.replaced(**overrides) if overrides else call
        for start, length in cuts[visit % 2]:

            def narrowed(path: Path, tensor: Tensor, s: int = start, n: int = length) -> Tensor:
                return tensor.narrow(dims[path], s, n) if path in dims else tensor

            part = base.mapped(narrowed).run()
            for i, dim in covered.items():
                yield Piece(i, part[i], held[i], (dim, start, length))

    return run, set(covered)


def _compile_roll(
    move: Move, call: BoundCall, held: Sequence[Tensor], axes: Axes, num_parts: int
) -> Compiled:
    found = _axis(move, held, axes)
    if found is None:
        return None
    label, size, covered = found
    dims = _carrier_dims(axes, label)
    for path, tensor in call.tensors():
        if path in dims and tensor.shape[dims[path]] not in (1, size):
            raise ValueError(
                f"axis {label!r} has {size} elements in the result and {tensor.shape[dims[path]]} "
                f"in operand {path}: the labels of {call.form.packet} are wrong")
        if path in dims and not bits.is_injective(tensor):
            return None  # a copy with these strides would overwrite itself
    overrides = dict(move.overrides)

    def run(call: BoundCall, held: Sequence[Tensor], visit: int) -> Pieces:
        shift = 1 + (visit * 2654435761 >> 7) % (size - 1)
        rest = size - shift

        def rolled(path: Path, tensor: Tensor) -> Tensor:
            if path not in dims or not tensor.stride(dims[path]):
                return tensor
            dim = dims[path]
            image = bits.empty_image(tensor)
            if dim == 0 and tensor.is_contiguous() and tensor.device.type == "cpu":
                bits.copy_rolled(tensor, image, shift)
                return image
            source, target = bits.distinct(tensor), bits.distinct(image)
            target.narrow(dim, 0, rest).copy_(source.narrow(dim, shift, rest))
            target.narrow(dim, rest, shift).copy_(source.narrow(dim, 0, shift))
            return image

        base = call.replaced(**overrides) if overrides else call
        got = base.mapped(rolled).run()
        for i, dim in covered.items():
            yield Piece(i, got[i].narrow(dim, 0, rest), held[i], (dim, shift, rest))
            yield Piece(i, got[i].narrow(dim, rest, shift), held[i], (dim, 0, shift))

    return run, set(covered)


def _compile_flat(
    move: Move, call: BoundCall, held: Sequence[Tensor], axes: Axes, num_parts: int
) -> Compiled:
    layout = (held[0].shape, held[0].stride())
    size = held[0].numel()
    if size < 2 or not all(bits.is_dense(t) and (t.shape, t.stride()) == layout for t in held):
        return None
    moved: set[Path] = set()
    for path, tensor in call.tensors():
        if (tensor.shape, tensor.stride()) == layout:
            moved.add(path)
        elif tensor.dim():
            return None
    if not moved:
        return None
    cuts = _cuts(size, FLAT_MULTIPLE, num_parts)
    if any(len(path) > 1 for path in moved):
        return None
    positions = tuple(path[0] for path in moved)

    def run(call: BoundCall, held: Sequence[Tensor], visit: int) -> Pieces:
        args = list(call.args)
        operands = [(i, call.args[i], call.args[i].storage_offset()) for i in positions]
        for start, length in cuts[visit % 2]:
            for i, tensor, offset in operands:
                args[i] = tensor.as_strided((length,), (1,), offset + start)
            part = BoundCall(call.form, tuple(args)).run()
            for i, got in enumerate(part):
                yield Piece(i, got, held[i], (-1, start, length))

    return run, set(range(len(held)))


def _compile_negate(
    move: Move, call: BoundCall, held: Sequence[Tensor], axes: Axes, num_parts: int
) -> Compiled:
    allowed = range(len(held)) if move.outputs is None else move.outputs
    covered = [i for i in allowed if held[i] is not None
               and (held[i].is_floating_point() or held[i].is_complex())]
    if not covered:
        return None
    positions = {call.form.position(name) for name in move.operands}
    overrides = dict(move.overrides)

    def run(call: BoundCall, held: Sequence[Tensor], visit: int) -> Pieces:
        base = call.replaced(**overrides) if overrides else call
        got = base.mapped(lambda p, t: negated(t) if p[0] in positions else t).run()
        if move.unless is not None and bits.raw(got[move.unless]).any():
            return []
        return [Piece(i, got[i], held[i], None, negated=True) for i in covered]

    return run, set(covered)


def _compile_double(
    move: Move, call: BoundCall, held: Sequence[Tensor], axes: Axes, num_parts: int
) -> Compiled:
    if len({t.dim() for _, t in call.tensors()}) > 1:
        return None  # stacked, operands of different rank would broadcast against each other

    def run(call: BoundCall, held: Sequence[Tensor], visit: int) -> Pieces:
        copies = 2 + visit % 2
        got = call.mapped(lambda p, t: torch.stack([t] * copies)).run()
        return [
            Piece(i, g.select(0, 1), h, None)
            for i, (g, h) in enumerate(zip(got, held, strict=True))
        ]

    return run, set(range(len(held)))


def _compile_reverse(
    move: Move, call: BoundCall, held: Sequence[Tensor], axes: Axes, num_parts: int
) -> Compiled:
    lengths = {len(a) for a in call.args if isinstance(a, (list, tuple)) and len(a)}
    if len(lengths) != 1 or (length := lengths.pop()) < 2 or len(held) % length:
        return None

    def run(call: BoundCall, held: Sequence[Tensor], visit: int) -> Pieces:
        args = tuple(
            list(reversed(a)) if isinstance(a, (list, tuple)) and len(a) == length else a
            for a in call.args
        )
        got = BoundCall(call.form, args).run()
        return [
            Piece(i, got[i - i % length + length - 1 - i % length], held[i], None)
            for i in range(len(held))
        ]

    return run, set(range(len(held)))


def _present(held: Sequence[Tensor]) -> list[int]:
    return [i for i, t in enumerate(held) if t is not None]


def _compile_rerun(
    move: Move, call: BoundCall, held: Sequence[Tensor], axes: Axes, num_parts: int
) -> Compiled:
    covered = _present(held)

    def run(call: BoundCall, held: Sequence[Tensor], visit: int) -> Pieces:
        got = call.run()
        return [Piece(i, got[i], held[i], None) for i in covered]

    return run, set(covered)


def _compile_custom(
    move: Move, call: BoundCall, held: Sequence[Tensor], axes: Axes, num_parts: int
) -> Compiled:
    function = move.function
    if function is None:
        return None
    covered = _present(held) if move.outputs is None else list(move.outputs)

    def run(call: BoundCall, held: Sequence[Tensor], visit: int) -> Pieces:
        undone = function(call, visit)
        return [Piece(i, got, held[i], None) for i in covered if (got := undone[i]) is not None]

    return run, set(covered)


_COMPILERS: dict[str, Callable[[Move, BoundCall, Sequence[Tensor], Axes, int], Compiled]] = {
    "split": _compile_split,
    "roll": _compile_roll,
    "flat": _compile_flat,
    "negate": _compile_negate,
    "double": _compile_double,
    "reverse": _compile_reverse,
    "rerun": _compile_rerun,
    "custom": _compile_custom,
}
