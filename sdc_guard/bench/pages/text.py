"""Numbers and tables as Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from textwrap import fill

from sdc_guard.bench.pages.names import NOT_MEASURED
from sdc_guard.intervals import Interval, proportion


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)
) -> str:
    """A Markdown table with aligned columns: those in ``left`` to the left, others to the right."""
    cells = [[_cell(text) for text in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]
    lines = ["| " + " | ".join(
        text.ljust(width) if i in left else text.rjust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))) + " |" for row in cells]
    rule = ["-" * (width + 2) if i in left else "-" * (width + 1) + ":"
            for i, width in enumerate(widths)]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """A span of code whatever is in it."""
    flat = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    return f"{fence}{flat}{fence}" if len(fence) == 1 else f"{fence} {flat} {fence}"


def wrapped(text: str) -> str:
    """A paragraph in lines of at most 100 characters, broken at spaces alone."""
    return fill(text, 100, break_long_words=False, break_on_hyphens=False)


def percent(share: float, digits: int = 1) -> str:
    """A share in percent that never rounds to 0 or 100 unless it is."""
    scaled, unit = 100 * share, 10.0**-digits
    if 0 < scaled < unit:
        return f"< {unit:g} %"
    text = f"{scaled:.{digits}f}"
    while share < 1 and float(text) >= 100 and digits < 6:
        digits += 1
        text = f"{scaled:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def counted(count: int, num: int, digits: int = 1) -> str:
    """``99 % [98.1, 99.6], n=1000`` with Clopper and Pearson's interval, rounded outwards."""
    if num < 1:
        return NOT_MEASURED
    found = proportion(count, num)
    return f"{percent(found.value, digits)} {bracket(found, digits)}, n={num}"


def bracket(interval: Interval, digits: int = 1) -> str:
    """``[98.1, 99.6]``: the interval of a share in percent, rounded outwards; its ends are 0
    and 100 only where they are that."""
    low, high = _end(interval.low, digits, math.floor), _end(interval.high, digits, math.ceil)
    return f"[{low}, {high}]"


def _end(share: float, digits: int, rounding: Callable[[float], int]) -> str:
    """Rounded outwards, to as many digits as keep it from 0 and 100 that it is not."""
    while True:
        scale = 10.0**digits
        rounded = rounding(100 * share * scale) / scale
        if share in (0.0, 1.0) or 0 < rounded < 100 or digits > 6:
            return f"{rounded:.10g}"
        digits += 1


def ratio(interval: Interval | None) -> str:
    """``1.021 [1.009, 1.033]``; two digits after the point from 2 on."""
    if interval is None:
        return NOT_MEASURED
    digits = 3 if interval.value < 2 else 2
    return (f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, "
            f"{interval.high:.{digits}f}]")


def per_million(interval: Interval) -> str:
    """``0 [0, 3.7]``: a rate per million; the interval is rounded outwards to 2 digits."""
    return (f"{1e6 * interval.value:.3g} [{_outward(1e6 * interval.low, math.floor)}, "
            f"{_outward(1e6 * interval.high, math.ceil)}]")


def _outward(value: float, rounding: Callable[[float], int]) -> str:
    if value <= 0:
        return "0"
    scale = 10.0 ** (1 - math.floor(math.log10(value)))
    return f"{rounding(value * scale) / scale:.6g}"
