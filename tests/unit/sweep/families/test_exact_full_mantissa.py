"""Expected values of F2 against fractions, the bits that its operands toggle, and what depends on
the order of addition (nothing)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from sdc_guard.sweep.declared import CORE, GPU, Bits, Case, Made, Place, Unsupported
from sdc_guard.sweep.exact import LAYOUTS
from sdc_guard.sweep.families.exact_full_mantissa import DTYPES, TESTS, cases
from sdc_guard.sweep.visit import generator
from tests.unit.sweep.exact_values import fraction_of, rounded

CORE_0 = Place(kind=CORE, name="core 0", device="cpu")
BY_LABEL = {case.label: case for case in cases(CORE_0)}
OF_MATRICES = [label for label, case in BY_LABEL.items() if case.op == "aten.mm"]
SHUFFLES = 3


def _made(label: str, seed: int = 1) -> tuple[Case, Made]:
    case = BY_LABEL[label]
    return case, case.make(generator(TESTS[0].name, label, seed), CORE_0)


def _terms(label: str, made: Made, index: tuple[int, ...], dtype: str) -> list[Fraction]:
    """The exact terms of one element of a product of matrices."""
    a, b = made.inputs[:2]
    row, column = a[*index[:-1]], b[*index[:-2], :, index[-1]]
    return [fraction_of(int(x), dtype) * fraction_of(int(y), dtype)
            for x, y in zip(row, column, strict=True)]


def _sample(expected: Bits, count: int = 40) -> list[tuple[int, ...]]:
    flat = np.random.default_rng(0).choice(expected.size, count, replace=False)
    return [tuple(int(i) for i in np.unravel_index(f, expected.shape)) for f in flat]


@pytest.mark.parametrize("label", [*OF_MATRICES, *(f"bmm {dtype}" for dtype in DTYPES)])
def test_a_product_is_the_exact_sum_rounded_once_in_any_order(label: str) -> None:
    case, made = _made(label)
    assert made.expected is not None
    random = np.random.default_rng(2)
    for index in _sample(made.expected[0]):
        terms = [t for t in _terms(label, made, index, case.dtype) if t]
        right = fraction_of(int(made.expected[0][index]), case.dtype)
        assert right == rounded(sum(terms, Fraction(0)), case.dtype)
        for _ in range(SHUFFLES):
            partial = Fraction(0)
            for place in random.permutation(len(terms)):
                partial = rounded(partial + terms[place], case.dtype)
            assert partial == right
        # A product of zeros alone could be +0 or -0, by the order.
        assert terms or right != 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_is_product_and_bias_without_a_carry(dtype: str) -> None:
    _, made = _made(f"linear {dtype}")
    assert made.expected is not None
    x_MK, weight_NK, bias_N = made.inputs
    for i, j in _sample(made.expected[0]):
        exact = fraction_of(int(bias_N[j]), dtype) + sum(
            fraction_of(int(x), dtype) * fraction_of(int(w), dtype)
            for x, w in zip(x_MK[i], weight_NK[j], strict=True))
        assert fraction_of(int(made.expected[0][i, j]), dtype) == exact


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sum_digits", "sum_carries", "mean_carries"])
def test_sums_are_exact_whatever_the_order(name: str, dtype: str) -> None:
    _, made = _made(f"{name} {dtype} dim 1")
    assert made.expected is not None
    random = np.random.default_rng(3)
    for row, right in zip(made.inputs[0][:6], made.expected[0][:6], strict=True):
        terms = [fraction_of(int(x), dtype) for x in random.permutation(row)]
        partial = Fraction(0)
        for term in terms:
            assert rounded(partial + term, dtype) == partial + term
            partial += term
        exact = partial / len(terms) if name == "mean_carries" else partial
        assert fraction_of(int(right), dtype) == exact


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["scale", "mul", "add", "div", "addcmul"])
def test_elementwise_results_are_rounded_once(name: str, dtype: str) -> None:
    _, made = _made(f"{name} {dtype}")
    assert made.expected is not None
    for index in _sample(made.expected[0]):
        a, b, *rest = (fraction_of(int(bits[index]), dtype) for bits in made.inputs)
        exact = {"scale": a * b, "mul": a * b, "add": a + b, "div": a / b,
                 "addcmul": a + b * (rest[0] if rest else 0)}[name]
        right = fraction_of(int(made.expected[0][index]), dtype)
        assert right == rounded(exact, dtype)
        if dtype in ("bfloat16", "float16"):
            # By way of float32, as torch computes it.
            assert right == rounded(rounded(exact, "float32"), dtype)
        if name in ("scale", "addcmul"):
            assert right == exact


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_mantissa_bit_toggles(dtype: str) -> None:
    """In results of products, and in operands of one term, each bit of the mantissa is 0 here and 1
    there."""
    everything = (1 << (LAYOUTS[dtype].precision - 1)) - 1
    for label in OF_MATRICES:
        if dtype not in label.split():
            continue
        _, made = _made(label)
        assert made.expected is not None
        dense = made.inputs[0] if " right " in label else made.inputs[1]
        # The terms of digits and carries are parts of numbers; their sums are full.
        if label.startswith("one_"):
            assert _toggled(dense[dense != 0], dtype) == everything, label
        assert _toggled(made.expected[0], dtype) == everything, label
        if label.startswith("one_product"):
            both = [bits[bits != 0] for bits in made.inputs]
            assert all(_toggled(bits, dtype) == everything for bits in both)


def _toggled(bits: NDArray[np.unsignedinteger], dtype: str) -> int:
    ones = int(np.bitwise_or.reduce(bits, axis=None))
    zeros = int(np.bitwise_or.reduce(~bits, axis=None))
    return ones & zeros & ((1 << (LAYOUTS[dtype].precision - 1)) - 1)


def test_float8_products_are_exact() -> None:
    label = "one_product float8_e5m2 by float8_e4m3fn in bfloat16"
    try:
        _, made = _made(label)
    except Unsupported as reason:
        pytest.skip(str(reason))
    assert made.expected is not None
    for i, j in _sample(made.expected[0]):
        exact = sum(fraction_of(int(x), "float8_e5m2") * fraction_of(int(y), "float8_e4m3fn")
                    for x, y in zip(made.inputs[0][i], made.inputs[1][j], strict=True))
        assert fraction_of(int(made.expected[0][i, j]), "bfloat16") == exact != 0


def test_a_gpu_has_cases_too_and_computes_its_own_roots() -> None:
    on_gpu = {case.label: case for case in cases(Place(kind=GPU, name="cuda:0", device="cuda:0"))}
    assert on_gpu["sqrt float32"].op == "aten.sqrt"
    assert BY_LABEL["sqrt float32"].op == "numpy.sqrt"
