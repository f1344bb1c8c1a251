"""What happens between the launch of a kernel check and its reading loses no doubt, costs no memory
and is seen by nobody."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import sdc_guard
from sdc_guard import Verdict, device_witness
from sdc_guard.check import device, reference
from sdc_guard.inject import Stuck, TransientFlip
from tests.guard.test_device_checks import factors, wrong_once
from tests.guard.toy_kernel import Toy, installed

FLOPS = 2 * 8 * 6 * 5


class Same(torch.autograd.Function):
    """Its node is a Python object, whose end can be seen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.setattr(device_witness, "kernel_is_alive", lambda device: True)
    with installed() as found:
        yield found


def guard(**options: Any) -> sdc_guard.Guard:
    return sdc_guard.Guard(budget="all", kernels="always", witnesses=("kernel",), **options)


def test_a_first_launch_in_inference_mode_blinds_no_later_reading(toy: Toy) -> None:
    with guard() as g:
        with torch.inference_mode():
            torch.mm(*factors())
        wrong_once(*factors())
        assert [f.verdict for f in g.findings] == [Verdict.CORRUPTION]
    assert g.coverage.guard_errors == 0


def test_a_reading_between_operators_is_seen_by_no_mode(toy: Toy) -> None:
    a_MK, b_KN = factors()
    with guard() as g, FlopCounterMode(display=False) as counted:
        wrong_once(a_MK, b_KN)
        assert g.findings
    assert counted.get_total_flops() == FLOPS
    assert {op.op: op.calls for op in g.coverage.ops} == {"aten.mm": 1}


def test_a_reading_before_a_step_is_seen_by_no_mode(toy: Toy) -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    with guard() as g, FlopCounterMode(display=False) as counted:
        wrong_once(*factors())
        optimizer.step()
    assert len(g.findings) == 1
    assert counted.get_total_flops() == FLOPS


@pytest.mark.parametrize("change", [
    lambda a, b, product: setattr(b, "data", torch.ones(3, 3)),
    lambda a, b, product: setattr(b, "data", torch.ones(6, 5)),
    lambda a, b, product: setattr(product, "data", torch.ones(3, 3)),
], ids=["an operand of another shape", "an operand of the same shape", "the result"])
def test_other_memory_for_a_tensor_takes_nothing_from_the_witness(
    toy: Toy, change: Callable[[Tensor, Tensor, Tensor], None]
) -> None:
    with guard() as g:
        a_MK, b_KN = factors()
        product = wrong_once(a_MK, b_KN)
        change(a_MK, b_KN, product)
    (finding,) = g.findings
    assert finding.verdict is Verdict.CORRUPTION
    assert finding.worst is not None
    assert finding.worst.index == (3, 2)
    assert g.coverage.guard_errors == 0


def test_memory_that_is_freed_under_a_tensor_leaves_the_doubt_open(toy: Toy) -> None:
    with guard() as g:
        a_MK, b_KN = factors()
        wrong_once(a_MK, b_KN)
        b_KN.untyped_storage().resize_(0)
    (finding,) = g.findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "written to since" in finding.message


