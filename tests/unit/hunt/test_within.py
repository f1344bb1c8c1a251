"""Values that keep to the figures of a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.hunt.fills import KINDS
from sdc_guard.hunt.layouts import laid_out
from sdc_guard.hunt.trial import STRIDED, Fill, Layout, Within
from sdc_guard.hunt.within import values_within

_FILLS = st.builds(Fill, kind=st.sampled_from(list(KINDS)), seed=st.integers(0, 2**16))
_MAGNITUDES = st.floats(2.0**-20, 2.0**15, width=16)


@given(_FILLS, st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
       st.tuples(_MAGNITUDES, _MAGNITUDES, _MAGNITUDES).map(sorted),
       st.sampled_from(["both", "above", "below"]))
def test_every_recipe_stays_in_the_range_above_the_least_magnitude_and_without_zeros(
    fill: Fill, dtype: torch.dtype, sizes: list[float], side: str
) -> None:
    # Numbers that each of the formats holds, as those of a trace are its operand's own.
    smallest, middle, largest = (float(torch.tensor(s).to(torch.bfloat16).half()) for s in sizes)
    if not 2.0**-20 <= smallest <= middle <= largest:
        return
    low, high = {"both": (-middle, largest), "above": (smallest, largest),
                 "below": (-largest, -smallest)}[side]
    within = Within(fill=fill, low=low, high=high, smallest=smallest)
    x = bits.values(values_within(within, (33,), dtype))
    assert np.all((x >= low) & (x <= high))
    assert np.all(np.abs(x) >= smallest)
    assert np.array_equal(x, bits.values(values_within(within, (33,), dtype)))


def test_recipes_keep_their_structure_and_differ_from_each_other() -> None:
    made = {kind: values_within(Within(fill=Fill(kind=kind), low=-3.0, high=3.0), (64,),
                                torch.float32) for kind in ("normal", "cancelling", "constant")}
    assert abs(float(made["cancelling"].sum())) < float(made["cancelling"].abs().sum()) / 20
    assert len(made["constant"].unique()) == 1
    assert len(made["normal"].unique()) > 60
    assert all(1.5 <= float(x.abs().max()) <= 3 for x in (made["normal"], made["cancelling"]))


def test_zeros_nan_and_infinities_come_in_their_shares_and_only_if_seen() -> None:
    within = Within(fill=Fill(kind="normal"), low=-1.0, high=2.0, zeros=0.5, nans=0.125,
                    neg_infs=0.125)
    x = values_within(within, (4000,), torch.float32)
    assert 1300 < int((x == 0).sum()) < 1800
    assert 400 < int(x.isnan().sum()) < 600
    assert 300 < int((x == -torch.inf).sum()) < 600
    assert not (x == torch.inf).any()
    special = Within(fill=Fill(kind="special"), low=-1.0, high=2.0, smallest=0.5)
    assert values_within(special, (4000,), torch.float32).isfinite().all()


def test_whole_numbers_indices_and_masks_are_such() -> None:
    whole = values_within(Within(fill=Fill(kind="normal"), low=-5, high=7, whole=True, zeros=0.1),
                          (100,), torch.bfloat16)
    assert torch.equal(whole, whole.trunc())
    index = values_within(Within(fill=Fill(kind="normal"), low=0, high=9, filler=-100, fillers=0.5),
                          (400,), torch.int64)
    assert set(index.tolist()) <= {-100, *range(10)}
    assert len(set(index.tolist())) == 11
    order = values_within(Within(fill=Fill(kind="normal"), low=0, high=63, is_distinct=True), (64,),
                          torch.int64)
    assert sorted(order.tolist()) == list(range(64))
    ends = values_within(Within(fill=Fill(kind="normal"), low=0, high=99, is_sorted=True), (64,),
                         torch.int32)
    assert ends.tolist() == sorted(ends.tolist())
    mask = values_within(Within(fill=Fill(kind="normal"), low=0, high=1, zeros=0.25), (4000,),
                         torch.bool)
    assert 2850 < int(mask.sum()) < 3150


@pytest.mark.parametrize(("shape", "strides", "offset"), [
    ((3, 4), (1, 3), 5), ((2, 3, 4), (24, 4, 1), 0), ((3, 4), (0, 1), 1), ((5,), (7,), 2),
])
def test_a_strided_layout_holds_the_values_behind_exactly_these_strides(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    values = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    if 0 in strides:
        values = values[:1].expand(shape).contiguous()
    made = laid_out(values, Layout(kind=STRIDED, detail=offset, strides=strides))
    assert (made.stride(), made.storage_offset()) == (strides, offset)
    assert torch.equal(made, values)


@pytest.mark.parametrize(("strides", "offset"), [((1,), 0), ((4, -1), 0), ((10**12, 1), 0),
                                                 ((4, 1), 10**9)])
def test_strides_that_do_not_fit_or_reach_too_far_are_refused(
    strides: tuple[int, ...], offset: int
) -> None:
    with pytest.raises(UsageError, match="strides"):
        laid_out(torch.zeros(3, 4), Layout(kind=STRIDED, detail=offset, strides=strides))
