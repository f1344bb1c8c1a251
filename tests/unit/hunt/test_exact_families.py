"""Exact values of pools, scatters, norms, resized images and losses, known by hand: the right
number is at distance 0, a wrong one is not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.hunt.divergence import OUTSIDE, Divergence
from sdc_guard.hunt.exact import (
    BY_BITS,
    BY_COUNT,
    BY_PRODUCT,
    Exact,
    checked,
    exact_element,
    text_of,
)
from sdc_guard.records import Bound, Observation, Value, Worst

ops = torch.ops.aten
LINE = torch.arange(1.0, 6.0).reshape(1, 5)
IMAGE = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
WHOLE = torch.tensor([[[[-1, -2], [-3, 1]]]])
PAIR = torch.tensor([[1.0, 10.0], [3.0, 20.0]], dtype=torch.float64)
ONES = torch.ones(2, dtype=torch.float64)
NORM = (PAIR, 2 * ONES, ONES, torch.tensor([4.0, 8.0], dtype=torch.float64),
        torch.tensor([2.0, 6.0], dtype=torch.float64))
SAVED = torch.tensor([2.0, 15.0], dtype=torch.float64), torch.tensor([1.0, 0.25],
                                                                     dtype=torch.float64)
GRADS = torch.tensor([[1.0, 1.0], [3.0, 2.0]], dtype=torch.float64)
ROWS = torch.tensor([[0, 2], [2, 1]])
SCORES = torch.full((2, 3), -1.0)
TARGET = torch.tensor([2, 0])
WEIGHTS = torch.tensor([1.0, 2.0, 4.0])
LARGEST = torch.tensor(2.0**127)


def _arguments(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


CASES: tuple[tuple[Any, tuple[Any, dict[str, Any]], int, tuple[int, ...], Any], ...] = (
    # scatters
    (ops.slice_scatter.default, _arguments(LINE, -torch.ones(1, 2), 1, -4, None, 3), 0, (0, 4), -1),
    (ops.slice_scatter.default, _arguments(LINE, -torch.ones(1, 2), 1, -4, None, 3), 0, (0, 2), 3),
    (ops.select_scatter.default, _arguments(LINE, torch.zeros(1), 1, -2), 0, (0, 3), 0),
    (ops.diagonal_scatter.default, _arguments(torch.ones(2, 3), torch.tensor([5.0, 7.0]), 1), 0,
     (1, 2), 7),
    (ops.diagonal_scatter.default, _arguments(torch.ones(3, 2), torch.tensor([5.0, 7.0]), -1), 0,
     (2, 1), 7),
    (ops.narrow_copy.default, _arguments(LINE, 1, -2, 2), 0, (0, 1), 5),
    (ops._foreach_copy.default, _arguments([torch.ones(2), torch.ones(2)],
                                           [LINE[0, :2], LINE[0, 2:3]]), 1, (1,), 3),
    (ops.put.default, _arguments(torch.ones(2, 2), torch.tensor([-1, 3]), torch.tensor([2.0, 3.0]),
                                 True), 0, (1, 1), 6),
    (ops.index_put.default, _arguments(torch.ones(2, 3), [None, torch.tensor([2, 2])],
                                       torch.tensor([2.0, 3.0]), True), 0, (1, 2), 6),
    (ops.index_put.default, _arguments(torch.ones(2, 2), [torch.tensor(
        [[False, True], [True, False]])], torch.tensor([2.0, 3.0])), 0, (1, 0), 3),
    (ops.index_reduce.default, _arguments(torch.ones(2), 0, torch.tensor([1, 1]),
                                          torch.tensor([2.0, 6.0]), "mean"), 0, (1,), 3),
    (ops.index_reduce.default, _arguments(torch.tensor([4]), 0, torch.tensor([0]),
                                          torch.tensor([-7]), "mean"), 0, (0,), -2),
    (ops.embedding_dense_backward.default, _arguments(torch.tensor(
        [[[1.0], [2.0]], [[4.0], [8.0]]]), ROWS, 3, -1, True), 0, (2, 0), 3),
    # windows
    (ops.avg_pool2d.default, _arguments(IMAGE, [2, 2], [1, 1], [1, 1]), 0, (0, 0, 0, 1),
     Fraction(3, 4)),
    (ops.avg_pool2d.default, _arguments(IMAGE, [2, 2], [1, 1], [1, 1], False, False), 0,
     (0, 0, 0, 1), Fraction(3, 2)),
    (ops.avg_pool2d.default, _arguments(IMAGE, [2], [2], 0, True), 0, (0, 0, 1, 0),
     Fraction(15, 2)),
    (ops.avg_pool2d.default, _arguments(WHOLE, [2, 2]), 0, (0, 0, 0, 0), -1),
    (ops.avg_pool2d.default, _arguments(WHOLE, [2, 2], [], 0, False, True, 3), 0, (0, 0, 0, 0), -1),
    (ops.avg_pool3d.default, _arguments(IMAGE, [1, 3, 1]), 0, (0, 0, 0, 1), 5),
    (ops.max_pool2d_with_indices.default, _arguments(-IMAGE, [2, 2], [1, 1], [1, 1], [2, 2]), 0,
     (0, 0, 0, 0), -5),
    (ops.max_pool3d_with_indices.default, _arguments(IMAGE, [1, 2, 2]), 0, (0, 0, 0, 0), 5),
    (ops._adaptive_avg_pool2d.default, _arguments(IMAGE, [2, 1]), 0, (0, 0, 1, 0),
     Fraction(13, 2)),
    (ops._adaptive_avg_pool3d.default, _arguments(IMAGE, [1, 1, 2]), 0, (0, 0, 0, 1),
     Fraction(11, 2)),
    (ops.adaptive_max_pool2d.default, _arguments(IMAGE, [2, 2]), 0, (0, 0, 0, 1), 6),
    (ops.adaptive_max_pool3d.default, _arguments(IMAGE, [1, 1, 1]), 0, (0, 0, 0, 0), 9),
    (ops.fractional_max_pool2d.default, _arguments(
        torch.arange(10.0).reshape(1, 1, 1, 10), [1, 2], [1, 4], torch.full((1, 1, 2), 0.4)), 0,
     (0, 0, 0, 1), 3),  # from floor(1.4 * 8 / 3) - floor(0.4 * 8 / 3) = 3 - 1 on
    (ops.im2col.default, _arguments(IMAGE, [2, 2], [1, 1], [1, 1], [2, 2]), 0, (0, 3, 0), 1),
    (ops.im2col.default, _arguments(IMAGE, [2, 2], [1, 1], [1, 1], [2, 2]), 0, (0, 0, 0), 0),
    (ops.im2col.default, _arguments(IMAGE, [2, 2], [1, 1], [0, 0], [1, 1]), 0, (0, 2, 1), 5),
    (ops.col2im.default, _arguments(torch.arange(16.0).reshape(1, 4, 4), [3, 3], [2, 2], [1, 1],
                                    [0, 0], [1, 1]), 0, (0, 0, 1, 1), 3 + 6 + 9 + 12),
    # norms: channel 0 holds 1 and 3, channel 1 holds 10 and 20
    (ops._native_batch_norm_legit.default, _arguments(*NORM, True, 0.25, 3.0), 0, (0,),
     Fraction(7, 2)),
    (ops._native_batch_norm_legit.default, _arguments(*NORM, True, 0.25, 3.0), 1, (1,), 17),
    (ops._native_batch_norm_legit.default, _arguments(*NORM, True, 0.25, 3.0), 2, (1, 0), 2),
    (ops._native_batch_norm_legit.default, _arguments(*NORM, True, 0.25, 3.0), 3, (1,), 15),
    (ops._native_batch_norm_legit.default, _arguments(*NORM, True, 0.25, 3.0), 4, (0,),
     Fraction(1, 2)),
    (ops.native_batch_norm.default, _arguments(*NORM, False, 0.25, 2.0), 1, (1,), 6),
    (ops.native_batch_norm.default, _arguments(*NORM, False, 0.25, 2.0), 2, (0, 0), -2),
    (ops.native_batch_norm_backward.default, _arguments(
        GRADS, PAIR, 2 * ONES, None, None, *SAVED, True, 0.0, [True] * 3), 0, (1, 0), 0),
    (ops.native_batch_norm_backward.default, _arguments(
        GRADS, PAIR, 2 * ONES, None, None, *SAVED, True, 0.0, [True] * 3), 1, (1,),
     Fraction(5, 4)),
    (ops.native_batch_norm_backward.default, _arguments(
        GRADS, PAIR, 2 * ONES, None, None, *SAVED, True, 0.0, [True] * 3), 2, (1,), 3),
    (ops.native_batch_norm_backward.default, _arguments(
        GRADS, PAIR, 2 * ONES, *NORM[3:], None, None, False, 2.0, [True] * 3), 0, (1, 0), 3),
    # resized images
    (ops.upsample_linear1d.default, _arguments(LINE[None, :, :2], [3], True), 0, (0, 0, 1),
     Fraction(3, 2)),
    (ops.upsample_bilinear2d.default, _arguments(IMAGE[..., :2, :2], [4, 4], False), 0,
     (0, 0, 1, 1), 2),
    (ops.upsample_bicubic2d.default, _arguments(
        torch.tensor([0.0, 64.0]).reshape(1, 1, 1, 2), [1, 3], True), 0, (0, 0, 0, 1), 32),
    # losses
    (ops.nll_loss_backward.default, _arguments(torch.tensor(3.0), SCORES, TARGET, WEIGHTS, 1, -100,
                                               torch.tensor(2.0)), 0, (0, 2), -6),
    (ops.nll_loss_backward.default, _arguments(torch.tensor(3.0), SCORES, TARGET, WEIGHTS, 2, 0,
                                               torch.tensor(2.0)), 0, (1, 0), 0),
    (ops.nll_loss_backward.default, _arguments(torch.tensor([3.0, 5.0]), SCORES, TARGET, None, 0,
                                               -100, torch.tensor(2.0)), 0, (1, 0), -5),
    # activations: at 0 and where one side is saturated
    (ops.gelu_backward.default, _arguments(torch.tensor([3.0]), torch.zeros(1)), 0, (0,),
     Fraction(3, 2)),
    (ops.sigmoid_backward.default, _arguments(torch.tensor([3.0]), torch.tensor([0.25])), 0, (0,),
     Fraction(9, 16)),
    (ops.tanh_backward.default, _arguments(torch.tensor([3.0]), torch.tensor([0.5])), 0, (0,),
     Fraction(9, 4)),
    (ops.pow.Tensor_Scalar, _arguments(torch.tensor([-math.inf]), -3.0), 0, (0,), 0),
    # integers
    (ops.gcd.default, _arguments(torch.tensor([12]), torch.tensor([-18])), 0, (0,), 6),
    (ops.lcm.default, _arguments(torch.tensor([-4]), torch.tensor([6])), 0, (0,), 12),
)


def _call(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def _found(call: BoundCall, held: torch.Tensor, output: int, index: tuple[int, ...]) -> Exact:
    found = exact_element(call, held, output, index)
    assert found is not None
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}{list(case[3])}")
def test_what_is_known_by_hand(case: Any) -> None:
    op, (args, kwargs), output, index, value = case
    call = _call(op, args, kwargs)
    held = call.with_private_images().run()[output]
    found = _found(call, held, output, index)
    assert found.value == value
    assert found.error == 0
    wrong = held.clone()
    wrong[index] += 1
    assert _found(call, wrong, output, index).error == 1


def test_a_product_that_overflows_on_the_way_has_a_finite_value() -> None:
    call = _call(ops.nll_loss_backward.default, (LARGEST, SCORES, TARGET, WEIGHTS, 1, -100,
                                                 torch.tensor(4.0)), {})
    held = torch.full((2, 3), -math.inf)
    assert _found(call, held, 0, (0, 2)).breaks(2.0**100)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_gradient_of_gelu_is_next_to_0_far_left_of_it(approximate: str) -> None:
    call = _call(ops.gelu_backward.default, (torch.ones(1), torch.tensor([-1e34])),
                 {"approximate": approximate})
    found = _found(call, torch.tensor([math.nan]), 0, (0,))
    assert found.nearest == 0
    assert found.text == "0, rounded"
    assert found.breaks(2.0**100)


def test_a_window_that_rounding_may_move_has_no_value() -> None:
    """(3 + 0) / 3 of 9 places: the product is a whole number but for its roundings."""
    x = torch.arange(10.0).reshape(1, 1, 1, 10)
    for sample, is_known in ((0.0, False), (0.3, True)):
        call = _call(ops.fractional_max_pool2d.default,
                     (x, [1, 1], [1, 4], torch.full((1, 1, 2), sample)), {})
        assert (exact_element(call, call.run()[0], 0, (0, 0, 0, 1)) is not None) == is_known


@pytest.mark.parametrize(("op", "args", "output", "index"), [
    (ops._native_batch_norm_legit.default, (torch.full((2, 1), math.nan), None, None,
                                            torch.ones(1), torch.ones(1), True, 0.1, 0.1), 3, (0,)),
    (ops._native_batch_norm_legit.default, (torch.ones(1, 1), None, None, torch.ones(1),
                                            torch.ones(1), True, 0.1, 0.1), 1, (0,)),
    (ops.max_pool2d_with_indices.default, (IMAGE, [2, 2]), 1, (0, 0, 0, 0)),
    (ops.put.default, (torch.ones(2), torch.tensor([0, 0]), torch.tensor([2.0, 3.0])), 0, (0,)),
    (ops.avg_pool2d.default, (torch.full((1, 1, 1, 2), 2**62), [1, 2]), 0, (0, 0, 0, 0)),
    (ops.upsample_bilinear2d.default, (IMAGE.to(torch.uint8), [2, 2], False), 0, (0, 0, 0, 0)),
], ids=["NaN", "one element", "place of a maximum", "two for one place", "wraps", "uint8"])
def test_where_more_than_one_number_is_right_nothing_is_said(
    op: Any, args: Sequence[Any], output: int, index: tuple[int, ...]
) -> None:
    call = _call(op, tuple(args), {})
    held = call.with_private_images().run()[output]
    assert exact_element(call, held, output, index) is None


def _divergence(**parts: Any) -> Divergence:
    return Divergence("exact", "aten.poisson.default", "corruption", "", "float32", "contiguous",
                      "gross", **parts)


def test_memory_that_was_overwritten_needs_no_number() -> None:
    divergence = _divergence(formula=OUTSIDE)
    assert checked(divergence) == ("confirmed", None)
    assert text_of(divergence, "confirmed", None) == BY_BITS


def _worst(*index: int, bound: Bound | None = None) -> Worst:
    nothing = Value(dtype="float32", bits="", repr="")
    return Worst(output=0, index=index, got=nothing, expected=nothing, xor="", error=nothing,
                 error_ulps=-1.0, bound=bound)


@pytest.mark.parametrize(("rate", "drawn", "said"), [
    (5.0, -(2.0**63), "confirmed"), (5.0, 2.5, "confirmed"), (0.0, 1.0, "confirmed"),
    (5.0, 3.0, "contradicted"), (0.0, 0.0, "contradicted"), (5.0, math.inf, "contradicted"),
])
def test_a_draw_that_is_no_count_is_wrong_whatever_was_drawn(
    rate: float, drawn: float, said: str
) -> None:
    call = _call(ops.poisson.default, (torch.tensor([rate]),), {})
    divergence = _divergence(formula="draws are counts", worst=_worst(0),
                             observation=Observation(call, (torch.tensor([drawn]),)))
    assert checked(divergence) == (said, None)
    assert text_of(divergence, said, None) == (BY_COUNT if said == "confirmed" else "")
    other = dataclasses.replace(divergence, formula="the mean of 1 draws")
    assert checked(other) == ("not available", None)
    assert text_of(other, "not available", None) == ""


@pytest.mark.parametrize(("pivot", "said"), [
    (4.0, "contradicted"), (4.5, "confirmed"), (math.nan, "not available"),
])
def test_parts_of_a_matrix_are_multiplied(pivot: float, said: str) -> None:
    """Rows 2 1 and 4 2.5 swapped: L is 1 0, 0.5 1 and U is 4 2.5, 0 -0.25."""
    a = torch.tensor([[[2.0, 1.0], [4.0, 2.5]]])
    swap = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    held = (swap, torch.tensor([[[1.0, 0.0], [0.5, 1.0]]]),
            torch.tensor([[[pivot, 2.5], [0.0, -0.25]]]))
    divergence = _divergence(
        formula="residual", worst=_worst(0, 1, 1, bound=Bound(kind="proof", limit=0.1, formula="")),
        observation=Observation(_call(ops.linalg_lu.default, (a,), {}), held))
    assert checked(divergence) == (said, None)
    assert text_of(divergence, said, None) == (BY_PRODUCT if said == "confirmed" else "")
