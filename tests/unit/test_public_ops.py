"""``sdc_guard.checked``: what a user may give, what comes of it, and what is said of mistakes."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdc_guard
from sdc_guard import bounds, pipeline
from sdc_guard.errors import DuplicateOp, UsageError
from sdc_guard.ops import _registry, lookup, packet_name
from sdc_guard.records import Verdict
from tests.meta.tree import ROOT

Array = np.ndarray


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone afterwards."""
    _registry.discover()
    for name in ("_SPECS", "_OWNERS"):
        monkeypatch.setattr(_registry, name, dict(getattr(_registry, name)))


def guarded(run: Callable[[], Any], num_calls: int = 1) -> sdc_guard.Guard:
    guard = sdc_guard.Guard(budget="all")
    with guard:
        for _ in range(num_calls):
            run()
    assert guard.coverage.guard_errors == 0
    return guard


def verdicts(guard: sdc_guard.Guard) -> list[Verdict]:
    return [f.verdict for f in guard.findings]


def normalized(x: Array, weight: Array) -> Array:
    """x / |x| * weight, row by row."""
    return x / np.sqrt((x * x).sum(-1, keepdims=True)) * weight


def launcher(name: str, error: float = 0.0, **options: Any) -> Any:
    """A correct operator, or one whose first row is off by a relative ``error``."""

    def rows(x: Tensor, weight: Tensor) -> Tensor:
        y = (x.double() / x.double().norm(dim=-1, keepdim=True) * weight.double())
        y[:1] *= 1 + error
        return y.to(x.dtype)

    options = {"reference": normalized, "operands": ("m n", "n"), "outputs": ("m .",), **options}
    return sdc_guard.checked(name=f"test_public::{name}", **options)(rows)


def operands(dtype: torch.dtype = torch.float32, rows: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(rows, 37, generator=generator).to(dtype),
            torch.randn(37, generator=generator).to(dtype))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_derived_bound_passes_a_right_call_and_catches_a_wrong_one(dtype: torch.dtype) -> None:
    x, weight = operands(dtype)
    tag = str(dtype).rpartition(".")[2]
    right, wrong = launcher(f"right_{tag}"), launcher(f"wrong_{tag}", error=0.04)
    guard = guarded(lambda: right(x, weight), 3)
    assert not guard.findings
    assert guard.coverage.ops[0].witnesses["reference"] == 3
    guard = guarded(lambda: wrong(x, weight))
    assert verdicts(guard) == [Verdict.CORRUPTION]
    worst = guard.findings[0].worst
    assert worst is not None
    assert worst.index[0] == 0


def test_a_bound_is_put_together_from_blocks() -> None:
    def dots(x: Tensor, weight: Tensor) -> Tensor:
        total = torch.zeros(x.shape[0])
        for k in reversed(range(x.shape[1])):
            total = total + x[:, k].float() * weight[k].float()
        return total.to(x.dtype)

    def short(x: Tensor, weight: Tensor) -> Tensor:
        return (x[:, 1:].float() @ weight[1:].float()).to(x.dtype)

    def twice(x: Tensor, weight: Tensor) -> Tensor:
        return 2 * dots(x, weight)

    terms = bounds.sum_any_order(lambda x, weight: x * weight, roundings=1)
    doubled = 2 * terms + bounds.roundings(1) + bounds.stored()
    cases: list[tuple[Any, Any, Any, list[Verdict]]] = [
        (dots, lambda x, weight: x @ weight, terms + bounds.stored(), []),
        (short, lambda x, weight: x @ weight, terms + bounds.stored(), [Verdict.CORRUPTION]),
        (twice, lambda x, weight: 2 * (x @ weight), doubled, []),
    ]
    for function, reference, bound, found in cases:
        op = sdc_guard.checked(
            reference=reference, operands=("m n", "n"), outputs=("m",), bound=bound,
            name=f"test_public::dots_{function.__name__}")(function)
        for dtype in (torch.float32, torch.bfloat16):
            x, weight = operands(dtype)
            assert verdicts(guarded(lambda op=op, x=x, w=weight: op(x, w))) == found


