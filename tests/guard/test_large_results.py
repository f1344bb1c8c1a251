"""Results too large to be arbitrated in whole: a frame around the wrong element is looked at."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdc_guard
from sdc_guard import Cause, Verdict
from sdc_guard.check import frames, reference
from sdc_guard.evidence.reading import read_bundle
from sdc_guard.inject.faults import RepeatedFlip, TransientFlip
from sdc_guard.inject.misread import MisreadElement

aten = torch.ops.aten
ROWS, COLUMNS = 130, 97
FAR = (127, 90)
FLAT = FAR[0] * COLUMNS + FAR[1]


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits at which the calls below are large."""
    for module in (frames, reference):
        monkeypatch.setattr(module, "LARGE_ELEMENTS", 1000)
        monkeypatch.setattr(module, "LARGE_WORK", 12000)
    monkeypatch.setattr("sdc_guard.pipeline.REFERENCE_WORK", 2000)
    monkeypatch.setattr("sdc_guard.pipeline.CHEAP_REFERENCE_WORK", 2000)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def guarded(fn: Callable[[], Any], fault: Any, visits: int = 1) -> sdc_guard.Guard:
    guard = sdc_guard.Guard(budget="all")
    for _ in range(visits):
        with guard, fault:
            fn()
        if guard.findings:
            break
    assert guard.coverage.guard_errors == 0, list(guard._events.events)
    return guard


x, y = numbers(ROWS, COLUMNS), numbers(ROWS, COLUMNS, seed=1)
a, b = numbers(ROWS, 31), numbers(31, COLUMNS, seed=1)
CASES: dict[str, tuple[Any, Callable[[], Tensor]]] = {
    "add": (aten.add.Tensor, lambda: x + y),
    "gelu": (aten.gelu.default, lambda: torch.nn.functional.gelu(x)),
    "mm": (aten.mm.default, lambda: a @ b),
    "clone": (aten.clone.default, lambda: x.clone()),
    "cumsum": (aten.cumsum.default, lambda: x.cumsum(0)),
    "lt": (aten.lt.Tensor, lambda: x < y),
}


@pytest.mark.parametrize("name", CASES)
def test_one_flip_is_found_and_has_its_place_in_the_full_result(name: str) -> None:
    op, compute = CASES[name]
    bit = 0 if name == "lt" else 28
    guard = guarded(compute, TransientFlip(op, 0, 0, FLAT, bit))
    (finding,) = guard.findings
    assert (finding.verdict, finding.cause) == (Verdict.CORRUPTION, Cause.TRANSIENT)
    assert finding.worst is not None
    assert finding.worst.index == FAR
    assert finding.pattern is not None
    assert finding.pattern.first == (FAR,)
    assert (finding.pattern.box_low, finding.pattern.box_high) == (FAR, FAR)
    assert finding.pattern.num_elements == ROWS * COLUMNS


@pytest.mark.parametrize("name", CASES)
def test_a_repeated_flip_is_found(name: str) -> None:
    op, compute = CASES[name]
    dtype, bit = (torch.bool, 0) if name == "lt" else (torch.float32, 28)
    fault = RepeatedFlip(op, (ROWS, COLUMNS), 0, FLAT, bit, dtype=dtype)
    guard = guarded(compute, fault, visits=6)
    assert guard.findings[0].verdict is Verdict.CORRUPTION
    assert guard.findings[0].worst is not None


@pytest.mark.parametrize("name", CASES)
def test_correct_large_results_are_left_in_peace(name: str) -> None:
    _, compute = CASES[name]
    guard = sdc_guard.Guard(budget="all")
    with guard:
        for _ in range(6):
            compute()
    assert guard.findings == []
    assert guard.coverage.guard_errors == 0


def test_a_sum_to_one_number_is_streamed_and_a_lost_element_is_found() -> None:
    word = int(x[FAR].view(torch.int32)) & 0xFFFFFFFF
    guard = guarded(lambda: x.sum(), MisreadElement(aten.sum.dim_IntList, (0,), "dropped",
                                                    pattern=word))
    assert guard.findings[0].verdict is Verdict.PRECISION  # 13,000 terms: the proof allows it
    guard = guarded(lambda: (x * 100).long().sum(),
                    RepeatedFlip(aten.sum.dim_IntList, (), 0, 0, 3, dtype=torch.int64))
    assert guard.findings[0].verdict is Verdict.CORRUPTION


def test_what_cannot_be_cut_goes_without_a_reference() -> None:
    guard = sdc_guard.Guard(budget="all")
    with guard:
        torch.linalg.vector_norm(x)
    counted = next(c for c in guard.coverage.ops if c.op == "aten.linalg_vector_norm")
    assert counted.calls_checked == 1
    assert "reference" not in counted.witnesses


def test_the_evidence_is_the_frame(tmp_path: Path) -> None:
    """A bundle that may not hold the whole call holds it narrowed to the wrong element."""
    guard = sdc_guard.Guard(budget="all", out=tmp_path)
    guard._pipeline.bundles.max_bundle_bytes = 10_000
    with guard, TransientFlip(aten.add.Tensor, 0, 0, FLAT, 28):
        x + y
    bundle = read_bundle(guard.findings[0].evidence.bundle)
    assert bundle.held[0] is not None
    assert bundle.held[0].numel() < 200
    assert bundle.expected[0] is not None
    wrong = bundle.held[0] != bundle.expected[0]
    assert int(wrong.sum()) == 1
    assert bundle.expected[0][wrong].item() == (x + y)[FAR].item()


def test_an_arbitration_that_fails_leaves_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(case: Any) -> Any:
        raise MemoryError("no memory for the reference")

    monkeypatch.setattr("sdc_guard.pipeline.arbitrate", fails)
    guard = sdc_guard.Guard(budget="all")
    with guard, TransientFlip(aten.add.Tensor, 0, 0, FLAT, 28):
        x + y
    (finding,) = guard.findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "no memory for the reference" in finding.message
    assert guard.coverage.guard_errors == 1


def test_memory_of_an_arbitration_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a result of 4 million floats, less than their size again is taken in NumPy."""
    monkeypatch.setattr(frames, "LARGE_ELEMENTS", 2**16)
    monkeypatch.setattr(reference, "LARGE_ELEMENTS", 2**16)
    big = numbers(2048, 2048)
    guard = sdc_guard.Guard(budget="all")
    tracemalloc.start()
    try:
        with guard, TransientFlip(aten.add.Tensor, 0, 0, 2**22 - 5, 28):
            big + big
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert guard.findings[0].worst is not None
    assert guard.findings[0].worst.index == (2047, 2043)
    assert peak_bytes < 4 * 2**22
