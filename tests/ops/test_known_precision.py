"""Each kernel that is known to add in a half format does so, by exact arithmetic, and the guard
calls it ``precision``."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sdc_guard
from tests.known_precision import LOW_PRECISION_SUMS, is_known

aten = torch.ops.aten
NUM = 128
SMALL = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def terms(dtype: torch.dtype) -> Tensor:
    """1, then 128 times half its ulp: each addition to 1 is a tie, and goes to even."""
    return torch.tensor([1.0] + [SMALL[dtype]] * NUM, dtype=dtype)


def of_bag(x: Tensor) -> Tensor:
    weight = torch.zeros(1, 1, dtype=x.dtype, requires_grad=True)
    bags = torch.zeros(len(x), 1, dtype=torch.int64)
    return torch.autograd.grad(F.embedding_bag(bags, weight, mode="sum"), weight, x[:, None])[0]


def of_layer_norm(x: Tensor) -> Tensor:
    bias = torch.zeros(1, dtype=x.dtype, requires_grad=True)
    y = F.layer_norm(torch.ones(len(x), 1, dtype=x.dtype), (1,), None, bias)
    return torch.autograd.grad(y, bias, x[:, None])[0]


def of_nansum(x: Tensor) -> Tensor:
    return torch.cat([x[:, None], torch.zeros(len(x), 2, dtype=x.dtype)], 1)[:, :2].nansum()


def index(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.int64)


def zero(x: Tensor) -> Tensor:
    return torch.zeros(1, dtype=x.dtype)


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "aten._embedding_bag_dense_backward": of_bag,
    "aten.embedding_dense_backward": lambda x: aten.embedding_dense_backward(
        x[:, None], index(x), 1, -1, False),
    "aten.nansum": of_nansum,
    "aten.native_layer_norm_backward": of_layer_norm,
    "aten._index_put_impl": lambda x: aten._index_put_impl_(zero(x), [index(x)], x, True),
    "aten._unsafe_index_put": lambda x: aten._unsafe_index_put(zero(x), [index(x)], x, True),
    "aten.index_add": lambda x: zero(x).index_add(0, index(x), x),
    "aten.index_put": lambda x: zero(x).index_put((index(x),), x, accumulate=True),
    "aten.index_reduce": lambda x: zero(x).index_reduce(0, index(x), x, "mean").double() * (
        len(x) + 1),
    "aten.put": lambda x: zero(x).put(index(x), x, accumulate=True),
}


# torch announces that some reductions are old, and others young.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("packet", KERNELS)
def test_the_sum_misses_the_exact_one_by_more_than_fp32_may(
    packet: str, dtype: torch.dtype
) -> None:
    x = terms(dtype)
    exact = sum(Fraction(v) for v in x.tolist())
    guard = sdc_guard.Guard(budget="all")
    with guard:
        got = KERNELS[packet](x)
    error = abs(Fraction(got.flatten()[0].item()) - exact)
    accumulated = Fraction(NUM, 2**24) * sum(abs(Fraction(v)) for v in x.tolist())
    stored = (exact + accumulated) * Fraction(SMALL[dtype])
    assert error > accumulated + stored
    found = [f"{f.verdict.value}: {f.message}" for f in guard.findings]
    assert found
    assert all(map(is_known, found)), found


def test_the_table_names_no_more_than_is_shown() -> None:
    """``_embedding_bag_backward`` ends in the dense one."""
    assert set(LOW_PRECISION_SUMS) - set(KERNELS) == {"aten._embedding_bag_backward"}


def test_only_precision_of_the_named_kernels_is_known() -> None:
    named = "in aten.native_layer_norm_backward.default at x"
    assert is_known(f"precision: precision {named}")
    assert is_known("precision: precision in aten.index_put_.default at x")
    assert not is_known(f"corruption: corruption {named}")
    assert not is_known("precision: precision in aten.mm.default at x")
