"""The emulations compute what they say, judged by exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from tests.soundness.evaluate_linear import _Matrix
from tests.soundness.orders import ORDERS, fused, fused_dot, summed
from tests.soundness.values import EDITS, KINDS, Fill, filled


@pytest.mark.parametrize("order", ORDERS)
def test_a_sum_is_within_the_bound_of_any_order(order: str) -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 7, 50):
        x = rng.standard_normal((4, n)).astype(np.float32)
        got = summed(x, order, rng)
        assert got.dtype == np.float32
        for row, total in zip(x, got, strict=True):
            exact = sum((Fraction(float(v)) for v in row), Fraction(0))
            limit = (n - 1) * FLOAT32.u * float(np.abs(row.astype(np.float64)).sum())
            assert abs(Fraction(float(total)) - exact) <= limit


def test_orders_differ() -> None:
    x = (np.random.default_rng(1).standard_normal((1, 200)) * 100).astype(np.float32)
    found = {float(summed(x, order, np.random.default_rng(0))[0]) for order in ORDERS}
    assert len(found) >= 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fused_multiply_add_is_rounded_once(dtype: type) -> None:
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal(300).astype(dtype) for _ in range(2))
    c = (-a * b * (1 + 2.0**-20 * rng.standard_normal(300))).astype(dtype)
    if dtype is np.float64 and np.finfo(np.longdouble).nmant < 60:
        pytest.skip("no extended format")
    u = float(np.finfo(dtype).eps) / 2
    for x, y, z, got in zip(a, b, c, fused(a, b, c), strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        assert abs(Fraction(float(got)) - exact) <= abs(exact) * Fraction(u * (1 + 2.0**-8))
    unfused = a * b + c
    assert (unfused != fused(a, b, c)).any()


def test_a_fused_dot_starts_from_its_addend() -> None:
    a, b = np.float32([[1, 2]]), np.float32([[3, 4]])
    assert fused_dot(a, b)[0] == 11
    assert fused_dot(a, b, np.float32([5]))[0] == 16


def test_the_matrix_of_a_convolution_gives_the_convolution() -> None:
    op = torch.ops.aten.convolution.default
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randint(-3, 4, s, generator=generator).float()
               for s in ((1, 2, 5, 4), (3, 2, 3, 2), (3,)))
    form = form_of(op)
    call = BoundCall(form, form.bind((x, w, b, [1, 1], [1, 0], [1, 1], False, [0, 0], 1), {}))
    m = _Matrix(call, "input")
    got = m.start + (m.weight * x.numpy().reshape(-1)[m.place]).sum(-1)
    assert (got == call.run()[0].numpy().reshape(-1)).all()


@pytest.mark.parametrize("fmt", [FLOAT64, FLOAT32, BFLOAT16, FLOAT16])
@pytest.mark.parametrize("kind", KINDS)
def test_values_of_every_kind_reach_their_format(fmt: object, kind: str) -> None:
    fill = Fill(kind=kind, seed=1, edits=((3, "max"), (4, "tiny")))
    x = filled(fill, 70, fmt)  # type: ignore[arg-type]
    assert x.shape == (70,)
    assert x[3] == EDITS["max"](fmt)  # type: ignore[arg-type]
    again = filled(fill, 70, fmt)  # type: ignore[arg-type]
    assert np.array_equal(x, again, equal_nan=True)
    if kind != "special":
        assert np.isfinite(x).all()


def test_every_pattern_of_a_half_format_occurs() -> None:
    x = filled(Fill(kind="every pattern"), 2**16, FLOAT16)
    assert len(np.unique(x)) == 2 * (2**15 - 2**10) - 1  # all finite numbers, one zero
