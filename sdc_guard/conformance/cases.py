"""What is tested: one case for each operator and dtype, from the templates of the hunt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from sdc_guard.document.operators import packet_of
from sdc_guard.errors import UsageError
from sdc_guard.hunt.loading import Templates, load_templates
from sdc_guard.hunt.oracles._registry import Oracle, chosen
from sdc_guard.hunt.targets import is_overload
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import Argument, Items, Scalar


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for.  ``examples`` are calls for each test."""

    device: str
    ops: tuple[str, ...]
    oracles: tuple[Oracle, ...]
    examples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Case:
    """``name`` is an operator's packet or a public function."""

    name: str
    dtype: str
    templates: tuple[Template, ...]

    @property
    def id(self) -> str:
        return f"{self.name}-{self.dtype}"


def words_of(text: str) -> tuple[str, ...]:
    """A list separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def asked(device: str, ops: str, oracles: str, examples: int, seed: int) -> Asked:
    """The options of the command line, understood.

    Raises:
        UsageError: for an unknown oracle, a device that is not here, or a number out of range.
    """
    if examples < 1 or seed < 0:
        raise UsageError(f"--sdc-examples {examples}, --sdc-seed {seed}: give at least 1 example, "
                         "and a seed of 0 or more")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--sdc-device {device!r} cannot hold a tensor here: {error}; give the "
                         "name of a torch device, and load your backend in a conftest.py"
                         ) from error
    return Asked(device, words_of(ops), chosen(words_of(oracles)), examples, seed)


def cases_of(asked: Asked, cache: Path) -> tuple[tuple[Case, ...], Templates]:
    """The cases, sorted, and the templates that they come from.

    Raises:
        UsageError: for a pattern that means no operator.
    """
    found = load_templates(cache, ops=asked.ops)
    groups: dict[tuple[str, str], list[Template]] = {}
    for target, templates in found.by_target.items():
        name = packet_of(target) if is_overload(target) else target
        for template in templates:
            dtype = next((o.dtype for o in template.trial.operands()), "none")
            groups.setdefault((name, dtype), []).append(on_device(template, asked.device))
    return tuple(Case(name, dtype, tuple(groups[name, dtype]))
                 for name, dtype in sorted(groups)), found


def on_device(template: Template, device: str) -> Template:
    """The template with its call, and what its arguments say of devices, on another device."""

    def moved(argument: Argument) -> Argument:
        if isinstance(argument, Items):
            return msgspec.structs.replace(argument, items=tuple(map(moved, argument.items)))
        if isinstance(argument, Scalar) and argument.kind == "device":
            return Scalar(kind="device", text=device)
        return argument

    trial = msgspec.structs.replace(
        template.trial, device=device, args=tuple(map(moved, template.trial.args)),
        kwargs={name: moved(value) for name, value in template.trial.kwargs.items()})
    return msgspec.structs.replace(template, trial=trial)
