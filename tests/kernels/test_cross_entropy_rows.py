"""Negative log-likelihood rows: the ops' own samples, exact sums, and kernels that are broken."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.ops._registry import lookup
from tests.kernels.compiled import ptx_of
from tests.kernels.offered import some_slow
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import cross_entropy_rows as module
from sdc_guard_kernels.verdict import Verdict
from tests.kernels.judging import DTYPES, complaints, on_device, row_signature, verdicts, with_value

aten = torch.ops.aten
LOSSES = ("aten.nll_loss_forward", "aten.nll_loss2d_forward")
GRADIENTS = ("aten.nll_loss_backward", "aten.nll_loss2d_backward")
NONE, MEAN, SUM = 0, 1, 2
SPECK = torch.tensor(2.0**-14, dtype=torch.float64)


def samples(name: str, dtype: torch.dtype) -> list[Any]:
    spec = lookup(name)
    assert spec is not None
    assert spec.samples is not None
    return spec.samples(torch.Generator().manual_seed(3), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*LOSSES, *GRADIENTS])
def test_right_calls_pass_and_flips_are_found(name: str, dtype: torch.dtype) -> None:
    faults = dtype is torch.float32
    chosen = samples(name, dtype) if dtype is torch.float32 else samples(name, dtype)[:9:2]
    found = [complaints(sample, faults=faults and k % 3 == 0) for k, sample in enumerate(chosen)]
    assert len(found) >= 3
    assert not any(found), found


def verdicts_of(op: Any, operands: tuple[Any, ...], held: tuple[Tensor, ...]) -> list[Verdict]:
    form = form_of(op.default)
    spec = lookup(form.packet)
    assert spec is not None
    with np.errstate(all="ignore"):
        found = verdicts(spec, BoundCall(form, form.bind(operands, {})), held)
    assert found is not None
    return [verdict for _, verdict in found]


@settings(max_examples=12)
@given(
    rows=st.integers(1, 40),
    classes=st.integers(1, 9),
    row_stride=st.integers(0, 12),
    class_stride=st.integers(0, 5),
    offset=st.integers(0, 5),
    dtype=st.sampled_from(DTYPES),
    weighted=st.booleans(),
    reduction=st.sampled_from([NONE, MEAN, SUM]),
    ignored=st.integers(-1, 3),
    seed=st.integers(0, 2**31),
)
def test_any_strides_and_offset(
    rows: int, classes: int, row_stride: int, class_stride: int, offset: int, dtype: torch.dtype,
    weighted: bool, reduction: int, ignored: int, seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = 1 + offset + (rows - 1) * row_stride + (classes - 1) * class_stride
    memory = (4 * torch.randn(size, generator=generator)).to(dtype)
    x = memory.as_strided((rows, classes), (row_stride, class_stride), offset)
    target = torch.randint(0, classes, (3 * rows,), generator=generator)[::3]
    weight = (torch.rand(2 * classes, generator=generator) + 0.5).to(dtype)[::2]
    operands = (x, target, weight if weighted else None, reduction, ignored)
    kept = [n for n in range(rows) if target[n] != ignored]
    shares = {n: Fraction(weight[target[n]].item()) if weighted else Fraction(1) for n in kept}
    terms = {n: -shares[n] * Fraction(x[n, target[n]].item()) for n in kept}
    total = sum(shares.values(), Fraction(0))
    if reduction == NONE:
        exact = [float(terms.get(n, Fraction(0))) for n in range(rows)]
        loss = torch.tensor(exact, dtype=torch.float64)
    else:
        summed = sum(terms.values(), Fraction(0))
        if reduction == MEAN and not total:
            return
        value = summed / total if reduction == MEAN else summed
        loss = torch.tensor(float(value), dtype=torch.float64)
    held = (loss.to(dtype), torch.tensor(float(total), dtype=torch.float64).to(dtype))
    right = verdicts_of(aten.nll_loss_forward, operands, held)
    assert all(v.num_over == 0 for v in right)
    place = 0 if reduction else int(torch.randint(0, rows, (1,), generator=generator))
    moved = held[0].flatten()[place] + 40.0 * rows
    wrong = with_value(held, 0, place, moved.to(dtype))
    assert verdicts_of(aten.nll_loss_forward, operands, wrong)[0][1:] == (place, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_is_exactly_zero_beside_the_targets(dtype: torch.dtype) -> None:
    x = torch.randn(5, 7).to(dtype)
    target = torch.tensor([0, 6, 2, 2, 3])
    grad, total = torch.tensor(0.3).to(dtype), torch.tensor(4.0).to(dtype)
    operands = (grad, x, target, None, MEAN, 3, total)
    op = aten.nll_loss_backward
    (held,) = (op(*operands),)
    assert verdicts_of(op, operands, (held,))[0].num_over == 0
    for place in (1, 9, 31):
        speck = with_value((held,), 0, place, SPECK.to(dtype))
        assert verdicts_of(op, operands, speck)[0][1:] == (place, 1)
    other_sign = with_value((held,), 0, 1, torch.tensor(-0.0))
    assert verdicts_of(op, operands, other_sign)[0].num_over == 0


def test_targets_outside_the_classes_read_nothing() -> None:
    x = torch.full((4, 3), 2.0)
    target = torch.tensor([0, 5, -7, 1])
    operands = (x, target, None, NONE, -100)
    losses = torch.tensor([-2.0, 77.0, 78.0, -2.0])
    assert verdicts_of(aten.nll_loss_forward, operands, (losses, x[0, 0]))[0].num_over == 0
    losses[3] = 2.0
    assert verdicts_of(aten.nll_loss_forward, operands, (losses, x[0, 0]))[0][1:] == (3, 1)


def test_what_is_not_finite_is_not_judged() -> None:
    x = torch.randn(6, 3)
    x[1], x[2] = torch.inf, torch.nan
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    for reduction in (NONE, MEAN, SUM):
        operands = (x, target, None, reduction, -100)
        held = aten.nll_loss_forward(*operands)
        assert verdicts_of(aten.nll_loss_forward, operands, held)[0].num_over == 0
    total = torch.tensor(0.0)
    operands = (torch.tensor(1.0), x, target, None, MEAN, -100, total)
    held = aten.nll_loss_backward(*operands)
    assert verdicts_of(aten.nll_loss_backward, operands, (held,))[0].num_over == 0


BREAKS: dict[str, tuple[str, str]] = {
    "last row lost": ("exists = row < num_rows\n    r2", "exists = row < num_rows - 1\n    r2"),
    "last row not summed": ("exists = row < num_rows\n        r2",
                            "exists = row < num_rows - 1\n        r2"),
    "splits start at the front": ("row = split * SPLIT_ROWS + start", "row = 0 * split + start"),
    "second split lost": ("exists = split < num_splits", "exists = split < 1"),
    "ignored rows count": ("kept = exists & (chosen != ignore_index)", "kept = exists"),
    "weight of another class": ("chosen * weight_stride", "(chosen // 2) * weight_stride"),
    "class stride lost": ("chosen * x_stride_class", "chosen"),
    "zeros not judged": ("judged = exists & ((hit == 0) | value", "judged = exists & (hit & value"),
    "last class lost": ("(col < num_classes)", "(col < num_classes - 1)"),
    "mean forgotten": ("value = value / tl.where", "value = value * 1.0 + 0.0 * tl.where"),
    "rows of another image": ("r1 = (row // R2) % R1", "r1 = (row // R2) % 1"),
}


def breaking_samples() -> list[Any]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(9000, 5, generator=generator)
    target = torch.randint(0, 5, (9000,), generator=generator)
    weight = torch.rand(5, generator=generator) + 0.5
    op = aten.nll_loss_forward.default
    found: list[Any] = [(op, (x, target, weight, reduction, 2), {}) for reduction in (NONE, MEAN)]
    found.append((op, (x[:8200].t().contiguous().t(), target[:8200], weight, SUM, 2), {}))
    for name in GRADIENTS:
        found += samples(name, torch.float32)[2:4]
    image = torch.randn(5, 4, 3, 8, generator=generator)[:, :, :, :5].permute(1, 0, 2, 3)
    places = torch.randint(0, 5, (4, 3, 5), generator=generator)
    found.append((aten.nll_loss2d_forward.default, (image, places, None, NONE, -100), {}))
    return found


@pytest.mark.parametrize("broken", some_slow(BREAKS))
def test_the_tests_see_a_broken_kernel(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = load_variant(module, tmp_path, BREAKS[broken])
    monkeypatch.setitem(sys.modules, "sdc_guard_kernels.cross_entropy_rows", variant)
    with np.errstate(all="ignore"):
        assert any(complaints(s) for s in breaking_samples())


@pytest.mark.slow
def test_the_breaking_samples_are_right() -> None:
    found = [complaints(s) for s in breaking_samples()]
    assert not any(found), found


@pytest.mark.parametrize(("function", "constants"), [
    ("_loss_gradient_kernel",
     {"HAS_WEIGHT": True, "IS_MEAN": True, "END_COL": 256, "BLOCK_ROWS": 2, "BLOCK_COLS": 128}),
    pytest.param("_loss_sums_kernel", {"HAS_WEIGHT": True, "SPLIT_ROWS": 512, "BLOCK": 256},
                 marks=pytest.mark.slow),
    pytest.param("_loss_rows_kernel", {"HAS_WEIGHT": False, "BLOCK": 256}, marks=pytest.mark.slow),
    pytest.param("_judge_sums_kernel", {"IS_MEAN": True, "COUNTED": False, "BLOCK": 2},
                 marks=pytest.mark.slow),
])
@pytest.mark.slow
def test_it_compiles(function: str, constants: dict[str, Any], tmp_path: Path) -> None:
    assert module.__file__ is not None
    ptx = ptx_of(Path(module.__file__), function, tmp_path,
                 signature=row_signature(module, function, "*bf16"), constants=constants)
    assert "f64" in ptx
    assert "div.full" not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*LOSSES, *GRADIENTS])
def test_on_the_device(name: str, dtype: torch.dtype) -> None:
    found = [complaints(on_device(sample)) for sample in samples(name, dtype)]
    assert not any(found), found


@pytest.mark.gpu
def test_several_splits_on_the_device() -> None:
    found = [complaints(on_device(sample)) for sample in breaking_samples()]
    assert not any(found), found
