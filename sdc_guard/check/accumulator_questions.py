"""What adds up a product, told from its answers to exact questions.

A question is a dot product with few terms that are not 0, each a small integer times a power of
two; an answer is its fp32 result.  G is a large term, s a small one, q the number of bits between.
After Fasi, Higham, Mikaitis and Pranesh (PeerJ Comput. Sci. 7:e330, 2021); the model, its names and
its bound are those of :mod:`sdc_guard.bounds.accumulators`.

* *Precision*: the largest q for which ``G + s`` is not G is p - 1.
* *Rounding*: terms that are cut off never make a sum of positive terms too large; one that is too
  large was rounded.
* *Width*: where sums are cut off, ``G - s`` becomes the number below G for every s that the
  alignment keeps, so the largest such q is w, wherever the terms stand.
* *Block*: two places j, k are added in one step if, for any third place,
  ``G, -G at j, s at k`` (s below the width) loses s, and with j and k exchanged too: in two steps
  the one that comes last finds an empty accumulator.  Where nothing is cut off in the alignment,
  ``G, s at j, s at k`` with two halves of G's last bit is more than G, whichever comes first.
* *Verification*: the model's bound must hold for random and for unfavourable sums.  One that it
  does not hold for is no model: :func:`identify` returns None.

Places are taken from the middle of the second half, where no chain of additions begins.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from sdc_guard.bounds.accumulators import AccumulatorModel

LENGTH = 128
PLACE = 100
NEAR = (96, 97, 98, 99, 101, 102)
MOST_BITS = 30
NUM_RANDOM = 24


@dataclass(frozen=True, slots=True)
class Operand:
    """A format of operands: significand bits p, exponents of its normal numbers."""

    name: str
    precision: int
    emin: int
    emax: int

    @property
    def large(self) -> int:
        """Exponent of G: products reach as far below it as they can, at most MOST_BITS bits."""
        return min(max(0, MOST_BITS + 2 * self.emin), 2 * self.emax)

    @property
    def most_bits(self) -> int:
        """Largest q of a product of two normal numbers."""
        return min(MOST_BITS, self.large - 2 * self.emin)


OPERANDS = {
    "float32": Operand("float32", 24, -126, 127),
    "tf32": Operand("tf32", 11, -126, 127),
    "float16": Operand("float16", 11, -14, 15),
    "bfloat16": Operand("bfloat16", 8, -126, 127),
    "float8_e4m3fn": Operand("float8_e4m3fn", 4, -6, 8),
    "float8_e5m2": Operand("float8_e5m2", 3, -14, 15),
}


@dataclass(frozen=True, slots=True)
class Question:
    """Terms ``a b`` of a dot product of LENGTH terms by their places; all others are 0."""

    terms: tuple[tuple[int, float, float], ...]

    def value(self) -> tuple[float, float]:
        """The sum and ``sum |a b|``, each rounded once: two significands of at most 24 bits have an
        exact product in float64."""
        products = [a * b for _, a, b in self.terms]
        return math.fsum(products), math.fsum(map(abs, products))


Answer = Callable[[Sequence[Question]], Sequence[float]]
"""Results of dot products: float32 numbers."""
Term = tuple[int, float, int]
"""Place, factor and q: the term is ``factor 2^-q G``."""


class _Asker:
    """Puts questions in terms of G and q to a device."""

    def __init__(self, answer: Answer, operand: Operand) -> None:
        self.answer, self.operand = answer, operand

    def question(self, terms: Iterable[Term]) -> Question:
        return Question(tuple(self._factors(*term) for term in terms))

    def _factors(self, place: int, factor: float, q: int) -> tuple[int, float, float]:
        exponent = self.operand.large - q
        half = max(self.operand.emin, min(self.operand.emax, exponent // 2))
        return place, math.ldexp(factor, exponent - half), math.ldexp(1.0, half)

    def results(self, questions: Sequence[Sequence[Term]]) -> list[float]:
        """Answers in units of G."""
        found = self.answer([self.question(terms) for terms in questions])
        return [math.ldexp(float(x), -self.operand.large) for x in found]

    def largest_q(self, arrangements: Sequence[Callable[[int], list[Term]]], lost: float) -> int:
        """The largest q up to which every arrangement gives something else than ``lost``."""
        bits = range(1, self.operand.most_bits + 1)
        asked = [make(q) for make in arrangements for q in bits]
        results = self.results(asked)
        least = self.operand.most_bits
        for start in range(0, len(results), len(bits)):
            part = results[start : start + len(bits)]
            kept = next((i for i, x in enumerate(part) if x == lost), len(bits))
            least = min(least, kept)
        return least


def identify(answer: Answer, operand: Operand) -> AccumulatorModel | None:
    """The model that the answers tell, or None where they fit none."""
    ask = _Asker(answer, operand)
    visible = ask.largest_q([_pair(1.0, *pair) for pair in _PAIRS], 1.0)
    if not 1 <= visible < 24:
        return None
    precision = visible + 1
    truncates = not _rounds_up(ask, precision)
    width = _signed_width(ask)
    if truncates:
        extra = None if width == operand.most_bits else width - (precision - 1)
        block = _block(ask, precision, extra is not None)
        if extra == 0:
            wider = _bits_above(ask, width, block)
            precision, extra = precision + wider, -wider
    else:
        block = _block(ask, precision, width < precision)
        extra = _rounded_extra(ask, precision, block) if width >= precision else 0
    model = AccumulatorModel(precision, extra, block, truncates)
    model = replace(
        model,
        products_exact=_products_exact(ask),
        operand_bits=_operand_bits(ask),
        operands_truncated=_operands_truncated(ask),
        keeps_subnormal_operands=_keeps_subnormal_operands(ask),
        keeps_subnormal_results=_keeps_subnormal_results(ask),
    )
    return model if explains(model, answer, operand) else None


_PAIRS = ((96, 97), (97, 96), (96, 100), (100, 96), (64, 100))


def _pair(sign: float, at: int, other: int) -> Callable[[int], list[Term]]:
    return lambda q: [(at, 1.0, 0), (other, sign, q)]


def _negative_pair(at: int, other: int) -> Callable[[int], list[Term]]:
    return lambda q: [(at, -1.0, 0), (other, 1.0, q)]


def _signed_width(ask: _Asker) -> int:
    """``w`` of ``G - s`` and of ``-G + s``: arithmetic in two's complement differs by sign."""
    below = ask.largest_q([_pair(-1.0, *pair) for pair in _PAIRS], 1.0)
    above = ask.largest_q([_negative_pair(*pair) for pair in _PAIRS], -1.0)
    return min(below, above)


