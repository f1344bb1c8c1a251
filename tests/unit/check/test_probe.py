"""The probe tells matrix units in software apart, says what NumPy and the library do, and feeds the
bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sdc_guard.bounds import accumulators, products
from sdc_guard.bounds.accumulators import UNPROBED, AccumulatorModel
from sdc_guard.bounds.gamma import gamma
from sdc_guard.check import probe as module
from sdc_guard.check.accumulator_questions import LENGTH, OPERANDS, Question, explains, identify
from sdc_guard.check.probe import Probed, answer_by, by_library, feed, is_ieee, kernel_routes, probe
from tests.unit.bounds.block_adders import UNITS, BlockAdder, unit

CPU = torch.device("cpu")
OPERANDS_OF = {name: ("float8_e4m3fn", "float8_e5m2") if name.startswith("fp8") else ("float16",)
               for name in UNITS}


@pytest.fixture(autouse=True)
def _nothing_probed() -> Iterator[None]:
    accumulators.forget()
    yield
    accumulators.forget()
    module._CACHE.clear()


def answers_of(adder: BlockAdder) -> Callable[[Sequence[Question]], list[float]]:
    return lambda questions: [adder.dot(q.terms, LENGTH) for q in questions]


def is_of(found: AccumulatorModel | None) -> tuple[int, int | None, int, bool]:
    assert found is not None
    return found.precision, found.extra_bits, found.block, found.truncates


@pytest.mark.parametrize(("name", "operand"), [
    (name, operand) for name, operands in OPERANDS_OF.items() for operand in operands
    if "24 in the accumulator" not in name])
def test_each_unit_is_told(name: str, operand: str) -> None:
    adder = UNITS[name]
    assert is_of(identify(answers_of(adder), OPERANDS[operand])) == is_of(adder.model)


@pytest.mark.parametrize("operand", ["bfloat16", "tf32"])
def test_the_format_of_the_operands_does_not_matter(operand: str) -> None:
    adder = unit(24, 2, 16)
    found = identify(answers_of(adder), OPERANDS[operand])
    assert is_of(found) == (24, 2, 16, True)
    assert found is not None
    assert found.keeps_subnormal_results


def test_an_accumulator_wider_than_the_alignment_is_told_as_far_as_it_shows() -> None:
    adder = UNITS["fp8: aligned to 14 bits, 24 in the accumulator"]
    found = identify(answers_of(adder), OPERANDS["float8_e4m3fn"])
    assert found is not None
    assert (found.width, found.block, found.truncates) == (13, 32, True)
    assert 14 < found.precision <= 24
    factor = found.coefficient(4096) / adder.model.coefficient(4096)
    assert 1.0 <= factor < 1.1


def test_twos_complement_and_several_accumulators_are_no_other_model() -> None:
    adder = unit(24, 1, 8)
    for variant in (replace(adder, floors=True), replace(adder, splits=2),
                    replace(adder, splits=4)):
        assert is_of(identify(answers_of(variant), OPERANDS["float16"])) == (24, 1, 8, True)


def test_subnormal_operands_and_results_that_are_lost_are_seen() -> None:
    adder = unit(24, 2, 16)

    def flushing(questions: Sequence[Question]) -> list[float]:
        tiny = 2.0 ** OPERANDS["bfloat16"].emin
        kept = [Question(tuple(t for t in q.terms if min(abs(t[1]), abs(t[2])) >= tiny))
                for q in questions]
        return [x if abs(x) >= tiny else 0.0 for x in answers_of(adder)(kept)]

    found = identify(flushing, OPERANDS["bfloat16"])
    assert found is not None
    assert found.keeps_subnormal_operands is False
    assert found.keeps_subnormal_results is False
    assert is_of(found) == (24, 2, 16, True)


def rounded_to(bits: int, truncates: bool) -> Callable[[Sequence[Question]], list[float]]:
    """fp32 operands read with fewer bits by an IEEE unit."""
    def read(x: float) -> float:
        mantissa, exponent = torch.frexp(torch.tensor(x, dtype=torch.float64))
        whole = float(mantissa) * 2**bits
        kept = int(whole) if truncates else round(whole)
        return kept * 2.0 ** (int(exponent) - bits)

    adder = unit(24, None, 1, truncates=False)

    def answer(questions: Sequence[Question]) -> list[float]:
        return answers_of(adder)([
            Question(tuple((p, read(a), read(b)) for p, a, b in q.terms)) for q in questions])

    return answer


@pytest.mark.parametrize("truncates", [False, True])
def test_how_tf32_reads_its_operands_is_told(truncates: bool) -> None:
    found = identify(rounded_to(11, truncates), OPERANDS["tf32"])
    assert found is not None
    assert found.operand_bits == 11
    assert found.operands_truncated is truncates


def test_products_that_are_rounded_first_are_told() -> None:
    def answer(questions: Sequence[Question]) -> list[float]:
        found = []
        for q in questions:
            total = torch.tensor(0.0)
            for _, a, b in sorted(q.terms):
                total = total + torch.tensor(a) * torch.tensor(b)
            found.append(float(total))
        return found

    found = identify(answer, OPERANDS["float32"])
    assert found is not None
    assert is_of(found) == (24, None, 1, False)
    assert found.products_exact is False
    fused = identify(answers_of(unit(24, None, 1, truncates=False)), OPERANDS["float32"])
    assert fused is not None
    assert fused.products_exact
    assert is_ieee(fused)


@pytest.mark.parametrize("wrong", [
    lambda q, x: x * (1 + 2.0**-12),
    lambda q, x: float("nan"),
    lambda q, x: 0.0,
    lambda q, x: x + 2.0**-4 if len(q.terms) > 100 else x,
    lambda q, x: x if len(q.terms) < 100 or q.terms[0][0] else -x,
])
def test_answers_that_fit_no_model_give_none(wrong: Callable[[Question, float], float]) -> None:
    right = answers_of(unit(24, 1, 8))

    def answer(questions: Sequence[Question]) -> list[float]:
        return [wrong(q, x) for q, x in zip(questions, right(questions), strict=True)]

    assert identify(answer, OPERANDS["float16"]) is None


def test_a_sharper_model_than_the_unit_does_not_explain_it() -> None:
    right = answers_of(unit(24, 0, 4))
    assert explains(UNPROBED, right, OPERANDS["float16"])
    for model in (AccumulatorModel(24, 2, 16, truncates=True),
                  AccumulatorModel(24, None, 1, truncates=False),
                  AccumulatorModel(24, 1, 4, truncates=True)):
        assert not explains(model, right, OPERANDS["float16"])


def test_the_library_of_this_machine_adds_as_ieee_says() -> None:
    found = probe(CPU)
    assert {p.route for p in found} >= {"torch.mm 64", "torch.mm 512 transposed"}
    assert all(p.kind == "float32" and p.model and is_ieee(p.model) for p in found)
    assert probe(CPU) is found
    assert feed(CPU) == ()


def test_a_library_product_that_cuts_off_is_told() -> None:
    adder = unit(24, 1, 4)

    def multiply(a: Tensor, b: Tensor) -> Tensor:
        out = torch.zeros(len(a), b.shape[1])
        for t, (row, column) in enumerate(zip(a.tolist(), b.t().tolist(), strict=True)):
            terms = [(i, x, y) for i, (x, y) in enumerate(zip(row, column, strict=True)) if x and y]
            out[t, t] = adder.dot(terms, LENGTH)
        return out

    paired = by_library(512, transposed=False, multiply=multiply)
    found = identify(answer_by(paired, torch.float32, CPU), OPERANDS["tf32"])
    assert is_of(found) == (24, 1, 4, True)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "float8_e4m3fn"])
def test_the_interpreter_is_reported_as_what_it_is(kind: str) -> None:
    pytest.importorskip("triton", reason="triton has no wheel for this platform")
    if torch.cuda.is_available():
        pytest.skip("kernels run on the device here, not in the interpreter")
    for name, dtype, route, paired in kernel_routes():
        if name != kind or not route.endswith("64"):
            continue
        found = identify(answer_by(paired, dtype, CPU), OPERANDS[kind])
        if kind == "bfloat16":
            # The interpreter keeps bf16 as integers, and multiplies those.
            assert found is None
        else:
            assert is_of(found) == (24, None, 1, False)


def test_what_was_found_reaches_the_bounds() -> None:
    hopper = AccumulatorModel(24, 2, 16, truncates=True)
    ampere = AccumulatorModel(24, 1, 8, truncates=True)
    module.teach("cuda", [Probed("bfloat16", "tl.dot 64", hopper),
                          Probed("float16", "tl.dot 64", hopper),
                          Probed("float16", "torch.mm 64", ampere),
                          Probed("tf32", "torch.mm 64", None),
                          Probed("tf32", "tl.dot 64", hopper),
                          Probed("bfloat16", "torch.mm 64", None, "RuntimeError: not offered")])
    k = 1024
    found = [products.order_coefficient(k, dtype, "cuda", u_in) for dtype, u_in in (
        (torch.bfloat16, 0.0), (torch.float16, 0.0), (torch.float32, 2.0**-10))]
    assert found == [gamma(k, 2.0**-24), ampere.coefficient(k), UNPROBED.coefficient(k)]
    assert products.order_coefficient(k, torch.float16, "cpu") == gamma(k, 2.0**-24)


def test_a_route_that_is_not_offered_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(a: Tensor, b: Tensor) -> Tensor:
        raise NotImplementedError("no such product\nand more")

    monkeypatch.setattr(module, "_mm", refuses)
    assert {p.failure for p in probe(CPU)} == {"NotImplementedError: no such product"}


def test_the_probe_leaves_no_trace() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(p.model and is_ieee(p.model) for p in probe(CPU))
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


@pytest.mark.gpu
def test_every_product_of_the_device_is_explained() -> None:
    device = torch.device("cuda")
    found = [p for p in probe(device) if not p.failure]
    assert {p.kind for p in found} >= {"float16", "bfloat16", "tf32", "float32"}
    assert {p.route.split()[0] for p in found} >= {"tl.dot", "torch.mm"}
    known = [p for p in found if not p.kind.startswith("float8")]
    assert not [(p.kind, p.route) for p in known if p.model is None]
    for p in known:
        assert p.model is not None
        if p.kind == "float32":
            assert is_ieee(p.model)
        else:
            assert p.model.coefficient(4096) <= UNPROBED.coefficient(4096)
    before = products.order_coefficient(4096, torch.bfloat16, "cuda")
    assert {p.kind for p in feed(device)} >= {"float16", "bfloat16"}
    assert products.order_coefficient(4096, torch.bfloat16, "cuda") <= before
