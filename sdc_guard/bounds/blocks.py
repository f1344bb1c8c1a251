"""Bounds put together from blocks, for :func:`sdc_guard.checked`.

A block is a limit on ``|got - expected|`` that knows what it is a limit of once a call is at hand.
Blocks are added with ``+`` and taken several times with ``*``::

    terms = bounds.sum_any_order(lambda x, w: x * w, axis=-1)
    bound = terms + bounds.roundings(3) + bounds.stored()

The computing format is that of :func:`from_reference`: fp32 for operands up to fp32, else fp64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds import derived as derivation
from sdc_guard.bounds.derived import Formats, Limits, rules_for
from sdc_guard.bounds.followed import Rules, storing_u
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.errors import UsageError
from sdc_guard.formats import FLOAT64, Format

Array = NDArray[Any]
OfOperands = Callable[..., Any]
"""Takes what the reference takes, float64 arrays for the floating operands."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A call as a block sees it.  ``formats`` and ``result`` are None where there is no floating
    operand, or no floating result."""

    reference: OfOperands
    arguments: Sequence[Any]
    formats: Sequence[Formats]
    results: Sequence[Format | None]
    device: str
    interpreted: bool = False

    def rules(self, compute: str | None = None, products: str | None = None) -> Rules:
        each = [f if isinstance(f, tuple) else (f,) for f in self.formats]
        known = [f for formats in each for f in formats if f is not None]
        return rules_for(known, device=self.device, compute=compute, products=products,
                         interpreted=self.interpreted)


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a bound.  ``limit(setting, expected, result, before)`` is the part's own limit for
    one result, ``before`` the sum of the parts to its left."""

    limit: Callable[[Setting, Array, Format, Array], Array]
    formula: str

    def __add__(self, other: Block) -> Block:
        if not isinstance(other, Block):
            raise UsageError(f"only blocks are added to a block, not {other!r}")
        if isinstance(other, Ulps) or isinstance(self, Ulps):
            raise UsageError("ulps(n) is a limit of its own; it is not added to others")

        def limit(setting: Setting, expected: Array, result: Format, before: Array) -> Array:
            first = self.limit(setting, expected, result, before)
            return first + other.limit(setting, expected, result, before + first)

        return Block(limit, f"{self.formula} + {other.formula}")

    def __mul__(self, count: float) -> Block:
        def limit(setting: Setting, expected: Array, result: Format, before: Array) -> Array:
            return np.asarray(count * self.limit(setting, expected, result, before))

        return type(self)(limit, f"{count:g} ({self.formula})")

    __rmul__ = __mul__

    def limits(self, setting: Setting) -> list[Limits]:
        """Expected values and limits of every result."""
        returned = setting.reference(*setting.arguments)
        found = list(returned) if isinstance(returned, (tuple, list)) else [returned]
        if len(found) != len(setting.results):
            raise UsageError(f"the reference returns {len(found)} results, the operator "
                             f"{len(setting.results)}")
        return [self._one(setting, np.asarray(expected), result)
                for expected, result in zip(found, setting.results, strict=True)]

    def _one(self, setting: Setting, expected: Array, result: Format | None) -> Limits:
        nothing = np.zeros(expected.shape, dtype=bool)
        if result is None:
            exact = np.zeros(expected.shape)
            return Limits(expected, exact, exact, nothing)
        limit = self.limit(setting, expected, result, np.zeros(expected.shape))
        proof = None if isinstance(self, Ulps) else limit
        return Limits(expected, proof, limit, nothing)


class Ulps(Block):
    """A declared limit, which proves nothing: what breaks it is ``precision``."""


@dataclass(frozen=True, slots=True)
class Derived:
    """See :func:`from_reference`."""

    compute: str | None
    products: str | None
    formula: str = "the bound derived from the reference"

    def limits(self, setting: Setting) -> list[Limits]:
        """Expected values and limits of every result."""
        return derivation.derive(setting.reference, setting.arguments, setting.formats,
                                 setting.results, setting.rules(self.compute, self.products))


