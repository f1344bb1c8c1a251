"""Faults of a loader: a batch that comes twice, is left out, or has one bit inverted.

They take the place of ``batch`` of a :class:`sdc_guard.inject.target.BatchSource` while they are
entered, and put it back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.inject.base import describe_change
from sdc_guard.inject.flip import flip_bit, num_bits
from sdc_guard.inject.target import BatchSource
from sdc_guard.inject.trigger import Inert
from sdc_guard.inject.truth import InjectedFault

HOW = ("duplicated", "dropped", "corrupted")


def leaves(batch: Any) -> list[Tensor]:
    """The tensors of a batch: of tuples, lists and dicts of any depth, in order."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, dict):
        batch = list(batch.values())
    return [t for item in batch for t in leaves(item)] if isinstance(batch, (list, tuple)) else []


def replaced(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same batch with every tensor replaced; all else is shared."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {k: replaced(v, change) for k, v in batch.items()}
    if isinstance(batch, (list, tuple)):
        items = [replaced(item, change) for item in batch]
        if isinstance(batch, tuple):
            return type(batch)(*items) if hasattr(batch, "_fields") else tuple(items)
        return items
    return batch


class BatchFault:
    """Makes one wrong batch, the first that is asked for after entry.

    ``how``: ``duplicated`` gives the batch of the step before (and goes on one late),
    ``dropped`` leaves one out (and goes on one early), ``corrupted`` gives a copy with one bit of
    one element of one tensor inverted, once; ``places`` are the fractions, in [0, 1), at which
    tensor, element and bit lie.  Where the wrong batch is equal to the right one (there is none
    before batch 0) the fault counts as ``masked`` and tries the next.

    Raises:
        UsageError: at construction for another ``how``.
    """

    op = None

    def __init__(
        self, source: BatchSource, how: str, places: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> None:
        if how not in HOW:
            raise UsageError(f"how is {how!r}, must be one of {', '.join(HOW)}")
        self.source = source
        self.how = how
        self.places = places
        self.model = f"{how} batch"
        self.injected: list[InjectedFault] = []
        self.masked = 0
        self._right: Callable[[int], Any] | None = None
        self._contexts = ExitStack()

    def __repr__(self) -> str:
        return f"BatchFault({self.how!r}, places={self.places})"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            own = "batch" in vars(self.source)
            right = self._right = self.source.batch
            self.source.batch = self._batch
            if own:
                stack.callback(setattr, self.source, "batch", right)
            else:
                stack.callback(delattr, self.source, "batch")
            stack.enter_context(Inert())
            self._contexts = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._contexts.__exit__(kind, error, trace)

    def _batch(self, number: int) -> Any:
        assert self._right is not None
        if self.how == "corrupted":
            right = self._right(number)
            return right if self.injected or self.masked else self._corrupted(right, number)
        shift = 1 if self.how == "dropped" else -1
        if self.injected:
            return self._right(number + shift)
        right, wrong = self._right(number), self._right(max(number + shift, 0))
        self._compare(right, wrong, number, None)
        return wrong if self.injected else right

    def _corrupted(self, right: Any, number: int) -> Any:
        tensors = leaves(right)
        places = [i for i, t in enumerate(tensors) if t.numel() and bits.has_values(t.dtype)]
        if not places:
            self.masked += 1
            return right
        wrong = replaced(right, lambda t: bits.snapshot(t) if t.layout is torch.strided else t)
        tensor = leaves(wrong)[places[int(self.places[0] * len(places))]]
        bit = int(self.places[2] * num_bits(tensor.dtype))
        flip_bit(tensor, int(self.places[1] * tensor.numel()), bit)
        self._compare(right, wrong, number, bit)
        return wrong

    def _compare(self, right: Any, wrong: Any, number: int, bit: int | None) -> None:
        """Record the first tensor in which two batches differ."""
        for place, (a, b) in enumerate(zip(leaves(right), leaves(wrong), strict=False)):
            if a.shape != b.shape or a.dtype is not b.dtype or not bits.has_values(a.dtype):
                continue
            old, new = bits.raw(bits.on_host(a)), bits.raw(bits.on_host(b))
            where = np.flatnonzero(old != new)
            if len(where):
                self.injected.append(describe_change(
                    model=self.model, dtype=a.dtype, shape=tuple(a.shape), where=where,
                    before=old.flat[where], after=new.flat[where], call_number=number,
                    output=place, bit=bit))
                return
        self.masked += 1
