"""Points over time, the loss and the model's modules reach the event log and the report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sdc_guard
from sdc_guard import progress
from sdc_guard.evidence import read_events
from sdc_guard.report.gather import gather


def train(steps: int, out: Path, **options: Any) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sdc_guard.wrap(model, optimizer=optimizer, budget="all", out=out, **options)
    losses = []
    for _ in range(steps):
        loss = model(torch.randn(4, 8)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach().item())
    sdc_guard.unwrap(model)
    return losses


def points(out: Path) -> list[dict[str, Any]]:
    return [e for e in read_events(out / "events.rank0.jsonl") if e["kind"] == "progress"]


def test_each_point_has_the_loss_that_backward_began_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MIN_INTERVAL_S", 0.0)
    losses = train(5, tmp_path)
    found = points(tmp_path)
    assert [p["step"] for p in found] == [1, 2, 3, 4, 5]
    assert [p["loss"] for p in found] == losses
    assert found[-1]["calls_checked"] > found[0]["calls_checked"] > 0
    (run,) = gather([tmp_path]).runs
    assert [p.loss for p in run.timeline] == losses
    assert [(m.name, m.kind) for m in run.modules] == [
        ("", "Sequential"), ("0", "Linear"), ("1", "Tanh"), ("2", "Linear")]


def test_points_are_rare_and_the_last_step_has_one(tmp_path: Path) -> None:
    train(5, tmp_path)
    assert [p["step"] for p in points(tmp_path)][-1] == 5
    assert len(points(tmp_path)) < 5


def test_a_loss_that_is_told_is_taken_in_place_of_the_one_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MIN_INTERVAL_S", 0.0)
    with sdc_guard.Guard(budget="all", out=tmp_path) as guard:
        weight = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        guard.note_loss(float("nan"))
        weight.sum().backward()
        optimizer.step()
        weight.square().sum().backward()
        optimizer.step()
    assert [p["loss"] if p["loss"] is None else p["loss"]["repr"] for p in points(tmp_path)] == [
        "nan", None]


def test_a_loss_that_cannot_be_read_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: object, tensor: object) -> None:
        raise OSError("no loss today")

    monkeypatch.setattr(progress.LossWatch, "saw", fails)
    with caplog.at_level(logging.WARNING, logger="sdc_guard"):
        assert len(train(2, tmp_path)) == 2
    assert "no loss today" in caplog.text


def test_labels_stand_in_every_event_until_they_are_taken_away(tmp_path: Path) -> None:
    with sdc_guard.Guard(out=tmp_path) as guard:
        guard.label(test="test_x")
        guard.note_gap("one")
        guard.label(test="")
        guard.note_gap("two")
    found = {e["reason"]: e.get("test") for e in read_events(tmp_path / "events.rank0.jsonl")
             if e["kind"] == "not_covered"}
    assert found == {"one": "test_x", "two": None}
