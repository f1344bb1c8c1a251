"""What the files of reductions offer the guard: no alarm on correct results, one on a wrong bit."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops import lookup
from sdc_guard.ops._registry import HostCall
from tests.kernels.drawn import wide_range
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import reductions as module
from sdc_guard_kernels.reductions import FLOATS
from sdc_guard_kernels.strided import contiguous_strides, plan_reduction
from sdc_guard_kernels.verdict import Verdict, new_records, read
from tests.kernels.adapters import bound, checked
from tests.shares import slow

aten = torch.ops.aten
FLOATING = ("sum", "mean", "linalg_vector_norm", "norm", "_foreach_norm", "dot", "amax", "amin")
EXACT = ("sum", "amax", "amin", "count_nonzero", "any", "all")
INTEGERS = (torch.int64, torch.int32, torch.uint8, torch.int8, torch.bool)
TOP_BIT = {torch.float16: (torch.int16, 14), torch.bfloat16: (torch.int16, 14),
           torch.float32: (torch.int32, 30), torch.float64: (torch.int64, 62)}
UNCHECKED = {("dot", torch.bfloat16)}
"""Their host limit has sums of both factors in it."""


def flipped(result: Tensor, place: int) -> Tensor:
    """A copy with one wrong element, in C order, of the same layout: the highest clear bit of the
    exponent of a float, the lowest bit of an integer."""
    image = result.contiguous().clone().reshape(-1)
    if result.is_floating_point():
        integer, bit = TOP_BIT[result.dtype]
        raw = image.view(integer)
        raw[place] ^= 1 << (bit - (int(raw[place]) >> bit & 1))
    else:
        image[place] = not image[place] if result.dtype is torch.bool else image[place] ^ 1
    copy = result.clone()
    copy.copy_(image.reshape(result.shape))
    return copy


def sample_calls(name: str, dtype: torch.dtype) -> Iterator[BoundCall]:
    spec = lookup(f"aten.{name}")
    assert spec is not None
    assert spec.samples is not None
    for op, args, kwargs in spec.samples(torch.Generator().manual_seed(3), dtype):
        yield bound(op, args, kwargs)


def accept_and_refuse(name: str, dtype: torch.dtype) -> None:
    num_checked = 0
    for i, call in enumerate(sample_calls(name, dtype)):
        held = call.run()
        found = checked(call, held)
        if found is None:
            continue
        num_checked += 1
        assert [v.num_over for _, v in found] == [0] * len(found), (call.form.name, i)
        which = i % len(found)
        output = found[which][0].output
        place = held[output].numel() * 2 // 3
        wrong = list(held)
        wrong[output] = flipped(held[output], place)
        again = checked(call, tuple(wrong), held)
        assert again is not None
        verdict = again[which][1]
        assert (verdict.num_over, verdict.place) == (1, place), (call.form.name, i)
    assert (num_checked > 0) is ((name, dtype) not in UNCHECKED)


@pytest.mark.parametrize(("name", "dtype"), [
    (name, dtype) if dtype is FLOATS[i % len(FLOATS)] else slow((name, dtype))
    for i, name in enumerate(FLOATING) for dtype in FLOATS], ids=str)
def test_right_floats_pass_and_a_wrong_one_is_placed(name: str, dtype: torch.dtype) -> None:
    accept_and_refuse(name, dtype)


@pytest.mark.parametrize(("name", "dtype"), [
    pytest.param(name, dtype, marks=() if dtype in (torch.int64, torch.uint8, torch.bool)
                 else pytest.mark.slow) for name in EXACT for dtype in INTEGERS
    if dtype is torch.int64 or not name.startswith("am")], ids=str)
def test_right_integers_pass_and_a_wrong_one_is_placed(name: str, dtype: torch.dtype) -> None:
    accept_and_refuse(name, dtype)


@pytest.mark.parametrize(("name", "dtype"), [
    ("sum", torch.float32), ("mean", torch.bfloat16), ("linalg_vector_norm", torch.bfloat16),
    ("dot", torch.float32), ("dot", torch.float16)], ids=str)
def test_the_limit_is_that_of_the_host_and_hardly_more(name: str, dtype: torch.dtype) -> None:
    for call in sample_calls(name, dtype):
        held = call.run()[0]
        spec = lookup(f"aten.{name}")
        if not held.numel() or call.get("ord") in (math.inf, -math.inf) or checked(
                call, (held,)) is None:
            continue
        assert spec is not None
        assert spec.reference is not None
        (reference,) = spec.reference(HostCall(call, (held,)))
        assert reference is not None
        off = torch.from_numpy(np.asarray(reference.expected + 4 * reference.contract))
        wrong = held.clone()
        wrong.copy_(off.reshape(held.shape))
        shares = np.abs(bits.values(wrong) - reference.expected) / reference.contract
        ((_, found),) = checked(call, (wrong,)) or ()
        host, least = float(np.max(shares)), 0.5 if held.dtype is torch.float64 else 0.99
        assert least * host <= found.worst_share <= host * (1 + 1e-5), call.form.name
        assert found.num_over == held.numel()


@st.composite
def calls(draw: st.DrawFn) -> BoundCall:
    """A sum, mean, norm or maximum of a view of any layout over some dims."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    sizes[0] = draw(st.sampled_from([1, 5, 33, 130]))
    dtype = draw(st.sampled_from(FLOATS))
    x = wide_range(*sizes, 2, dtype=torch.float64, seed=draw(st.integers(0, 99)))[..., 0]
    x = (x * 2.0 ** draw(st.sampled_from([0, -20, -140, 100, -1000]))).to(dtype)
    if draw(st.booleans()):
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = draw(
            st.sampled_from([0.0, math.inf, math.nan, 3e38, -6e4, 1e-310]))
    x = x.permute(draw(st.permutations(range(x.dim()))))
    if draw(st.booleans()):
        x = x.unsqueeze(1).expand(-1, 3, *x.shape[1:])
    dims = [d for d in range(x.dim()) if draw(st.booleans())] or [0]
    op, args = draw(st.sampled_from([
        (aten.sum.dim_IntList, (x, dims)), (aten.mean.dim, (x, dims)),
        (aten.amax.default, (x, dims)), (aten.count_nonzero.dim_IntList, (x, dims)),
        (aten.linalg_vector_norm.default, (x, 2, dims)),
        (aten.linalg_vector_norm.default, (x, 1, dims)),
    ]))
    return bound(op, args, {})