def _rounds_up(ask: _Asker, precision: int) -> bool:
    """True if some sum of positive terms came out too large."""
    last = precision - 1
    asked: list[list[Term]] = [
        [(at, 1.0, 0), (other, 1.5, precision)] for at, other in _PAIRS[:4]
    ]
    for order in ((96, 97, 98, 99, 100, 101), (98, 99, 96, 97, 100, 101)):
        small, smaller, *large = order
        asked.append([(small, 2.0, last), (smaller, 1.0, last), *((i, 1.0, 0) for i in large)])
    exact = [math.fsum(factor * 2.0**-q for _, factor, q in terms) for terms in asked]
    return any(x > e for x, e in zip(ask.results(asked), exact, strict=True))


def _block(ask: _Asker, precision: int, cut: bool) -> int:
    """The number of places in the second half that are added together with PLACE."""
    places = [k for k in range(LENGTH // 2, LENGTH) if k != PLACE]
    asked: list[list[Term]] = []
    owner: list[int] = []
    far = ask.operand.most_bits
    for k in places:
        for i in sorted({0, 32, 64, 80, *NEAR[:4], 127, PLACE - 64, k - 64} - {k, PLACE}):
            if cut:
                pairs = ((PLACE, k), (k, PLACE))
                asked += [[(i, 1.0, 0), (at, -1.0, 0), (s, 1.0, far)] for at, s in pairs]
                owner += [k, k]
            else:
                asked.append([(i, 1.0, 0), (PLACE, 1.0, precision), (k, 1.0, precision)])
                owner.append(k)
    apart = {k for k, x in zip(owner, ask.results(asked), strict=True)
             if (x != 0.0 if cut else x == 1.0)}
    return 1 + len(places) - len(apart)


def _rounded_extra(ask: _Asker, precision: int, block: int) -> int | None:
    """Extra bits, of which there is at least one, where the sum is rounded."""
    if block == 1:
        # Just above half of the last bit below G: what shows it depends on the bits beyond.
        tests: list[list[Term]] = [
            [(96, 1.0, 0), (PLACE, -factor, precision + 1)] for factor in (1.125, 1.5)
        ]
        if ask.operand.precision < 4:
            tests[0] = tests[1]
        finest, fine = (x != 1.0 for x in ask.results(tests))
        return None if finest else 3 if fine else 1
    start = PLACE - PLACE % block if block & (block - 1) == 0 else PLACE - 1
    at, s = (start, start + 1)

    def cancelled(first: int, small: int) -> Callable[[int], list[Term]]:
        return lambda q: [(0, 1.0, 0), (first, -1.0, 0), (small, 1.0, q)]

    width = ask.largest_q([cancelled(at, s), cancelled(s, at)], 0.0)
    return None if width == ask.operand.most_bits else width - (precision - 1)


def _bits_above(ask: _Asker, width: int, block: int) -> int:
    """How many more bits than the alignment keeps a result can have: sums of n G and the last bit
    that the alignment keeps need log2 n more."""
    found = 0
    start = PLACE - PLACE % block if block & (block - 1) == 0 else 96
    for bits in range(1, 6):
        num = 2**bits
        places = [p for p in range(start, start + num + 1) if p < LENGTH]
        if len(places) <= num:
            break
        asked: list[list[Term]] = [
            [(places[0], 1.0, width), *((p, 1.0, 0) for p in places[1:])],
            [(places[-1], 1.0, width), *((p, 1.0, 0) for p in places[:-1])],
        ]
        if all(x == num for x in ask.results(asked)):
            break
        found = bits
    return found


def _products_exact(ask: _Asker) -> bool:
    """A product of two full significands comes back, or its last bit when the rest cancels."""
    p = ask.operand.precision
    if p > 12:
        a = 1.0 + 2.0**-12
        rest = -(1.0 + 2.0**-11)
        orders = ((96, PLACE), (PLACE, 96))
        found = ask.answer([Question(((at, a, a), (other, rest, 1.0))) for at, other in orders])
        return any(float(x) == 2.0**-24 for x in found)
    a = 2.0 - 2.0 ** (1 - p)
    (result,) = ask.answer([Question(((PLACE, a, a),))])
    return float(result) == a * a


def _operand_bits(ask: _Asker) -> int:
    """Bits of a significand that are read."""
    bits = range(1, 24 if ask.operand.name == "tf32" else ask.operand.precision)
    found = ask.answer([Question(((PLACE, 1.0 + 2.0**-q, 1.0),)) for q in bits])
    return 1 + next((i for i, x in enumerate(found) if float(x) == 1.0), len(bits))


def _operands_truncated(ask: _Asker) -> bool | None:
    """For fp32 operands that are read with fewer bits: cut off or rounded."""
    bits = _operand_bits(ask)
    if ask.operand.name != "tf32" or bits >= 24:
        return None
    (result,) = ask.answer([Question(((PLACE, 1.0 + 1.5 * 2.0**-bits, 1.0),))])
    return float(result) == 1.0


def _keeps_subnormal_operands(ask: _Asker) -> bool:
    small, large = math.ldexp(1.0, ask.operand.emin - 1), math.ldexp(1.0, min(ask.operand.emax, 60))
    found = ask.answer([Question(((PLACE, small, large),)), Question(((PLACE, large, small),))])
    return all(float(x) == small * large for x in found)


def _keeps_subnormal_results(ask: _Asker) -> bool | None:
    if ask.operand.emin > -66:
        return None
    (result,) = ask.answer([Question(((PLACE, 2.0**-65, 2.0**-65),))])
    return float(result) == 2.0**-130


def explains(model: AccumulatorModel, answer: Answer, operand: Operand) -> bool:
    """True if no answer of the verification is further from the exact sum than the bound, with
    three roundings of our own."""
    width = model.precision if model.width is None else model.width
    questions = verification(model.precision, width, operand)
    factor = model.coefficient(LENGTH) + 4.0 * 2.0**-53
    for question, result in zip(questions, answer(questions), strict=True):
        exact, size = question.value()
        if not abs(float(result) - exact) <= factor * size:
            return False
    return True


@lru_cache(maxsize=32)
def verification(precision: int, width: int, operand: Operand) -> tuple[Question, ...]:
    """Full sums: random ones of both signs and of one, and a large term before, among and after
    many that lie just within or just beyond what the alignment keeps."""
    draw = random.Random(0)
    ask = _Asker(lambda questions: [], operand)
    top = (1 << min(operand.precision, 8)) - 1

    def number() -> float:
        return math.ldexp(draw.randrange(top // 2 + 1, top + 1), 1 - top.bit_length())

    questions = []
    for i in range(NUM_RANDOM):
        signs = (1.0, -1.0) if i % 2 else (1.0,)
        questions.append(Question(tuple(
            (p, draw.choice(signs) * number() * 2.0 ** draw.randrange(-3, 2), number())
            for p in range(LENGTH))))
    nearly_two = 2.0 - 2.0 ** (1 - operand.precision)
    first = min(precision, width) - 1
    for q in range(first, min(width + 2, operand.most_bits) + 1):
        for place in (0, PLACE, LENGTH - 1):
            for sign in (nearly_two, -nearly_two):
                rest = [(p, sign, q) for p in range(LENGTH) if p != place]
                questions.append(ask.question([(place, 1.0, 0), *rest]))
    return tuple(questions)
