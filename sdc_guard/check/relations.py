"""Bit-exact relations made executable: a symmetry of an op, compiled for one call site.

Running a relation recomputes the call elsewhere and yields *pieces*: a recomputed tensor and the
part of the held result that must have the same bits.  Nothing is copied where a view will do:
``split`` calls the op twice on narrowed views, ``roll`` copies only the operands that carry the
axis, and the comparison is an index-mapped ``memcmp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._symmetry import Symmetry


@dataclass(frozen=True, slots=True)
class Piece:
    """``got`` must equal ``held``, which is the part ``where`` of result ``output``.

    ``where`` is (dimension, start, length), or None for the whole; dimension -1 means the span of
    the result taken as a vector.  With ``negated`` the recomputation has the other sign.
    """

    output: int
    got: Tensor
    held: Tensor
    where: tuple[int, int, int] | None
    negated: bool = False

    def agrees(self) -> bool:
        if not self.negated:
            return bits.bits_equal(self.got, self.held)
        undone = torch.neg(self.got)
        if bits.bits_equal(undone, self.held):
            return True
        return not bool(self.wrong().any())

    def undone(self) -> Tensor:
        """The recomputed part with the relation undone; a negated zero takes the held sign, because
        a sum of terms that cancel is +0 with either sign of the operands."""
        if not self.negated:
            return self.got
        undone = torch.neg(self.got)
        return torch.where(
            (undone == 0) & (self.held == 0) | (undone.isnan() & self.held.isnan()),
            self.held,
            undone,
        )

    def wrong(self) -> np.ndarray:
        return bits.wrong_mask(self.undone(), self.held)


Pieces = Iterable[Piece]
Runner = Callable[[BoundCall, Sequence[Tensor], int], Pieces]
"""Recomputes a call; pieces come one part of the work at a time, so that a caller who compares and
drops each holds only one part in memory."""


@dataclass(slots=True, eq=False)
class Relation:
    """A symmetry at one site and what has been learned about it here.

    ``passes`` counts clean runs; the relation is *admitted* after ``ADMIT_AFTER`` of them and
    *refused* when it broke before, without a fault being found.
    """

    symmetry: Symmetry
    runners: tuple[Runner, ...]
    covers: frozenset[int]
    passes: int = 0
    refused: bool = False

    ADMIT_AFTER = 2

    @property
    def name(self) -> str:
        return self.symmetry.name

    @property
    def admitted(self) -> bool:
        return self.passes >= self.ADMIT_AFTER

    def run(self, call: BoundCall, held: Sequence[Tensor], visit: int) -> Iterator[Piece]:
        for runner in self.runners:
            yield from runner(call, held, visit)


def assemble(pieces: Pieces, held: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The recomputed results in the place of the held ones; None for results not covered."""
    images: dict[int, Tensor] = {}
    for piece in pieces:
        if piece.output not in images:
            images[piece.output] = bits.snapshot(held[piece.output])
        target = images[piece.output]
        if piece.where is not None:
            dim, start, length = piece.where
            target = (
                _as_vector(target).narrow(0, start, length)
                if dim < 0
                else target.narrow(dim, start, length)
            )
        target.copy_(piece.undone())
    return tuple(images.get(i) for i in range(len(held)))


def _as_vector(tensor: Tensor) -> Tensor:
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
