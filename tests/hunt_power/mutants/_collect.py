"""Mutants as decorated functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.hunt_power.mutant import Bug, Mutant

PYTORCH = "pytorch/pytorch#"


def packet(name: str, *overloads: str) -> tuple[str, ...]:
    """``packet("add", "Tensor", "_.Tensor", "out")``: one with a leading ``_.`` is in place."""
    return tuple(f"aten.{name}_.{o[2:]}" if o.startswith("_.") else f"aten.{name}.{o}"
                 for o in overloads)


class Collection(list[Mutant]):
    """The mutants of one file."""

    def add(self, name: str, **fields: Any) -> Callable[[Bug], Bug]:
        """Enter the decorated bug."""
        def decorate(bug: Bug) -> Bug:
            self.append(Mutant(name=name, bug=bug, **fields))
            return bug

        return decorate
