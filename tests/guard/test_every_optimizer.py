"""Every optimizer of ``torch.optim`` in all its forms, in three formats: the guard changes nothing,
raises no false alarm, and sees a flipped bit in what a step writes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdc_guard
from sdc_guard.calls import form_of
from sdc_guard.inject.campaign import CallShape, record_calls
from sdc_guard.inject.faults import TransientFlip
from sdc_guard.ops import lookup
from tests.fidelity.models import bits_of

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
OPTIMIZERS = sorted(
    name for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer)
SWITCHES = ("amsgrad", "centered", "decoupled_weight_decay", "maximize", "nesterov")
MORE = {
    "SGD": [{"momentum": 0.9, "dampening": 0.2}, {"momentum": 0.9}],
    "RMSprop": [{"momentum": 0.9, "centered": True, "weight_decay": 0.1}],
    "LBFGS": [{"max_iter": 3, "history_size": 2, "line_search_fn": "strong_wolfe"}],
    "Adagrad": [{"lr_decay": 0.1, "initial_accumulator_value": 0.5}],
    "Muon": [{"ns_steps": 2, "adjust_lr_fn": "match_rms_adamw"}],
}
TORCH_IS_WRONG = "fused SGD of half numbers skips whole vectors (pytorch issue 191763)"
NUM_STEPS = 4


def variants(name: str) -> Iterator[dict[str, Any]]:
    known = inspect.signature(getattr(torch.optim, name)).parameters
    yield {}
    if "weight_decay" in known:
        yield {"weight_decay": 0.1}
    for switch in SWITCHES:
        if switch in known:
            yield {switch: True, **({"weight_decay": 0.1} if "decoupled" in switch else {}),
                   **({"momentum": 0.9} if switch == "nesterov" else {})}
    yield {"lr": "tensor"}
    if "capturable" in known:
        yield {"capturable": True}
    yield from MORE.get(name, [])


def forms(name: str) -> Iterator[dict[str, bool]]:
    known = inspect.signature(getattr(torch.optim, name)).parameters
    yield {"foreach": False} if "foreach" in known else {}
    for form in ("foreach", "fused"):
        if form in known:
            yield {form: True}


def label(options: dict[str, Any]) -> str:
    return " ".join(k if v is True else f"{k}={v}" for k, v in options.items()) or "plain"


CASES = [pytest.param(name, {**form, **variant}, dtype, id=f"{name} {label({**form, **variant})} "
                      f"{str(dtype).removeprefix('torch.')}")
         for name in OPTIMIZERS for form in forms(name) for variant in variants(name)
         for dtype in DTYPES]
DIFFERENTIABLE = [n for n in OPTIMIZERS
                  if "differentiable" in inspect.signature(getattr(torch.optim, n)).parameters]


class Net(nn.Module):
    """Weights longer and shorter than a vector, a transposed one, a single value and an unused
    one."""

    def __init__(self, dtype: torch.dtype, transposed: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def draw(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)

        self.up = nn.Parameter(draw(6, 40))
        self.down = nn.Parameter(draw(4, 40).t() if transposed else draw(40, 4))
        self.bias = nn.Parameter(draw(4))
        self.scale = nn.Parameter(draw())
        self.idle = nn.Parameter(draw(3))

    def forward(self, x: Tensor) -> Tensor:
        return ((x @ self.up).tanh() @ self.down + self.bias) * self.scale


class Matrices(nn.Module):
    """For Muon, which takes nothing but matrices."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.up = nn.Parameter(torch.randn(6, 9, generator=generator).to(dtype))
        self.down = nn.Parameter(torch.randn(9, 4, generator=generator).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.up).tanh() @ self.down


class Rows(nn.Module):
    """For SparseAdam, which takes nothing but sparse gradients."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(16, 4, generator=generator).to(dtype)
        self.rows = nn.Embedding.from_pretrained(rows, freeze=False, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows((x[:, 0].abs() * 8).long() % 16)


class Run:
    """A model in training; ``error`` is what an optimizer that cannot do this says."""

    def __init__(self, name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
        kind = {"Muon": Matrices, "SparseAdam": Rows}.get(name, Net)
        # LBFGS takes the views of its gradients that a transposed one has not.
        self.model = Net(dtype, transposed=False) if name == "LBFGS" else kind(dtype)
        self.dtype = dtype
        self.error = ""
        self.losses: list[Tensor] = []
        chosen = {"lr": 1e-2, **options}
        if chosen["lr"] == "tensor":
            chosen["lr"] = torch.tensor(1e-2)
        self.name = name
        try:
            self.optimizer = getattr(torch.optim, name)(self.model.parameters(), **chosen)
        except (ValueError, RuntimeError) as error:
            self.error = str(error)

    def backward(self, i: int) -> Tensor:
        generator = torch.Generator().manual_seed(100 + i)
        x = torch.randn(5, 6, generator=generator, dtype=torch.float64).to(self.dtype)
        loss = self.model(x).square().mean()
        loss.backward()
        return loss

    def step(self, i: int) -> None:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            return self.backward(i)

        if self.error:
            return
        try:
            if self.name == "LBFGS":
                self.losses.append(self.optimizer.step(closure).detach())
            else:
                self.losses.append(closure().detach())
                self.optimizer.step()
        except (AssertionError, RuntimeError, NotImplementedError) as error:
            self.error = str(error)

    def state(self) -> Any:
        held = {} if not hasattr(self, "optimizer") else self.optimizer.state_dict()
        return self.error, bits_of({"model": dict(self.model.state_dict()), "optimizer": held,
                                    "losses": self.losses})


def torch_is_wrong(name: str, options: dict[str, Any], dtype: torch.dtype) -> bool:
    return name == "SGD" and bool(options.get("fused")) and dtype is torch.bfloat16


def trained(name: str, options: dict[str, Any], dtype: torch.dtype) -> tuple[Run, Run]:
    """A plain run, and one that is checked wherever it can be."""
    plain, watched = Run(name, options, dtype), Run(name, options, dtype)
    sdc_guard.wrap(watched.model, budget="all")
    for i in range(NUM_STEPS):
        plain.step(i)
        watched.step(i)
    return plain, watched


def beyond_a_rerun(coverage: sdc_guard.Coverage) -> float:
    """Share of the checked calls that were checked by more than a repetition."""
    reruns = sum(op.witnesses.get("rerun", 0) for op in coverage.ops)
    return 1 - reruns / max(coverage.calls_checked, 1)


@pytest.mark.parametrize(("name", "options", "dtype"), CASES)
def test_nothing_changes_and_nothing_is_found(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    plain, watched = trained(name, options, dtype)
    guard = watched.model.sdc_guard
    assert watched.state() == plain.state()
    assert guard.coverage.guard_errors == 0
    if torch_is_wrong(name, options, dtype):
        assert {f.op for f in guard.findings} <= {"aten._fused_sgd_.default",
                                                  "aten._fused_sgd_.tensor_lr"}
    else:
        assert not guard.findings
    if not plain.error:
        assert guard.coverage.calls_checked > 0
        least = 0.5 if name == "SparseAdam" else 1.0
        assert beyond_a_rerun(guard.coverage) >= least
