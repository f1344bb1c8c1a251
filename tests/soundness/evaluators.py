"""Which packets have emulated evaluations, and how one is made.

An evaluator takes a call, the results that torch gave (for their shapes and dtypes) and a
generator, and yields other correct results of the same call: another order, fused or not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.calls import BoundCall


@dataclass(frozen=True, slots=True)
class Emulation:
    """A correct result number ``output``: values of the result's format, in float64.
    ``keeps_contract``: the contract names this algorithm, or one of no smaller error."""

    name: str
    output: int
    values: NDArray[Any]
    keeps_contract: bool


Evaluator = Callable[[BoundCall, tuple[Tensor, ...], np.random.Generator], Iterator[Emulation]]
_EVALUATORS: dict[str, list[Evaluator]] = {}


def evaluates(*packets: str) -> Callable[[Evaluator], Evaluator]:
    """Register an evaluator for packets of ``aten``."""

    def decorate(evaluator: Evaluator) -> Evaluator:
        for packet in packets:
            _EVALUATORS.setdefault(f"aten.{packet}", []).append(evaluator)
        return evaluator

    return decorate


def discover() -> None:
    """Import the modules that register evaluators."""
    for name in ("sums", "products", "rows", "linear", "pointwise"):
        importlib.import_module(f"tests.soundness.evaluate_{name}")


def has_emulations(packet: str) -> bool:
    """True where some evaluator takes the packet."""
    return packet in _EVALUATORS


def emulations(
    call: BoundCall, held: tuple[Tensor, ...], rng: np.random.Generator
) -> Iterator[Emulation]:
    """Every emulation of a call."""
    for evaluator in _EVALUATORS.get(call.form.packet, ()):
        with np.errstate(all="ignore"):
            yield from evaluator(call, held, rng)