def test_a_function_gives_the_bound_and_its_docstring_the_words() -> None:
    def own(x: Array, weight: Array) -> Array:
        """Nine roundings, counted by hand."""
        return 9 * 2.0**-24 * np.abs(normalized(x, weight))

    x, weight = operands()
    assert not guarded(lambda: launcher("own_right", bound=own)(x, weight)).findings
    guard = guarded(lambda: launcher("own_wrong", error=1e-4, bound=own)(x, weight))
    assert verdicts(guard) == [Verdict.CORRUPTION]
    assert "Nine roundings, counted by hand." in guard.findings[0].message


@pytest.mark.parametrize("error", [1e-3, 100.0])
def test_a_limit_in_ulps_is_a_precision_finding_however_wrong(error: float) -> None:
    x, weight = operands()
    wrong = launcher(f"ulps_{error:.0f}", error=error, bound=bounds.ulps(8))
    guard = guarded(lambda: wrong(x, weight), 3)
    assert set(verdicts(guard)) == {Verdict.PRECISION}
    assert "8 ulp, declared" in guard.findings[0].message
    assert not guarded(
        lambda: launcher(f"ulps_ok_{error:.0f}", bound=bounds.ulps(8))(x, weight)).findings


def test_a_tighter_declared_limit_sees_less_error() -> None:
    x, weight = operands()
    wrong = launcher("ulps_small", error=2.0**-20, bound=bounds.ulps(4))
    wide = launcher("ulps_wide", error=2.0**-20, bound=bounds.ulps(64))
    assert verdicts(guarded(lambda: wrong(x, weight))) == [Verdict.PRECISION]
    assert not guarded(lambda: wide(x, weight)).findings


def test_several_results_and_arguments_that_are_written_to() -> None:
    def both(x: Array, total: Array) -> tuple[Array, Array]:
        return total + x.sum(-1), np.abs(x).max(-1)

    def right(x: Tensor, total: Tensor) -> Tensor:
        total += x.double().sum(-1).to(total.dtype)
        return x.abs().amax(-1)

    def wrong(x: Tensor, total: Tensor) -> Tensor:
        total += 1.01 * x.sum(-1)
        return x.abs().amax(-1)

    x = operands()[0]
    for function, found in ((right, []), (wrong, [Verdict.CORRUPTION])):
        op = sdc_guard.checked(
            reference=both, operands=("m n", "m"), outputs=("m", "m"), mutates_args=("total",),
            name=f"test_public::both_{function.__name__}")(function)
        total = torch.ones(5)
        guard = guarded(lambda op=op, total=total: op(x, total))
        assert verdicts(guard) == found
        if not found:
            assert ((total - 1) / x.sum(-1) - 1).abs().max() < 1e-4


def test_an_integer_result_is_exact() -> None:
    def right(x: Tensor) -> Tensor:
        return (x > 0).sum(-1)

    def wrong(x: Tensor) -> Tensor:
        return (x >= 0).sum(-1) + (x[:, 0] > 100)

    def positive(x: Array) -> Array:
        return np.where(x > 0, 1, 0).sum(-1)

    x = operands()[0]
    x[2, 3] = 0.0
    for function, found in ((right, []), (wrong, [Verdict.CORRUPTION])):
        op = sdc_guard.checked(reference=positive, operands=("m n",), outputs=("m",),
                               name=f"test_public::int_{function.__name__}")(function)
        assert verdicts(guarded(lambda op=op: op(x))) == found


def test_an_operator_of_one_s_own_and_an_optional_operand() -> None:
    @torch.library.custom_op("test_public::scaled", mutates_args=())
    def scaled(x: Tensor, scale: Tensor | None, by: float = 2.0) -> Tensor:
        return x * by if scale is None else x * scale * by

    def in_numpy(x: Array, scale: Array | None, by: float) -> Array:
        return x * by if scale is None else x * scale * by

    same = sdc_guard.checked(
        reference=in_numpy, operands=("m n", "n"), outputs=("m n",))(scaled)
    assert same is scaled
    x, scale = operands()
    guard = guarded(lambda: (scaled(x, scale), scaled(x, None, by=0.1)))
    assert not guard.findings
    spec = lookup("test_public.scaled")
    assert spec is not None
    assert [s.name for s in spec.symmetries] == ["split m", "split n", "rerun"]  # type: ignore[union-attr]
    assert guard.coverage.ops[0].calls_checked == 2


