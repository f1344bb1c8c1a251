"""Tensors and transforms that the guard cannot look into, or has to take apart first: the results
are the same bits, nothing is found, nothing fails, and coverage says what was not tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import sdc_guard
from tests.fidelity.models import bits_of
from tests.guard.training import Run, batch, flip, hit

aten = torch.ops.aten


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def watched(fn: Callable[[], Any]) -> tuple[Any, sdc_guard.Guard]:
    with sdc_guard.Guard(budget="all") as guard:
        result = fn()
    assert guard.findings == [], [f.message for f in guard.findings]
    assert guard.coverage.guard_errors == 0, list(guard._events.events)
    return result, guard


def reasons(guard: sdc_guard.Guard) -> set[str]:
    return {reason for op in guard.coverage.ops for reason in op.not_tested}


def checked(guard: sdc_guard.Guard) -> set[str]:
    return {op.op for op in guard.coverage.ops if op.calls_checked}


COMPOSITES: dict[str, tuple[Callable[[], Tensor], set[str]]] = {
    "linear": (lambda: F.linear(numbers(3, 5), numbers(4, 5, seed=1), numbers(4, seed=2)),
               {"aten.addmm"}),
    "linear-3d": (lambda: F.linear(numbers(2, 3, 5), numbers(4, 5, seed=1)), {"aten.mm"}),
    "matmul": (lambda: torch.matmul(numbers(2, 3, 5), numbers(2, 5, 4, seed=1)), {"aten.bmm"}),
    "einsum": (lambda: torch.einsum("bij,bjk->bik", numbers(2, 3, 4), numbers(2, 4, 5, seed=1)),
               {"aten.bmm"}),
    "sdpa": (lambda: F.scaled_dot_product_attention(
        numbers(2, 2, 6, 8), numbers(2, 2, 6, 8, seed=1), numbers(2, 2, 6, 8, seed=2)), set()),
    "sdpa-causal": (lambda: F.scaled_dot_product_attention(
        numbers(2, 2, 6, 8), numbers(2, 2, 6, 8, seed=1), numbers(2, 2, 6, 8, seed=2),
        is_causal=True), set()),
    "layer-norm": (lambda: F.layer_norm(numbers(3, 8), (8,), numbers(8, seed=1)),
                   {"aten.native_layer_norm"}),
    "softmax": (lambda: F.softmax(numbers(3, 8), -1), {"aten._softmax"}),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_inference_mode_is_taken_apart_and_checked(name: str) -> None:
    fn, ops = COMPOSITES[name]
    with torch.inference_mode():
        expected = fn()
        result, guard = watched(fn)
    assert result.is_inference()
    assert bits_of(result) == bits_of(expected)
    assert ops <= checked(guard)
    assert guard.coverage.calls_checked >= 1


def test_a_fault_in_inference_mode_is_found() -> None:
    layer = nn.Linear(5, 4)
    with (torch.inference_mode(), sdc_guard.Guard(budget="all") as guard,
          hit(flip_in_kernel(aten.addmm.default))):
        layer(numbers(3, 5))
    assert [f.op for f in guard.findings] == ["aten.addmm.default"]


def flip_in_kernel(op: Any) -> Any:
    from sdc_guard.inject.faults import TransientFlip

    return TransientFlip(op, 0, 0, 1, 27, counts="kernel")


def per_sample_gradients() -> Any:
    model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(numbers(*p.shape, seed=i))
    parameters = {k: v.detach() for k, v in model.named_parameters()}
    x, y = batch(0)

    def loss(parameters: Any, x: Tensor, y: Tensor) -> Tensor:
        out = torch.func.functional_call(model, parameters, (x.unsqueeze(0),))
        return F.cross_entropy(out, y.unsqueeze(0))

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "vmap": lambda: torch.func.vmap(lambda a, b: (a @ b).sum())(numbers(4, 3, 5),
                                                              numbers(4, 5, 2, seed=1)),
    "grad": lambda: torch.func.grad(lambda x: F.gelu(x).sum())(numbers(3, 4)),
    "jvp": lambda: torch.func.jvp(lambda x: torch.tanh(x @ x.T), (numbers(3, 4),),
                                  (numbers(3, 4, seed=1),)),
    "hessian": lambda: torch.func.hessian(lambda x: (x * x).exp().sum())(numbers(3)),
    "vmap-of-grad": per_sample_gradients,
}


# Torch's own rules for jvp are torch.jit.script functions.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_function_transforms(name: str) -> None:
    expected = TRANSFORMS[name]()
    result, guard = watched(TRANSFORMS[name])
    assert bits_of(result) == bits_of(expected)
    assert guard.coverage.calls_checked >= 1


# torch.export's own tracer uses torch.jit.script_method while it is imported.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_a_wrapped_model_is_exported_as_a_plain_one(strict: bool) -> None:
    def export(run: Run) -> Any:
        return torch.export.export(run.model.eval(), (batch(0)[0],), strict=strict)

    def nodes(program: Any) -> list[str]:
        return [f"{n.op} {n.target}" for n in program.graph.nodes]

    run, plain = Run(), Run()
    sdc_guard.wrap(run.model, budget="all")
    guard = run.model.sdc_guard
    program, expected = export(run), export(plain)
    assert nodes(program) == nodes(expected)
    assert guard.findings == []
    assert guard.coverage.guard_errors == 0
    run.model.train()
    run.step(0)
    plain.model.train()
    plain.step(0)
    assert run.state() == plain.state()
    assert bits_of(program.module()(batch(1)[0])) == bits_of(expected.module()(batch(1)[0]))


class Scaled(Tensor):
    """A wrapper subclass: a payload, and a scale that is applied where it is used."""

    @staticmethod
    def __new__(cls, payload: Tensor, scale: float) -> Any:
        return Tensor._make_wrapper_subclass(cls, payload.shape, dtype=payload.dtype)

    def __init__(self, payload: Tensor, scale: float) -> None:
        self.payload, self.scale = payload, scale

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = torch.utils._pytree.tree_map(
            lambda a: a.payload * a.scale if isinstance(a, Scaled) else a, args)
        return func(*plain, **(kwargs or {}))


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse-coo": (lambda: (numbers(4, 4).to_sparse() * 2.0).to_dense(), "layout sparse_coo"),
    "sparse-mm": (lambda: torch.sparse.mm(torch.eye(4).to_sparse(), numbers(4, 3)), ""),
    "complex": (lambda: torch.complex(numbers(3, 4), numbers(3, 4, seed=1)) * 2j, ""),
    "complex-mm": (lambda: torch.complex(numbers(3, 4), numbers(3, 4, seed=1))
                   @ torch.complex(numbers(4, 2), numbers(4, 2, seed=1)), ""),
    "conjugated": (lambda: torch.complex(numbers(3), numbers(3, seed=1)).conj().imag + 1.0, ""),
    "meta": (lambda: (torch.empty(3, 4, device="meta") @ torch.empty(4, 5, device="meta")).shape,
             "device meta"),
    "empty-mm": (lambda: numbers(0, 4) @ numbers(4, 3), ""),
    "empty-inner": (lambda: numbers(3, 0) @ numbers(0, 2), ""),
    "empty-sum": (lambda: numbers(0, 3).sum(0), ""),
    "empty-pointwise": (lambda: F.gelu(numbers(0, 3)) + 1.0, ""),
    "empty-softmax": (lambda: F.softmax(numbers(0, 3), -1), ""),
    "empty-cat": (lambda: torch.cat([numbers(0, 3), numbers(2, 3)]), ""),
    "zero-dim": (lambda: numbers(1)[0] * 2.0 + 1.0, ""),
    "quantized": (lambda: torch.quantize_per_tensor(numbers(3, 4), 0.1, 0, torch.quint8)
                  .dequantize(), ""),
    "subclass": (lambda: Scaled(numbers(3, 4), 2.0) @ numbers(4, 2, seed=1), ""),
    "float8": (lambda: numbers(4, 4).to(torch.float8_e4m3fn).to(torch.float32), ""),
    "expanded": (lambda: numbers(3, 1).expand(3, 5).sum(1) + numbers(1).expand(3), ""),
    "nan-and-inf": (lambda: (numbers(3, 4) / 0.0).sum(1) + torch.tensor(float("nan")), ""),
    "subnormal": (lambda: (numbers(3, 4) * 1e-40) @ numbers(4, 2, seed=1), ""),
}


# torch announces that quantized tensors are deprecated and sparse CSR tensors are young.
@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore:.*quantiz.*")
@pytest.mark.parametrize("name", ODD)
def test_odd_tensors_are_fine_or_not_tested(name: str) -> None:
    fn, reason = ODD[name]
    expected = fn()
    result, guard = watched(fn)
    assert bits_of(result) == bits_of(expected)
    if reason:
        assert reason in reasons(guard)
    elif name.startswith("empty"):
        made = [op for op in guard.coverage.ops if not op.op.startswith("aten.rand")]
        assert [op.elements_checked for op in made] == [op.elements for op in made]


def test_ops_below_a_subclass_are_checked() -> None:
    _, guard = watched(lambda: Scaled(numbers(3, 4), 2.0) @ numbers(4, 2, seed=1))
    assert "aten.mm" in checked(guard)


def test_fake_tensors_pass_through() -> None:
    def shapes() -> Any:
        with FakeTensorMode() as mode:
            layer = nn.Linear(4, 3)
            out = layer(torch.empty(2, 4, requires_grad=True))
            out.sum().backward()
            converted = mode.from_tensor(numbers(3, 4)) @ mode.from_tensor(numbers(4, 2))
        return tuple(out.shape), tuple(layer.weight.grad.shape), tuple(converted.shape)

    expected = shapes()
    result, guard = watched(shapes)
    assert result == expected
    assert guard.coverage.calls_checked == guard.coverage.calls == 2 or reasons(guard)


def test_a_fake_mode_around_the_guard_is_fine() -> None:
    with FakeTensorMode():
        result, _ = watched(lambda: nn.Linear(4, 3)(torch.empty(2, 4)).shape)
    assert tuple(result) == (2, 3)


def test_a_wrapped_model_may_hold_odd_buffers_and_parameters() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("phases", torch.zeros(3, dtype=torch.complex64))
            self.register_buffer("none", torch.zeros(0))
            self.register_buffer("wide", torch.zeros(2).unsqueeze(1).expand(2, 3))
            self.head = nn.Linear(6, 4)
            self.twist = nn.Parameter(torch.ones(4, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (self.head(x) * self.twist).real

    run, plain = Run(model=Odd()), Run(model=Odd())
    sdc_guard.wrap(run.model, budget="all", on_finding="skip")
    run.step(0)
    plain.step(0)
    assert run.state() == plain.state()
    before = run.state()
    with hit(flip(aten.addmm.default)):
        run.step(1)
    assert run.state() == before
    assert run.model.sdc_guard.coverage.guard_errors == 0
