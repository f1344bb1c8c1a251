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
from tests.shares import one_of_each

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
        chosen = {"lr": 1e-2, **({"max_iter": 3} if name == "LBFGS" else {}), **options}
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
    """Fused SGD of half numbers skips whole vectors and reads momenta behind the end of their
    memory (pytorch issue 191763)."""
    return name == "SGD" and bool(options.get("fused")) and dtype is torch.bfloat16


def beyond_a_rerun(coverage: sdc_guard.Coverage) -> float:
    """Share of the checked calls that were checked by more than a repetition."""
    reruns = sum(op.witnesses.get("rerun", 0) for op in coverage.ops)
    return 1 - reruns / max(coverage.calls_checked, 1)


def test_the_list_is_that_of_torch() -> None:
    assert len(OPTIMIZERS) >= 14
    assert {"LBFGS", "SparseAdam", "Muon", "AdamW", "SGD", "Adafactor"} <= set(OPTIMIZERS)
    assert len(CASES) >= 400


def without_its_format(case: Any) -> str:
    """The optimizer, its form and its options."""
    return str(case.id).rsplit(" ", 1)[0]


@pytest.mark.parametrize(("name", "options", "dtype"), one_of_each(CASES, without_its_format))
def test_nothing_changes_and_nothing_is_found(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    plain, watched = Run(name, options, dtype), Run(name, options, dtype)
    sdc_guard.wrap(watched.model, budget="all")
    for i in range(NUM_STEPS):
        plain.step(i)
        watched.step(i)
    guard = watched.model.sdc_guard
    assert guard.coverage.guard_errors == 0
    assert watched.error == plain.error
    if torch_is_wrong(name, options, dtype):
        assert guard.findings
        assert {str(f.op) for f in guard.findings} <= {
            "aten._fused_sgd_.default", "aten._fused_sgd_.tensor_lr"}
        assert all(f.verdict is sdc_guard.Verdict.CORRUPTION for f in guard.findings)
        return
    assert not guard.findings
    assert watched.state() == plain.state()
    if not plain.error:
        assert guard.coverage.calls_checked > 0
        assert beyond_a_rerun(guard.coverage) == 1.0


def exponent_bit(dtype: torch.dtype) -> int:
    return {torch.float32: 27, torch.bfloat16: 11, torch.float64: 58}[dtype]


def results_of_the_step(name: str, options: dict[str, Any], dtype: torch.dtype) -> list[CallShape]:
    """The last call of each op of the third step that writes numbers of the format and has a file;
    without the draws of a batch, and without the dense sum with a sparse update, which is a kernel
    of the sparse backend that no fault reaches."""
    run = Run(name, options, dtype)
    run.step(0)
    run.step(1)
    if name == "LBFGS":
        calls = record_calls(lambda: run.step(2))
    else:
        run.optimizer.zero_grad()
        run.backward(2)
        calls = record_calls(run.optimizer.step)
    fitting = [c for c in calls if any(c.outputs[i].dtype is dtype for i in c.drawable)
               and lookup(form_of(c.op).packet) is not None and not form_of(c.op).seeded
               and not (name == "SparseAdam" and c.op is torch.ops.aten.add_.Tensor)]
    return list({c.op: c for c in fitting}.values())


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    one_of_each((c for c in CASES if set(c.values[1]) <= {"foreach", "fused"}
                 and not torch_is_wrong(*c.values)), lambda case: case.values[0]))
def test_a_flipped_bit_of_a_step_is_found(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    """In the first and the last result of each kernel of the step; of fused ones in every list, the
    parameters and the states."""
    calls = results_of_the_step(name, options, dtype)
    assert calls
    for call in calls:
        fitting = [i for i in call.drawable if call.outputs[i].dtype is dtype]
        every = fitting if "_fused_" in str(call.op) else (fitting[0], fitting[-1])
        for output in dict.fromkeys(every):
            run = Run(name, options, dtype)
            sdc_guard.wrap(run.model, budget="all")
            run.step(0)
            run.step(1)
            fault = TransientFlip(call.op, call.ordinal, output, 0, exponent_bit(dtype),
                                  counts="user")
            if name == "LBFGS":
                with fault:
                    run.step(2)
            else:
                run.optimizer.zero_grad()
                run.backward(2)
                with fault:
                    run.optimizer.step()
            guard = run.model.sdc_guard
            assert fault.injected, fault
            assert any(f.held_is_wrong for f in guard.findings), fault
            sdc_guard.unwrap(run.model)


def hypergradients(name: str, dtype: torch.dtype) -> list[Tensor]:
    """Parameters after steps that are differentiated, and the gradients through them.  (The second
    step of Adamax changes what the first one saved, so that torch refuses to go back.)"""
    leaves = [p.detach().clone().requires_grad_() for p in Net(dtype).parameters()]
    parameters = [p.clone() for p in leaves]
    optimizer = getattr(torch.optim, name)(parameters, lr=1e-2, differentiable=True)
    for i in range(1 if name == "Adamax" else 2):
        generator = torch.Generator().manual_seed(i)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step()
    loss = sum((p.square().sum() for p in parameters), start=torch.zeros((), dtype=dtype))
    return [*(p.detach() for p in parameters), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize(
    ("name", "dtype"), one_of_each([(n, d) for n in DIFFERENTIABLE for d in DTYPES],
                                   lambda case: f"{case[0]} differentiable"), ids=str)
def test_a_differentiable_step_is_clean(name: str, dtype: torch.dtype) -> None:
    plain = hypergradients(name, dtype)
    with sdc_guard.Guard(budget="all") as guard:
        watched = hypergradients(name, dtype)
    assert bits_of({"x": watched}) == bits_of({"x": plain})
    assert not guard.findings
    assert guard.coverage.guard_errors == 0
    assert beyond_a_rerun(guard.coverage) == 1.0
