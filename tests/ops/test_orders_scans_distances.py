"""Reductions, selections, scans, vector products and distances: small faults that must be seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.inject.override import CallInfo, KernelOverride
from sdc_guard.ops import lookup

aten = torch.ops.aten
Results = tuple[Tensor, ...]


def bind(op: Any, *args: Any, **kwargs: Any) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def witnesses(call: BoundCall, held: Results) -> list[str]:
    """What the exact fact and the reference say against a result."""
    spec = lookup(call.form.packet)
    assert spec is not None
    found = [f"reference: {s.exceeds} of {s.output}"
             for s in full_reference(make_plan(spec, call, held), call, held)]
    broken = spec.invariant(call, held) if spec.invariant is not None else None
    return found if broken is None else [*found, f"fact about {broken[0]}: {broken[2]}"]


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def add(output: int, amount: float) -> Callable[[BoundCall, Results], None]:
    """One element off by ``amount``."""
    def spoil(call: BoundCall, held: Results) -> None:
        held[output].view(-1)[held[output].numel() // 2] += amount

    return spoil


def swap(output: int) -> Callable[[BoundCall, Results], None]:
    """Two neighbours of a line exchanged."""
    def spoil(call: BoundCall, held: Results) -> None:
        line = held[output].view(-1)
        line[2:4] = line[2:4].flip(0)

    return spoil


def swap_pairs(call: BoundCall, held: Results) -> None:
    """Values and their indices exchanged together: right pairs in the wrong order."""
    swap(0)(call, held)
    swap(1)(call, held)


def without_an_element(call: BoundCall, held: Results) -> None:
    """The first result of the same call on data in which one element is missing."""
    x = call["self"].clone()
    x.view(-1)[5] = 1.0 if "prod" in call.form.packet else 0.0
    held[0].copy_(call.replaced(self=x).run()[0])


def last_of_equals(call: BoundCall, held: Results) -> None:
    """The index of a later element that is as large."""
    held[-1].view(-1)[0] = 3


@dataclass(frozen=True)
class Case:
    """A call and a fault in its result."""

    name: str
    call: BoundCall
    spoil: Callable[[BoundCall, Results], None]


LINE, MATRIX = data(700), data(9, 40)
TIES = torch.tensor([[2.0, 1.0, 0.0, 2.0], [1.0, 3.0, 0.0, 3.0]])
NEAR = 1 + data(200, seed=3) / 100
INDEX = torch.randint(0, 9, (300,), generator=torch.Generator().manual_seed(1))
X1, X2 = data(12, 6, seed=4), data(10, 6, seed=5)
DISTANCE = torch.cdist(X1, X2)

CASES = [
    Case("var", bind(aten.var.correction, LINE), without_an_element),
    Case("std of columns", bind(aten.std.correction, MATRIX, [0]), without_an_element),
    Case("mean of var_mean", bind(aten.var_mean.correction, MATRIX, [1]), add(1, 1e-6)),
    Case("correction of var", bind(aten.var.correction, LINE, correction=1), lambda c, h:
         h[0].copy_(c.replaced(correction=0).run()[0])),
    Case("max value", bind(aten.max.dim, MATRIX, 1), add(0, 1e-6)),
    Case("max index", bind(aten.max.dim, MATRIX, 1), add(1, -1)),
    Case("max, not the first", bind(aten.max.dim, TIES, 1), last_of_equals),
    Case("argmax, not the first", bind(aten.argmax.default, TIES, 1), last_of_equals),
    Case("argmin of all", bind(aten.argmin.default, MATRIX), add(0, 1)),
    Case("min of all", bind(aten.min.default, MATRIX), add(0, 1e-6)),
    Case("aminmax", bind(aten.aminmax.default, MATRIX, dim=0), add(1, -1e-6)),
    Case("any", bind(aten.any.dim, MATRIX > 1, 0), lambda c, h: h[0].logical_not_()),
    Case("all", bind(aten.all.default, MATRIX > -9), lambda c, h: h[0].logical_not_()),
    Case("count", bind(aten.count_nonzero.default, MATRIX), add(0, -1)),
    Case("prod", bind(aten.prod.default, NEAR), without_an_element),
    Case("nansum", bind(aten.nansum.default, LINE), without_an_element),
    Case("cumsum", bind(aten.cumsum.default, LINE, 0), add(0, 1e-4)),
    Case("cumprod", bind(aten.cumprod.default, NEAR, 0), without_an_element),
    Case("logcumsumexp", bind(aten.logcumsumexp.default, LINE, 0), add(0, 1e-5)),
    Case("cummax", bind(aten.cummax.default, LINE, 0), add(1, 1)),
    Case("cummin value", bind(aten.cummin.default, LINE, 0), add(0, 1e-6)),
    Case("logsumexp", bind(aten.logsumexp.default, MATRIX, [1]), without_an_element),
    Case("logaddexp", bind(aten.logaddexp.default, LINE, LINE.flip(0)), add(0, 1e-5)),
    Case("sort values", bind(aten.sort.default, LINE), swap(0)),
    Case("sort indices", bind(aten.sort.default, LINE), swap(1)),
    Case("sort order", bind(aten.sort.default, LINE), swap_pairs),
    Case("stability", bind(aten.sort.stable, torch.zeros(9), stable=True), swap(1)),
    Case("topk misses one", bind(aten.topk.default, LINE, 5), lambda c, h:
         [a.copy_(b[1:]) for a, b in zip(h, c.replaced(k=6).run(), strict=True)] and None),
    Case("topk twice", bind(aten.topk.default, TIES, 2), lambda c, h: h[1][0].fill_(0)),
    Case("kthvalue", bind(aten.kthvalue.default, MATRIX, 5), lambda c, h:
         [a.copy_(b) for a, b in zip(h, c.replaced(k=6).run(), strict=True)] and None),
    Case("median", bind(aten.median.dim, MATRIX, 1), add(1, 1)),
    Case("nanmedian of all", bind(aten.nanmedian.default, LINE), add(0, 1e-6)),
    Case("mode", bind(aten.mode.default, TIES), lambda c, h: (h[0].fill_(1), h[1].fill_(1))[0]),
    Case("unique counts", bind(aten._unique2.default, INDEX, True, True, True), add(2, 1)),
    Case("unique inverse", bind(aten._unique2.default, INDEX, True, True, True), add(1, 1)),
    Case("unique_consecutive", bind(aten.unique_consecutive.default, INDEX, True, True),
         add(0, 1)),
    Case("bincount", bind(aten.bincount.default, INDEX), add(0, 1)),
    Case("bincount of weights", bind(aten.bincount.default, INDEX, data(300)), add(0, 1e-3)),
    Case("histc", bind(aten.histc.default, LINE, 20), add(0, 3)),
    Case("searchsorted", bind(aten.searchsorted.Tensor, LINE.sort().values, MATRIX), add(0, 1)),
    Case("bucketize", bind(aten.bucketize.Tensor, MATRIX, LINE.sort().values), add(0, -1)),
    Case("mv", bind(aten.mv.default, MATRIX, LINE[:40]), add(0, 1e-3)),
    Case("addmv", bind(aten.addmv.default, LINE[:9], MATRIX, LINE[:40]), add(0, 1e-3)),
    Case("dot", bind(aten.dot.default, LINE, LINE.flip(0)), add(0, 0.1)),
    Case("addr", bind(aten.addr.default, MATRIX, LINE[:9], LINE[:40]), add(0, 1e-5)),
    Case("cdist", bind(aten._cdist_forward.default, X1, X2, 2.0, 2), add(0, 1e-5)),
    Case("cdist by product", bind(aten._cdist_forward.default, X1, X2, 2.0, 1), add(0, 1e-3)),
    Case("cdist gradient", bind(aten._cdist_backward.default, data(12, 10), X1, X2, 2.0, DISTANCE),
         add(0, 1e-4)),
    Case("pdist", bind(aten._pdist_forward.default, X1, 1.0), add(0, 1e-4)),
    Case("norm", bind(aten.norm.ScalarOpt_dim, MATRIX, 2, [1]), without_an_element),
    Case("dist", bind(aten.dist.default, LINE, LINE.flip(0), 1), without_an_element),
    Case("cross", bind(aten.linalg_cross.default, data(9, 3), data(9, 3, seed=2)), add(0, 1e-5)),
    Case("trace", bind(aten.trace.default, MATRIX), add(0, 1e-5)),
    Case("diagonal_copy", bind(aten.diagonal_copy.default, MATRIX), swap(0)),
    Case("diag_embed", bind(aten.diag_embed.default, LINE[:9]), add(0, 1e-6)),
    Case("diagonal_scatter", bind(aten.diagonal_scatter.default, MATRIX, LINE[:9]), swap(0)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_is_seen_and_the_right_result_is_not(case: Case) -> None:
    held = tuple(t.clone() for t in case.call.run())
    assert not witnesses(case.call, held)
    case.spoil(case.call, held)
    assert witnesses(case.call, held), f"{case.name}: nothing saw the fault"


OVERRIDABLE = {
    "var": aten.var.correction, "max index": aten.max.dim, "argmin of all": aten.argmin.default,
    "cumsum": aten.cumsum.default, "sort order": aten.sort.stable, "dot": aten.dot.default,
    "topk misses one": aten.topk.default, "cdist": aten._cdist_forward.default,
    "searchsorted": aten.searchsorted.Tensor, "trace": aten.trace.default,
}


@pytest.mark.parametrize("name", OVERRIDABLE)
def test_a_kernel_that_is_broken_for_every_caller_is_seen(name: str) -> None:
    """The witnesses share no kernel with the op, so a broken one cannot agree with itself."""
    case = next(c for c in CASES if c.name == name)

    def spoil(info: CallInfo, results: tuple[Tensor | None, ...]) -> None:
        for t in results:
            assert t is not None
            t.add_(1)

    with KernelOverride(OVERRIDABLE[name], spoil):
        held = case.call.run()
        assert witnesses(case.call, held)
    assert not witnesses(case.call, case.call.run())


def test_nan_is_the_largest_and_the_first_one_is_named() -> None:
    x = torch.tensor([[1.0, math.nan, 5.0, math.nan]])
    call = bind(aten.max.dim, x, 1)
    assert call.run()[1].tolist() == [1]
    assert not witnesses(call, call.run())
    assert witnesses(call, (torch.tensor([math.nan]), torch.tensor([3])))
    assert witnesses(call, (torch.tensor([5.0]), torch.tensor([2])))
    order = bind(aten.sort.default, x)
    assert not witnesses(order, order.run())
    v, i = (t.flip(1) for t in order.run())
    assert witnesses(order, (v, i))


def test_either_zero_may_win_and_a_tied_index_is_free_where_documented() -> None:
    x = torch.tensor([0.0, -0.0])
    for value in (0.0, -0.0):
        assert not witnesses(bind(aten.max.default, x), (torch.tensor(value),))
    order = bind(aten.sort.default, torch.zeros(3))
    assert not witnesses(order, (torch.zeros(3), torch.tensor([2, 0, 1])))
    mode = bind(aten.mode.default, TIES)
    assert not witnesses(mode, (torch.tensor([2.0, 3.0]), torch.tensor([3, 1])))


def test_an_unsorted_sequence_has_no_right_answer() -> None:
    call = bind(aten.searchsorted.Tensor, torch.tensor([3.0, 1.0, 2.0]), MATRIX)
    assert not witnesses(call, (torch.zeros(9, 40, dtype=torch.int64),))


def test_half_nansums_keep_the_proof_and_break_the_fp32_contract() -> None:
    x = torch.ones(600, 3, 5, dtype=torch.bfloat16)
    call = bind(aten.nansum.default, x, [0, 2])
    held = call.run()
    assert held[0][0] < 3000
    assert {w.split()[1] for w in witnesses(call, held)} == {"contract"}
    assert {w.split()[1] for w in witnesses(call, (held[0] * 1000,))} == {"proof"}


def test_deviation_of_a_large_mean_is_judged_by_what_welford_keeps() -> None:
    """In fp32 nothing would be left of a deviation of 1 about 1e6: the contract says fp64."""
    x = 1e6 + data(40, 300)
    call = bind(aten.var.correction, x, [1])
    held = call.run()
    assert not witnesses(call, held)
    assert witnesses(call, (held[0] * (1 + 2.0**-18),))


def test_a_product_that_may_overflow_on_the_way_is_not_judged() -> None:
    x = torch.tensor([1e30, 1e30, 1e-30, 1e-30])
    call = bind(aten.prod.default, x)
    assert not witnesses(call, (torch.tensor(math.inf),))
    assert not witnesses(call, (torch.tensor(1.0),))
    assert witnesses(bind(aten.prod.default, x[::2]), (torch.tensor(1.1),))


def test_histc_leaves_elements_at_an_edge_free_and_no_others() -> None:
    x = torch.tensor([0.0, 0.5, 0.5, 1.0, 0.2])
    call = bind(aten.histc.default, x, 2, 0, 1)
    assert not witnesses(call, call.run())
    assert not witnesses(call, (torch.tensor([3.0, 2.0]),))
    assert witnesses(call, (torch.tensor([6.0, 0.0]),))
    apart = bind(aten.histc.default, torch.tensor([0.1, 0.3, 0.8]), 2, 0, 1)
    assert witnesses(apart, (torch.tensor([1.0, 2.0]),))


def test_gradient_of_coinciding_rows_is_zero() -> None:
    a = torch.ones(3, 4)
    call = bind(aten._cdist_backward.default, torch.ones(3, 3), a, a.clone(), 2.0,
                torch.zeros(3, 3))
    held = call.run()
    assert not witnesses(call, held)
    assert np.all(held[0].numpy() == 0)
    assert witnesses(call, (held[0] + 1e-6,))
