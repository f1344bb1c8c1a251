"""The bound of block accumulation against matrix units in exact integers, and what feeds it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from sdc_guard.bounds import accumulators, products
from sdc_guard.bounds.accumulators import IEEE_FLOAT32, UNPROBED, AccumulatorModel
from sdc_guard.bounds.attention import machine
from sdc_guard.bounds.gamma import gamma
from sdc_guard.formats import BFLOAT16, FLOAT16, FLOAT32
from tests.unit.bounds.block_adders import UNITS, BlockAdder

Terms = list[tuple[int, float, float]]
HOPPER = AccumulatorModel(24, 2, 16, truncates=True)
AMPERE = AccumulatorModel(24, 1, 8, truncates=True)


@pytest.fixture(autouse=True)
def _nothing_probed() -> Iterator[None]:
    accumulators.forget()
    yield
    accumulators.forget()


def error_and_size(unit: BlockAdder, terms: Terms, length: int) -> tuple[Fraction, Fraction]:
    exact = [Fraction(a) * Fraction(b) for _, a, b in terms]
    return abs(Fraction(unit.dot(terms, length)) - sum(exact)), sum(map(abs, exact), Fraction(0))


def drawn(seed: int, length: int) -> Terms:
    """Half formats over many binades, of both signs or of one, some of them 0."""
    draw = random.Random(seed)
    signs = (1, -1) if seed % 2 else (1,)
    spread = draw.choice((1, 6, 14))
    return [(i, draw.choice(signs) * draw.randrange(128, 256) * 2.0 ** -draw.randrange(spread + 7),
             draw.choice((0.0, 1.0, 1.0, 1.0)) * draw.randrange(128, 256) / 256)
            for i in range(length)]


def unfavourable(model: AccumulatorModel, length: int) -> Terms:
    """One large term, then blocks whose every term loses almost a whole unit of the alignment, and
    whose sum loses as much as it can when it is fitted."""
    just_below = 1.0 - 2.0**-6
    if model.width is None:
        each = 2.0**-model.precision * (2.0 * just_below if model.truncates else 1.0)
        return [(0, 1.0, 1.0)] + [(i, each, 1.0) for i in range(model.block, length, model.block)]
    units = 2 ** max(model.extra_bits or 0, 0)
    lost = units - 1 if model.truncates else units // 2
    unit = 2.0**-model.width
    return [(0, 1.0, 1.0)] + [
        (i, unit * (just_below + (lost if i % model.block == 0 else 0)), 1.0)
        for i in range(model.block, length)
    ]


@pytest.mark.parametrize("name", UNITS)
def test_no_sum_errs_by_more_than_the_bound(name: str) -> None:
    unit = UNITS[name]
    for seed in range(12):
        length = (1, 3, 16, 40, 96)[seed % 5]
        for variant in (unit, replace(unit, floors=True), replace(unit, splits=2)):
            if variant.splits == 2 and length % (2 * unit.model.block):
                continue
            error, size = error_and_size(variant, drawn(seed, length), length)
            assert error <= Fraction(unit.model.coefficient(length)) * size


@pytest.mark.parametrize("name", UNITS)
def test_unfavourable_sums_come_near_the_bound(name: str) -> None:
    unit, length = UNITS[name], 256
    error, size = error_and_size(unit, unfavourable(unit.model, length), length)
    limit = Fraction(unit.model.coefficient(length)) * size
    assert limit / 4 < error <= limit


@pytest.mark.parametrize("name", [n for n in UNITS if n.startswith("cut, 0")])
def test_what_holds_for_rounding_does_not_hold_for_cutting(name: str) -> None:
    unit, length = UNITS[name], 256
    error, size = error_and_size(unit, unfavourable(unit.model, length), length)
    assert error > Fraction(gamma(length, FLOAT32.u)) * size


def test_exact_addition_one_by_one_is_gamma() -> None:
    for k in (1, 7, 4096):
        assert IEEE_FLOAT32.coefficient(k) == gamma(k, FLOAT32.u)


def test_the_coefficients_of_the_literature() -> None:
    k = 4096
    per_term = [m.coefficient(k) / (k * 2.0**-24) for m in (UNPROBED, AMPERE, HOPPER)]
    assert [round(x, 2) for x in per_term] == [3.0, 1.38, 0.66]
    assert AccumulatorModel(14, 0, 32, truncates=True).coefficient(k) > 0.5
    assert AccumulatorModel(14, 0, 32, truncates=True).coefficient(2**14) == np.inf


def test_a_subnormal_operand_costs_the_others_digits_as_bounded() -> None:
    unit = BlockAdder(UNPROBED, emin=FLOAT16.emin)
    small = 2.0**-24
    terms = [(0, small, 2.0**10), (1, 1.99 * 2.0**-14, 2.0**-14), (2, 1.99 * 2.0**-14, 2.0**-14)]
    error, size = error_and_size(unit, terms, 4)
    alone = Fraction(UNPROBED.coefficient(4)) * size
    sums = sum(a + b for _, a, b in terms)
    assert alone < error <= alone + Fraction(UNPROBED.unnormalised(4, FLOAT16, sums))


def test_subnormal_sums_lose_no_more_than_bounded() -> None:
    unit = BlockAdder(UNPROBED)
    beyond = 0
    for seed in range(20):
        draw = random.Random(seed)
        terms = [(i, draw.randrange(-255, 256) * 2.0**-80, 2.0 ** -draw.randrange(70, 78))
                 for i in range(12)]
        error, size = error_and_size(unit, terms, 12)
        alone = Fraction(UNPROBED.coefficient(12)) * size
        beyond += error > alone
        assert error <= alone + Fraction(UNPROBED.underflow(12))
    assert beyond


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_bound_of_a_product_on_a_device_nobody_probed(dtype: torch.dtype) -> None:
    u_in = 2 * 2.0**-11 if dtype is torch.float32 else 0.0
    emin = {torch.float16: FLOAT16.emin}.get(dtype, BFLOAT16.emin)
    unit, length = BlockAdder(UNPROBED, emin=emin), 192
    for terms in (unfavourable(UNPROBED, length), *(drawn(seed, length) for seed in range(4))):
        error, size = error_and_size(unit, terms, length)
        sums = [sum(abs(t[i]) for t in terms) for i in (1, 2)]
        args = (length, np.array(float(size)), *sums, dtype, u_in)
        limit = Fraction(float(products.product_error(*args, "cuda")))
        assert error <= limit
    error, size = error_and_size(unit, unfavourable(UNPROBED, length), length)
    on_cpu = float(products.product_error(length, np.array(float(size)), 0.0, 0.0, dtype, 0.0))
    assert error > Fraction(on_cpu)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_cpu_has_the_bound_of_ieee_arithmetic(dtype: torch.dtype) -> None:
    accumulators.learn("cuda", "float16", frozenset({UNPROBED}))
    u = 2.0**-53 if dtype is torch.float64 else FLOAT32.u
    assert products.order_coefficient(77, dtype, "cpu", 2.0**-10) == gamma(77, u)
    assert accumulators.models_of(dtype, "cpu", 2.0**-10) == ()


def test_only_tensor_cores_cut_off() -> None:
    assert products.order_coefficient(64, torch.float32, "cuda") == gamma(64, FLOAT32.u)
    assert products.order_coefficient(64, torch.float64, "cuda", 0.0) == gamma(64, 2.0**-53)
    assert products.order_coefficient(64, torch.float32, "cuda", 2.0**-10) == (
        UNPROBED.coefficient(64))


def test_what_was_learned_replaces_the_default_and_is_never_sharper_than_gamma() -> None:
    before = products.order_coefficient(4096, torch.bfloat16, "cuda")
    accumulators.learn("cuda", "bfloat16", frozenset())
    assert products.order_coefficient(4096, torch.bfloat16, "cuda") == before
    accumulators.learn("cuda", "bfloat16", frozenset({HOPPER}))
    assert HOPPER.coefficient(4096) < gamma(4096, FLOAT32.u)
    assert products.order_coefficient(4096, torch.bfloat16, "cuda") == gamma(4096, FLOAT32.u)
    assert products.order_coefficient(4096, torch.float16, "cuda") == before
    accumulators.learn("cuda", "bfloat16", frozenset({AMPERE}))
    assert products.order_coefficient(4096, torch.bfloat16, "cuda") == AMPERE.coefficient(4096)
    assert len(accumulators.models_of(torch.bfloat16, "cuda", 0.0)) == 2


def test_a_device_that_flushes_has_a_wider_bound() -> None:
    def error() -> float:
        return float(products.product_error(
            4, np.array(0.0), 1.0, 1.0, torch.float16, 0.0, "cuda"))

    accumulators.learn("cuda", "float16", frozenset({HOPPER}))
    kept = error()
    flushing = replace(HOPPER, keeps_subnormal_operands=False, keeps_subnormal_results=False)
    accumulators.learn("cuda", "float16", frozenset({flushing}))
    assert error() >= 2 * FLOAT16.tiny > 1e3 * kept


def test_accumulation_in_fp16_widens_the_bound_of_fp16_alone() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    try:
        matmul.allow_fp16_accumulation = True
        wide = products.order_coefficient(64, torch.float16, "cuda")
        other = products.order_coefficient(64, torch.bfloat16, "cuda")
    finally:
        matmul.allow_fp16_accumulation = before
    assert wide > 64 * 2.0**-11
    assert other == products.order_coefficient(64, torch.bfloat16, "cuda")
    assert products.order_coefficient(64, torch.float16, "cuda") < wide / 1000


def test_attention_takes_the_same_coefficient() -> None:
    half = machine(FLOAT16, FLOAT32, 0.0, "cuda", torch.float16)
    assert half.order(4096) == UNPROBED.coefficient(4096) > gamma(4096, half.u)
    cpu = machine(FLOAT16, FLOAT32, 0.0, "cpu", torch.float16)
    assert cpu.order(4096) == gamma(4096, cpu.u)


def test_a_model_says_what_it_is() -> None:
    assert HOPPER.describe() == "24 bits, 16 at a time cut off at 2 extra bits, sum cut off"
    assert IEEE_FLOAT32.describe() == "24 bits, 1 at a time added exactly, sum rounded"
    odd = AccumulatorModel(18, -4, 32, truncates=True, products_exact=False,
                           keeps_subnormal_operands=False, keeps_subnormal_results=True)
    assert odd.describe() == ("18 bits, 32 at a time cut off 4 bits above the last one, sum cut "
                              "off, products rounded, subnormal operands lost")
