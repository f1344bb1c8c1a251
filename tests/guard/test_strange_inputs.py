"""Layouts, aliasing and tensor kinds that kernels rarely see: equal bits, nothing found, nothing
failed, and coverage says what was not tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sdc_guard
from sdc_guard import bits
from sdc_guard.inject.misread import MisreadElement
from tests.fidelity.models import bits_of
from tests.shares import one_of_each

aten = torch.ops.aten


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(result: Any) -> Any:
    """Results in forms that have bits."""
    if isinstance(result, Tensor):
        if result.is_nested:
            return [bits_of(t) for t in result.unbind()]
        if result.layout is not torch.strided:
            return bits_of(result.to_dense())
        return bits_of(result.dequantize() if result.is_quantized else result)
    if isinstance(result, (tuple, list)):
        return [whole(r) for r in result]
    return result


def compare(fn: Callable[[], Any]) -> sdc_guard.Guard:
    """``fn`` twice without and five times with one guard: relations take turns."""
    expected = whole(fn())
    assert whole(fn()) == expected
    guard = sdc_guard.Guard(budget="all")
    for _ in range(5):
        with guard:
            got = fn()
        assert whole(got) == expected
    assert [f.message for f in guard.findings] == []
    assert guard.coverage.guard_errors == 0, list(guard._events.events)
    return guard


def misaligned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory that begins one element behind a 64 byte border, for half formats at 2 bytes."""
    count = int(torch.tensor(shape).prod())
    return numbers(count + 1, dtype=dtype)[1:].view(*shape)


LAYOUTS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "transposed": lambda d: numbers(13, 17, dtype=d).t(),
    "expanded row": lambda d: numbers(1, 13, dtype=d).expand(17, 13),
    "expanded column": lambda d: numbers(17, 1, dtype=d).expand(17, 13),
    "expanded scalar": lambda d: numbers(1, dtype=d).expand(17, 13),
    "every other": lambda d: numbers(34, 26, dtype=d)[::2, ::2],
    "offset": lambda d: numbers(20, 20, dtype=d)[3:, 7:],
    "misaligned": lambda d: misaligned(17, 13, dtype=d),
    "overlapping": lambda d: numbers(40, dtype=d).as_strided((17, 13), (1, 1)),
    "overlapping windows": lambda d: numbers(60, dtype=d).unfold(0, 13, 2),
    "flipped": lambda d: numbers(17, 13, dtype=d).flip(0, 1),
    "one column": lambda d: numbers(17, 1, dtype=d),
    "one row": lambda d: numbers(1, 13, dtype=d),
    "empty": lambda d: numbers(0, 13, dtype=d),
    "size-one strides": lambda d: numbers(13, dtype=d).as_strided((1, 13), (7, 1)),
}

PROGRAMS: dict[str, Callable[[Tensor], Any]] = {
    "pointwise": lambda x: [x + 1, x * x, x.exp(), F.gelu(x), x.abs().sqrt(), x > 0],
    "reductions": lambda x: [x.sum(), x.sum(0), x.sum(1), x.mean(1), x.logsumexp(1), x.norm()],
    "orders": lambda x: [x.cumsum(1), x.sort(1), x.cumsum(0)],
    "rows": lambda x: [F.softmax(x, 1), F.layer_norm(x, x.shape[1:]), x.log_softmax(0)],
    "products": lambda x: [x @ x.t(), x.t() @ x, torch.addmm(x.sum(1), x, x.t())],
    "copies": lambda x: [x.clone(), x.contiguous(), torch.cat([x, x]), x.to(torch.float64),
                         x.flip(0), x.tril(), F.pad(x, (1, 2))],
    "indexing": lambda x: [x[:, torch.tensor([0, 0])], x.index_select(1, torch.tensor([0])),
                           x.masked_fill(x > 0, 2.0), torch.where(x > 0, x, 0.0)],
    "in place": lambda x: [x.clone().add_(1).mul_(2).relu_(), x.clone().clamp_(-1, 1)],
}


@pytest.mark.parametrize(("layout", "dtype"), one_of_each(
    [(layout, dtype) for layout in LAYOUTS
     for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)],
    lambda case: str(case[0])), ids=str)
def test_layouts(layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout](dtype)
    for program in PROGRAMS.values():
        compare(lambda program=program: program(x))


def test_gradients_through_layouts() -> None:
    for make in LAYOUTS.values():
        def both(make: Callable[[torch.dtype], Tensor] = make) -> Any:
            x = make(torch.float32).clone().requires_grad_()
            loss = F.gelu(F.layer_norm(x.t().t() * 2, x.shape[1:])).sum() + x.softmax(0).sum()
            return torch.autograd.grad(loss, x)

        compare(both)


