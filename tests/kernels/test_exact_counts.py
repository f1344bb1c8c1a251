"""Exact sums, counts and extremes against Python integers and NumPy, and broken copies of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from tests.kernels.variants import load_variant
from tests.shares import slow

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import exact_counts, extremes
from sdc_guard_kernels.exact_counts import COUNTED, INTEGERS, CountCheck, reduce_counts
from sdc_guard_kernels.extremes import FLOATS, KINDS, ExtremeCheck, reduce_extreme
from sdc_guard_kernels.strided import contiguous_strides, plan_reduction
from sdc_guard_kernels.verdict import Verdict, new_records, read

EDGES = (0, 1, -1, 2**62, -(2**63), 2**63 - 1, 127, 255)
SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1e-45, -3.5, 60000.0)


def drawn(size: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers of the whole range of a dtype, edges among them."""
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        x = torch.randn(size, generator=generator, dtype=torch.float64)
        x *= torch.randint(0, 2, (size,), generator=generator)
        pick = torch.rand(size, generator=generator) < 0.05
        which = torch.randint(0, len(SPECIAL), (size,), generator=generator)
        return torch.where(pick, torch.tensor(SPECIAL, dtype=torch.float64)[which], x).to(dtype)
    x = torch.randint(-(2**63), 2**63 - 1, (size,), generator=generator)
    pick = torch.rand(size, generator=generator) < 0.3
    which = torch.randint(0, len(EDGES), (size,), generator=generator)
    return torch.where(pick, torch.tensor(EDGES)[which], x).to(dtype)


