"""Bounds derived from a reference against evaluations of the same formula in fp32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc_guard import bounds
from sdc_guard.bounds.derived import Limits, derive, rules_for
from sdc_guard.errors import UsageError
from sdc_guard.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format

Array = np.ndarray
F = np.float32


def limits_of(
    reference: Callable[..., Any], *arguments: Any, fmt: Format = FLOAT32,
    result: Format | None = None, device: str = "cpu", compute: str | None = None,
    products: str | None = None, interpreted: bool = False,
) -> Limits:
    formats = [fmt if isinstance(a, Array) and a.dtype.kind == "f" else None for a in arguments]
    rules = rules_for([f for f in formats if f], device=device, compute=compute, products=products,
                      interpreted=interpreted)
    (found,) = derive(reference, arguments, formats, [result or fmt], rules)
    return found


def drawn(seed: int, *shape: int, spread: float = 4.0) -> Array:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * np.exp2(spread * rng.standard_normal(shape))
    return values.astype(F).astype(np.float64)


def in_order(terms: Array, rng: np.random.Generator) -> Array:
    """The sum over the last axis, one term after the other, in a drawn order, in fp32."""
    total = np.zeros(terms.shape[:-1], F)
    for i in rng.permutation(terms.shape[-1]):
        total = total + terms[..., i]
    return total


def exp32(x: Array) -> Array:
    """As ``ex2.approx`` of a rounded product, each a little off."""
    return (np.exp2((x * F(math.log2(math.e))).astype(F)) * F(1 + 2**-23)).astype(F)


def over(x: Array, y: Array) -> Array:
    """A reciprocal, a product, and an instruction that is an ulp off."""
    return (x * (F(1) / y) * F(1 + 2**-23)).astype(F)


def rms_swiglu(x: Array, g: Array) -> Array:
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return y * g / (1 + np.exp(-g))


def rms_swiglu32(x: Array, g: Array, rng: np.random.Generator) -> Array:
    mean = over(in_order(x * x, rng), F(x.shape[-1]))
    y = x * over(F(1), np.sqrt(mean + F(1e-6)))[..., None]
    return y * g * over(F(1), F(1) + exp32(-g))


def softmax(x: Array, g: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) * g


def softmax32(x: Array, g: Array, rng: np.random.Generator) -> Array:
    e = exp32(x - x.max(-1, keepdims=True))
    return over(e, in_order(e, rng)[..., None]) * g


def layer_norm(x: Array, g: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(np.var(x, axis=-1, keepdims=True) + 1e-5) * g


def layer_norm32(x: Array, g: Array, rng: np.random.Generator) -> Array:
    n = F(x.shape[-1])
    apart = x - over(in_order(x, rng), n)[..., None]
    variance = over(in_order(apart * apart, rng), n)[..., None]
    return over(apart, np.sqrt(variance + F(1e-5))) * g


def dot(x: Array, g: Array) -> Array:
    return np.einsum("mn,mn->m", x, g)


def dot32(x: Array, g: Array, rng: np.random.Generator) -> Array:
    return in_order(x * g, rng)


def gelu(x: Array, g: Array) -> Array:
    return 0.5 * x * (1 + bounds.erf(x / math.sqrt(2))) * g


def gelu32(x: Array, g: Array, rng: np.random.Generator) -> Array:
    erf = np.asarray(bounds.erf((x * F(1 / math.sqrt(2))).astype(np.float64)), F)
    return F(0.5) * x * (F(1) + erf * F(1 + 2**-23)) * g


FORMULAS = [(rms_swiglu, rms_swiglu32), (softmax, softmax32), (layer_norm, layer_norm32),
            (dot, dot32), (gelu, gelu32)]


@pytest.mark.parametrize(("reference", "kernel"), FORMULAS, ids=lambda f: f.__name__)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 40), spread=st.floats(0, 8))
def test_a_kernel_in_fp32_stays_inside_the_contract(
    reference: Callable[..., Any], kernel: Callable[..., Any], seed: int, size: int, spread: float
) -> None:
    x, g = drawn(seed, 2, size, spread=spread), drawn(seed + 1, 2, size, spread=1.0)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        got = kernel(x.astype(F), g.astype(F), rng).astype(np.float64)
        found = limits_of(reference, x, g)
    judged = ~found.unknown
    assert (np.abs(got - found.expected) <= found.contract)[judged].all()
    assert found.proof is not None
    assert (found.contract <= found.proof)[judged].all()


@pytest.mark.parametrize(("reference", "kernel"), FORMULAS, ids=lambda f: f.__name__)
def test_the_bound_sees_an_error_of_a_thousandth(
    reference: Callable[..., Any], kernel: Callable[..., Any]
) -> None:
    x, g = drawn(1, 3, 24, spread=1.0), drawn(2, 3, 24, spread=1.0)
    found = limits_of(reference, x, g)
    assert not found.unknown.any()
    typical = np.abs(found.expected).mean()
    assert found.contract.max() < 1e-3 * typical
    assert found.proof is not None
    assert found.proof.max() < 0.1 * typical


def test_the_expected_values_are_the_reference_s_own() -> None:
    x, g = drawn(1, 3, 24), drawn(2, 3, 24)
    for reference, _ in FORMULAS:
        assert np.array_equal(limits_of(reference, x, g).expected, reference(x, g))


def test_without_elementary_functions_contract_and_proof_are_one() -> None:
    x, g = drawn(1, 3, 24), drawn(2, 3, 24)
    plain, fancy = limits_of(layer_norm, x, g), limits_of(softmax, x, g)
    assert plain.proof is not None
    assert np.array_equal(plain.proof, plain.contract)
    assert fancy.proof is not None
    assert (fancy.proof > 10 * fancy.contract).any()


def test_a_sum_has_the_any_order_bound() -> None:
    x = drawn(3, 1000)
    found = limits_of(lambda x: x.sum(), x)
    bound = 999 * FLOAT32.u * np.abs(x).sum()
    assert bound <= found.contract <= bound * (1 + 1e-6)


def test_a_result_in_half_precision_is_rounded_once() -> None:
    x = np.array([3.0, 1.0])
    for fmt in (FLOAT16, BFLOAT16):
        found = limits_of(lambda x: x + 0.0, x, fmt=fmt)
        assert (found.contract <= 1.01 * (fmt.u * x + fmt.eta)).all()
        assert (found.contract >= fmt.u * x).all()
    cut_off = limits_of(lambda x: x + 0.0, x, fmt=BFLOAT16, interpreted=True)
    assert (cut_off.contract >= 2 * BFLOAT16.u * x).all()


def test_a_product_knows_the_device_s_inputs() -> None:
    a, b = drawn(1, 4, 32), drawn(2, 32, 5)
    size = np.abs(a) @ np.abs(b)
    here = limits_of(lambda a, b: a @ b, a, b).contract
    there = limits_of(lambda a, b: a @ b, a, b, device="cuda").contract
    plain = limits_of(lambda a, b: a @ b, a, b, device="cuda", products="ieee").contract
    assert (here >= 32 * FLOAT32.u * size).all()
    assert (here < plain).all()
    assert (plain < there).all()
    assert (there >= 2**-10 * size).all()
    assert (limits_of(lambda a, b: np.einsum("ik,kj", a, b), a, b).contract == here).all()


def test_an_intermediate_enters_a_product_in_the_operands_half_format() -> None:
    a, b = drawn(1, 4, 8), drawn(2, 8, 5)
    exact = limits_of(lambda a, b: a @ b, a, b, fmt=FLOAT16, result=FLOAT32).contract
    made = limits_of(lambda a, b: np.exp(a) @ b, a, b, fmt=FLOAT16, result=FLOAT32).contract
    assert (exact < FLOAT16.u * (np.abs(a) @ np.abs(b))).all()
    assert (made >= FLOAT16.u * (np.exp(a) @ np.abs(b))).all()


def test_a_reference_can_say_that_the_kernel_rounds() -> None:
    x = np.array([3.3, 1.7], F).astype(np.float64)
    found = limits_of(lambda x: bounds.rounded(x, "bfloat16") * 1.0, x)
    assert (found.contract >= BFLOAT16.u * x).all()
    assert bounds.rounded(x, "bfloat16") is x
    assert np.array_equal(limits_of(lambda x: x.astype(np.float16) * 1.0, x).expected, x)


def test_a_branch_that_rounding_may_turn_allows_for_both_sides() -> None:
    third = np.float64(F(1 / 3))
    x = np.array([third, 5.0])
    found = limits_of(lambda x: np.where(x * 3.0 > 1.0, 7.0, -7.0), x)
    assert found.contract[0] >= 14.0
    assert found.contract[1] == 0.0
    relu = limits_of(lambda x: np.where(x > 0, x, 0.0), np.array([-1.0, 2.0, np.nan, np.inf]))
    assert (relu.contract[:2] == 0).all()
    assert relu.unknown.tolist() == [False, False, True, False]


def test_a_mask_of_infinities_is_exact() -> None:
    x = drawn(5, 3, 8, spread=0.5)
    mask = np.tril(np.ones((3, 8), bool))

    def masked(x: Array) -> Array:
        s = np.where(mask, x, -np.inf)
        e = np.exp(s - s.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    found = limits_of(masked, x)
    assert not found.unknown.any()
    assert found.contract.max() < 1e-5
    assert (found.expected[~mask] == 0).all()


def test_nothing_is_judged_where_an_intermediate_may_overflow() -> None:
    x = np.array([1e25, 1.0])
    found = limits_of(lambda x: np.sqrt(x * x), x)
    assert found.unknown.tolist() == [True, False]
    assert limits_of(lambda x: x * x / x, np.array([np.nan, 2.0])).unknown.tolist() == [True, False]
    half = limits_of(lambda x: x * 2.0, np.array([40000.0, 1.0]), fmt=FLOAT16)
    assert half.unknown.tolist() == [True, False]


def test_a_constant_that_fp32_does_not_hold_counts() -> None:
    x = np.array([1.0])
    assert limits_of(lambda x: x * 0.0 + 0.1, x).contract[0] >= 0.1 * 4 * FLOAT32.u
    assert limits_of(lambda x: np.maximum(x, 0.5), x).contract[0] == 0.0
    assert limits_of(lambda x: x * 0.1, x, fmt=FLOAT64).contract[0] < 1e-15


def test_the_computing_format_can_be_named() -> None:
    x = drawn(1, 100)
    narrow = limits_of(lambda x: x.sum(), x, fmt=BFLOAT16, compute="bfloat16").contract
    wide = limits_of(lambda x: x.sum(), x, fmt=BFLOAT16).contract
    assert narrow > 50 * wide
    with pytest.raises(UsageError, match="'float8' is not one of"):
        bounds.from_reference(compute="float8")
    with pytest.raises(UsageError, match="products='tf16'"):
        bounds.from_reference(products="tf16")


MOVES: list[Callable[[Array], Any]] = [
    lambda x: x.T.reshape(-1), lambda x: np.concatenate([x, x], axis=1)[:, ::2],
    lambda x: np.stack([x, -x]).max(0), lambda x: np.roll(x, 1, axis=0)[1:],
    lambda x: np.take_along_axis(x, np.zeros((3, 1), int), 1), lambda x: x[[2, 0]].clip(-1, 1),
    lambda x: np.expand_dims(x, 0).squeeze(0).swapaxes(0, 1), lambda x: abs(x).min(axis=1),
    lambda x: np.split(x, 2, axis=1)[1], lambda x: np.broadcast_to(x[:1], (3, 8)),
    lambda x: np.tril(np.moveaxis(x, 0, 1)), lambda x: np.pad(x, 1)[1:-1],
]


@pytest.mark.parametrize("move", MOVES)
def test_moved_elements_are_not_rounded(move: Callable[[Array], Any]) -> None:
    x = drawn(4, 3, 8)
    found = limits_of(move, x)
    assert np.array_equal(found.expected, move(x))
    assert (found.contract == 0).all()


def in_place(x: Array) -> Array:
    total = np.zeros_like(x[:, 0])
    for k in range(x.shape[1]):
        total += x[:, k] * x[:, -k]
    return total


def row_by_row(x: Array) -> Array:
    y = np.zeros_like(x)
    for i, row in enumerate(x):
        y[i] = row - row.mean()
    y[0, 0] += 1.0
    return y


OTHERS: list[Callable[[Array], Any]] = [
    lambda x: np.cumsum(x, axis=1), lambda x: x.std(axis=0), lambda x: np.linalg.norm(x, axis=1),
    lambda x: np.outer(x[0], x[1]), lambda x: np.inner(x, x), lambda x: np.dot(x, x.T),
    lambda x: x**3 - x**-1, lambda x: np.add.reduce(x, axis=1), lambda x: np.average(x, axis=0),
    lambda x: np.log1p(np.exp(x)), lambda x: np.tanh(x) + np.sin(x) * np.cosh(x),
    lambda x: 1 - ((x > 0) & (x < 1)), lambda x: 2.0 / (np.ones_like(x) + x * x),
    lambda x: np.full_like(x, 2.5) * x, lambda x: x.sum(axis=0, dtype=np.float64),
    lambda x: in_place(x), lambda x: row_by_row(x),
    lambda x: 2 / (1 + np.exp(-2 * x)) - np.tanh(x),
]


@pytest.mark.parametrize("compute", OTHERS)
def test_the_same_in_fp32_is_inside(compute: Callable[[Array], Any]) -> None:
    x = drawn(4, 3, 8, spread=1.0)
    found = limits_of(compute, x)
    got = np.asarray(compute(x.astype(F)), np.float64)
    assert np.array_equal(found.expected, compute(x))
    assert (np.abs(got - found.expected) <= found.contract)[~found.unknown].all()
    assert not found.unknown.all()


@pytest.mark.parametrize(("reference", "named"), [
    (lambda x: np.sort(x), "np.sort"),
    (lambda x: np.linalg.inv(x), "np.inv"),
    (lambda x: np.multiply.accumulate(x), "np.multiply.accumulate"),
    (lambda x: np.asarray(x), "a conversion to a plain array"),
    (lambda x: np.zeros(3).__setitem__(slice(None), x), "a conversion"),
    (lambda x: x if x[0, 0] > 0 else -x, "a branch"),
    (lambda x: float(x[0, 0]), r"float\(\)"),
    (lambda x: x.astype(np.int64), "astype"),
    (lambda x: x**1.7, "a power"),
    (lambda x: np.where(x > 0), "np.where with one argument"),
    (lambda x: np.sum(x, where=x > 0), "np.sum with where"),
    (lambda x: x.argmax(-1), "the method .argmax"),
    (lambda x: np.divide(x, 2.0, out=np.zeros((3, 3))), "an operation that writes"),
])
def test_what_cannot_be_followed_is_named(reference: Callable[..., Any], named: str) -> None:
    with pytest.raises(UsageError, match=f"through {named}.*bounds.ulps"):
        limits_of(reference, np.eye(3))


def test_a_view_that_misses_a_write_is_refused() -> None:
    def through_a_view(x: Array) -> Array:
        view = x[0]
        x[0, 0] = 7.0
        return view * 1.0

    with pytest.raises(UsageError, match="writing into an array of which a view is in use"):
        limits_of(through_a_view, np.eye(3))


def test_the_usual_formula_for_tanh_keeps_its_contract() -> None:
    x = np.concatenate([drawn(6, 2000, spread=6.0), np.linspace(-3, 3, 2000).astype(F)])
    found = limits_of(np.tanh, x.astype(np.float64))
    with np.errstate(over="ignore"):
        sigmoid = over(F(1), F(1) + exp32(F(-2) * x.astype(F)))
    assert (np.abs(F(2) * sigmoid - F(1) - found.expected) <= found.contract).all()


def test_the_number_of_results_must_be_right() -> None:
    with pytest.raises(UsageError, match="returns 2 results, the operator 1"):
        limits_of(lambda x: (x, x), np.eye(2))