def test_a_gradient_and_a_fake_may_be_registered() -> None:
    op = launcher("with_grad")
    op.register_autograd(lambda ctx, grad: (grad, None))
    op.register_fake(lambda x, weight: torch.empty_like(x))
    x, weight = operands()
    x.requires_grad_()

    def step() -> None:
        op(x, weight).sum().backward()

    guard = guarded(step)
    assert not guard.findings
    assert x.grad is not None
    compiled = torch.compile(lambda x, w: op(x, w) + 1, backend="eager", fullgraph=True)
    found: list[Tensor] = []
    guard = guarded(lambda: found.append(compiled(x.detach(), weight)))
    assert torch.equal(found[0], op(x.detach(), weight) + 1)
    assert guard.coverage.ops[0].op in ("aten.add", "test_public.with_grad")


def test_a_list_of_tensors_is_a_list_of_arrays() -> None:
    def right(parts: list[Tensor], scale: float) -> Tensor:
        return torch.stack(list(parts)).sum(0) * scale

    def wrong(parts: list[Tensor], scale: float) -> Tensor:
        return torch.stack(list(parts[1:])).sum(0) * scale

    def total(parts: list[Array], scale: float) -> Array:
        return sum(parts[1:], parts[0]) * scale

    x = operands()[0]
    for function, found in ((right, []), (wrong, [Verdict.CORRUPTION])):
        op = sdc_guard.checked(reference=total, operands=("m n",), outputs=("m n",),
                               name=f"test_public::list_{function.__name__}")(function)
        assert verdicts(guarded(lambda op=op: op([x, 2 * x, x.flip(0)], 0.1))) == found


def test_large_calls_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "REFERENCE_WORK", 400)
    op, (x, weight) = launcher("large"), operands(rows=100)
    guard = guarded(lambda: op(x, weight))
    assert [c.witnesses.get("sample") for c in guard.coverage.ops] == [1]
    assert not guard.findings


def test_calls_are_drawn_from_the_operands() -> None:
    op = launcher("drawn", dtypes=(torch.float32, torch.float64))
    spec = lookup(packet_name(op))
    assert spec is not None
    assert spec.samples is not None
    generator = torch.Generator().manual_seed(1)
    drawn = spec.samples(generator, torch.float64)
    assert len(drawn) > 2
    for overload, args, kwargs in drawn:
        x, weight = args
        assert x.dtype is weight.dtype is torch.float64
        assert x.shape[1:] == weight.shape
        assert overload(*args, **kwargs).shape == x.shape
    assert len({a[0].shape for _, a, _ in drawn}) > 1
    assert not spec.samples(generator, torch.bfloat16)

    def picked(x: Tensor, index: Tensor, times: int) -> Tensor:
        return x[index] * times

    pick = sdc_guard.checked(
        reference=lambda x, index, times: x[index] * times, operands=("m n", "k: int64"),
        outputs=("k n",), name="test_public::picked")(picked)
    spec = lookup(packet_name(pick))
    assert spec is not None
    assert spec.samples is not None
    _, args, _ = spec.samples(generator, torch.float32)[0]
    assert args[1].dtype is torch.int64
    assert args[2] == 1
    x, index = operands()[0], torch.tensor([3, 0, 0])
    assert not guarded(lambda: pick(x, index, 3)).findings


def test_a_shape_that_the_axes_do_not_fit_is_told(caplog: pytest.LogCaptureFixture) -> None:
    op = launcher("three_axes")
    x, weight = operands()
    with sdc_guard.Guard(budget="all") as guard:
        op(x[None], weight)
    assert guard.coverage.guard_errors == 1
    assert "'m n' names 2 axes, x has 3 dimensions" in caplog.text or (
        "'m .' names 2 axes, result 0 has 3 dimensions" in caplog.text)


