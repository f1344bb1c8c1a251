"""Sampled elements of convolutions: exact on whole numbers, silent on aten, and altered copies."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc_guard.bounds.convolution import dot_bound
from sdc_guard.ops import _kernel_convolution as adapter
from sdc_guard.ops._convolutions import adds_products
from sdc_guard.ops.convolution import backward_samples, samples
from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import sampled_convolution as module
from sdc_guard_kernels.sampled_convolution import Factors, Window
from sdc_guard_kernels.verdict import Verdict, new_records, read
from tests.kernels.offered import bound, drawn, flipped, judged, off_by, on_device, some_slow

EXACT = Factors(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e300)
DTYPES = (torch.float32, torch.bfloat16, pytest.param(torch.float64, marks=pytest.mark.slow),
          pytest.param(torch.float16, marks=pytest.mark.slow))
aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "NUM_SAMPLES", 8)


def whole(*shape: int, seed: int = 1, largest: int = 9) -> Tensor:
    """Whole numbers, of which float64 makes exact sums of products in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).double()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels before images": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "space reversed": lambda x: x.permute(*reversed(range(x.dim()))).contiguous().permute(
        *reversed(range(x.dim()))),
    "every second of a larger one": lambda x: torch.stack((x, x + 77), -1).flatten(-2)[..., ::2],
    "one image for all": lambda x: x[:1].expand(x.shape),
}


def forward(x: Tensor, w: Tensor, b: Tensor | None, *rest: Any) -> Tensor:
    return aten.convolution.default(x.contiguous(), w.contiguous(), b, *rest)


def forward_verdict(
    out: Tensor, x: Tensor, w: Tensor, b: Tensor | None, rest: tuple[Any, ...], *,
    kernels: Any = module, factors: Factors = EXACT, num_samples: int = 10**6, seed: int = 1,
) -> Verdict:
    stride, padding, dilation, transposed, _, groups = rest
    window = Window(tuple(w.shape[2:]), stride, padding, dilation)
    plan = kernels.plan_sums(out, x, w, b, window, groups, factors, scattered=transposed,
                             num_samples=num_samples)
    record = new_records(1, out.device)
    kernels.check_samples(plan, out, x, w, b, record[0], seed)
    return read(record)[0]


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], bool, tuple[Any, ...]]] = {
    "1d": ((2, 3, 7), (4, 3, 3), True, ([2], [1], [1], False, [0], 1)),
    "2d": ((2, 4, 5, 4), (6, 2, 3, 2), False, ([1, 2], [2, 0], [2, 1], False, [0, 0], 2)),
    "3d": ((1, 2, 3, 4, 3), (2, 2, 2, 3, 1), True, ([1, 2, 1], [1, 0, 0], [1, 1, 2], False,
                                                  [0, 0, 0], 1)),
    "long": ((1, 70, 4), (2, 70, 3), False, ([1], [1], [1], False, [0], 1)),
    "transposed": ((2, 4, 3, 4), (4, 3, 3, 2), True, ([2, 3], [1, 0], [1, 2], True, [1, 0], 2)),
    "transposed 1d": ((1, 3, 5), (3, 2, 4), False, ([3], [2], [1], True, [2], 1)),
}


def case(name: str) -> tuple[Tensor, Tensor, Tensor | None, tuple[Any, ...]]:
    x, w, has_bias, rest = CASES[name]
    channels = w[1] * rest[-1] if rest[3] else w[0]
    return whole(*x), whole(*w, seed=2), whole(channels, seed=3) if has_bias else None, rest


@pytest.mark.parametrize(("name", "layout"), [*zip(CASES, LAYOUTS, strict=False),
                                              ("transposed 1d", "space reversed")])
