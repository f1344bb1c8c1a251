"""Pools and unfolded images: each result is made of the elements of a window, by definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of
from sdc_guard.hunt.exact_lines import MAX_TERMS, total
from sdc_guard.hunt.exact_numbers import Number, Reader

Index = tuple[int, ...]
Places = Sequence[Sequence[int]]
"""The places of a window along each spatial dimension."""


def windowed(call: BoundCall, output: int, index: Index) -> Number | None:
    """The exact element ``index`` of a pool, ``im2col`` or ``col2im``; None for any other operator,
    and for indices of maxima, of which more than one may be right."""
    name = call.form.packet.removeprefix("aten.")
    find = _WINDOWS.get(name)
    return None if find is None or output else find(call, index)


def _ints(given: object, rank: int, default: Sequence[int] = ()) -> list[int]:
    """One number for each spatial dimension."""
    numbers = [given] if isinstance(given, int) else list(given or default)  # type: ignore[call-overload]
    return [int(n) for n in (numbers * rank if len(numbers) == 1 else numbers)]


def _inside(first: int, stop: int, size: int, step: int = 1) -> range:
    """Those of the places from ``first`` on, ``step`` apart, that are places of the operand."""
    if first < 0:
        first += step * -(first // step)
    return range(first, min(stop, size), step)


def _terms(call: BoundCall, index: Index, places: Places) -> list[Number]:
    """The elements of a window in the image and channel of ``index``."""
    if math.prod(map(len, places)) > MAX_TERMS:
        raise OverflowError("too many terms")
    reader, lead = Reader(call["self"]), index[:len(index) - len(places)]
    return [reader[(*lead, *place)] for place in itertools.product(*places)]


def _largest(terms: list[Number]) -> Number | None:
    if not terms:
        return None
    return math.nan if any(t != t for t in terms) else max(terms)


def _avg_pool(rank: int) -> Callable[[BoundCall, Index], Number | None]:
    def find(call: BoundCall, index: Index) -> Number | None:
        kernel, padding = _ints(call["kernel_size"], rank), _ints(call["padding"], rank)
        stride, sizes = _ints(call["stride"], rank, kernel), call["self"].shape[-rank:]
        firsts = [i * s - p for i, s, p in zip(index[-rank:], stride, padding, strict=True)]
        stops = [min(f + k, n + p)
                 for f, k, n, p in zip(firsts, kernel, sizes, padding, strict=True)]
        places = [_inside(f, e, n) for f, e, n in zip(firsts, stops, sizes, strict=True)]
        if call["divisor_override"] is not None:
            divisor = int(call["divisor_override"])
        elif call["count_include_pad"]:
            divisor = math.prod(e - f for f, e in zip(firsts, stops, strict=True))
        else:
            divisor = math.prod(map(len, places))
        if not all(map(len, places)):
            return Fraction(0)
        whole = total(_terms(call, index, places))
        if not call["self"].dtype.is_floating_point and not -2**63 <= whole < 2**63:
            return None  # the sum of integers wraps before it is divided
        return whole / divisor  # of integers: cut towards 0 by who stores it
    return find


def _max_pool(rank: int) -> Callable[[BoundCall, Index], Number | None]:
    def find(call: BoundCall, index: Index) -> Number | None:
        kernel, padding = _ints(call["kernel_size"], rank), _ints(call["padding"], rank)
        stride, dilation = _ints(call["stride"], rank, kernel), _ints(call["dilation"], rank)
        sizes = call["self"].shape[-rank:]
        firsts = [i * s - p for i, s, p in zip(index[-rank:], stride, padding, strict=True)]
        return _largest(_terms(call, index, [
            _inside(f, f + d * (k - 1) + 1, n, d)
            for f, k, n, d in zip(firsts, kernel, sizes, dilation, strict=True)]))
    return find


def _adaptive(rank: int, is_mean: bool) -> Callable[[BoundCall, Index], Number | None]:
    def find(call: BoundCall, index: Index) -> Number | None:
        outs, sizes = _ints(call["output_size"], rank), call["self"].shape[-rank:]
        terms = _terms(call, index, [
            range(i * n // m, -(-(i + 1) * n // m))
            for i, n, m in zip(index[-rank:], sizes, outs, strict=True)])
        if not terms:
            return None
        return total(terms) / len(terms) if is_mean else _largest(terms)
    return find


def _fractional(rank: int) -> Callable[[BoundCall, Index], Number | None]:
    """Graham's pseudo-random windows: the last lies at the end of the operand, window i at
    ``floor((i + u) a) - floor(u a)`` with ``a = (n - k) / (m - 1)`` and the given sample u.  Of
    two-dimensional pools the first sample is the width's, of three-dimensional ones the depth's."""
    def find(call: BoundCall, index: Index) -> Number | None:
        kernel, outs = _ints(call["kernel_size"], rank), _ints(call["output_size"], rank)
        x, samples = call["self"], call["random_samples"]
        image = index[0] if x.dim() == rank + 2 else 0
        places: list[range] = []
        for d, (i, k, m) in enumerate(zip(index[-rank:], kernel, outs, strict=True)):
            column = 1 - d if rank == 2 else d
            u = Reader(samples)[(image, index[-rank - 1], column)]
            first = _interval(i, u, x.shape[d - rank], k, m, format_of(samples.dtype).u)
            if first is None:
                return None
            places.append(range(first, first + k))
        return _largest(_terms(call, index, places))
    return find


def _interval(place: int, sample: Number, size: int, kernel: int, out: int, u: float
              ) -> int | None:
    """Where a window begins; None where a rounding could put it one further: ``a``, the sum and the
    product are rounded, so a product is off by less than ``4 u`` of itself."""
    if place == out - 1:
        return size - kernel
    if not isinstance(sample, Fraction):
        return None
    step = Fraction(size - kernel, out - 1)
    products = ((place + sample) * step, sample * step)
    for exact in products:
        off = 4 * Fraction(u) * exact
        if math.floor(exact - off) != math.floor(exact + off):
            return None
    return math.floor(products[0]) - math.floor(products[1])


def _numbers_of_windows(call: BoundCall, sizes: Sequence[int]) -> list[int]:
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in zip(
        sizes, *(_ints(call[a], 2) for a in ("kernel_size", "dilation", "padding", "stride")),
        strict=True)]


def _im2col(call: BoundCall, index: Index) -> Number:
    x = call["self"]
    kernel = _ints(call["kernel_size"], 2)
    columns = _numbers_of_windows(call, x.shape[-2:])[1]
    rest, kj = divmod(index[-2], kernel[1])
    channel, ki = divmod(rest, kernel[0])
    dilation, padding, stride = (_ints(call[a], 2) for a in ("dilation", "padding", "stride"))
    place = [w * s - p + k * d for w, k, d, p, s in zip(
        divmod(index[-1], columns), (ki, kj), dilation, padding, stride, strict=True)]
    if not all(0 <= p < n for p, n in zip(place, x.shape[-2:], strict=True)):
        return Fraction(0)
    return Reader(x)[(*index[:-2], channel, *place)]


def _col2im(call: BoundCall, index: Index) -> Number:
    kernel, outs = _ints(call["kernel_size"], 2), _ints(call["output_size"], 2)
    nums = _numbers_of_windows(call, outs)
    dilation, padding, stride = (_ints(call[a], 2) for a in ("dilation", "padding", "stride"))
    ways = [list(_covering(i, *rest)) for i, *rest in zip(
        index[-2:], kernel, dilation, padding, stride, nums, strict=True)]
    reader = Reader(call["self"])
    return total([
        reader[(*index[:-3], (index[-3] * kernel[0] + ki) * kernel[1] + kj, wi * nums[1] + wj)]
        for (ki, wi), (kj, wj) in itertools.product(*ways)])


def _covering(place: int, kernel: int, dilation: int, padding: int, stride: int, num: int
              ) -> Iterator[tuple[int, int]]:
    """The (element of the kernel, window) that lie on a place of the image."""
    for k in range(kernel):
        window, rest = divmod(place + padding - k * dilation, stride)
        if not rest and 0 <= window < num:
            yield k, window


_WINDOWS: dict[str, Callable[[BoundCall, Index], Number | None]] = {
    "avg_pool2d": _avg_pool(2), "avg_pool3d": _avg_pool(3),
    "max_pool2d_with_indices": _max_pool(2), "max_pool3d_with_indices": _max_pool(3),
    "_adaptive_avg_pool2d": _adaptive(2, True), "_adaptive_avg_pool3d": _adaptive(3, True),
    "adaptive_max_pool2d": _adaptive(2, False), "adaptive_max_pool3d": _adaptive(3, False),
    "fractional_max_pool2d": _fractional(2), "fractional_max_pool3d": _fractional(3),
    "im2col": _im2col, "col2im": _col2im,
}
