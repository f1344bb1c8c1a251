"""A part of the guard that fails takes no finding with it: the others still speak."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import sdc_guard
from sdc_guard import cases, pipeline, wording
from sdc_guard.check.relations import Relation
from sdc_guard.inject.faults import RepeatedFlip
from sdc_guard.observe import classify
from sdc_guard.ops import lookup
from sdc_guard.records import Verdict
from tests.guard.training import flip, hit

aten = torch.ops.aten
LEFT = torch.randn(17, 33, generator=torch.Generator().manual_seed(0))
RIGHT = torch.randn(33, 9, generator=torch.Generator().manual_seed(1))
MM = aten.mm.default


def out_of_memory(*args: Any, **kwargs: Any) -> Any:
    raise MemoryError("a test used it up")


def wrong_product(visits: int = 1, guard: sdc_guard.Guard | None = None) -> sdc_guard.Guard:
    """A product with one bit that is wrong in every execution, looked at ``visits`` times."""
    guard = guard or sdc_guard.Guard(budget="all")
    fault = RepeatedFlip(MM, (17, 9), 0, 5, 30, dtype=torch.float32)
    for _ in range(visits):
        with guard, fault:
            torch.mm(LEFT, RIGHT)
    return guard


def test_a_replay_that_fails_leaves_the_call_to_its_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = sdc_guard.Guard(budget="all")  # which tests its witnesses as it begins
    monkeypatch.setattr(Relation, "run", out_of_memory)
    wrong_product(guard=guard)
    assert guard.coverage.guard_errors
    assert guard.findings


@pytest.mark.parametrize("part", ["sampled_reference", "checksum", "suspect"])
def test_a_reference_that_fails_leaves_the_call_to_its_replay(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(pipeline, part, out_of_memory)
    assert wrong_product(visits=6).findings


@pytest.mark.parametrize(
    "part", ["find_cause", "pattern_of", "worst_element", "reduced", "frame_of"])
def test_a_finding_outlives_what_describes_it(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    owner = wording if part in ("pattern_of", "worst_element") else pipeline
    monkeypatch.setattr(owner, part, out_of_memory)
    guard = wrong_product()
    assert guard.findings
    assert guard.findings[0].op == "aten.mm.default"
    if part != "frame_of":  # arbitration would be about the frame
        assert guard.findings[0].verdict is Verdict.CORRUPTION


def test_a_recomputation_that_fails_has_no_vote_and_takes_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cases, "assemble", out_of_memory)
    finding = wrong_product().findings[0]
    assert finding.verdict is Verdict.CORRUPTION
    assert any(v.result == "failed" for v in finding.attribution.votes)


def test_a_call_that_its_file_cannot_plan_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def unplanned(packet: str) -> Any:
        spec = lookup(packet)
        return spec and dataclasses.replace(spec, axes=out_of_memory)

    monkeypatch.setattr(classify, "lookup", unplanned)
    guard = sdc_guard.Guard(budget="all")
    with guard, hit(flip(MM, bit=3)):
        result: Tensor = torch.mm(LEFT, RIGHT)
    assert not torch.equal(result, torch.mm(LEFT, RIGHT))
    assert guard.coverage.guard_errors == 1
    assert [f.verdict for f in guard.findings] == [Verdict.CORRUPTION]
