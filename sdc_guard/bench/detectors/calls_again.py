"""A dispatch mode that makes calls again in its own way and compares the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.bench.detectors.base import Alarm
from sdc_guard.calls import BoundCall, without
from sdc_guard.inject.trigger import is_left_to_a_subclass
from sdc_guard.observe.classify import Entry, Kind, classify
from sdc_guard.ops import GENERATOR, copied

Results = Sequence[Tensor | None]
Compare = Callable[[BoundCall, Results], str]
"""Called with the call on copies of its operands, as they were before, and its results; says what
is wrong with them, or nothing."""


class CallsAgain(TorchDispatchMode):
    """Calls ``compare`` after every call that makes numbers, and tells of what it says.

    Views, allocations and calls that draw random numbers are let through.  ``num_compared`` counts
    calls that were compared, ``left_out`` the reasons why others were not.
    """

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self, compare: Compare, tell: Callable[[Alarm], None], verdict: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_compared = 0
        self.left_out: Counter[str] = Counter()
        self._compare = compare
        self._tell = tell
        self._verdict = verdict
        self._entries: dict[Any, Entry] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if types and is_left_to_a_subclass(types):
            return NotImplemented
        entry = self._entries.get(func)
        if entry is None:
            entry = self._entries[func] = classify(func)
        if entry.kind is not Kind.CHECKED or entry.form is None or entry.spec is None:
            if entry.kind is Kind.UNKNOWN:
                self.left_out[f"{func}: {entry.reason}"] += 1
            return func(*args, **kwargs)
        live = entry.form.bind(args, kwargs)
        if draws(entry, live):
            self.left_out[f"{func}: draws random numbers"] += 1
            return func(*args, **kwargs)
        before = copied(BoundCall(entry.form, live))
        returned = func(*args, **kwargs)
        held = before.results(live, returned)
        problem = self._compare(before, without(held, entry.spec.scratch))
        if problem == NOT_COMPARED:
            self.left_out[f"{func}: cannot be computed this way"] += 1
            return returned
        self.num_compared += 1
        if problem:
            self._tell(Alarm(op=str(func), verdict=self._verdict, firm=True, cause="",
                             detail=problem))
        return returned


NOT_COMPARED = "not compared"


def draws(entry: Entry, args: tuple[Any, ...]) -> bool:
    """True if this call draws random numbers; attention only does where it drops something."""
    form = entry.form
    assert form is not None
    if entry.spec is not None and entry.spec.family == GENERATOR:
        return True
    if torch.Tag.nondeterministic_seeded not in entry.op.tags:
        return False
    if "dropout_p" in form.argument_names:
        return bool(args[form.position("dropout_p")])
    return True
