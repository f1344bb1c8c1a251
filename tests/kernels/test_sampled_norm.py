"""Sampled groups of batch and group norms: the host's reference and limits, and altered copies.

The host's float64 reference is tested by itself; here results are made to miss it by a known share
of its limit, which the kernel must find again.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc_guard.bounds.norms import moments
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, accumulator_of, format_of
from sdc_guard.ops import _kernel_norm_samples as adapter
from sdc_guard.ops._kernel_norm_samples import Described
from sdc_guard.ops._registry import all_specs
from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import sdc_guard_kernels
from sdc_guard_kernels import sampled_norm as module
from tests.kernels.offered import Noted, bound, drawn, flipped, judged, off_by, on_device, some_slow

DTYPES = (torch.float32, torch.bfloat16, pytest.param(torch.float64, marks=pytest.mark.slow),
          pytest.param(torch.float16, marks=pytest.mark.slow))
GROUPS, ELEMENTS = 3, 16
aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "NUM_GROUPS", GROUPS)
    monkeypatch.setattr(adapter, "NUM_ELEMENTS", ELEMENTS)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "every second of a larger one": lambda x: torch.stack((x, x + 77), -1).flatten(-2)[..., ::2],
    "one image for all": lambda x: x[:1].expand(x.shape),
}


def drawn_values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 2 + 1).to(dtype)


def batch_norm(
    x: Tensor, *, training: bool = True, affine: bool = True
) -> tuple[BoundCall, tuple[Tensor, ...]]:
    c = x.shape[1]
    w, b = (drawn_values(2 * c, seed=s).to(x.dtype)[::2] if affine else None for s in (2, 3))
    given = [drawn_values(c, seed=4).to(x.dtype), drawn_values(c, seed=5).abs().to(x.dtype)]
    op = aten.native_batch_norm.default
    args = (x, w, b, *(given if not training else (None, None)), training, 0.1, 1e-3)
    call = bound(op, args, {})
    return call, call.run()


def group_norm(
    x: Tensor, groups: int, *, affine: bool = True
) -> tuple[BoundCall, tuple[Tensor, ...]]:
    """A call, and the results of one on contiguous operands: ATen's takes no others."""
    n, c = x.shape[:2]
    w, b = (drawn_values(2 * c, seed=s).to(x.dtype)[::2] if affine else None for s in (2, 3))
    rest = (n, c, math.prod(x.shape[2:]), groups, 1e-3)
    op = aten.native_group_norm.default
    held = bound(op, (x.contiguous(), *(None if t is None else t.contiguous() for t in (w, b)),
                      *rest), {}).run()
    return bound(op, (x, w, b, *rest), {}), held


def assert_found(call: BoundCall, held: tuple[Tensor, ...], num: list[int]) -> None:
    """The kernel expects what the host expects, and its limit is the host's; ``num`` judged
    quantities for each record."""
    for _, verdict in off_by(call, held, 0.98):
        assert 0.9 < verdict.worst_share < 1.0
        assert verdict.num_over == 0
    # A batch norm whose statistics are given leaves one record.
    assert [verdict.num_over for _, verdict in off_by(call, held, -1.05)] == num


@pytest.mark.parametrize(("layout", "dtype"), [*zip(
    LAYOUTS, [torch.float32, torch.bfloat16] * 3, strict=False)])
def test_values_and_limits_are_those_of_the_host(layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout](drawn_values(3, 6, 4, 5, dtype=dtype))
    for training in (True, False):
        call, held = batch_norm(x, training=training, affine=layout != "contiguous")
        assert_found(call, held, [GROUPS * ELEMENTS, GROUPS, GROUPS][: 1 + 2 * training])
    call, held = group_norm(x, 2, affine=layout != "contiguous")
    assert_found(call, held, [GROUPS * ELEMENTS, GROUPS, GROUPS])


