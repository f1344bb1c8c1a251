"""Names of modules that nobody gave the guard, and what is forgotten of those that are gone."""

from __future__ import annotations

import gc
import sys

import torch
from torch import Tensor, nn

import sdc_guard
from sdc_guard.observe.module_names import ModuleNames
from tests.guard.training import flip


class Inner(nn.Module):
    def __init__(self, names: ModuleNames | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.names = names
        self.seen: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.names is not None:
            self.seen.append(self.names.name_of(self, sys._getframe()))
        return x * self.weight


class Outer(nn.Module):
    def __init__(self, names: ModuleNames | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Inner(names), Inner(names)])
        self.unlisted = [Inner(names)]

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.blocks, *self.unlisted):
            x = block(x)
        return x


def test_names_come_from_the_outermost_forward_that_holds_the_module() -> None:
    names = ModuleNames()
    outer = Outer(names)
    outer(torch.ones(2))
    assert [m.seen for m in (*outer.blocks, *outer.unlisted)] == [
        ["blocks.0"], ["blocks.1"], ["Inner"]]
    assert names.modules == {"": "Outer", "blocks": "ModuleList", "blocks.0": "Inner",
                             "blocks.1": "Inner", "Inner": "Inner"}
    assert names.owner_of(outer.blocks[1].weight) == "blocks.1"
    assert names.owner_of(outer.unlisted[0].weight) == "Inner"
    assert names.owner_of(object()) == "?"


def test_a_second_model_has_its_class_before_its_names_and_a_third_a_number() -> None:
    names = ModuleNames()
    models = [Outer(names) for _ in range(3)]
    for model in models:
        model(torch.ones(2))
    assert [m.blocks[0].seen for m in models] == [
        ["blocks.0"], ["Outer.blocks.0"], ["Outer-2.blocks.0"]]


def test_what_is_known_of_a_module_goes_with_it() -> None:
    names = ModuleNames()
    outer = Outer(names)
    outer(torch.ones(2))
    weight = outer.blocks[0].weight
    assert names.owner_of(weight) == "blocks.0"
    del outer
    gc.collect()
    assert names.owner_of(weight) == "?"
    assert not names._names
    assert not names._known


def test_a_given_model_is_the_only_one_that_has_names() -> None:
    names = ModuleNames()
    names.give(Outer())
    other = Outer(names)
    other(torch.ones(2))
    assert other.blocks[0].seen == ["Inner"]


class Unlisted(nn.Sequential):
    def named_modules(self, *args: object, **kwargs: object) -> object:
        raise RuntimeError("no")


def test_a_module_that_does_not_list_its_modules_is_named_by_its_class() -> None:
    names = ModuleNames()
    inner = Inner(names)
    Unlisted(inner)(torch.ones(2))
    assert inner.seen == ["Inner"]


def test_a_finding_of_a_guard_without_a_model_names_the_module() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.GELU(), nn.Linear(8, 4)))
    with flip(torch.ops.aten.addmm.default, 1), sdc_guard.Guard(budget="all") as guard:
        model(torch.randn(5, 6)).sum().backward()
    assert {f.module for f in guard.findings} == {"1.1"}
