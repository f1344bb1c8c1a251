"""The public door and the example in its docstring; classes, phases, and whose a call is."""

from __future__ import annotations

import doctest
import threading
from typing import Any

import pytest
import torch
from torch import nn

import sdc_guard
from sdc_guard import inject
from sdc_guard.inject.campaign import record_calls
from sdc_guard.inject.classes import CLASSES, op_class
from sdc_guard.inject.phases import Phases
from sdc_guard.inject.trigger import CHECKER, INNER, Watch
from sdc_guard.ops import all_specs

aten = torch.ops.aten


def test_inject_is_a_public_name() -> None:
    assert sdc_guard.inject is inject
    assert "inject" in dir(sdc_guard)
    for name in inject.__all__:
        assert getattr(inject, name) is not None
    assert {"record_calls", "MODELS", "FaultModel", "Target", "draw"} <= set(inject.__all__)


def test_the_example_runs(caplog: pytest.LogCaptureFixture) -> None:
    result = doctest.testmod(inject)
    assert result.failed == 0
    assert result.attempted > 15
    # Of findings of one kind the first is told, and the tenth.
    assert sum(m.startswith("corruption in aten.") for m in caplog.messages) >= 10


@pytest.mark.parametrize(("op", "phase", "want"), [
    (aten.mm.default, "", "product"), (aten.convolution_backward.default, "", "convolution"),
    (aten._scaled_dot_product_flash_attention_for_cpu.default, "", "attention"),
    (aten._log_softmax.default, "", "softmax and loss"),
    (aten.nll_loss_forward.default, "", "softmax and loss"),
    (aten.native_layer_norm.default, "", "norm"), (aten.sum.dim_IntList, "", "reduction"),
    (aten.gelu.default, "forward", "pointwise"), (aten.mul_.Tensor, "backward", "pointwise"),
    (aten.mul_.Tensor, "optimizer", "optimizer"), (aten.lerp_.Scalar, "optimizer", "optimizer"),
    (aten._foreach_addcmul_.Scalar, "optimizer", "optimizer"), (aten.mm.default, "optimizer",
                                                                "product"),
    (aten._fused_adamw_.default, "", "optimizer"), (aten.clone.default, "", "copy and layout"),
    (aten.embedding.default, "", "indexing"), (aten.bernoulli_.float, "", "random draw"),
    (aten.native_dropout.default, "", "random draw"),
    (aten._thnn_fused_lstm_cell.default, "", "recurrent and other"),
    (aten._fft_r2c.default, "", "recurrent and other"), (None, "", "none"),
], ids=str)
def test_classes_of_operators(op: Any, phase: str, want: str) -> None:
    assert op_class(op, phase) == want


def test_every_checked_operator_is_in_a_class() -> None:
    found = set()
    for spec in all_specs():
        namespace, _, name = spec.packet.partition(".")
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is not None:
            found |= {op_class(getattr(packet, o)) for o in packet.overloads()}
    assert found == set(CLASSES)


def test_phases_of_calls_and_what_came_in() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)

    def step() -> None:
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        torch.ones(1)

    step()
    calls = record_calls(step)
    phases = {(str(c.op), c.phase) for c in calls}
    assert {("aten.addmm.default", "forward"), ("aten.mm.default", "backward"),
            ("aten.ones.default", "forward"), ("aten.add_.Tensor", "optimizer")} <= phases
    addmm = next(c for c in calls if c.op is aten.addmm.default)
    assert [(o.path, o.shape, o.strides) for o in addmm.operands] == [
        ((0,), (2,), (1,)), ((1,), (4, 3), (3, 1)), ((2,), (3, 2), (1, 3))]
    from torch.optim import optimizer as hooks
    assert not hooks._global_optimizer_pre_hooks
    assert not hooks._global_optimizer_post_hooks


def test_a_step_that_ends_with_an_exception_ends_its_phase_with_the_watch() -> None:
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)

    def closure() -> float:
        raise ZeroDivisionError

    phases = Phases()
    with phases:
        with pytest.raises(ZeroDivisionError):
            optimizer.step(closure)
        assert phases.now == "optimizer"
    with phases:
        assert phases.now == "forward"


def test_a_watch_tells_whose_an_execution_is() -> None:
    watch = Watch(aten.add.Tensor)
    seen: list[int] = []

    class Below(inject.KernelOverride):
        def __init__(self) -> None:
            super().__init__(aten.add.Tensor, lambda info, results: seen.append(watch.whose()))

    with Below():
        with watch:
            torch.ones(1) + 1
            torch.ones(1) + 1
            other = threading.Thread(target=lambda: torch.ones(1) + 1)
            other.start()
            other.join()
        torch.ones(1) + 1
    assert seen == [0, 1, CHECKER, CHECKER]
    assert watch.num_calls == 2
    assert INNER not in seen