@settings(max_examples=4)
@given(
    images=st.integers(1, 4), groups=st.integers(1, 3), size=st.integers(1, 3),
    space=st.lists(st.integers(1, 5), max_size=3), layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_any_shape(images: int, groups: int, size: int, space: list[int], layout: str) -> None:
    x = LAYOUTS[layout](drawn_values(images, groups * size, *space))
    num = size * math.prod(space)
    if num > 1:
        call, held = group_norm(x, groups)
        many = min(GROUPS, images * groups)
        assert_found(call, held, [many * min(num, ELEMENTS), many, many])
    if images * math.prod(space) > 1 and layout != "one image for all":
        call, held = batch_norm(x)
        many = min(GROUPS, groups * size)
        assert_found(call, held, [many * min(images * math.prod(space), ELEMENTS), many, many])


def long_row() -> Tensor:
    """More elements in a group than the kernel reads at once, the last ones unlike the others."""
    x = drawn_values(2, 2, 1, 1025)
    x[..., -1] += 50.0
    return x


def test_groups_longer_than_a_block() -> None:
    assert_found(*batch_norm(long_row()), [2 * ELEMENTS, 2, 2])
    assert_found(*group_norm(long_row(), 2), [GROUPS * ELEMENTS, GROUPS, GROUPS])


def test_own_rounding_is_part_of_the_factors() -> None:
    # Where the op computes in float64 itself, the host's sums and the kernel's differ in depth.
    x = drawn_values(2, 4, 600, dtype=torch.float64)
    call, held = group_norm(x, 2)
    assert all(v.num_over == 0 for _, v in judged(call, held) or [])
    row = x[0, :2].reshape(1, -1).numpy()
    host = moments(row, 1e-3, 2.0**-52, 2.0**-1074, proof=False)
    factors = adapter.merged_factors(1200, 1e-3, *(FLOAT64,) * 3, any_order=False)
    own = module.own_depth(1200) * 2.0**-53
    limit = factors.a1 * abs(row).mean() + factors.a3 * abs(row).max()
    assert limit >= float(host.mean_error[0, 0]) + own * abs(row).mean()


@pytest.mark.parametrize("packet", ["aten.native_batch_norm", "aten.native_group_norm"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silent_on_aten_and_loud_on_a_flipped_bit(dtype: torch.dtype, packet: str) -> None:
    spec = next(s for s in all_specs() if s.packet == packet)
    assert spec.samples is not None
    calls = spec.samples(torch.Generator().manual_seed(3), dtype)[::2]
    for i, (op, args, kwargs) in enumerate(calls):
        call = bound(op, args, kwargs)
        held = call.run()
        verdicts = judged(call, held)
        assert verdicts
        assert all(v.num_over == 0 for _, v in verdicts)
        if i % 3 or len(verdicts) == 1:
            continue
        check, _ = verdicts[1 + i // 3 % 2]
        num = held[check.output].numel()
        place = drawn(1, min(GROUPS, num), num)[-1]
        wrong = dict(judged(call, flipped(held, check.output, place)) or [])
        assert (wrong[check].place, wrong[check].num_over) == (place, 1)


def test_subnormal_bfloat16_numbers_are_no_doubt() -> None:
    x = drawn_values(9, 16, 4).to(torch.bfloat16)
    w, b, mean = (drawn_values(16, seed=seed).to(torch.bfloat16) for seed in (2, 3, 4))
    call = bound(aten._native_batch_norm_legit_no_training.default,
                 (x * 2.0**-128, w, b * 2.0**-128, mean * 2.0**-128, w.abs(), 0.1, 1e-5), {})
    verdicts = judged(call, call.run())
    assert verdicts
    assert all(v.num_over == 0 for _, v in verdicts)


@pytest.mark.parametrize("packet", ["_native_batch_norm_legit", "_batch_norm_with_update",
                                    "_native_batch_norm_legit_no_training",
                                    "_batch_norm_no_update"])
def test_other_forms_of_a_batch_norm(packet: str) -> None:
    spec = next(s for s in all_specs() if s.packet == f"aten.{packet}")
    assert spec.samples is not None
    for op, args, kwargs in spec.samples(torch.Generator().manual_seed(3), torch.bfloat16)[:2]:
        call = bound(op, args, kwargs)
        verdicts = judged(call, call.run())
        assert verdicts
        assert all(v.num_over == 0 for _, v in verdicts)


def test_a_flipped_bit_of_an_element() -> None:
    # 3 channels of 12 elements: all of them are judged.
    call, held = batch_norm(drawn_values(2, 3, 6))
    for place in (0, 17, 35):
        verdicts = judged(call, flipped(held, 0, place))
        assert verdicts
        assert (verdicts[0][1].place, verdicts[0][1].num_over) == (place, 1)
    call, held = group_norm(drawn_values(1, 6, 5), 3)
    for place in (0, 29):
        verdicts = judged(call, flipped(held, 0, place))
        assert verdicts
        assert (verdicts[0][1].place, verdicts[0][1].num_over) == (place, 1)


def test_non_finite_numbers_and_the_ends_of_the_range() -> None:
    x = drawn_values(2, 3, 6)
    for make in (batch_norm, lambda x: group_norm(x, 3)):
        call, held = make(x)
        for bad in (torch.nan, torch.inf):
            wrong = tuple(t.clone() for t in held)
            wrong[0].view(-1)[5] = bad
            verdicts = judged(call, wrong)
            assert verdicts
            assert (verdicts[0][1].num_over, verdicts[0][1].worst_share) == (1, math.inf)
            there = x.clone()
            there.view(-1)[5] = bad  # what a group with it gives is not judged
            assert all(v.num_over == 0 for _, v in judged(*make(there)) or [])
        for scale in (1e-42, 1e-22, 1e20):
            assert all(v.num_over == 0 for _, v in judged(*make(x * scale)) or [])
        assert all(v.num_over == 0 for _, v in judged(*make(torch.zeros_like(x) * -1)) or [])


MUTANTS: dict[str, tuple[str, str]] = {
    "last element lost": ("mask=i < num, other=0.0", "mask=i < num - 1, other=0.0"),
    "last block dropped": ("while start < num:", "while start < num - 1:"),
    "masked elements count": ("tl.where(i < num, x - mean, 0.0)", "x - mean"),
    "accumulates the last block alone": ("total += x", "total = x"),
    "wrong stride": ("i % size_2 * tl.load(stride_ptr + 2)",
                     "i % size_2 * tl.load(stride_ptr + 3)"),
    "another group": ("g_0 * tl.load(table_ptr + 6)", "(g_0 * 0) * tl.load(table_ptr + 6)"),
    "low precision": ("squared += deviation * deviation",
                      "squared += (deviation * deviation).to(tl.float16).to(tl.float64)"),
    "weight of another channel": ("weight_ptr + channel", "weight_ptr + 0 * channel"),
    "eps lost": ("eps = tl.load(factor_ptr)", "eps = tl.load(factor_ptr) * 0.0"),
}


@pytest.mark.parametrize("mutant", some_slow(MUTANTS))
def test_a_broken_kernel_is_seen(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = load_variant(module, tmp_path, MUTANTS[mutant])
    monkeypatch.setattr(sdc_guard_kernels, "sampled_norm", broken)
    for call, held in (group_norm(drawn_values(2, 6, 4, 5), 2), batch_norm(long_row()),
                       group_norm(long_row(), 2)):
        if any(verdict.num_over > 0 for _, verdict in off_by(call, held, 0.0)):
            return
    raise AssertionError("not seen")


@pytest.mark.skipif(platform.system() != "Linux", reason="triton compiles on Linux only")
@pytest.mark.slow
def test_it_compiles_to_64_bit_arithmetic(tmp_path: Path) -> None:
    assert module.__file__ is not None
    ptx = ptx_of(
        Path(module.__file__), "_norm_kernel", tmp_path,
        signature={**dict.fromkeys(("x_ptr", "weight_ptr", "bias_ptr", "out_ptr"), "*bf16"),
                   "mean_ptr": "*fp32", "scale_ptr": "*fp32", "table_ptr": "*i64",
                   "factor_ptr": "*fp64", "out_record_ptr": "*i64", "mean_record_ptr": "*i64",
                   "rstd_record_ptr": "*i64", "seed": "i64", "num_samples": "i32"},
        constants={"GIVEN": False, "TWO_PASS": True, "HAS_WEIGHT": True, "HAS_BIAS": True,
                   "BLOCK": 1024, "ELEMENTS": 128})
    assert {name.rpartition(".")[2] for name in float_arithmetic(ptx)} == {"f64"}
    assert "mul.lo.s32" not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_host_results_on_the_device(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    # Norms of a device have no bound; the kernel judges there what a host has computed.
    for call, held in (batch_norm(drawn_values(6, 5, 7, 30, dtype=dtype)),
                       batch_norm(drawn_values(6, 5, 7, 30, dtype=dtype), training=False),
                       group_norm(drawn_values(3, 6, 50, 7, dtype=dtype), 3)):
        described = Described(0, bool(call.get("training", True)),
                              accumulator_of(dtype), format_of(dtype))
        monkeypatch.setattr(adapter, "is_judged", lambda *_: True)
        there, results = on_device(call), tuple(t.cuda() for t in held)
        kernel = adapter.group_norm_kernel
        if call.form.packet == "aten.native_batch_norm":
            kernel = adapter.batch_norm_kernel(lambda call, held, d=described: d)
        run = kernel(there, results)
        assert run is not None
        for output, over in ((None, False), (0, True)):
            notes = Noted(1, "cuda")
            run(there, results if output is None else (results[0] + 3, *results[1:]), notes)
            assert notes.verdicts()
            assert (notes.verdicts()[0][1].num_over > 0) is over