def test_every_element_is_exact(name: str, layout: str) -> None:
    x, w, b, rest = case(name)
    x, w = LAYOUTS[layout](x), LAYOUTS["space reversed"](w) if layout != "contiguous" else w
    exact = forward(x, w, b, *rest)
    out = LAYOUTS[layout if "one image" not in layout else "contiguous"](exact)
    few = min(16, out.numel())
    assert forward_verdict(out, x, w, b, rest, num_samples=few) == Verdict(0.0, drawn(
        1, few, out.numel())[0], 0)
    place = drawn(5, few, out.numel())[few // 2]
    wrong = torch.full_like(out, torch.nan).copy_(out)
    wrong[np.unravel_index(place, tuple(out.shape))] += 1
    found = forward_verdict(wrong, x, w, b, rest, num_samples=few, seed=5)
    assert (found.place, found.num_over) == (place, 1)


@settings(max_examples=6)
@given(data=st.data())
def test_any_geometry(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    sizes = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, stride, dilation = (data.draw(sizes) for _ in range(3))
    padding = data.draw(st.lists(st.integers(0, 2), min_size=rank, max_size=rank))
    groups, transposed = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    space = [max(1, (k - 1) * d + 1 + data.draw(st.integers(0, 2)) - 2 * p) + 2 * transposed
             for k, d, p in zip(kernel, dilation, padding, strict=True)]
    channels, filters = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    x = whole(2, groups * channels, *space)
    w = whole(*(groups * channels, filters) if transposed else (groups * filters, channels),
              *kernel, seed=2)
    rest = (stride, padding, dilation, transposed, [0] * rank, groups)
    if transposed and any((n - 1) * s - 2 * p + d * (k - 1) + 1 < 1 for n, s, p, d, k in zip(
            space, stride, padding, dilation, kernel, strict=True)):
        return
    out = forward(x, w, None, *rest)
    assert forward_verdict(out, x, w, None, rest, num_samples=24).num_over == 0
    found = forward_verdict(out + 1, x, w, None, rest, num_samples=24)
    assert found.num_over == min(24, out.numel())


def gradient_verdicts(
    name: str, kernels: Any = module, *, added: float = 0.0, num_samples: int = 10**6
) -> list[Verdict]:
    """The gradients of a case, each with ``added`` to all elements."""
    x, w, b, rest = case(name)
    stride, padding, dilation, transposed, _, groups = rest
    grad = whole(*forward(x, w, b, *rest).shape, seed=4)
    dx, dw, db = aten.convolution_backward.default(
        grad, x, w, [grad.shape[1]], *rest, [True, True, True])
    window = Window(tuple(w.shape[2:]), stride, padding, dilation)
    large, small = (grad, x) if transposed else (x, grad)
    kept: dict[str, Any] = {"num_samples": num_samples}
    plans = (
        (kernels.plan_sums(dx, grad, w, None, window, groups, EXACT, scattered=not transposed,
                           **kept), dx, grad, w),
        (kernels.plan_weight_gradients(dw, large, small, window, groups, EXACT, **kept), dw, large,
         small),
        (kernels.plan_bias_gradients(db, grad, EXACT, **kept), db, grad, grad))
    records = new_records(3, torch.device("cpu"))
    for i, (plan, out, first, second) in enumerate(plans):
        kernels.check_samples(plan, out + added, first, second, None, records[i], 3)
    return read(records)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_exact(name: str) -> None:
    assert [v.num_over for v in gradient_verdicts(name, num_samples=24)] == [0, 0, 0]
    assert all(v.num_over > 0 for v in gradient_verdicts(name, added=1.0, num_samples=8))


@pytest.mark.parametrize("make", [samples, backward_samples])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silent_on_aten_and_loud_on_a_flipped_bit(dtype: torch.dtype, make: Any) -> None:
    calls = make(torch.Generator().manual_seed(3), dtype)[:: 1 + (make is backward_samples)]
    for i, (op, args, kwargs) in enumerate(calls):
        call = bound(op, args, kwargs)
        held = call.run()
        verdicts = judged(call, held)
        assert verdicts
        assert all(v.num_over == 0 for _, v in verdicts)
        check, _ = verdicts[i % len(verdicts)]
        num = held[check.output].numel()
        seed = 1 + (check.output if make is backward_samples else 0)
        place = drawn(seed, 8, num)[i % min(8, num)]
        wrong = dict(judged(call, flipped(held, check.output, place)) or [])
        assert (wrong[check].place, wrong[check].num_over) == (place, 1)


@pytest.mark.parametrize("dtype", [torch.float32], ids=str)
@pytest.mark.parametrize("make", [samples, backward_samples])
def test_the_limit_is_the_contract_of_the_bounds(make: Any, dtype: torch.dtype) -> None:
    for op, args, kwargs in make(torch.Generator().manual_seed(4), dtype)[1:6:2]:
        call = bound(op, args, kwargs)
        held = call.run()
        for _, v in off_by(call, held, 0.98):
            assert 0.97 < v.worst_share < 1.0
            assert v.num_over == 0
        assert all(v.num_over > 0 for _, v in off_by(call, held, -1.02))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("stored", "u_in"), [(0, 0.0), (7, 0.0), (0, 2.0**-10)])
def test_factors_give_the_bound_of_a_dot_product(
    dtype: torch.dtype, stored: int, u_in: float
) -> None:
    if u_in and dtype is not torch.float32:
        pytest.skip("only float32 inputs are rounded")
    f = adapter.dot_factors(90, dtype, "cpu", u_in, stored)
    exact, size = np.array([0.0, -2.5, 1e-42]), np.array([0.0, 30.0, 1e-41])
    expected = dot_bound(90, exact, size, 3.0, dtype, u_in, stored)
    e = f.relative * size + f.absolute + f.operands * 2 * 90 * 3.0
    e = e + f.stored * (size + e) + f.stored_absolute
    ours = e + f.u * (abs(exact) + e) + f.tail
    # Below the smallest normal number one rounding is a subnormal, however many digits it is worth.
    assert (np.abs(ours - expected) <= 1e-12 * expected + np.finfo(np.float64).smallest_subnormal
            ).all()


def judged_once(x: Tensor, w: Tensor, out: Tensor, factors: Factors | None = None) -> Verdict:
    rest = ([1], [1], [1], False, [0], 1)
    factors = factors or adapter.dot_factors(9, out.dtype, "cpu")
    return forward_verdict(out, x, w, None, rest, factors=factors)


def test_non_finite_numbers_and_the_ends_of_the_range() -> None:
    x, w = torch.ones(1, 1, 8), torch.ones(1, 1, 3)
    right = forward(x, w, None, [1], [1], [1], False, [0], 1)
    for bad in (torch.nan, torch.inf, -torch.inf):
        out = right.clone()
        out[0, 0, 5] = bad
        assert judged_once(x, w, out) == Verdict(float("inf"), 5, 1)
        there = x.clone()
        there[0, 0, 0] = bad  # a kernel may multiply it by the padding of a block, anywhere
        assert judged_once(there, w, out).num_over == 0
        # A weight meets all padding.
        assert judged_once(x, w * torch.tensor([1.0, 1.0, bad]), out).num_over == 0
    huge = torch.full_like(x, 3e38)
    assert judged_once(huge, w, torch.full_like(right, torch.inf)).num_over == 0
    small = torch.full_like(x, 1e-45)
    out = forward(small, w, None, [1], [1], [1], False, [0], 1)
    assert judged_once(small, w, out).num_over == 0
    assert judged_once(small, w, out + 1e-43).num_over > 0
    assert judged_once(-x * 0.0, w, -0.0 * right).num_over == 0


def test_addresses_are_64_bits_wide() -> None:
    memory = torch.empty(2**31 + 64, dtype=torch.float16)
    x = memory.as_strided((2, 1, 8), (2**31, 8, 1), 0)
    x[0], x[1] = 1.0, 3.0
    out = torch.tensor([2.0, 6.0]).reshape(2, 1, 1).expand(2, 1, 8)
    rest = ([1], [0], [1], False, [0], 1)
    w = torch.full((1, 1, 1), 2.0, dtype=torch.float16)
    assert forward_verdict(out, x, w, None, rest).num_over == 0


def test_what_may_be_winograd_or_an_fft_is_not_judged() -> None:
    assert adds_products("cpu", "Mkldnn")
    assert not adds_products("cpu", "Winograd3x3Depthwise")
    assert not adds_products("cuda", "Cudnn")
    assert adds_products("cuda", "CudaDepthwise2d")
    assert not adds_products("mps", "Mps")


MUTANTS: dict[str, tuple[str, str]] = {
    "last term lost": ("(term < num_terms)[None, :]", "(term < num_terms - 1)[None, :]"),
    "last block dropped": ("while start < num_terms:", "while start < num_terms - BLOCK:"),
    "wrong stride": ("p_1 * tl.load(table_ptr + 9)", "p_1 * tl.load(table_ptr + 10)"),
    "padding lost": ("- tl.load(window_ptr + 3))", "- 0)"),
    "mask off by one": ("(index >= 0) & (index < size)", "(index >= 0) & (index < size - 1)"),
    "holes of a stride filled": ("(index * stride == ahead) & ", ""),
    "groups ignored": ("group * inner *", "0 * inner *"),
    "accumulates the last block alone": ("total += product", "total = product"),
    "low precision": ("x * w", "(x.to(tl.float32) * w.to(tl.float32)).to(tl.float64)"),
    "sums of another channel": ("small_row = row *", "small_row = (row + 1) *"),
    "taps swapped": ("t_1 * tl.load(table_ptr + 24)", "t_2 * tl.load(table_ptr + 24)"),
    "bias lost": ("        exact += b\n", ""),
}


@pytest.mark.parametrize("mutant", some_slow(MUTANTS))
def test_a_broken_kernel_is_seen(mutant: str, tmp_path: Path) -> None:
    broken = load_variant(module, tmp_path, MUTANTS[mutant])
    if mutant == "low precision":
        x, w = whole(1, 2, 5, largest=2**20), whole(2, 2, 3, seed=2, largest=2**20)
        rest = ([1], [0], [1], False, [0], 1)
        out = forward(x, w, None, *rest)
        assert forward_verdict(out, x, w, None, rest).num_over == 0
        assert forward_verdict(out, x, w, None, rest, kernels=broken).num_over > 0
        return
    found = 0
    for name in ("2d", "long", "transposed"):
        x, w, b, rest = case(name)
        found += forward_verdict(forward(x, w, b, *rest), x, w, b, rest, kernels=broken,
                                 num_samples=24).num_over
        if not found:
            found += sum(v.num_over for v in gradient_verdicts(name, broken, num_samples=24))
        if found:
            return
    raise AssertionError("not seen")


@pytest.mark.skipif(platform.system() != "Linux", reason="triton compiles on Linux only")
@pytest.mark.slow
def test_it_compiles_to_64_bit_arithmetic(tmp_path: Path) -> None:
    assert module.__file__ is not None
    ptx = ptx_of(
        Path(module.__file__), "_sum_kernel", tmp_path,
        signature={**dict.fromkeys(("image_ptr", "weight_ptr", "bias_ptr", "out_ptr"), "*bf16"),
                   "table_ptr": "*i64", "factor_ptr": "*fp64", "record_ptr": "*i64",
                   "seed": "i64", "num_samples": "i32"},
        constants={"SCATTERED": True, "HAS_BIAS": True, "SAMPLES": 8, "BLOCK": 128})
    assert {name.rpartition(".")[2] for name in float_arithmetic(ptx)} == {"f64"}
    assert "mul.lo.s32" not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("make", [samples, backward_samples])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_the_device(dtype: torch.dtype, make: Any) -> None:
    num_judged = 0
    for op, args, kwargs in make(torch.Generator().manual_seed(3), dtype):
        call = on_device(bound(op, args, kwargs))
        held = call.run()
        for check, verdict in judged(call, held, device="cuda") or []:
            assert verdict.num_over == 0
            num_judged += 1
            place = drawn(1 + (check.output if make is backward_samples else 0), 8,
                          held[check.output].numel())[0]
            wrong = dict(judged(call, flipped(held, check.output, place), device="cuda") or [])
            assert (wrong[check].place, wrong[check].num_over) == (place, 1)
    assert num_judged > 0
