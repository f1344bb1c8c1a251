"""An array that NumPy code computes with, and that carries how far a kernel's value may be off.

A :class:`Followed` holds the exact values of an expression (float64, or booleans) and for each of
them a limit e on the error of a kernel that computes the same expression in the format of
:class:`Rules`.  With ``fl(a op b) = (a op b)(1 + d) + t``, ``|d| <= u``, ``|t| <= eta``
(Higham 2002, section 3.3, running error analysis; :mod:`sdc_guard.bounds.tracked` is the same for
formulas written by hand):

    e(a + b) = e_a + e_b + r                                  r = u (|result| + e) + eta
    e(a b)   = |a| e_b + |b| e_a + e_a e_b + r
    e(a / b) = (e_a + |a/b| e_b) / (|b| - e_b) + 5 r,         infinite where e_b >= |b|
    e(sqrt a) = min(e_a / sqrt(a), sqrt(e_a)) + 2 r
    e(f(a))  = the largest slope on the way times e_a, and what bounds.approximate says of f
    e(sum a) = sum e_a + (n - 1) u sum (|a| + e_a)            any order, bounds.sums

Every u has two float64 roundoffs added, for the reference's own rounding.  A comparison is unsure
where its operands differ by no more than their errors; ``np.where`` then allows for either branch.
An error is infinite where an intermediate may overflow the format, and nothing is judged there; an
infinity that the formula itself puts in (a mask of ``-inf``) is exact.

A constant that the format does not hold may be off by 4 u: it is rounded, or made on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.errors import UsageError
from sdc_guard.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format

Array = NDArray[Any]

INSTEAD = (
    "write the reference with arithmetic, sums, products, np.where and elementary functions, or "
    "give bound= a function, blocks of sdc_guard.bounds, or sdc_guard.bounds.ulps(n)"
)


def cannot_follow(name: str) -> UsageError:
    """The error for something that a bound cannot be derived through."""
    return UsageError(f"no bound can be derived through {name}: {INSTEAD}")


@dataclass(slots=True)
class Rules:
    """What the kernel is taken to do.

    ``compute``: the format of every intermediate.  ``operands``: a half format to which
    intermediates may be rounded where they enter a matrix product, None for none.  ``input_u``:
    rounding of other inputs of matrix products (TF32); ``product_u``: unit of their accumulation.
    ``interpreted``: the kernel runs in Triton's interpreter, which cuts fp32 off to bfloat16 where
    a device rounds (seen in Triton 3.6 to 3.9): 2 u.  ``proof``: which of the two limits of an
    elementary function counts; ``met_elementary`` is set when one is met, ``wrote`` when the
    reference writes into an array.
    """

    compute: Format
    operands: Format | None = None
    input_u: float = 0.0
    product_u: float = FLOAT32.u
    interpreted: bool = False
    proof: bool = False
    met_elementary: bool = False
    wrote: bool = False


class Followed(NDArrayOperatorsMixin):
    """See the module's docstring.  ``value`` and ``error`` have one shape."""

    __slots__ = ("error", "rules", "value")

    def __init__(self, value: Any, error: Any, rules: Rules) -> None:
        self.value = np.asarray(value)
        self.error = np.broadcast_to(np.asarray(error, dtype=np.float64), self.value.shape)
        self.rules = rules

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    T = property(lambda self: self._both(np.transpose))
    mT = property(lambda self: self.swapaxes(-1, -2))  # noqa: N815 - NumPy's name

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        options = {k: v for k, v in options.items() if v is not None}
        name, (target,) = ufunc.__name__, options.pop("out", (None,))
        if method == "reduce" and name in ("add", "maximum", "minimum"):
            named = {"add": "sum", "maximum": "max", "minimum": "min"}[name]
            options.setdefault("axis", 0)
            return _into(target, getattr(followed(inputs[0], self.rules), named)(**options))
        from sdc_guard.bounds.operations import UFUNCS

        rule = UFUNCS.get(name)
        if method != "__call__" or options or rule is None:
            how = "" if method == "__call__" else f".{method}"
            with_options = f" with {', '.join(options)}" if options else ""
            raise cannot_follow(f"np.{name}{how}{with_options}")
        return _into(target, rule(*(followed(x, self.rules) for x in inputs)))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from sdc_guard.bounds.following import ARRAY_FUNCTIONS

        rule = ARRAY_FUNCTIONS.get(func)
        if rule is None:
            raise cannot_follow(f"np.{func.__name__}")
        return rule(self.rules, *args, **kwargs)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise cannot_follow("a conversion to a plain array (np.asarray, np.array, a function that "
                            "calls them, or an assignment into a plain array)")

    def __float__(self) -> float:
        raise cannot_follow("float() of a computed value")

    def __int__(self) -> int:
        raise cannot_follow("int() of a computed value")

    def __index__(self) -> int:
        raise cannot_follow("an index that is computed from floating operands")

    def __bool__(self) -> bool:
        raise cannot_follow("a branch (if, while, and, or, not) on computed values")

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self.value)))

    def __getitem__(self, index: Any) -> Followed:
        return self._both(lambda array: array[index])

    def __setitem__(self, index: Any, values: Any) -> None:
        values = followed(values, self.rules).numbers()
        value, error = np.array(self.value), np.array(self.error)
        value[index], error[index] = values.value, values.error
        self.value, self.error = value, error
        self.rules.wrote = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(name)
        raise cannot_follow(f"the method .{name}")

    def _both(self, change: Callable[[Array], Any]) -> Followed:
        """Work that moves elements without computing."""
        return Followed(change(self.value), change(self.error), self.rules)

    def reshape(self, *shape: Any, **order: Any) -> Followed:
        return self._both(lambda a: a.reshape(*shape, **order))

    def transpose(self, *axes: Any) -> Followed:
        return self._both(lambda a: a.transpose(*axes))

    def swapaxes(self, first: int, second: int) -> Followed:
        return self._both(lambda a: a.swapaxes(first, second))

    def squeeze(self, axis: Any = None) -> Followed:
        return self._both(lambda a: a.squeeze(axis))

    def ravel(self) -> Followed:
        return self._both(np.ravel)

    flatten = ravel

    def copy(self) -> Followed:
        return self._both(np.copy)

    def astype(self, dtype: Any, **_: Any) -> Followed:
        """float64 and float32 change nothing beyond the computing format; float16 rounds to it."""
        name = np.dtype(dtype).name
        if name == "float16":
            return self.rounded_to(FLOAT16)
        if name in ("float64", "float32"):
            return self.numbers()
        raise cannot_follow(f"astype({name})")

    def numbers(self) -> Followed:
        """Booleans as 0 and 1."""
        return self if self.value.dtype.kind == "f" else Followed(
            self.value.astype(np.float64), self.error, self.rules)

    def rounded_to(self, fmt: Format) -> Followed:
        """After one rounding to a format, if it is narrower than the computing one."""
        if fmt.precision >= self.rules.compute.precision:
            return self
        size = np.abs(self.value) + self.error
        error = self.error + storing_u(fmt, self.rules.interpreted) * size + fmt.eta
        return Followed(self.value, finite(self.value, error, fmt), self.rules)

    def sum(self, axis: Any = None, *, keepdims: bool = False, **other: Any) -> Followed:
        refuse("sum", other)
        x, u = self.numbers(), self.rules.compute.u
        value = x.value.sum(axis, keepdims=keepdims)
        num_terms = x.value.size // max(value.size, 1)
        size = (np.abs(x.value) + x.error).sum(axis, keepdims=keepdims)
        error = (x.error.sum(axis, keepdims=keepdims) + max(num_terms - 1, 0) * u * size
                 + own_rounding(num_terms + 1, size))
        # An infinity among finite terms, all of which are known, is the sum.
        known = np.isfinite(x.error).all(axis, keepdims=keepdims) & np.isinf(value)
        reach = finite(size, error, self.rules.compute)
        return Followed(value, np.where(known, 0.0, reach), self.rules)

    def mean(self, axis: Any = None, *, keepdims: bool = False, **other: Any) -> Followed:
        refuse("mean", other)
        total = self.sum(axis, keepdims=keepdims)
        mean: Followed = total / float(self.value.size // max(total.size, 1))
        return mean

    def max(self, axis: Any = None, *, keepdims: bool = False, **other: Any) -> Followed:
        refuse("max", other)
        x = self.numbers()
        return Followed(x.value.max(axis, keepdims=keepdims), x.error.max(axis, keepdims=keepdims),
                        self.rules)

    def min(self, axis: Any = None, *, keepdims: bool = False, **other: Any) -> Followed:
        refuse("min", other)
        x = self.numbers()
        return Followed(x.value.min(axis, keepdims=keepdims), x.error.max(axis, keepdims=keepdims),
                        self.rules)

    def var(
        self, axis: Any = None, *, ddof: int = 0, keepdims: bool = False, **other: Any
    ) -> Followed:
        """The mean of the squared distances from the mean."""
        refuse("var", other)
        apart = self - self.mean(axis, keepdims=True)
        total = (apart * apart).sum(axis, keepdims=keepdims)
        num_terms = self.value.size // max(total.size, 1)
        variance: Followed = total / float(num_terms - ddof)
        return variance

    def std(
        self, axis: Any = None, *, ddof: int = 0, keepdims: bool = False, **other: Any
    ) -> Followed:
        root: Any = np.sqrt(self.var(axis, ddof=ddof, keepdims=keepdims, **other))
        return root  # type: ignore[no-any-return]

    def clip(self, low: Any = None, high: Any = None) -> Followed:
        x = self if low is None else np.maximum(self, low)
        return x if high is None else np.minimum(x, high)

    def dot(self, other: Any) -> Any:
        return np.dot(self, other)


def _into(target: Any, result: Followed) -> Followed:
    """What an operation in place leaves in its target."""
    if target is None:
        return result
    if not isinstance(target, Followed) or target.shape != result.shape:
        raise cannot_follow("an operation that writes into a plain array, or another shape")
    target.value, target.error = result.value, result.error
    target.rules.wrote = True
    return target


def storing_u(fmt: Format, interpreted: bool) -> float:
    """Relative error of storing in a narrower format."""
    return 2 * fmt.u if interpreted and fmt is BFLOAT16 else fmt.u


def refuse(name: str, options: dict[str, Any]) -> None:
    """No options but those that are followed.

    Raises:
        UsageError: there are others, and they say something.
    """
    wide = (None, np.float64, np.dtype(np.float64), "float64")
    said = [k for k, v in options.items() if not (v is None or (k == "dtype" and v in wide))]
    if said:
        raise cannot_follow(f"np.{name} with {', '.join(said)}")


def followed(x: Any, rules: Rules) -> Followed:
    """A constant, or what is followed already."""
    if isinstance(x, Followed):
        return x
    value = np.asarray(x)
    if value.dtype.kind == "b":
        return Followed(value, 0.0, rules)
    if value.dtype.kind not in "iuf":
        raise cannot_follow(f"values of dtype {value.dtype}")
    value = value.astype(np.float64)
    if rules.compute.precision >= FLOAT64.precision:
        return Followed(value, 0.0, rules)
    held = value == _nearest(value, rules.compute)
    return Followed(value, np.where(held, 0.0, 4 * rules.compute.u * np.abs(value)), rules)


def _nearest(value: Array, fmt: Format) -> Array:
    with np.errstate(all="ignore"):
        mantissa, exponent = np.frexp(value)
        scale = 2.0**fmt.precision
        return np.asarray(np.ldexp(np.rint(mantissa * scale) / scale, exponent))


def finite(value: Array, error: Array, fmt: Format) -> Array:
    """The error; infinite where the kernel's value may be."""
    return np.where(np.abs(value) + error <= fmt.max, error, np.inf)


def rounded(
    rules: Rules, value: Array, error: Array, *sources: Followed, count: float = 1.0,
    more: Array | float = 0.0,
) -> Followed:
    """The result of ``count`` roundings; an infinity that stems from an exact one is exact."""
    fmt = rules.compute
    u = count * fmt.u + 2 * FLOAT64.u
    total = finite(value, error + u * (np.abs(value) + error) + count * fmt.eta + more, fmt)
    for source in sources:
        total = np.where(np.isinf(value) & np.isinf(source.value) & (source.error == 0), 0.0, total)
    return Followed(value, total, rules)
