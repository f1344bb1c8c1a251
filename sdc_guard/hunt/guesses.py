"""Calls of a user's own function, guessed: one operand, two, matrices, until some are taken."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import torch

from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.templates import Template, argument_of
from sdc_guard.hunt.trial import Trial

SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((5, 17),), ((17,),), ((5, 17), (5, 17)), ((5, 17), (17, 9)), ((5, 17), (17,)),
    ((2, 5, 17),), ((2, 3, 9, 8),), ((5, 17), (5, 17), (5, 17)), ((5, 17), (17,), (17,)),
    ((2, 5, 17), (2, 17, 9)), ((2, 3, 9, 8), (2, 3, 9, 8), (2, 3, 9, 8)),
)
DTYPES = ("float32", "bfloat16", "float64")


def guesses(target: str) -> Iterator[Template]:
    """The guessed calls of a Python path that it takes, with gradients where they can be had."""
    generator = torch.Generator().manual_seed(0)
    for shapes in SHAPES:
        for dtype in DTYPES:
            tensors = [torch.randn(*s, generator=generator).to(getattr(torch, dtype))
                       for s in shapes]
            plain = Trial(target=target, args=tuple(argument_of(t) for t in tensors))
            taken = execute(plain, record=False)
            if taken.refusal or not taken.results:
                break
            differs = plain.mapped(
                lambda _, o: msgspec.structs.replace(o, requires_grad=True))
            differs = msgspec.structs.replace(differs, backward=True)
            can = not execute(differs, record=False).refusal
            yield Template(name=target, source="guess", trial=differs if can else plain)