VALUES: dict[str, list[float]] = {
    "nan": [float("nan"), 1.0, -2.0], "inf": [float("inf"), 1.0], "both inf": [float("inf"),
    float("-inf")], "subnormal": [1e-40, -3e-42, 1.4e-45], "signed zeros": [0.0, -0.0],
    "largest": [3.4028e38, -3.4028e38], "huge and tiny": [1e38, 1e-38, 1.0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("values", VALUES)
def test_values_at_the_edge_of_the_format(values: str, dtype: torch.dtype) -> None:
    some = torch.tensor(VALUES[values], dtype=torch.float64).to(dtype)
    x = some.repeat(17 * 13)[: 17 * 13].view(17, 13)
    for program in PROGRAMS.values():
        compare(lambda program=program: program(x))


def out_forms() -> dict[str, Callable[[], Any]]:
    x, y = numbers(6, 6), numbers(6, 6, seed=1)

    def strided() -> Tensor:
        out = numbers(6, 12)[:, ::2]
        return torch.add(x, y, out=out)

    def transposed() -> Tensor:
        return torch.mm(x, y, out=torch.empty(6, 6).t())

    def aliasing() -> Tensor:
        z = x.clone()
        return torch.mul(z, y, out=z)

    def a_part_of_an_input() -> Any:
        z = numbers(12, 6)
        torch.add(z[:6], 1.0, out=z[6:])
        return z

    def resized() -> Tensor:
        return torch.sum(x, 1, out=torch.empty(0))

    def other_dtype() -> Tensor:
        return torch.add(x, y, out=torch.empty(6, 6, dtype=torch.float64))

    def overlapping_copy() -> Tensor:
        z = numbers(30)
        z[5:].copy_(z[:-5].clone())
        return z

    def its_own_transpose() -> Tensor:
        z = x.clone()
        return z.add_(z.t().clone()).mul_(z)

    def in_a_view() -> Tensor:
        z = numbers(4, 6, 6)
        z[1].t().addcmul_(x, y, value=0.5)
        z[:, 2].zero_()
        return z

    return {f.__name__: f for f in (strided, transposed, aliasing, a_part_of_an_input, resized,
                                    other_dtype, overlapping_copy, its_own_transpose, in_a_view)}


@pytest.mark.parametrize("name", out_forms())
def test_out_forms_and_aliases(name: str) -> None:
    guard = compare(out_forms()[name])
    assert guard.coverage.calls_checked


def nested(layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor([numbers(3, 4), numbers(5, 4, seed=1)], layout=layout)


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse csr": (lambda: numbers(4, 4).relu().to_sparse_csr() @ numbers(4, 3), "layout"),
    "sparse coo gradient": (lambda: _embedding_gradient(), ""),
    "nested strided": (lambda: nested(torch.strided) * 2.0, "nested"),
    "nested jagged": (lambda: nested(torch.jagged) * 2.0, ""),
    "quantized": (lambda: torch.quantize_per_tensor(numbers(3, 4), 0.1, 0, torch.qint8), "dtype"),
    "functional": (lambda: torch.func.functionalize(lambda x: x.clone().add_(1).mul_(2))(
        numbers(3, 4)), ""),
    "functional gradient": (lambda: torch.func.functionalize(torch.func.grad(
        lambda x: (x.clone().mul_(2) @ x.t()).sum()))(numbers(3, 4)), ""),
    "jacrev": (lambda: torch.func.jacrev(lambda x: F.softmax(x, 0))(numbers(5)), ""),
    "jacfwd": (lambda: torch.func.jacfwd(lambda x: torch.tanh(x) * x.sum())(numbers(5)), ""),
    "vmap of conv": (lambda: torch.func.vmap(lambda x, w: F.conv1d(x[None], w)[0])(
        numbers(3, 2, 9), numbers(3, 4, 2, 3, seed=1)), ""),
    "chunked vmap": (lambda: torch.func.vmap(lambda x: x.sort().values, chunk_size=2)(
        numbers(5, 7)), ""),
    "linearize": (lambda: torch.func.linearize(torch.sin, numbers(4))[1](numbers(4, seed=1)), ""),
    "no grad": (lambda: _inside_no_grad(), ""),
    "inference": (lambda: _inside_inference(), ""),
    "double backward": (lambda: _double_backward(), ""),
}


def _embedding_gradient() -> Tensor:
    weight = numbers(7, 3).requires_grad_()
    F.embedding(torch.tensor([1, 1, 5]), weight, sparse=True).sum().backward()
    assert weight.grad is not None
    return weight.grad.coalesce()


def _inside_no_grad() -> Any:
    weight = numbers(4, 4).requires_grad_()
    with torch.no_grad():
        weight.mul_(0.5).add_(1)
        result = weight @ weight
    return [result, weight.detach(), (weight * 2).sum().detach()]


def _inside_inference() -> Any:
    with torch.inference_mode():
        return F.gelu(numbers(3, 4)) @ numbers(4, 2)


def _double_backward() -> Any:
    x = numbers(6).requires_grad_()
    (g,) = torch.autograd.grad((x.exp() * x.sin()).sum(), x, create_graph=True)
    return torch.autograd.grad((g * g).sum(), x)


# Torch announces that nested, quantized and CSR tensors are young or old; its rules for jvp are
# torch.jit.script functions.
@pytest.mark.filterwarnings("ignore::UserWarning",
                            "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_tensors_and_transforms(name: str) -> None:
    fn, reason = KINDS[name]
    guard = compare(fn)
    counted = [r for op in guard.coverage.ops for r in op.not_tested]
    assert not reason or any(reason in r for r in counted), counted
    assert reason or guard.coverage.calls_checked


@pytest.mark.parametrize("layout", ["transposed", "every other", "misaligned", "overlapping"])
def test_a_misread_element_is_found_in_every_layout(layout: str) -> None:
    x = LAYOUTS[layout](torch.float32)
    other = numbers(17, 13, seed=1)
    fault = MisreadElement(aten.mul.Tensor, (0,), "dropped", shape=tuple(x.shape),
                           flat_index=x.numel() // 2)
    other = other if x.shape == other.shape else other.t()
    guard = sdc_guard.Guard(budget="all")
    for _ in range(3):
        with guard, fault:
            x * other
        if guard.findings:
            break
    assert guard.findings[0].verdict is sdc_guard.Verdict.CORRUPTION
    assert bits.is_dense(x) or layout != "transposed"
