"""Sums over any dimensions against ``math.fsum`` within their derived bound, and broken copies."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.drawn import wide_range
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import reductions as module
from sdc_guard_kernels import strided
from sdc_guard_kernels.reductions import ACCUMULATORS, FLOATS, TERMS, Sums, reduce_sums, sum_error
from sdc_guard_kernels.strided import contiguous_strides, plan_reduction

U64 = 2.0**-53
SPECIAL = (0.0, -0.0, 5e-324, 1e-45, 2.0**-24, 2.0**-133, -6e4, 1e15)
"""The last one is not for float16; its square is finite in the working format of any dtype."""


SMALL = (("TILE = 2048", "TILE = 128"), ("ROW_LANES = 512", "ROW_LANES = 32"),
         ("COLUMN_LANES = 128", "COLUMN_LANES = 16"))
"""Blocks so small that little data fills several."""


def terms_of(x: Tensor, y: Tensor | None, dims: tuple[int, ...], term: str) -> list[list[Fraction]]:
    """The exact terms of each kept element, in C order."""
    kept = [d for d in range(x.dim()) if d not in dims]
    found = []
    for place in itertools.product(*(range(x.shape[d]) for d in kept)):
        index: list[Any] = [slice(None)] * x.dim()
        for d, i in zip(kept, place, strict=True):
            index[d] = i
        values = [Fraction(v) for v in x[tuple(index)].double().reshape(-1).tolist()]
        other = values
        if y is not None:
            other = [Fraction(v) for v in y[tuple(index)].double().reshape(-1).tolist()]
        products = [a * b for a, b in zip(values, other, strict=True)]
        plain = [abs(v) for v in values] if term == "magnitude" else values
        found.append(products if term in ("square", "product") else plain)
    return found


def worst_share(
    got: Sums, x: Tensor, y: Tensor | None, dims: tuple[int, ...], term: str, accumulator: str,
    kernels: ModuleType = module,
) -> float:
    """Largest |error| / bound; infinite where a result is not finite or over a bound of 0."""
    other = x if y is None else y
    shape = [n for d, n in enumerate(x.shape) if d not in dims]
    plan = kernels.plan_reduction(x.shape, dims, (x.stride(), other.stride()),
                                  (contiguous_strides(shape),))
    bound = kernels.sum_error(plan, x.dtype, term=term, accumulator=accumulator)
    assert list(got.sum.shape) == list(got.abs_sum.shape) == shape
    worst = 0.0
    sums, scales = got.sum.reshape(-1).tolist(), got.abs_sum.reshape(-1).tolist()
    for i, terms in enumerate(terms_of(x, y, dims, term)):
        scale = sum(map(abs, terms), Fraction(0))
        for value, exact, relative in ((sums[i], sum(terms, Fraction(0)), bound.sum),
                                       (scales[i], scale, bound.abs_sum)):
            if not math.isfinite(value):
                return math.inf
            off = abs(Fraction(value) - exact)
            limit = Fraction(relative) * scale + Fraction(bound.absolute)
            worst = max(worst, float(off / limit) if limit else math.inf if off else 0.0)
    return worst


@st.composite
def operands(draw: st.DrawFn) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Two views of one shape with strides and offsets of any kind, and the dims to reduce."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    sizes[draw(st.integers(0, len(sizes) - 1))] = draw(st.sampled_from([1, 7, 31, 64, 65]))
    dims = tuple(d for d in range(len(sizes)) if draw(st.booleans()))
    dtype = draw(st.sampled_from(FLOATS))
    views = []
    for seed in (draw(st.integers(0, 99)), 100):
        order = draw(st.permutations(range(len(sizes))))
        strides, step = [0] * len(sizes), draw(st.integers(1, 2))
        for d in order:
            kind = draw(st.sampled_from(["packed", "packed", "gap", "expanded", "overlap"]))
            strides[d] = {"expanded": 0, "overlap": 1}.get(kind, step)
            step = max(step, strides[d] * sizes[d]) + 3 * (kind == "gap")
        offset = draw(st.integers(0, 5))
        span = offset + 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        memory = wide_range(span, dtype=dtype, seed=seed)
        if draw(st.booleans()):
            memory[draw(st.integers(0, span - 1))] = draw(
                st.sampled_from(SPECIAL[:-1] if dtype is torch.float16 else SPECIAL))
        views.append(memory.as_strided(sizes, strides, offset))
    return views[0], views[1], dims


@settings(max_examples=30)
@given(operands(), st.sampled_from(TERMS), st.sampled_from(ACCUMULATORS))
def test_any_strides_dims_and_terms(
    drawn: tuple[Tensor, Tensor, tuple[int, ...]], term: str, accumulator: str
) -> None:
    x, y, dims = drawn
    other = y if term == "product" else None
    got = reduce_sums(x, dims, y=other, term=term, accumulator=accumulator)
    assert worst_share(got, x, other, dims, term, accumulator) <= 1.0


@pytest.mark.parametrize("accumulator", ACCUMULATORS)
@pytest.mark.parametrize(("shape", "dims"), [((2100,), (0,)), ((150, 70), (0,)), ((2, 1100), (1,)),
                                             ((600, 3), (1,)), ((3, 17, 65), (0, 2))])
def test_many_splits_and_blocks(
    shape: tuple[int, ...], dims: tuple[int, ...], accumulator: str, tmp_path: Path
) -> None:
    kernels = variant(tmp_path, strided_changes=(*SMALL, ("MIN_ITERATIONS = 4",
                                                          "MIN_ITERATIONS = 2")))
    x = wide_range(*shape, dtype=torch.float32)
    got = kernels.reduce_sums(x, dims, accumulator=accumulator)
    assert worst_share(got, x, None, dims, "value", accumulator, kernels) <= 1.0


def variant(
    folder: Path, *changes: tuple[str, str], strided_changes: tuple[tuple[str, str], ...] = ()
) -> ModuleType:
    """A copy of the kernels, and of what they take from ``strided``, with changes."""
    (folder / "strided").mkdir()
    planned = load_variant(strided, folder / "strided", *strided_changes)
    found = load_variant(module, folder, *changes)
    for name in ("plan_reduction", "offsets", "kept_block", "contiguous_strides"):
        setattr(found, name, getattr(planned, name))
    return found


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (), (1, 1)])
def test_empty_tensors_and_single_elements(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    for dims in {(), (0,), tuple(range(len(shape)))} if shape else {()}:
        got = reduce_sums(x, dims)
        expected = x.sum(dims) if dims else x
        assert got.sum.tolist() == got.abs_sum.tolist() == expected.tolist()


def test_addresses_are_64_bits_wide() -> None:
    # 4 GiB of address space of which a few pages are touched.
    x = torch.empty(2**31 + 200, dtype=torch.float16).as_strided((2, 3, 8), (2**31, 50, 1), 0)
    x[0], x[1] = 1.0, 3.0
    for view, dims in ((x, (2,)), (x.permute(2, 0, 1), (0,))):
        assert reduce_sums(view, dims).sum.tolist() == [[8.0] * 3, [24.0] * 3]
    assert reduce_sums(x, (0, 2)).sum.tolist() == [32.0] * 3


def test_non_finite_terms_stay_visible_in_their_element_alone() -> None:
    x = torch.ones(4, 10)
    x[1, 3], x[2, 4] = torch.nan, torch.inf
    for accumulator in ACCUMULATORS:
        got = reduce_sums(x, (1,), accumulator=accumulator)
        assert torch.isfinite(got.abs_sum).tolist() == [True, False, False, True]
        assert not torch.isfinite(got.sum[1:3]).any()
        assert got.sum[[0, 3]].tolist() == [10.0, 10.0]


def test_the_order_does_not_depend_on_the_values_elsewhere() -> None:
    x = wide_range(40, 500, dtype=torch.float64)
    whole, alone = reduce_sums(x, (1,)).sum, reduce_sums(x, (1,)).sum
    assert whole.view(torch.int64).tolist() == alone.view(torch.int64).tolist()


def test_the_compensated_bound_is_far_below_plain_float32_and_reached() -> None:
    x = torch.empty(1, 300_000)
    plan = plan_reduction(x.shape, (1,), (x.stride(), x.stride()))
    assert sum_error(plan, x.dtype, accumulator="compensated").sum < 1e-4 * 3e5 * 2.0**-24
    y = wide_range(3, 2000, dtype=torch.float64)
    assert worst_share(reduce_sums(y, (1,)), y, None, (1,), "value", "float64") > 1e-4


def test_dimensions_are_merged_where_every_operand_allows_it() -> None:
    x = torch.empty(2, 3, 4, 5)
    plan = plan_reduction(x.shape, (2, 3), (x.stride(), x.stride()))
    assert (plan.kept.sizes, plan.reduced.sizes) == ((6,), (20,))
    assert not plan.columns
    y = torch.empty(2, 3, 5, 4).transpose(2, 3)
    plan = plan_reduction(x.shape, (2, 3), (x.stride(), y.stride()))
    assert (plan.kept.sizes, plan.reduced.sizes) == ((6,), (5, 4))
    columns = plan_reduction((64, 512), (0,), ((512, 1),))
    assert columns.columns
    assert columns.block_kept == 128


def test_errors_name_the_value() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"dims are \(2,\), for a tensor of 2"):
        reduce_sums(x, (2,))
    with pytest.raises(ValueError, match="dims are"):
        reduce_sums(x, (0, -2))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        reduce_sums(x.long())
    with pytest.raises(ValueError, match="'float16', not one of"):
        reduce_sums(x, accumulator="float16")
    with pytest.raises(ValueError, match="'cube', not one of"):
        reduce_sums(x, term="cube")
    with pytest.raises(ValueError, match="y goes with term 'product'"):
        reduce_sums(x, term="product")
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        reduce_sums(x, y=x.reshape(3, 2), term="product")
    with pytest.raises(TypeError, match="the factors are"):
        reduce_sums(x, y=x.double(), term="product")


BREAKS: dict[str, tuple[str, str]] = {
    "last term lost": ("(index < num_reduced)", "(index < num_reduced - 1)"),
    "last block dropped": ("for step in range(ITERATIONS)", "for step in range(ITERATIONS - 1)"),
    "wrong stride": ("offsets(kept, kept_sizes, x_kept)", "offsets(kept, kept_sizes, x_kept) // 2"),
    "masked elements count": ("mask=exists, other=0.0", "mask=exists, other=1.0"),
    "accumulate lost": ("        total = new", "        total = tl.where(step == 1, total, new)"),
    "compensation lost": ("+ total_error.to(tl.float64)", "- total_error.to(tl.float64)"),
    "lower-precision accumulator": ("in exact else tl.float64", "in exact else tl.float32"),
    "splits overlap": ("first = split * (ITERATIONS * BLOCK_REDUCED)",
                       "first = split * (ITERATIONS * BLOCK_REDUCED - 1)"),
    "wrong axis": ("index.to(tl.int64) * x_reduced[0]", "index.to(tl.int64) * x_kept[0]"),
    "last program not launched": ("_sums_kernel[plan.grid]", "_sums_kernel[(plan.grid[0] - 1,)]"),
}
PLAN_BREAKS: dict[str, tuple[str, str]] = {
    "merged across a gap": ("if step == tuple(s * length for s in inner)", "if True"),
    "wrong divisor": ("rest = index // sizes[0]", "rest = index // (sizes[0] + 1)"),
    # What is left of a wrapped address is made positive, so that it can be read at all.
    "int32 addresses": ("return index.to(tl.int64) * strides[0]",
                        "return (index * strides[0]).to(tl.int32) & 0x7FFFFFFF"),
}


def broken_share(kernels: ModuleType, accumulator: str = "float64") -> float:
    """Worst share over a sum of columns, of rows and of one long vector, and a far one."""
    x = wide_range(20, 6, 5, 9, dtype=torch.float64 if accumulator == "float64" else torch.float32)
    for view, dims in ((x[:, 1:], (0, 2)), (x[:, :, :4], (1, 2, 3)),
                       (x.reshape(-1)[1:1900].view(1, -1), (1,))):
        got = kernels.reduce_sums(view, dims, accumulator=accumulator)
        share = worst_share(got, view, None, dims, "value", accumulator, kernels)
        if share > 1.0:
            return share
    far = torch.empty(2**31 + 99, dtype=torch.float16).as_strided((2, 2, 2), (2**31, 50, 1), 0)
    far[0], far[1] = 1.0, 3.0
    return 0.0 if kernels.reduce_sums(far, (1, 2)).sum.tolist() == [4.0, 12.0] else math.inf


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_kernel_is_seen(broken: str, tmp_path: Path) -> None:
    accumulator = "compensated" if broken == "compensation lost" else "float64"
    assert broken_share(variant(tmp_path, BREAKS[broken], strided_changes=SMALL), accumulator) > 1.0


@pytest.mark.parametrize("accumulator", ACCUMULATORS)
def test_an_unbroken_copy_is_right(accumulator: str, tmp_path: Path) -> None:
    assert broken_share(variant(tmp_path, strided_changes=SMALL), accumulator) <= 1.0


@pytest.mark.parametrize("broken", PLAN_BREAKS)
def test_a_broken_walk_is_seen(broken: str, tmp_path: Path) -> None:
    assert broken_share(variant(tmp_path, strided_changes=(PLAN_BREAKS[broken],))) > 1.0


@pytest.mark.gpu
@pytest.mark.parametrize("accumulator", ACCUMULATORS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_on_the_device(dtype: torch.dtype, accumulator: str) -> None:
    x = wide_range(70, 6, 65, dtype=dtype)
    on_device = x.cuda()
    for term, dims in itertools.product(TERMS, ((0,), (2,), (0, 2), (0, 1, 2))):
        for view, copy in ((x, on_device), (x.transpose(0, 2)[1:], on_device.transpose(0, 2)[1:])):
            y, other = (view, copy) if term == "product" else (None, None)
            got = reduce_sums(copy, dims, y=other, term=term, accumulator=accumulator)
            host = Sums(got.sum.cpu(), got.abs_sum.cpu())
            assert worst_share(host, view, y, dims, term, accumulator) <= 1.0
