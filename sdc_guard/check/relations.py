"""Bit-exact relations made executable: a symmetry of an op, compiled for one call site.

Running a relation recomputes the call elsewhere and yields *pieces*: a recomputed tensor and the
part of the held result that must have the same bits.  Nothing is copied where a view will do:
``split`` calls the op twice on narrowed views, ``roll`` copies only the operands that carry the
axis, and the comparison is an index-mapped ``memcmp``, on a device a kernel of ours that undoes the
relation as it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits, device_bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._symmetry import Symmetry


@dataclass(slots=True)
class Piece:
    """``got`` must equal the part ``where`` of ``whole``, which is result ``output``.

    ``where`` is (dimension, start, length), or None for the whole; dimension -1 means the span of
    the result taken as a vector.  With ``negated`` the recomputation has the other sign until it is
    looked at.  ``got`` belongs to the piece, which negates it in place.
    """

    output: int
    got: Tensor
    whole: Tensor
    where: tuple[int, int, int] | None
    negated: bool = False
    _undone: bool = False

    @property
    def held(self) -> Tensor:
        """The part of the held result."""
        return part_of(self.whole, self.where)

    def agrees(self) -> bool:
        if device_bits.has_kernels(self.got):
            return device_bits.bits_equal(self.got, self.held, **self._kernel_undo())
        if not self.negated:
            where = self.where
            if where is not None and where[0] <= 0 and bits.rows_equal(
                self.got, self.whole, where[1], flat=where[0] < 0
            ):
                return True
            return bits.bits_equal(self.got, self.held) or self._is_alike()
        return bits.bits_equal(self._negated_back(), self.held) or not bool(self.wrong().any())

    def _is_alike(self) -> bool:
        """Equal but for what a recomputation may change: NaN payloads."""
        return bits.has_numbers(self.got.dtype) and not bool(self.wrong().any())

    def _negated_back(self) -> Tensor:
        if not self._undone:
            self.got.neg_()
            self._undone = True
        return self.got

    def undone(self) -> Tensor:
        """The recomputed part with the relation undone.  NaNs are alike whatever their payload:
        which operand's is kept depends on the vector lane.  A negated zero takes the held sign,
        because a sum of terms that cancel is +0 with either sign of the operands."""
        undone, held = self._negated_back() if self.negated else self.got, self.held
        if undone.is_complex():
            parts = self._alike(torch.view_as_real(undone), torch.view_as_real(held))
            return torch.view_as_complex(parts.contiguous())
        return self._alike(undone, held) if undone.is_floating_point() else undone

    def _alike(self, undone: Tensor, held: Tensor) -> Tensor:
        alike = undone.isnan() & held.isnan()
        if self.negated:
            alike |= (undone == 0) & (held == 0)
        return torch.where(alike, held, undone)

    def _kernel_undo(self) -> dict[str, bool]:
        """What :meth:`undone` makes alike, for a kernel that changes nothing in memory."""
        dtype = self.got.dtype
        has_sign = dtype.is_floating_point or dtype.is_complex
        return {
            "negated": self.negated and not self._undone,
            "nans_alike": has_sign and (self.negated or bits.has_numbers(dtype)),
            "zeros_alike": self.negated,
        }

    def wrong(self) -> np.ndarray:
        if device_bits.has_kernels(self.got):
            return device_bits.wrong_mask(self.got, self.held, **self._kernel_undo())
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
        part_of(images[piece.output], piece.where).copy_(piece.undone())
    return tuple(images.get(i) for i in range(len(held)))


def part_of(tensor: Tensor, where: tuple[int, int, int] | None) -> Tensor:
    """A view of the part that a piece is about."""
    if where is None:
        return tensor
    dim, start, length = where
    if dim < 0:
        return tensor.as_strided((length,), (1,), tensor.storage_offset() + start)
    return tensor.narrow(dim, start, length)
