"""Bit-exact symmetries of an op, as data: what may be moved so that the bits come back equal.

A symmetry is a tuple of *moves*; each recomputes the call in another place or with other bit
patterns and covers some of its results.  All moves of one symmetry together cover all results
that it can cover.  ``places`` names what changes: ``address``, ``core``, ``tile``, ``lane``,
``bits``.  A rolled row keeps its SIMD lane, so an op wants symmetries that move all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sdc_guard.calls import BoundCall

OUTERMOST = "*"
"""Stands for the movable axis with the largest stride in the first result."""


@dataclass(frozen=True, slots=True)
class Move:
    """One recomputation.

    ``how``: ``split`` makes two calls on narrowed views of the axis (no copies); ``roll`` makes one
    call on operands rolled along it, in their own memory layout; ``flat`` splits dense operands
    of one layout as if they were vectors; ``negate`` negates the named operands, which negates
    every covered result; ``double`` sets the call beside one or two copies of itself along a new
    leading axis; ``reverse`` reverses list operands; ``rerun`` repeats the call on private images
    at another address; ``custom`` asks ``function(call, visit)`` for the undone results, None
    where it has none.  A recomputation whose output ``unless`` (LAPACK's ``info``) is not 0
    throughout says nothing.
    """

    how: str
    axis: str = ""
    operands: tuple[str, ...] = ()
    outputs: tuple[int, ...] | None = None
    overrides: tuple[tuple[str, Any], ...] = ()
    function: Callable[[BoundCall, int], tuple[Tensor | None, ...]] | None = None
    unless: int | None = None


@dataclass(frozen=True, slots=True)
class Symmetry:
    """A named set of moves.  ``known`` marks it as seen to hold by us on the CPUs that we had:
    a site where it breaks while it is being learned is reported, not only left out."""

    name: str
    moves: tuple[Move, ...]
    places: frozenset[str] = field(default_factory=frozenset)
    known: bool = False

    @property
    def varies(self) -> bool:
        """True if another visit recomputes the call in another place: only then are two runs of it
        two votes."""
        return any(m.how in ("split", "flat", "roll", "double", "custom") for m in self.moves)


def split(axis: str, *, known: bool = True) -> Symmetry:
    return Symmetry(f"split {axis}", (Move("split", axis),),
                    frozenset({"address", "core", "tile"}), known)


def flat(*, known: bool = True) -> Symmetry:
    return Symmetry("split flat", (Move("flat"),), frozenset({"address", "core", "tile"}), known)


def roll(axis: str, *, lane: bool = False, known: bool = True) -> Symmetry:
    places = {"address", "core", "tile"} | ({"lane"} if lane else set())
    return Symmetry(f"roll {axis}", (Move("roll", axis),), frozenset(places), known)


def negate(*operands: str, known: bool = True) -> Symmetry:
    return Symmetry(f"negate {' '.join(operands)}", (Move("negate", operands=operands),),
                    frozenset({"address", "bits"}), known)


def double(*, known: bool = True) -> Symmetry:
    return Symmetry("double", (Move("double"),), frozenset({"address", "tile"}), known)


def reverse(*, known: bool = True) -> Symmetry:
    return Symmetry("reverse lists", (Move("reverse"),), frozenset({"address", "tile"}), known)


RERUN = Symmetry("rerun", (Move("rerun"),), frozenset({"address"}), True)