@settings(max_examples=25)
@given(calls())
def test_no_alarm_on_correct_results_of_any_layout_and_range(call: BoundCall) -> None:
    held = call.run()
    for check, verdict in checked(call, held) or ():
        assert verdict.num_over == 0, check.formula


def test_what_is_not_finite_is_judged_where_the_definition_is() -> None:
    x = torch.ones(4, 10)
    x[1, 3], x[2, 4] = torch.nan, torch.inf
    for op in (aten.sum.dim_IntList, aten.mean.dim):
        call = bound(op, (x, [1]), {})
        nonsense = torch.full((4,), torch.nan)
        ((_, verdict),) = checked(call, (nonsense,)) or ()
        assert (verdict.num_over, verdict.worst_share) == (2, math.inf)
        nonsense[0] = nonsense[3] = torch.inf
        ((_, verdict),) = checked(call, (nonsense,)) or ()
        assert verdict.num_over == 2
    # A maximum that is NaN must be NaN; an infinite one is left alone, as on the host.
    ((_, verdict),) = checked(bound(aten.amax.default, (x, [1]), {}), (torch.zeros(4),)) or ()
    assert verdict.num_over == 3


def test_nothing_is_judged_where_a_sum_may_overflow() -> None:
    x = torch.full((2, 4), 60000.0, dtype=torch.float16)
    x[1] = torch.tensor([2.0, -2.0, 1.0, 1.0])
    call = bound(aten.sum.dim_IntList, (x, [1]), {})
    ((_, verdict),) = checked(call, (torch.zeros(2, dtype=torch.float16),)) or ()
    assert (verdict.num_over, verdict.place) == (1, 1)


def test_a_site_is_looked_at_once_for_many_calls() -> None:
    x, y = wide_range(2, 9, 40, dtype=torch.float32)
    first, second = (bound(aten.sum.dim_IntList, (v, [1]), {}) for v in (x, y))
    spec = lookup("aten.sum")
    assert spec is not None
    assert spec.kernel is not None
    run = spec.kernel(first, first.run())
    assert run is not None
    from tests.kernels.adapters import ListedNotes

    for held, expected in ((first.run(), 9), (second.run(), 0)):
        notes = ListedNotes(torch.device("cpu"))
        run(second, held, notes)
        assert read(notes.asked[0][1][None])[0].num_over == expected


