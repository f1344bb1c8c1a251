"""Operators that make one element of a line of others: reductions, scans, products, softmax, norms.

Every function gives one element from the elements it is made of, in rational arithmetic as far as
the definition is rational, then with 60 digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import mpmath
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.hunt.exact_numbers import Number, Reader, as_number, of_mpf, rounded, to_mpf
from sdc_guard.hunt.exact_pointwise import DIGITS

MAX_TERMS = 1 << 22
"""More terms than this take minutes."""
Index = tuple[int, ...]


def total(terms: Sequence[Number]) -> Number:
    """The exact sum; NaN and infinities as IEEE addition has them."""
    special = [t for t in terms if not isinstance(t, Fraction)]
    if special:
        return math.fsum(special) if len(set(special)) == 1 else math.nan
    finite = [t for t in terms if isinstance(t, Fraction) and t]
    if not finite:
        return Fraction(0)
    deepest = max(t.denominator for t in finite)  # all are powers of two, as a rule
    if all(deepest % t.denominator == 0 for t in finite):
        return Fraction(sum(t.numerator * (deepest // t.denominator) for t in finite), deepest)
    return sum(finite, Fraction(0))


def product(terms: Sequence[Number]) -> Number:
    """The exact product."""
    if any(t != t for t in terms):
        return math.nan
    infinite = [t for t in terms if not isinstance(t, Fraction)]
    if infinite:
        sign = math.prod(-1 if t < 0 else 1 for t in terms)
        return math.nan if any(t == 0 for t in terms) else sign * math.inf
    top = math.prod(t.numerator for t in terms if isinstance(t, Fraction))
    return Fraction(top, math.prod(t.denominator for t in terms if isinstance(t, Fraction)))


def _inner(x: Sequence[Number], y: Sequence[Number]) -> Number:
    return total([product((a, b)) for a, b in zip(x, y, strict=True)])


def _mean(terms: Sequence[Number]) -> Number | None:
    if not terms:
        return math.nan
    whole = total(terms)
    return whole / len(terms)


def _extreme(pick: Callable[[Sequence[Number]], Number]) -> Callable[[Sequence[Number]], Number]:
    return lambda terms: math.nan if any(t != t for t in terms) else pick(terms)


def _median(terms: Sequence[Number]) -> Number:
    return math.nan if any(t != t for t in terms) else sorted(terms)[(len(terms) - 1) // 2]


def _nanmedian(terms: Sequence[Number]) -> Number:
    numbers = [t for t in terms if t == t]
    return sorted(numbers)[(len(numbers) - 1) // 2] if numbers else math.nan


def _logsumexp(terms: Sequence[Number]) -> Number | None:
    if not terms or not all(isinstance(t, Fraction) for t in terms):
        return None
    top = max(terms)
    with mpmath.workdps(DIGITS):
        return of_mpf(to_mpf(top) + mpmath.log(mpmath.fsum(
            mpmath.exp(to_mpf(max(t - top, Fraction(-10**6)))) for t in terms)))


_REDUCTIONS: dict[str, Callable[[Sequence[Number]], Number | None]] = {
    "sum": total, "nansum": lambda terms: total([t for t in terms if t == t]), "mean": _mean,
    "prod": product, "amax": _extreme(max), "amin": _extreme(min), "max": _extreme(max),
    "min": _extreme(min), "median": _median, "nanmedian": _nanmedian, "logsumexp": _logsumexp,
    "any": lambda terms: Fraction(any(t != 0 for t in terms)),
    "all": lambda terms: Fraction(all(t != 0 for t in terms)),
    "count_nonzero": lambda terms: Fraction(sum(t != 0 for t in terms)),
}
_FIRST_ONLY = frozenset({"max", "min", "median", "nanmedian"})


def along(call: BoundCall, output: int, index: Index) -> Number | None:
    """The exact value of one element of a reduction, scan, softmax, norm or product; None where
    this module does not know the operator or this form of it."""
    name = call.form.packet.removeprefix("aten.")
    if name in _REDUCTIONS:
        if output and name in _FIRST_ONLY:
            return None
        return _REDUCTIONS[name](_reduced_terms(call, index))
    if name in ("var", "std"):
        return _variance(call, name, index)
    if name in ("linalg_vector_norm", "norm"):
        return _norm(call, index)
    if name in ("cumsum", "cumprod"):
        terms = _scanned(call, index)
        return total(terms) if name == "cumsum" else product(terms)
    if name in ("_softmax", "_log_softmax", "softmax", "log_softmax"):
        return _softmax(call, "log" in name, index)
    if name == "native_layer_norm":
        return _layer_norm(call, output, index)
    if name == "index_add":
        return _index_add(call, index)
    return _product(call, name, index)


def _line(tensor: Tensor, index: tuple[Any, ...]) -> list[Number]:
    terms = Reader(tensor).line(index)
    if len(terms) > MAX_TERMS:
        raise OverflowError("too many terms")
    return terms


def _dims(call: BoundCall, rank: int) -> tuple[int, ...]:
    dim = call.get("dim")
    given = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return tuple(sorted({d % rank for d in given})) if given and rank else tuple(range(rank))


def _selected(call: BoundCall, index: Index) -> tuple[Any, ...]:
    """The index into the operand, whole along the reduced dimensions."""
    rank = call["self"].dim()
    dims = _dims(call, rank)
    if call.get("keepdim", False):
        kept = [i for d, i in enumerate(index) if d not in dims]
    else:
        kept = list(index)
    rest = iter(kept)
    return tuple(slice(None) if d in dims else next(rest) for d in range(rank))


def _reduced_terms(call: BoundCall, index: Index) -> list[Number]:
    terms = _line(call["self"], _selected(call, index))
    dtype = call.get("dtype")
    return _cast(terms, dtype)


def _cast(terms: list[Number], dtype: torch.dtype | None) -> list[Number]:
    if dtype is None or not is_covered_float(dtype):
        return terms
    return [rounded(t, format_of(dtype)) for t in terms]


def _finite(terms: Sequence[Number]) -> list[Fraction] | None:
    found = [t for t in terms if isinstance(t, Fraction)]
    return found if len(found) == len(terms) else None


def _variance(call: BoundCall, name: str, index: Index) -> Number | None:
    terms = _finite(_reduced_terms(call, index))
    correction = call.get("correction", None)
    if "unbiased" in call.form.argument_names:
        correction = 1 if call["unbiased"] else 0
    away = len(terms or ()) - as_number(1 if correction is None else correction)
    if not terms or away <= 0:
        return None
    mean = sum(terms, Fraction(0)) / len(terms)
    value = sum(((t - mean) ** 2 for t in terms), Fraction(0)) / Fraction(away)
    return value if name == "var" else _root(value)


def _root(value: Fraction) -> Number:
    with mpmath.workdps(DIGITS):
        return of_mpf(mpmath.sqrt(to_mpf(value)))


def _norm(call: BoundCall, index: Index) -> Number | None:
    terms = _finite(_reduced_terms(call, index))
    order = call.get("ord", call.get("p", 2))
    order = 2 if order is None else order
    if terms is None or not terms:
        return None
    sizes = [abs(t) for t in terms]
    if order == math.inf:
        return max(sizes)
    if order == -math.inf:
        return min(sizes)
    if order == 0:
        return Fraction(sum(s != 0 for s in sizes))
    if order == 1:
        return total(sizes)
    if order == 2:
        return _root(Fraction(total([s * s for s in sizes])))
    with mpmath.workdps(DIGITS):
        if order < 0 and not all(sizes):
            return Fraction(0)
        whole = mpmath.fsum(mpmath.power(to_mpf(s), order) for s in sizes if s)
        return of_mpf(mpmath.power(whole, 1 / mpmath.mpf(order)))


def _index_add(call: BoundCall, index: Index) -> Number | None:
    x, source = call["self"], Reader(call["source"])
    if not x.dim():
        return None
    dim, alpha = call["dim"] % x.dim(), as_number(call["alpha"])
    rows = enumerate(_line(call["index"], (slice(None),)))
    terms = [source[(*index[:dim], i, *index[dim + 1:])] for i, row in rows if row == index[dim]]
    return total([Reader(x)[index], *(product((alpha, t)) for t in terms)])


def _scanned(call: BoundCall, index: Index) -> list[Number]:
    x = call["self"]
    if not x.dim():
        return _line(x, ())
    dim = call["dim"] % x.dim()
    upto = slice(0, index[dim] + 1)
    terms = _line(x, tuple(upto if d == dim else i for d, i in enumerate(index)))
    return _cast(terms, call.get("dtype"))


def _softmax(call: BoundCall, is_log: bool, index: Index) -> Number | None:
    x = call["self"]
    if not x.dim():
        return None
    dim = call["dim"] % x.dim()
    terms = _line(x, tuple(slice(None) if d == dim else i for d, i in enumerate(index)))
    whole = _logsumexp(terms)
    own = terms[index[dim]]
    if not isinstance(whole, Fraction) or not isinstance(own, Fraction):
        return None
    if is_log:
        return own - whole
    with mpmath.workdps(DIGITS):
        return of_mpf(mpmath.exp(to_mpf(max(own - whole, Fraction(-10**6)))))


def _layer_norm(call: BoundCall, output: int, index: Index) -> Number | None:
    x, num_dims = call["input"], len(call["normalized_shape"])
    lead = x.dim() - num_dims
    terms = _finite(_line(x, (*index[:lead], *(slice(None) for _ in range(num_dims)))))
    if not terms:
        return None
    mean = sum(terms, Fraction(0)) / len(terms)
    if output == 1:
        return mean
    variance = sum(((t - mean) ** 2 for t in terms), Fraction(0)) / len(terms)
    scale = variance + Fraction(call["eps"])
    if not scale:
        return None
    with mpmath.workdps(DIGITS):
        rstd = Fraction(of_mpf(1 / mpmath.sqrt(to_mpf(scale))))
    if output == 2:
        return rstd
    value = product((Reader(x)[index] - mean, rstd))
    weight, bias = call["weight"], call["bias"]
    if weight is not None:
        value = product((value, Reader(weight)[index[lead:]]))
    return value if bias is None else total([value, Reader(bias)[index[lead:]]])


def _product(call: BoundCall, name: str, index: Index) -> Number | None:
    every = slice(None)
    left: tuple[Any, ...]
    right: tuple[Any, ...]
    if name in ("dot", "vdot"):
        names: tuple[str, str] = ("self", "tensor" if name == "dot" else "other")
        left = right = (every,)
    elif name in ("mv", "addmv"):
        names = ("self", "vec") if name == "mv" else ("mat", "vec")
        left, right = (*index, every), (every,)
    elif name in ("mm", "addmm"):
        names = ("self", "mat2") if name == "mm" else ("mat1", "mat2")
        left, right = (index[0], every), (every, index[1])
    elif name in ("bmm", "baddbmm"):
        names = ("self", "mat2") if name == "bmm" else ("batch1", "batch2")
        left, right = (index[0], index[1], every), (index[0], every, index[2])
    else:
        return None
    if any(n not in call.form.argument_names for n in names):
        return None
    value = _inner(_line(call[names[0]], left), _line(call[names[1]], right))
    if not name.startswith(("add", "badd")):
        return value
    alpha, beta = as_number(call["alpha"]), as_number(call["beta"])
    value = product((alpha, value))
    if beta == 0:
        return value
    return total([value, product((beta, Reader(call["self"]).broadcast(index)))])
