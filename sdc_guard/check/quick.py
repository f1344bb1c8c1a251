"""The common relations once more, for the hot path: no object is made for a piece that agrees.

A training step makes hundreds of small calls whose checks cost their Python, not their memory
traffic.  A checker recomputes and compares what the relation's runners would, on the same operands
in the same places, and makes pieces only of what disagrees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.check.relations import Checker, Piece

Again = Callable[[tuple[Any, ...]], Any]


def again(call: BoundCall) -> Again | None:
    """What makes calls of this form on other operands and returns the one tensor that comes of it;
    None where that takes images of the operands."""
    form = call.form
    if not form.overwrites:
        return lambda args: form.call(args)
    target = form.functional_form
    if target is None or len(form.overwrites) > 1:
        return None
    if form.functional_positions == form.all_positions:
        return lambda args: target.call(args)
    positions = form.functional_positions
    return lambda args: target.call(tuple([args[i] for i in positions]))


def _alone(call: BoundCall, held: Sequence[Tensor]) -> bool:
    """True where a call gives one tensor, in host memory."""
    return len(held) == 1 and held[0] is not None and held[0].is_cpu


def rerun_checker(call: BoundCall, held: Sequence[Tensor]) -> Checker | None:
    """The call again on the same operands."""
    run = again(call)
    if run is None or not _alone(call, held):
        return None
    dtype = held[0].dtype

    def check(call: BoundCall, held: Sequence[Tensor], visit: int) -> Sequence[Piece]:
        got, whole = run(call.args), held[0]
        if not isinstance(got, Tensor) or got.dtype is not dtype:
            (got,) = call.run()
        if whole.is_contiguous() and bits.equals_memory(got, whole.data_ptr(), whole.nbytes):
            return ()
        piece = Piece(0, got, whole, None)
        return () if piece.agrees() else (piece,)

    return check


def flat_checker(
    call: BoundCall, held: Sequence[Tensor], positions: tuple[int, ...],
    cuts: Sequence[Sequence[tuple[int, int]]],
) -> Checker | None:
    """Stretches of dense operands taken as vectors."""
    run = again(call)
    if run is None or not _alone(call, held):
        return None
    itemsize, dtype = held[0].element_size(), held[0].dtype

    def check(call: BoundCall, held: Sequence[Tensor], visit: int) -> Sequence[Piece]:
        args, whole = list(call.args), held[0]
        broken: list[Piece] = []
        address = whole.data_ptr()
        operands = [(i, args[i], args[i].storage_offset()) for i in positions]
        for start, length in cuts[visit % 2]:
            for i, tensor, offset in operands:
                args[i] = tensor.as_strided((length,), (1,), offset + start)
            got = run(tuple(args))
            if not isinstance(got, Tensor) or got.dtype is not dtype:
                (got,) = BoundCall(call.form, tuple(args)).run()
            if not bits.equals_memory(got, address + start * itemsize, length * itemsize):
                piece = Piece(0, got, whole, (-1, start, length))
                if not piece.agrees():
                    broken.append(piece)
        return broken

    return check
