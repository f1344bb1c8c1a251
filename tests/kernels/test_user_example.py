"""The worked example under attack: right kernels pass its derived bound, broken ones do not."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.variants import load_variant
from tests.meta.tree import ROOT

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard import bounds
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.ops import _registry, lookup, packet_name
from sdc_guard.public_ops import checked
from sdc_guard.records import Suspicion

EXAMPLE = ROOT / "examples" / "triton_rmsnorm_swiglu.py"
DECORATOR = (
    '@sdc_guard.checked(reference=reference, operands=("m n", "m n", "n"), outputs=("m .",))')
NUMBERS = itertools.count()
PLAIN = [(DECORATOR, ""), ("torch.empty(x.shape,", "torch.full(x.shape, torch.nan,")]
"""No operators, and an element that nobody writes is NaN."""


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone afterwards."""
    _registry.discover()
    for name in ("_SPECS", "_OWNERS"):
        monkeypatch.setattr(_registry, name, dict(getattr(_registry, name)))


def variant(folder: Path, *changes: tuple[str, str]) -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    original = importlib.util.module_from_spec(spec)  # not run: only its file is of use
    return load_variant(original, folder, *PLAIN, *changes)


def operands(dtype: torch.dtype, cols: int, rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(cols)
    wide = torch.randn(2 * rows, cols + 7, generator=generator).to(dtype)
    x = torch.randn(rows, cols, generator=generator).to(dtype)
    return x, wide[::2, 3:3 + cols], torch.randn(cols, generator=generator).to(dtype)


def judged(module: ModuleType, *tensors: Tensor, bound: Any = None) -> list[Suspicion]:
    """What the reference says of one launch of the kernel."""

    def kernel(x: Tensor, gate: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
        return module.launch(x, gate, weight, eps, short_by=0)  # type: ignore[no-any-return]

    op = checked(
        reference=module.reference, operands=("m n", "m n", "n"), outputs=("m .",), bound=bound,
        name=f"test_user_example::kernel_{next(NUMBERS)}")(kernel)
    spec = lookup(packet_name(op))
    assert spec is not None
    call = BoundCall(form_of(op._opoverload), (*tensors, 1e-6))
    held = call.run_identical()
    return full_reference(make_plan(spec, call, held), call, held)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def test_the_right_kernel_is_never_accused(dtype: torch.dtype, tmp_path: Path) -> None:
    module = variant(tmp_path)
    for cols in (1, 63, 64, 65, 100, 129):
        assert judged(module, *operands(dtype, cols)) == []


def test_odd_numbers_are_no_fault(tmp_path: Path) -> None:
    x, gate, weight = operands(torch.float32, 100)
    gate = gate.clone()
    x[0, 3], x[1, 5], gate[2, 7] = torch.inf, torch.nan, -torch.inf
    gate[0, :6] = torch.tensor([-200.0, 200.0, 1e-42, -0.0, 3e38, -3e38])
    x[2] *= 1e-30
    assert judged(variant(tmp_path), x, gate, weight) == []
    assert judged(variant(tmp_path), x * 1e20, gate, weight) == []
    assert judged(variant(tmp_path), 0 * weight.expand(3, 100), gate, weight) == []


MUTANTS = {
    "mask off by one": ("col < NUM_COLS - SHORT_BY", "col < NUM_COLS - 1"),
    "dropped last block": ("range(0, NUM_COLS, BLOCK)", "range(0, NUM_COLS - BLOCK + 1, BLOCK)"),
    "wrong stride": ("row * stride_gate", "row * stride_x"),
    "lost accumulate": ("square_sum += tl.sum", "square_sum = tl.sum"),
    "wrong axis": ("weight_ptr + col, mask=exists", "weight_ptr + row, mask=row < NUM_COLS"),
    "stale pointer": ("stride_gate + col,", "stride_gate + col % BLOCK,"),
    "lower precision": ("        x = x.to(tl.float32)\n",
                        "        x = x.to(tl.float16).to(tl.float32)\n"),
    "unwritten end": ("y, mask=col < NUM_COLS)", "y, mask=col < NUM_COLS - 1)"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_kernel_breaks_its_bound(name: str, tmp_path: Path) -> None:
    tensors = operands(torch.float32, 100)
    found = judged(variant(tmp_path, MUTANTS[name]), *tensors)
    exceeds = "contract" if name == "lower precision" else "proof"
    assert [s.exceeds for s in found] == [exceeds]
    declared = judged(variant(tmp_path, MUTANTS[name]), *tensors, bound=bounds.ulps(200))
    assert [s.exceeds for s in declared] == ["contract"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_right_and_the_broken_kernel_on_a_device(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = tuple(t.cuda() for t in operands(dtype, 1000, rows=64))
    assert judged(variant(tmp_path), *tensors) == []
    broken = tmp_path / "broken"
    broken.mkdir()
    assert judged(variant(broken, MUTANTS["mask off by one"]), *tensors)
