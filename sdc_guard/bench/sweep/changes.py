"""What a fault does to the bits of a result.

A change gets the result's own memory as unsigned integers and alters it in place.  It draws from
the generator alone, so that the same generator state and shape give the same change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.sweep.declared import Bits
from sdc_guard.sweep.exact import LAYOUTS, Layout
from sdc_guard.sweep.visit import writable

Result = Tensor | NDArray[Any]

LOW, HIGH, EXPONENT, SIGN = "low mantissa", "high mantissa", "exponent", "sign"
BANDS = (LOW, HIGH, EXPONENT, SIGN)
LANES = 8
LINE_BYTES = 64
NUM_DRAWS = 16
"""A read from another place is drawn so often, until it brings other bits."""


@dataclass
class Held:
    """A result in the hands of a fault: its ``bits`` (a view of its memory, any strides, which
    ``owner`` keeps alive) and the ``dtype`` that they mean.  ``before``: bytes that an earlier
    result left behind.  ``number``: the number of the trial, so that trials take bit positions in
    turn.  ``struck``: names of the bit positions that were flipped."""

    bits: Bits
    dtype: str
    owner: Result
    before: bytes = b""
    number: int = 0
    struck: list[str] = field(default_factory=list)

    @property
    def layout(self) -> Layout | None:
        return LAYOUTS.get(self.dtype)

    @property
    def width(self) -> int:
        """Bits of an element; of a truth value only the lowest means anything."""
        return 1 if self.dtype == "bool" else 8 * self.bits.itemsize

    def one(self, bit: int) -> Any:
        return self.bits.dtype.type(1 << bit)


Change = Callable[[Held, np.random.Generator], None]


def held(result: Result, number: int = 0, before: bytes = b"") -> Held:
    """The memory of a result; a complex number is two elements."""
    if isinstance(result, Tensor):
        if result.is_complex():
            result = torch.view_as_real(result)
        name = str(result.dtype).removeprefix("torch.")
    else:
        if result.dtype.kind == "c":
            result = result.view(result.real.dtype)
        name = result.dtype.name
    return Held(writable(result), name, result, before, number)


def band(layout: Layout | None, width: int, name: str) -> range:
    """Bit positions of a band.  An integer has no exponent; its sign is the top bit, and the two
    halves of the others stand for the mantissa's."""
    if layout is None:
        fraction, exponent = max(width - 1, 1), 0
    else:
        fraction, exponent = layout.precision - 1, layout.exponent_bits
    if name == SIGN:
        return range(fraction + exponent, width)
    if name == EXPONENT:
        return range(fraction, fraction + exponent)
    return range(fraction // 2) if name == LOW else range(fraction // 2, fraction)


def flip_in(*names: str) -> Change:
    """One bit of one element, trial after trial the next position of these bands."""
    def change(target: Held, random: np.random.Generator) -> None:
        places = [b for name in names for b in band(target.layout, target.width, name)]
        if places and target.bits.size:
            bit = places[target.number % len(places)]
            target.bits.flat[_element(target, random)] ^= target.one(bit)
            target.struck.append(f"{target.dtype} {bit}")
    return change


def flip_many(least: int, most: int) -> Change:
    """``least`` to ``most`` different bits of one element."""
    def change(target: Held, random: np.random.Generator) -> None:
        if target.width < least or not target.bits.size:
            return
        num = int(random.integers(least, min(most, target.width) + 1))
        mask = sum(1 << int(b) for b in random.choice(target.width, num, replace=False))
        target.bits.flat[_element(target, random)] ^= target.bits.dtype.type(mask)
    return change


def flip_some(target: Held, random: np.random.Generator) -> None:
    """One bit each in up to a quarter of the elements, two at least."""
    if target.bits.size < 2:
        return
    num = int(random.integers(2, max(3, target.bits.size // 4 + 1)))
    masks = np.uint64(1) << random.integers(0, target.width, num, dtype=np.uint64)
    where = random.choice(target.bits.size, num, replace=False)
    target.bits.flat[where] = target.bits.flat[where] ^ masks.astype(target.bits.dtype)


def stuck(value: int) -> Change:
    """In one of every 8 elements, a vector unit's lane, one bit is always 0 or always 1."""
    def change(target: Held, random: np.random.Generator) -> None:
        lane, one = int(random.integers(LANES)), target.one(int(random.integers(target.width)))
        where = np.arange(lane, target.bits.size, LANES)
        kept = target.bits.flat[where]
        target.bits.flat[where] = (kept | one) if value else (kept & ~one)
    return change


def stride(num: int) -> Change:
    """One bit in every ``num``-th element, as from one thread of each warp."""
    def change(target: Held, random: np.random.Generator) -> None:
        if not target.bits.size:
            return
        first = int(random.integers(min(num, target.bits.size)))
        where = np.arange(first, target.bits.size, num)
        target.bits.flat[where] = target.bits.flat[where] ^ target.one(
            int(random.integers(target.width)))
    return change


def one_ulp(target: Held, random: np.random.Generator) -> None:
    """The neighbour away from zero of one finite number; of an integer, one more."""
    if not target.bits.size:
        return
    where, layout = _element(target, random), target.layout
    bits = int(target.bits.flat[where])
    if layout is None:
        target.bits.flat[where] ^= target.one(0)
    elif bits & _magnitude(layout) < _largest(layout):
        target.bits.flat[where] = bits + 1


def become(what: str) -> Change:
    """One element becomes ``nan``, ``inf`` or ``-0.0``; the last preferably where 0.0 was."""
    def change(target: Held, random: np.random.Generator) -> None:
        layout = target.layout
        if layout is None or not target.bits.size or (what == "inf" and layout.is_finite_only):
            return
        where, sign = _element(target, random), 1 << (layout.num_bits - 1)
        if what == "-0.0":
            zeros = np.flatnonzero(np.ravel(target.bits) == 0)
            where = int(zeros[random.integers(len(zeros))]) if len(zeros) else where
            target.bits.flat[where] = sign
        elif what == "inf":
            target.bits.flat[where] = _largest(layout) + 1
        else:
            target.bits.flat[where] = sign - 1  # all ones below the sign: NaN in every format
    return change


def stale(target: Held, random: np.random.Generator) -> None:
    """A line of 64 bytes was never stored: it holds what an earlier result of another case left
    there, or zeros."""
    size = target.bits.size
    if not size:
        return
    per_line = max(1, LINE_BYTES // target.bits.itemsize)
    first = per_line * int(random.integers(-(-size // per_line)))
    num, itemsize = min(per_line, size - first), target.bits.itemsize
    old = np.zeros(num, target.bits.dtype)
    found = np.frombuffer(target.before, np.uint8)[first * itemsize:(first + num) * itemsize]
    old.view(np.uint8)[:found.size] = found
    target.bits.flat[first:first + num] = old


def wrong_offset(target: Held, random: np.random.Generator) -> None:
    """A line's worth of elements was read from elsewhere in the same result."""
    size = target.bits.size
    num = min(max(1, LINE_BYTES // target.bits.itemsize), size // 2)
    if not num:
        return
    flat = np.ravel(target.bits)
    for _ in range(NUM_DRAWS):
        to, source = (int(random.integers(size - num + 1)) for _ in range(2))
        moved = flat[source:source + num]
        if (flat[to:to + num] != moved).any():
            target.bits.flat[to:to + num] = moved
            return


def flip_at(target: Held, elements: Sequence[int], random: np.random.Generator) -> None:
    """One bit in each of these elements."""
    for element in elements:
        target.bits.flat[element] ^= target.one(int(random.integers(target.width)))


def _element(target: Held, random: np.random.Generator) -> int:
    return int(random.integers(target.bits.size))


def _magnitude(layout: Layout) -> int:
    return (1 << (layout.num_bits - 1)) - 1


def _largest(layout: Layout) -> int:
    """Bits of the largest finite number."""
    if layout.is_finite_only:
        return _magnitude(layout) - 1
    return (((1 << layout.exponent_bits) - 1) << (layout.precision - 1)) - 1