def test_a_doubt_outlives_a_failure_to_look_closer(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> list[object]:
        raise MemoryError("no room for a reference")

    monkeypatch.setattr(device_witness, "reference_at", broken)
    with guard() as g:
        wrong_once(*factors())
    (finding,) = g.findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "no room for a reference" in finding.message
    assert g.coverage.guard_errors == 1


def test_no_autograd_graph_lives_longer(toy: Toy) -> None:
    a_MK, b_KN = factors()
    with guard() as g:
        activation_MK = Same.apply(a_MK.requires_grad_())
        node = weakref.ref(activation_MK.grad_fn)
        product = activation_MK @ b_KN
        del activation_MK, product
        assert g._pipeline.device.checks.has_pending
        assert node() is None


def test_what_a_failed_launch_has_noted_is_read_for_no_other_call(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy.run

    def fails_late(*args: Any) -> None:
        run(*args)
        raise RuntimeError("out of memory after the first kernel")

    with guard() as g:
        monkeypatch.setattr(toy, "run", fails_late)
        wrong_once(*factors())
        toy.run = run  # type: ignore[method-assign]
        torch.mm(factors()[0], torch.ones(6, 7))  # another site
    assert g._pipeline.device.withdrawn == 0
    assert not g.findings


def test_a_list_of_any_length_is_judged() -> None:
    gradients = [torch.full((2,), float(i)) for i in range(40)]
    flip = TransientFlip(torch.ops.aten._foreach_norm.Scalar, 0, output=33, flat_index=0, bit=28)
    with guard() as g:
        torch._foreach_norm(gradients)
        assert not g.findings
        with flip:
            torch._foreach_norm(gradients)
    assert g.coverage.guard_errors == 0
    assert [f.verdict for f in g.findings] == [Verdict.CORRUPTION]


def test_more_records_than_a_block_holds_are_read(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "NUM_RECORDS", 3)
    records = device._Records(torch.device("cpu"))
    for i in range(8):
        records.next()[1] = i
    assert [v.num_over for v in records.read()] == list(range(8))
    records.next()[1] = 5
    first = records.num_used
    for _ in range(7):
        records.next()[1] = 1
    records.take_back(first)
    assert records.next().tolist() == [0, 0]
    assert [v.num_over for v in records.read()] == [5, 0]
    assert records.next().tolist() == [0, 0]


def test_kernels_that_cannot_be_launched_are_tried_once(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def broken(where: torch.device) -> bool:
        tried.append(where)
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(device_witness, "kernel_is_alive", broken)
    with sdc_guard.Guard(budget="all", kernels="always") as g:
        for _ in range(3):
            torch.mm(*factors())
    assert len(tried) == 1
    assert g.coverage.guard_errors == 1
    assert g.coverage.dead_witnesses == ("kernel",)


@pytest.mark.parametrize("write", [
    lambda a, b, result: torch.mm(a, b, out=result),
    lambda a, b, result: result.addmm_(a, b),
], ids=["out=", "in-place"])
def test_a_call_that_overwrites_is_not_taken_for_a_later_write(
    write: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> None:
    a_MK, b_KN = factors()
    result = torch.zeros(8, 5)
    with guard() as g:
        for op in (torch.ops.aten.mm.out, torch.ops.aten.addmm_.default):
            with TransientFlip(op, 0, flat_index=7, bit=28):
                write(a_MK, b_KN, result)
    assert {f.verdict for f in g.findings} == {Verdict.CORRUPTION}


def test_gradients_of_a_first_layer_are_judged() -> None:
    x = torch.ones(2, 3, 5, 5)
    with guard() as g:
        for layer, images in ((nn.Conv2d(3, 4, 3), x), (nn.LayerNorm(5), x)):
            layer(images).sum().backward()
    assert g.coverage.guard_errors == 0
    by_op = {op.op: op for op in g.coverage.ops}
    assert by_op["aten.convolution_backward"].witnesses == {"kernel sample": 1}
    assert by_op["aten.native_layer_norm_backward"].witnesses == {"kernel reference": 1}


@pytest.mark.parametrize("with_grad", [True, False])
def test_a_doubt_of_an_evaluation_counts_against_no_step(toy: Toy, with_grad: bool) -> None:
    model = nn.Linear(5, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def step() -> None:
        model(torch.ones(8, 5)).sum().backward()
        optimizer.step()

    with guard(on_finding="skip", model=model) as g:
        step()
        with torch.set_grad_enabled(with_grad):
            wrong_once(*factors())
        step()
    assert [f.verdict for f in g.findings] == [Verdict.CORRUPTION]
    assert g.coverage.steps_skipped == with_grad


def test_a_doubt_of_an_evaluation_raises_all_the_same(toy: Toy) -> None:
    model = nn.Linear(5, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with guard(on_finding="raise", model=model):
        model(torch.ones(8, 5)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            wrong_once(*factors())
        with pytest.raises(sdc_guard.CorruptionDetected):
            model(torch.ones(8, 5))


def test_a_guard_within_a_guard_reads_under_the_lock_of_the_outer_one(toy: Toy) -> None:
    with guard() as outer, guard() as inner:
        lock: Any = outer._mode.locked()
        owned = []
        outer._pipeline.device.settle = (  # type: ignore[method-assign]
            lambda: owned.append(lock._is_owned()))
        assert not inner.findings
        assert owned == [True]


def test_nothing_is_launched_or_read_while_a_graph_is_captured(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_MK, b_KN = factors()
    with guard() as g:
        product = wrong_once(a_MK, b_KN)
        with monkeypatch.context() as patched:
            patched.setattr(torch.cuda, "is_initialized", lambda: True)
            patched.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            a_MK @ b_KN
            torch.zeros(8, 5).add_(product)
            assert not g.findings
        assert toy.launched == 1
        assert [f.verdict for f in g.findings] == [Verdict.CORRUPTION]
    (covered,) = [op for op in g.coverage.ops if op.op == "aten.mm"]
    assert covered.not_tested == {"recorded in a CUDA graph, whose replays are not seen": 1}


@pytest.mark.parametrize("stays", [False, True])
def test_a_result_too_large_for_the_host_is_made_again(
    monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """Transient: the call, repeated, tells.  Persistent: nobody can, and that is said."""
    monkeypatch.setattr(reference, "LARGE_WORK", 50)
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
    op = torch.ops.aten.linalg_vector_norm.default
    fault = Stuck(op, lane=0, lanes=1, bit=28) if stays else TransientFlip(
        op, 0, flat_index=0, bit=28)
    with guard() as g, fault:
        torch.linalg.vector_norm(x)
        assert g.findings
    (finding,) = g.findings
    wanted = Verdict.INCONCLUSIVE if stays else Verdict.CORRUPTION
    assert finding.verdict is wanted
    assert ("too large for the host" in finding.message) == stays


@pytest.mark.gpu
def test_a_graph_is_captured_and_replayed_under_a_guard() -> None:
    x = torch.ones(32, 32, device="cuda")
    total = torch.zeros(32, 32, device="cuda")
    with sdc_guard.Guard(budget="all") as g:
        total += x @ x
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            total += x @ x
        graph.replay()
    torch.cuda.synchronize()
    assert total.unique().tolist() == [64.0]
    assert g.coverage.guard_errors == 0
    assert not g.findings