@st.composite
def operands(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """A view of any strides and offset, and the dims to reduce."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    sizes[draw(st.integers(0, len(sizes) - 1))] = draw(st.sampled_from([1, 8, 33, 129]))
    strides, step = [0] * len(sizes), draw(st.integers(1, 2))
    for d in draw(st.permutations(range(len(sizes)))):
        kind = draw(st.sampled_from(["packed", "packed", "gap", "expanded", "overlap"]))
        strides[d] = {"expanded": 0, "overlap": 1}.get(kind, step)
        step = max(step, strides[d] * sizes[d]) + 3 * (kind == "gap")
    offset = draw(st.integers(0, 5))
    span = offset + 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    x = drawn(span, draw(st.sampled_from(dtypes)), draw(st.integers(0, 99)))
    return (x.as_strided(sizes, strides, offset),
            tuple(d for d in range(len(sizes)) if draw(st.booleans())))


def exact_sum(x: Tensor, dims: tuple[int, ...], term: str) -> NDArray[Any]:
    """By Python integers, modulo 2^64."""
    values = bits.values(x)
    values = (values != 0).astype(object) if term == "nonzero" else values.astype(object)
    total = np.asarray(values.sum(axis=dims) if dims else values) * 1
    return np.vectorize(lambda v: (int(v) + 2**63) % 2**64 - 2**63, otypes=[np.int64])(total)


def exact_extreme(x: Tensor, dims: tuple[int, ...], kind: str) -> NDArray[Any]:
    values = bits.values(x)
    values = np.abs(values) if kind.endswith("_abs") else values
    if not dims:
        return np.asarray(values)
    return np.asarray((np.max if kind.startswith("max") else np.min)(values, axis=dims))


@settings(max_examples=25)
@given(operands(COUNTED), st.sampled_from(["value", "nonzero"]))
def test_counts_are_exact(drawn: tuple[Tensor, tuple[int, ...]], term: str) -> None:
    x, dims = drawn
    term = "nonzero" if x.is_floating_point() else term
    assert reduce_counts(x, dims, term=term).tolist() == exact_sum(x, dims, term).tolist()


@settings(max_examples=25)
@given(operands((*FLOATS, *INTEGERS[1:])), st.sampled_from(KINDS))
def test_extremes_are_exact(drawn: tuple[Tensor, tuple[int, ...]], kind: str) -> None:
    x, dims = drawn
    kind = kind if x.is_floating_point() else kind.removesuffix("_abs")
    got = reduce_extreme(x, dims, kind=kind).numpy()
    np.testing.assert_array_equal(got, exact_extreme(x, dims, kind))


@pytest.mark.parametrize("shape", [(0, 3), (0,), ()])
def test_no_terms(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, dtype=torch.int32)
    expected = [[0] * 3, 0, 1][[(0, 3), (0,), ()].index(shape)]
    assert reduce_counts(x, (0,) if shape else ()).tolist() == expected
    if shape:
        with pytest.raises(ValueError, match="no terms"):
            reduce_extreme(x, (0,), kind="max")
    assert reduce_counts(torch.ones(0, 3, dtype=torch.int32), (1,)).shape == (0,)


def test_addresses_are_64_bits_wide() -> None:
    # 2 GiB of address space of which a few pages are touched.
    x = torch.empty(2**31 + 99, dtype=torch.int8).as_strided((2, 2, 2), (2**31, 50, 1), 0)
    x[0], x[1] = 1, 3
    assert reduce_counts(x, (1, 2)).tolist() == [4, 12]
    assert reduce_extreme(x, (1, 2), kind="min").tolist() == [1, 3]


def test_errors_name_the_value() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(TypeError, match=r"exact value reductions do not take torch\.float32"):
        reduce_counts(x)
    with pytest.raises(ValueError, match="'bits', not one of"):
        reduce_counts(x, term="bits")
    with pytest.raises(ValueError, match="'median', not one of"):
        reduce_extreme(x, kind="median")
    with pytest.raises(TypeError, match=r"max_abs does not take torch\.int64"):
        reduce_extreme(x.long())
    plan = plan_reduction((2, 3), (1,), ((3, 1),), ((1,), (1,)))
    with pytest.raises(ValueError, match="'none', not one of"):
        CountCheck.prepare(plan, torch.int64, torch.int64, rule="none")
    with pytest.raises(TypeError, match=r"not as torch\.float32"):
        CountCheck.prepare(plan, torch.int64, torch.float32)
    with pytest.raises(TypeError, match=r"torch\.float32 held as torch\.float16"):
        ExtremeCheck.prepare(plan, torch.float32, torch.float16, kind="max")


def count_verdicts(kernels: ModuleType) -> list[Verdict]:
    """Of right and wrong sums in one launch and over splits, and of any and all."""
    found = []
    for shape, dim in (((5, 40, 7), 1), ((3, 4100, 2), 1)):
        x = drawn(math.prod(shape), torch.int64, 7).reshape(shape)
        right = torch.from_numpy(exact_sum(x, (dim,), "value")).t().contiguous().t()
        wrong = right.clone()
        wrong[2, 1] ^= 1 << 40
        for held in (right, wrong, right.to(torch.int32), wrong.to(torch.int32)):
            found.append(_verdict(kernels.CountCheck, x, held, dim, held.dtype))
    flags = torch.zeros(3, 9, dtype=torch.bool)
    flags[1, 4], flags[2] = True, True
    for rule, right in (("any", [False, True, True]), ("all", [False, False, True])):
        for held in (torch.tensor(right), ~torch.tensor(right)):
            found.append(_verdict(kernels.CountCheck, flags, held, 1, torch.bool, term="nonzero",
                                  rule=rule))
    return found


def extreme_verdicts(
    kernels: ModuleType, dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)
) -> list[Verdict]:
    """Of right and wrong maxima and minima, in one launch and over splits."""
    found = []
    for shape, dim in (((5, 40, 7), 1), ((3, 4100, 2), 1)):
        for dtype in dtypes:
            x = drawn(math.prod(shape), dtype, 9).reshape(shape)
            if dtype.is_floating_point:
                x = torch.where(torch.isfinite(x), x, 7.0).to(dtype)
            x = x.clamp(-(2**60), 2**60)
            # Lines of one sign, to which a masked 0 would matter, and extremes at the very end.
            x[0, :, 1], x[1, :, 0] = -1 - x[0, :, 1].abs(), 1 + x[1, :, 0].abs()
            x[2, -1, 0], x[2, -1, 1] = -(2**61), 2**61
            if dtype.is_floating_point:
                x[0, 3, 0] = torch.nan
            for kind in KINDS[: 4 if dtype.is_floating_point else 2]:
                expected = torch.from_numpy(exact_extreme(x, (dim,), kind)).to(dtype)
                right = expected.t().contiguous().t()
                wrong = right.clone()
                wrong[2, 1] = 77
                wrong[0, 0] = 3
                for held in (right, wrong):
                    found.append(_verdict(kernels.ExtremeCheck, x, held, dim, dtype, kind=kind))
    return found


def _verdict(
    check: Any, x: Tensor, held: Tensor, dim: int, held_dtype: torch.dtype, **options: str
) -> Verdict:
    plan = plan_reduction(x.shape, (dim,), (x.stride(),),
                          (held.stride(), contiguous_strides(held.shape)))
    records = new_records(1, x.device)
    check.prepare(plan, x.dtype, held_dtype, **options).launch(x, held, records[0])
    return read(records)[0]


COUNT_VERDICTS = [*[Verdict(0.0, 0, 0), Verdict(math.inf, 15, 1), Verdict(0.0, 0, 0),
                    Verdict(0.0, 0, 0)],
                  *[Verdict(0.0, 0, 0), Verdict(math.inf, 5, 1), Verdict(0.0, 0, 0),
                    Verdict(0.0, 0, 0)],
                  *[Verdict(0.0, 0, 0), Verdict(math.inf, 0, 3)] * 2]
EXTREME_VERDICTS = [Verdict(0.0, 0, 0), Verdict(math.inf, 0, 2)] * 8


def test_verdicts() -> None:
    assert count_verdicts(exact_counts) == COUNT_VERDICTS
    assert extreme_verdicts(extremes) == EXTREME_VERDICTS
    others = extreme_verdicts(extremes, (torch.float64, torch.int64))
    assert others == EXTREME_VERDICTS[:2] * 12


COUNT_BREAKS: dict[str, tuple[str, str]] = {
    "last term lost": ("(index < num_reduced)", "(index < num_reduced - 1)"),
    "last split dropped": ("(split < num_splits)", "(split < num_splits - 1)"),
    "int32 accumulator": ("total += x.to(tl.int64)", "total += x.to(tl.int32).to(tl.int64)"),
    "accumulate lost": ("total += x.to(tl.int64)", "total = x.to(tl.int64)"),
    "wrong stride": ("x_ptr + offsets(kept, kept_sizes, x_kept)",
                     "x_ptr + offsets(kept, kept_sizes, x_kept) // 2"),
    "place in another layout": ("offsets(kept, kept_sizes, place_kept), exists)",
                                "offsets(kept, kept_sizes, held_kept), exists)"),
    "all bits compared": ("-1 if bits == 64", "-1 if True"),
    "all as any": ("(total == num_reduced)", "(total > 0)"),
}
EXTREME_BREAKS: dict[str, tuple[str, str]] = {
    "last term lost": ("index < num_reduced)", "index < num_reduced - 1)"),
    "masked elements count": ("exists & (key > best)", "(key > best)"),
    "order of negatives": ("bits < 0, bits ^ 0x7FFFFFFF, bits)", "bits < 0, bits, bits)"),
    "a NaN is left out": ("value == value, key, 0x7FFFFFFF)", "value == value, key, 0)"),
    "last split dropped": ("(split < num_splits)", "(split < num_splits - 1)"),
    "held read in another layout": ("held_ptr + offsets(kept, kept_sizes, held_kept)",
                                    "held_ptr + offsets(kept, kept_sizes, place_kept)"),
}


@pytest.mark.parametrize(("original", "breaks", "verdicts", "expected", "name"), [
    *((exact_counts, COUNT_BREAKS, count_verdicts, COUNT_VERDICTS, n) if i < 3 else slow(
        (exact_counts, COUNT_BREAKS, count_verdicts, COUNT_VERDICTS, n))
      for i, n in enumerate(COUNT_BREAKS)),
    *((extremes, EXTREME_BREAKS, extreme_verdicts, EXTREME_VERDICTS, n) if i < 3 else slow(
        (extremes, EXTREME_BREAKS, extreme_verdicts, EXTREME_VERDICTS, n))
      for i, n in enumerate(EXTREME_BREAKS)),
], ids=lambda v: v if isinstance(v, str) else "")
def test_a_broken_kernel_is_seen(
    original: ModuleType, breaks: dict[str, tuple[str, str]],
    verdicts: Callable[[ModuleType], list[Verdict]], expected: list[Verdict], name: str,
    tmp_path: Path,
) -> None:
    assert verdicts(load_variant(original, tmp_path, breaks[name])) != expected


@pytest.mark.gpu
def test_on_the_device() -> None:
    for dtype in COUNTED:
        x = drawn(70 * 65 * 6, dtype, 3).reshape(70, 65, 6)
        for dims in ((0,), (2,), (0, 2), (0, 1, 2)):
            for view in (x, x.transpose(0, 2)):
                copy = view.cuda().as_strided(view.shape, view.stride()) if (
                    view.is_contiguous()) else x.cuda().transpose(0, 2)
                got = reduce_counts(copy, dims, term="nonzero")
                assert got.tolist() == exact_sum(view, dims, "nonzero").tolist()
                if not dtype.is_floating_point:
                    assert reduce_counts(copy, dims).tolist() == (
                        exact_sum(view, dims, "value").tolist())
                if dtype is not torch.bool:
                    np.testing.assert_array_equal(reduce_extreme(copy, dims, kind="max").cpu(),
                                                  exact_extreme(view, dims, "max"))
