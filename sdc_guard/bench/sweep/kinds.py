"""The kinds of fault: what each changes, and when."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from sdc_guard.bench.sweep.changes import (
    BANDS,
    EXPONENT,
    HIGH,
    SIGN,
    Change,
    become,
    flip_in,
    flip_many,
    flip_some,
    one_ulp,
    stale,
    stride,
    stuck,
    wrong_offset,
)


class When(enum.Enum):
    """When a fault changes something: in every run, with a probability in each run or for each
    element, from some moment on, or in every run on data with a certain input bit."""

    ALWAYS = "always"
    RUNS = "in each run with probability"
    ELEMENTS = "in each element with probability"
    AFTER_RUNS = "from some run on"
    AFTER_SECONDS = "from some moment on"
    INPUT_BIT = "where an input bit is"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """``rate`` belongs to RUNS and ELEMENTS, ``input_bit`` to INPUT_BIT.  ``only`` restricts the
    fault to one ``op`` or ``dtype``, drawn from all that the sweep has.  ``needs_float``: it means
    nothing to integers."""

    name: str
    change: Change
    when: When
    rate: float = 0.0
    input_bit: int = 0
    only: str = ""
    needs_float: bool = False

    @property
    def is_same_always(self) -> bool:
        """Equal data give equal wrong bits, from the first run on."""
        return self.when in (When.ALWAYS, When.INPUT_BIT)

    @property
    def is_lasting(self) -> bool:
        """Once there, it is there in every run."""
        return self.when not in (When.RUNS, When.ELEMENTS)


OFTEN = 0.05
"""Probability per run of a fault that comes and goes."""
RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
any_bit = flip_in(*BANDS)


def _both(name: str, change: Change, *, needs_float: bool = False) -> Iterator[Kind]:
    yield Kind(name=f"{name}, now and then", change=change, when=When.RUNS, rate=OFTEN,
               needs_float=needs_float)
    yield Kind(name=f"{name}, always", change=change, when=When.ALWAYS, needs_float=needs_float)


def _kinds() -> Iterator[Kind]:
    for band in BANDS:
        yield from _both(f"bit: {band}", flip_in(band), needs_float=band == EXPONENT)
    yield from _both("2 bits", flip_many(2, 2))
    yield from _both("3 to 8 bits", flip_many(3, 8))
    yield from _both("9 bits or more", flip_many(9, 64))
    yield from _both("bits of many elements", flip_some)
    for value in (0, 1):
        yield Kind(name=f"lane stuck at {value}", change=stuck(value), when=When.ALWAYS)
    for num in (32, 64, 128):
        yield from _both(f"stride {num}", stride(num))
    yield from _both("1 ulp", one_ulp)
    for what, name in (("nan", "NaN"), ("inf", "Inf"), ("-0.0", "-0.0")):
        yield from _both(name, become(what), needs_float=True)
    yield from _both("stale line", stale)
    yield from _both("wrong offset", wrong_offset)
    for bit in (0, 1):
        yield Kind(name=f"where an input bit is {bit}", change=any_bit, when=When.INPUT_BIT,
                   input_bit=bit)
    for rate in RATES:
        yield Kind(name=f"per run {rate:.0e}", change=any_bit, when=When.RUNS, rate=rate)
    for rate in RATES:
        yield Kind(name=f"per element {rate:.0e}", change=any_bit, when=When.ELEMENTS, rate=rate)
    yield Kind(name="after some runs", change=any_bit, when=When.AFTER_RUNS)
    yield Kind(name="after some seconds", change=any_bit, when=When.AFTER_SECONDS)
    for only in ("dtype", "op"):
        yield Kind(name=f"in one {only} only", change=flip_in(HIGH, SIGN), when=When.ALWAYS,
                   only=only)


KINDS: dict[str, Kind] = {kind.name: kind for kind in _kinds()}
