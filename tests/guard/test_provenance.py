"""Findings name the module and the user's own source line, in every phase of a step."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sdc_guard
from sdc_guard.inject.campaign import record_calls
from tests.guard.training import flip, hit

aten = torch.ops.aten
HERE = Path(__file__)


def line_of(mark: str) -> str:
    """``file:line`` of the line of this file that ends in ``# <mark>``."""
    (number,) = [n for n, line in enumerate(HERE.read_text().splitlines(), start=1)
                 if line.endswith(f"# {mark}")]
    return f"{HERE}:{number}"


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)  # up
        h = F.gelu(h)  # gelu
        ignored = torch.ones(3) + 1.0
        assert ignored is not None
        return self.down(h)  # down


class Block(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mlp = Mlp()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)  # norm
        if self.reentrant is None:
            return x + self.mlp(y)  # residual
        return x + checkpoint(self.mlp, y, use_reentrant=self.reentrant)  # checkpointed


class Model(nn.Module):
    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(reentrant) for _ in range(2))
        self.scale = nn.Parameter(torch.ones(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)  # block
        x = x * self.scale.expand(x.shape[0], 8)  # scale
        return self.loss(x)

    def loss(self, x: Tensor) -> Tensor:
        return (x * x).sum()  # square


def make(reentrant: bool | None = None) -> tuple[Model, torch.optim.Optimizer, Callable[[], None]]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = Model(reentrant)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def step() -> None:
        model(x).backward()  # backward
        optimizer.step()  # step

    return model, optimizer, step


def finding_of(fault: Any, reentrant: bool | None = None, budget: Any = "all") -> Any:
    model, _, step = make(reentrant)
    sdc_guard.wrap(model, budget=budget)
    step()
    with hit(fault):
        step()
    (finding,) = model.sdc_guard.findings
    sdc_guard.unwrap(model)
    return finding


def ordinal_of(op: Any, holds: Callable[[Any], bool], reentrant: bool | None = None) -> list[int]:
    """Ordinals of the calls of ``op`` in a step whose first output satisfies ``holds``."""
    _, _, step = make(reentrant)
    step()
    return [c.ordinal for c in record_calls(step) if c.op is op and holds(c.outputs[0])]


@pytest.mark.parametrize(("op", "number", "module", "mark"), [
    (aten.native_layer_norm.default, 0, "blocks.0.norm", "norm"),
    (aten.addmm.default, 0, "blocks.0.mlp.up", "up"),
    (aten.addmm.default, 3, "blocks.1.mlp.down", "down"),
    (aten.gelu.default, 1, "blocks.1.mlp", "gelu"),
    (aten.add.Tensor, 1, "blocks.0", "residual"),
    (aten.mul.Tensor, 0, "Model", "scale"),
    (aten.sum.default, 0, "Model", "square"),
], ids=str)
def test_forward(op: Any, number: int, module: str, mark: str) -> None:
    finding = finding_of(flip(op, number, flat_index=0))
    assert (finding.call.phase, finding.module) == ("forward", module)
    assert finding.source == line_of(mark)


@pytest.mark.parametrize(("op", "number", "module", "mark"), [
    (aten.native_layer_norm_backward.default, 1, "blocks.0.norm", "norm"),
    (aten.gelu_backward.default, 0, "blocks.1.mlp", "gelu"),
    (aten.gelu_backward.default, 1, "blocks.0.mlp", "gelu"),
    (aten.mm.default, 0, "blocks.1.mlp.down", "down"),
    (aten.mm.default, 3, "blocks.1.mlp.up", "up"),
    (aten.mm.default, 7, "blocks.0.mlp.up", "up"),
    (aten.sum.dim_IntList, 0, "Model", "scale"),
    (aten.sum.dim_IntList, 1, "blocks.1.mlp.down", "down"),
], ids=str)
def test_backward_names_the_place_of_its_forward(
    op: Any, number: int, module: str, mark: str
) -> None:
    finding = finding_of(flip(op, number, flat_index=0))
    assert (finding.call.phase, finding.module) == ("backward", module)
    assert finding.source == line_of(mark)


def test_optimizer() -> None:
    finding = finding_of(flip(aten.mul_.Tensor, 3, flat_index=0))
    assert (finding.call.phase, finding.module) == ("optimizer", "optimizer")
    assert finding.source == line_of("step")


def test_accumulation_into_a_gradient_names_the_parameters_module() -> None:
    finding = finding_of(flip(aten.add_.Tensor, 1, flat_index=0))
    assert (finding.call.phase, finding.module) == ("backward", "blocks.1.mlp.down")
    assert finding.source == line_of("backward")


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_activation_checkpointing(reentrant: bool) -> None:
    """Forward runs once without gradients or with hooks, and again inside backward."""
    ups = ordinal_of(aten.addmm.default, lambda out: out.shape == (5, 12), reentrant)
    assert len(ups) == 4
    for number, module in zip(ups, ["blocks.0.mlp.up", "blocks.1.mlp.up",
                                    "blocks.1.mlp.up", "blocks.0.mlp.up"], strict=True):
        finding = finding_of(flip(aten.addmm.default, number, flat_index=0), reentrant)
        assert (finding.call.phase, finding.module) == ("forward", module)
        assert finding.source == line_of("up")
    for number, module in ((0, "blocks.1.mlp"), (1, "blocks.0.mlp")):
        finding = finding_of(flip(aten.gelu_backward.default, number, flat_index=0), reentrant)
        assert (finding.call.phase, finding.module) == ("backward", module)
        assert finding.source == line_of("gelu")
    for number, module in ((0, "blocks.1.norm"), (1, "blocks.0.norm")):
        finding = finding_of(
            flip(aten.native_layer_norm_backward.default, number, flat_index=0), reentrant)
        assert (finding.call.phase, finding.module) == ("backward", module)
        assert finding.source == line_of("norm")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2.0  # custom forward

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2.0  # custom backward


def test_custom_functions() -> None:
    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Doubled.apply(x).sum()

    model = Custom()
    x = torch.ones(3, requires_grad=True)
    for number, phase, mark in ((0, "forward", "custom forward"),
                                (1, "backward", "custom forward")):
        sdc_guard.wrap(model, budget="all")
        with hit(flip(aten.mul.Tensor, number)):
            model(x).backward()
        (finding,) = model.sdc_guard.findings
        assert (finding.call.phase, finding.module) == (phase, "Custom")
        assert finding.source == line_of(mark)
        sdc_guard.unwrap(model)


def test_double_backward_names_the_first_forward() -> None:
    layer = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
    x = torch.ones(2, 4, requires_grad=True)
    sdc_guard.wrap(layer, budget="all")
    loss = layer(x).sum()  # twice
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    with hit(flip(aten.mm.default)):
        slope.sum().backward()
    (finding,) = layer.sdc_guard.findings
    assert finding.call.phase == "backward"
    assert finding.module in ("0", "2")
    assert finding.source == line_of("twice")


def test_threads_do_not_mix_up_their_places() -> None:
    """Sequence numbers of autograd count from 0 on each thread."""
    model = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
    x = torch.ones(2, 4)
    with sdc_guard.Guard(budget="all", model=model) as guard:
        ready, go = threading.Event(), threading.Event()

        def other() -> None:
            with guard:
                loss = model["b"](x).sum()
                ready.set()
                go.wait(300)
                with hit(flip(aten.mm.default)):
                    loss.backward()

        thread = threading.Thread(target=other)
        thread.start()
        ready.wait(300)
        for _ in range(3):
            loss = model["a"](x).sum()
        go.set()
        thread.join(300)
        with hit(flip(aten.mm.default)):
            loss.backward()
    assert [f.module for f in guard.findings] == ["b", "a"]


def test_code_outside_any_module_names_its_line() -> None:
    weight = torch.ones(4, 3, requires_grad=True)
    with sdc_guard.Guard(budget="all") as guard:
        with hit(flip(aten.mm.default)):
            loss = (torch.ones(2, 4) @ weight).sum()  # bare
        with hit(flip(aten.mm.default)):
            loss.backward()
    assert [f.module for f in guard.findings] == ["?", "?"]
    assert [f.call.phase for f in guard.findings] == ["forward", "backward"]
    assert {f.source for f in guard.findings} == {line_of("bare")}


def test_the_marks_are_real_lines() -> None:
    source = inspect.getsource(Mlp)
    assert "# gelu" in source
    with pytest.raises(ValueError, match="not enough values"):
        line_of("no such " + "mark")