def test_blocks_are_loaded_when_they_are_used() -> None:
    code = """
import sys
import sdc_guard
from sdc_guard import bounds
assert sdc_guard.bounds is bounds and "ulps" in bounds.__all__
assert not {"torch", "numpy"} & set(sys.modules)
assert all(getattr(bounds, name) for name in bounds.__all__)
assert "triton" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=ROOT)


def plain(x: Tensor) -> Tensor:
    return x + 1


@pytest.mark.parametrize(("options", "message"), [
    ({"operands": "m n"}, r"axes are a tuple of strings, one for each tensor: \('m n',\)"),
    ({"operands": ("m m",)}, "'m m' names an axis twice"),
    ({"operands": ("m: int65",)}, "torch has no dtype 'int65'"),
    ({"operands": ("m", "n")}, r"operands has 2 strings, the function takes 1 tensors \(x\)"),
    ({"bound": 3.0}, r"bound=3.0 is no function, no block.*bounds.ulps\(4\)"),
    ({"bound": bounds.ulps}, None),
    ({"reference": lambda x: np.sort(x)}, "derived through np.sort: .*bounds.ulps"),
    ({"reference": lambda x: (x, x)}, "returns 2 results, the operator 1"),
    ({"mutates_args": ("y",)}, "cannot become an operator"),
])
def test_a_mistake_is_said_where_it_is_made(
    options: dict[str, Any], message: str | None, request: pytest.FixtureRequest
) -> None:
    number = zlib.crc32(request.node.name.encode())
    given = {"reference": lambda x: x + 1, "operands": ("m",), **options}
    if message is None:
        sdc_guard.checked(name=f"test_public::mistake_{number}", **given)(plain)
        return
    with pytest.raises(UsageError, match=message):
        sdc_guard.checked(name=f"test_public::mistake_{number}", **given)(plain)


def test_the_same_name_twice_leaves_the_first_as_it_was() -> None:
    first = launcher("twice")
    with pytest.raises(DuplicateOp, match=r"test_public::twice already; give .*another name="):
        launcher("twice", error=1.0)
    x, weight = operands()
    assert not guarded(lambda: first(x, weight)).findings


def test_no_annotations_is_said() -> None:
    with pytest.raises(UsageError, match=r"cannot become an operator: .*x"):
        sdc_guard.checked(reference=lambda x: x, operands=("m",), name="test_public::bare")(
            lambda x: x)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: bounds.ulps(0), "the limit must be positive"),
    (lambda: bounds.ulps(3) + bounds.stored(), "a limit of its own"),
    (lambda: bounds.stored() + 3, "only blocks are added to a block, not 3"),
])
def test_blocks_that_make_no_sense(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_several_ulps_are_still_no_proof() -> None:
    x, weight = operands()
    wrong = launcher("times_ulps", error=1.0, bound=2 * bounds.ulps(4))
    assert verdicts(guarded(lambda: wrong(x, weight))) == [Verdict.PRECISION]


def test_the_matrix_product_block_holds_for_any_order() -> None:
    def product(a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros(a.shape[0], b.shape[1])
        for k in reversed(range(a.shape[1])):
            total = total + a[:, k:k + 1] * b[k:k + 1]
        return total

    def wrong(a: Tensor, b: Tensor) -> Tensor:
        return a[:, 1:] @ b[1:]

    limit = bounds.matrix_product(lambda a, b: a, lambda a, b: b) + bounds.stored()
    x, _ = operands()
    for function, found in ((product, []), (wrong, [Verdict.CORRUPTION])):
        op = sdc_guard.checked(
            reference=lambda a, b: a @ b, operands=("m k", "k n"), outputs=("m n",), bound=limit,
            name=f"test_public::mm_{function.__name__}")(function)
        assert verdicts(guarded(lambda op=op: op(x, x.t().contiguous()))) == found
