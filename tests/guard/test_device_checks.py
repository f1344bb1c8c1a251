"""When kernel checks are launched, read and asked again; a toy answers in their place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import sdc_guard
from sdc_guard import Verdict
from sdc_guard.check import selftest
from sdc_guard.inject import TransientFlip
from tests.guard.toy_kernel import Toy, installed


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.setattr("sdc_guard.device_witness.kernel_is_alive", lambda device: True)
    with installed() as found:
        yield found


def guard(**options: object) -> sdc_guard.Guard:
    return sdc_guard.Guard(budget="all", kernels="always", **options)  # type: ignore[arg-type]


def factors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(8, 6, generator=generator), torch.randn(6, 5, generator=generator)


def wrong_once(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """A product with one wrong exponent, in row 3 and column 2."""
    with TransientFlip(torch.ops.aten.mm.default, 0, flat_index=3 * 5 + 2, bit=28):
        return a_MK @ b_KN


def test_a_right_product_is_read_and_nothing_is_found(toy: Toy) -> None:
    with guard() as g:
        a_MK, b_KN = factors()
        a_MK @ b_KN
    assert toy.launched == 1
    assert not g.findings
    (covered,) = [op for op in g.coverage.ops if op.op == "aten.mm"]
    assert covered.witnesses == {"replay": 1, "kernel checksum": 1}


def test_without_kernels_the_host_judges(toy: Toy) -> None:
    with sdc_guard.Guard(budget="all", kernels="never") as g:
        torch.mm(*factors())
    assert toy.launched == 0
    (covered,) = [op for op in g.coverage.ops if op.op == "aten.mm"]
    assert covered.witnesses == {"replay": 1, "reference": 1}


def test_only_the_chosen_witnesses_speak(toy: Toy) -> None:
    with guard(witnesses=("kernel",)) as g:
        a_MK, b_KN = factors()
        (a_MK @ b_KN).exp()
    by_op = {op.op: op for op in g.coverage.ops}
    assert by_op["aten.mm"].witnesses == {"kernel checksum": 1}
    assert by_op["aten.exp"].calls_checked == 0
    assert by_op["aten.exp"].not_tested == {"no witness of those chosen applies": 1}


def test_what_a_kernel_doubts_is_found_when_it_is_read(toy: Toy) -> None:
    with guard(witnesses=("kernel", "reference")) as g:
        a_MK, b_KN = factors()
        wrong_once(a_MK, b_KN)
        assert not g._pipeline.findings  # nobody has read it yet
        (finding,) = g.findings
    assert finding.verdict is Verdict.CORRUPTION
    assert finding.worst is not None
    assert finding.worst.index == (3, 2)
    assert "test_device_checks.py" in finding.source


def test_it_is_read_before_the_optimizer_steps(toy: Toy) -> None:
    model = torch.nn.Linear(5, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.weight.detach().clone()
    with guard(witnesses=("kernel",), on_finding="skip", model=model) as g:
        model(wrong_once(*factors())).sum().backward()
        optimizer.step()
    assert torch.equal(model.weight, before)
    assert g.coverage.steps_skipped == 1


def test_a_corrupt_step_raises(toy: Toy) -> None:
    model = torch.nn.Linear(5, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.weight.detach().clone()

    def step() -> None:
        loss = model(torch.ones(8, 5)).sum() + wrong_once(*factors()).sum()
        loss.backward()
        optimizer.step()

    raising = guard(witnesses=("kernel",), on_finding="raise", model=model)
    with raising, pytest.raises(sdc_guard.CorruptionDetected):
        step()
    assert torch.equal(model.weight, before)


def test_what_is_read_at_the_end_raises_too(toy: Toy) -> None:
    with pytest.raises(sdc_guard.CorruptionDetected), \
            guard(witnesses=("kernel",), on_finding="raise"):
        wrong_once(*factors())


@pytest.mark.parametrize("write", [
    lambda product: product.mul_(0.5),
    lambda product: product[0].zero_(),
    lambda product: torch.exp(torch.zeros(8, 5), out=product),
    lambda product: product.data.copy_(torch.ones(8, 5)),
], ids=["in-place", "a view", "out=", ".data"])
def test_it_is_read_before_an_operator_overwrites_it(toy: Toy, write: object) -> None:
    with guard(witnesses=("kernel",)) as g:
        product = wrong_once(*factors())
        write(product)  # type: ignore[operator]
        assert len(g._pipeline.findings) == 1
    assert g.findings[0].verdict is Verdict.CORRUPTION


def test_an_operand_that_is_overwritten_is_read_first(toy: Toy) -> None:
    with guard(witnesses=("kernel",)) as g:
        a_MK, b_KN = factors()
        wrong_once(a_MK, b_KN)
        b_KN += 1.0
        assert [f.verdict for f in g._pipeline.findings] == [Verdict.CORRUPTION]


def test_a_write_to_other_memory_reads_nothing(toy: Toy) -> None:
    with guard(witnesses=("kernel",)) as g:
        wrong_once(*factors())
        torch.zeros(3).add_(1.0)
        assert not g._pipeline.findings


def test_a_write_that_nobody_sees_is_said(toy: Toy) -> None:
    with guard(witnesses=("kernel",)) as g:
        product = wrong_once(*factors())
        torch._C._autograd._unsafe_set_version_counter((product,), (product._version + 1,))
    (finding,) = g.findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "written to since" in finding.message


def test_a_doubt_that_does_not_come_again_is_withdrawn_and_counted(toy: Toy) -> None:
    with guard(witnesses=("kernel",)) as g:
        toy.lies = [1.0]
        torch.mm(*factors())
    assert not g.findings
    assert toy.launched == 2
    assert any("doubted a result once" in gap for gap in g.coverage.gaps)


def test_a_doubt_that_comes_again_against_the_reference_is_inconclusive(toy: Toy) -> None:
    with guard(witnesses=("kernel",)) as g:
        toy.lies = [1.0, 1.0]
        torch.mm(*factors())
    (finding,) = g.findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "twice" in finding.message


def test_a_launch_that_fails_leaves_the_call_to_the_host(toy: Toy) -> None:
    toy.fails = True
    with guard() as g:
        wrong = torch.mm(*factors())
    assert wrong is not None
    assert g.coverage.guard_errors == 1
    (covered,) = [op for op in g.coverage.ops if op.op == "aten.mm"]
    assert covered.witnesses == {"replay": 1, "reference": 1}


def test_memory_that_is_held_is_bounded(toy: Toy) -> None:
    a_MK, b_KN = factors()
    one_call_bytes = 4 * (8 * 6 + 6 * 5 + 8 * 5)
    with guard(witnesses=("kernel",), memory_budget=2 * one_call_bytes) as g:
        most = 0
        for _ in range(9):
            a_MK @ b_KN
            most = max(most, g._pipeline.device.checks._held_bytes)
    assert toy.launched == 9
    assert most <= 3 * one_call_bytes


def test_a_reading_that_fails_is_counted_and_training_goes_on(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(records: Tensor) -> list[object]:
        raise RuntimeError("device lost")

    monkeypatch.setattr("sdc_guard.check.device._read", broken)
    with guard(witnesses=("kernel",)) as g:
        torch.mm(*factors())
        torch.mm(*factors())
    assert g.coverage.guard_errors == 1
    assert not g._pipeline.device.checks.has_pending


def test_a_weight_is_summed_once_in_a_step(toy: Toy) -> None:
    a_MK, b_KN = factors()
    with guard(witnesses=("kernel",)):
        for _ in range(3):
            a_MK @ b_KN
    assert len(set(map(id, toy.remembered))) == 1


def test_a_kernel_that_sees_nothing_is_dead() -> None:
    with installed() as toy:
        toy.lies = [0.0] * 10
        assert not selftest.kernel_is_alive(torch.device("cpu"))
        toy.lies = [1.0] * 10
        assert not selftest.kernel_is_alive(torch.device("cpu"))
        toy.lies = []
        assert selftest.kernel_is_alive(torch.device("cpu"))


def test_a_dead_kernel_is_not_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdc_guard.device_witness.kernel_is_alive", lambda device: False)
    with installed() as toy, guard() as g:
        torch.mm(*factors())
    assert toy.launched == 0
    assert g.coverage.dead_witnesses == ("kernel",)
    (covered,) = [op for op in g.coverage.ops if op.op == "aten.mm"]
    assert covered.witnesses == {"replay": 1, "reference": 1}


def test_a_transient_fault_below_the_guard_is_named(toy: Toy) -> None:
    a_MK, b_KN = factors()
    flip = TransientFlip(torch.ops.aten.mm.default, 1, flat_index=7, bit=28)
    with guard(witnesses=("kernel",)) as g, flip:
        for _ in range(3):
            a_MK @ b_KN
    (finding,) = g.findings
    assert finding.verdict is Verdict.CORRUPTION
    assert finding.op == "aten.mm.default"


@pytest.mark.parametrize(("argument", "words"), [
    ({"kernels": "sometimes"}, "kernels='sometimes': give one of auto, always, never"),
    ({"witnesses": ("rerun",)}, "witnesses=('rerun',): give a tuple of names from replay"),
    ({"witnesses": "kernel"}, "witnesses='kernel': give a tuple"),
])
def test_errors_show_the_value_and_what_is_possible(
    argument: dict[str, object], words: str
) -> None:
    with pytest.raises(sdc_guard.UsageError) as error:
        sdc_guard.Guard(**argument)  # type: ignore[arg-type]
    assert words in str(error.value)


def test_an_operator_that_writes_to_a_sparse_tensor_is_no_error(toy: Toy) -> None:
    sparse = torch.eye(3).to_sparse()
    with guard(witnesses=("kernel",)) as g:
        wrong_once(*factors())
        sparse.mul_(2.0)
    assert g.coverage.guard_errors == 0
    assert len(g.findings) == 1