def from_reference(*, compute: str | None = None, products: str | None = None) -> Derived:
    """The bound that follows from the reference's own operations; :func:`sdc_guard.checked` uses it
    where no ``bound`` is given.

    Args:
        compute: the format of the kernel's intermediates, such as ``"bfloat16"``; by default fp32
            for operands up to fp32, else fp64.
        products: ``"ieee"`` or ``"tf32"``: how fp32 enters a matrix product.  By default as
            ``tl.dot`` does it, in TF32 on a CUDA device.

    What is assumed of the kernel: :mod:`sdc_guard.bounds.derived`.
    """
    rules_for([], device="cpu", compute=compute, products=products)
    return Derived(compute, products)


def sum_any_order(terms: OfOperands, axis: int | tuple[int, ...] = -1, *, roundings: int = 0
                  ) -> Block:
    """A sum of n terms in any order, each of which has had ``roundings`` roundings:
    ``gamma_{n-1+roundings} sum|terms|`` (Higham 2002, eq. 4.4).

    Args:
        terms: computes the terms from the operands.
        axis: the axes that are summed; the sum must have, or broadcast to, the result's shape.
    """

    def limit(setting: Setting, expected: Array, result: Format, before: Array) -> Array:
        size = np.abs(np.asarray(terms(*setting.arguments), dtype=np.float64))
        total = size.sum(axis)
        count = size.size // max(total.size, 1)
        u, eta = setting.rules().compute.u, setting.rules().compute.eta
        return np.asarray(gamma(max(count - 1, 0) + roundings, u) * total
                          + roundings * count * eta + own_rounding(count + roundings, total))

    return Block(limit, "gamma_{n-1} sum|x|")


def matrix_product(a: OfOperands, b: OfOperands, *, products: str | None = None) -> Block:
    """``A @ B`` over k terms, any order: ``((2 u_in + u_in^2) + (1 + u_in)^2 gamma_k) |A||B|``
    (Higham 2002, section 3.5).

    Args:
        a, b: compute the factors from the operands.
        products: how fp32 enters the product, see :func:`from_reference`.
    """

    def limit(setting: Setting, expected: Array, result: Format, before: Array) -> Array:
        left, right = (np.abs(np.asarray(f(*setting.arguments), dtype=np.float64)) for f in (a, b))
        rules, k, size = setting.rules(products=products), left.shape[-1], left @ right
        u_in = rules.input_u
        order = (1 + u_in) ** 2 * gamma(k + 1, rules.product_u)
        return np.asarray((2 * u_in + u_in**2 + order) * size + 2 * k * rules.compute.eta
                          + own_rounding(k, size))

    return Block(limit, "gamma_k |A||B|")


def roundings(count: int, size: OfOperands | None = None) -> Block:
    """``count`` roundings of intermediates: ``gamma_count size + count eta``.

    Args:
        size: computes from the operands the largest intermediate of each element; by default none
            is larger than the result itself.  A quotient counts 5, a square root 2.
    """

    def limit(setting: Setting, expected: Array, result: Format, before: Array) -> Array:
        fmt = setting.rules().compute
        largest = np.abs(expected) + before if size is None else np.abs(
            np.asarray(size(*setting.arguments), dtype=np.float64))
        return np.asarray(gamma(count, fmt.u + 2 * FLOAT64.u) * largest + count * fmt.eta)

    return Block(limit, f"gamma_{count} |y|")


def stored() -> Block:
    """The rounding of the result to its own dtype, ``u (|y| + e) + eta``, e being all that
    stands to its left: the last block."""

    def limit(setting: Setting, expected: Array, result: Format, before: Array) -> Array:
        if result.precision >= setting.rules().compute.precision:
            return np.zeros(np.shape(expected))
        u = storing_u(result, setting.interpreted)
        return np.asarray(u * (np.abs(expected) + before) + result.eta)

    return Block(limit, "rounding of the result")


def ulps(count: float) -> Ulps:
    """A declared limit of ``count`` units in the last place of the result.

    It is your word, not a proof: what breaks it is reported as ``precision``, never as
    ``corruption``.

    Raises:
        UsageError: ``count`` is not positive.
    """
    if not count > 0:
        raise UsageError(f"ulps({count!r}): the limit must be positive")

    def limit(setting: Setting, expected: Array, result: Format, before: Array) -> Array:
        return np.asarray(count * result.ulp(expected))

    return Ulps(limit, f"{count:g} ulp, declared")