@pytest.mark.parametrize("call", [
    bound(aten.sum.default, (torch.ones(3, dtype=torch.complex64),), {}),
    bound(aten.sum.dim_IntList, (torch.ones(3, dtype=torch.int64), [0]), {"dtype": torch.float32}),
    bound(aten.mean.default, (torch.ones(0),), {}),
    bound(aten.linalg_vector_norm.default, (torch.ones(3), 3), {}),
    bound(aten.sum.default, (torch.ones(2, 3, dtype=torch.complex64).conj().imag,), {}),
], ids=["complex", "converted", "of nothing", "of order 3", "lazy negative"])
def test_calls_without_a_kernel_are_left_to_the_host(call: BoundCall) -> None:
    assert checked(call, call.run()) is None


def verdicts_of(kernels: Any) -> list[Verdict]:
    """Of a right and of a wrong result, in one launch and over splits, into transposed memory."""
    found = []
    for shape, dims in (((5, 40, 7), (1,)), ((3, 2, 20000), (2,))):
        x = wide_range(*shape, dtype=torch.float32).double()
        kept = [n for d, n in enumerate(shape) if d not in dims]
        right = torch.tensor([math.fsum(row.tolist()) for row in
                              x.movedim(dims[0], -1).reshape(-1, shape[dims[0]])],
                             dtype=torch.float64)
        held = right.reshape(kept).t().contiguous().t()
        plan = plan_reduction(shape, dims, (x.stride(),) * 2,
                              (held.stride(), contiguous_strides(kept)))
        limit = kernels.Limit(1e-12, 0.0, 0.0, 1.0, 1e300, 1e300)
        check = kernels.SumCheck.prepare(plan, x.dtype, limit, x.device, accumulator="float64")
        for result in (held, held + torch.eye(*kept, dtype=torch.float64) * 1e-3):
            records = new_records(1, x.device)
            check.launch(x, result, records[0])
            verdict = read(records)[0]
            found.append(verdict._replace(worst_share=float(verdict.worst_share > 1.0)))
    return found


EXPECTED = [Verdict(0.0, 0, 0), Verdict(1.0, 0, 5), Verdict(0.0, 0, 0), Verdict(1.0, 0, 2)]
BREAKS: dict[str, tuple[str, str]] = {
    "last split dropped": ("(split < num_splits)", "(split < num_splits - 1)"),
    "held read in another layout": ("held_ptr + offsets(kept, kept_sizes, held_kept)",
                                    "held_ptr + offsets(kept, kept_sizes, place_kept)"),
    "stale pointer": ("sums, held, self.limit", "sums, sums, self.limit"),
    "limit of another kind": ("tl.load(limit_ptr + 1) * scale", "tl.load(limit_ptr + 5) * scale"),
    "defect of one sign": ("tl.abs(widened(held).to(tl.float64) - expected)", "expected - held"),
    "only where the sum is large": ("size + limit < tl.load(limit_ptr + 5)", "size < limit"),
}


def test_verdicts_in_one_launch_and_over_splits() -> None:
    found = verdicts_of(module)
    assert [v.num_over for v in found] == [v.num_over for v in EXPECTED]
    assert [v.worst_share for v in found] == [v.worst_share for v in EXPECTED]


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_check_is_seen(broken: str, tmp_path: Path) -> None:
    found = verdicts_of(load_variant(module, tmp_path, BREAKS[broken]))
    assert [(v.num_over, v.worst_share) for v in found] != [
        (v.num_over, v.worst_share) for v in EXPECTED]


def test_the_adapters_use_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that loses a term accuses a correct sum: the verdict comes from it alone."""
    broken = load_variant(module, tmp_path, ("(index < num_reduced)", "(index < num_reduced - 1)"))
    monkeypatch.setitem(sys.modules, module.__name__, broken)
    call = bound(aten.sum.dim_IntList, (torch.ones(5, 9), [1]), {})
    ((_, verdict),) = checked(call, call.run()) or ()
    assert verdict.num_over == 5


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "linalg_vector_norm", "_foreach_norm", "amax"])
def test_on_the_device(name: str, dtype: torch.dtype) -> None:
    for call in sample_calls(name, dtype):
        moved = call.mapped(lambda _, t: t.cuda())
        held = moved.run()
        found = checked(moved, held)
        if found is None:
            continue
        assert [v.num_over for _, v in found] == [0] * len(found)
        wrong = (flipped(held[0], 0), *held[1:])
        again = checked(moved, wrong, held)
        assert again is not None
        assert (again[0][1].num_over, again[0][1].place) == (1, 0)
