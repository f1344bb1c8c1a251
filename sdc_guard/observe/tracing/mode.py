"""The dispatch mode of a trace.  It looks at a call's operands before the call is made, and changes
nothing: not an argument, not a result, not a random stream."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.calls import OpForm
from sdc_guard.observe.classify import Entry, Kind, classify
from sdc_guard.observe.tracing.file import TraceFile
from sdc_guard.observe.tracing.keys import (
    described,
    key_of,
    looked_at,
    reals_in,
    shortened,
    tensors_in,
)
from sdc_guard.observe.tracing.reading import merged
from sdc_guard.observe.tracing.records import Call, Seen, Statistics

MAX_CALLS = 20_000
MAX_CALLS_PER_OP = 2_000
"""Distinct calls that a trace holds; lengths that change with every batch are many."""

_log = logging.getLogger("sdc_guard")


class _Known:
    """A distinct call so far."""

    __slots__ = ("count", "id", "reals", "seen", "told")

    def __init__(self, id: int, seen: list[Statistics | None], reals: list[float]) -> None:
        self.id = id
        self.count = self.told = 1
        self.seen = seen
        self.reals = [(r, r) for r in reals]


class TraceMode(TorchDispatchMode):
    """Writes every distinct call to a :class:`TraceFile`.  One object serves all threads."""

    supports_higher_order_operators = True

    def __init__(self, file: TraceFile, *, max_data_bytes: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.active = False
        self.file = file
        self._max_data_bytes = max_data_bytes
        self._entries: dict[int, Entry] = {}
        self._known: dict[tuple[Any, ...], _Known] = {}
        self._num_by_op: dict[str, int] = {}
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._has_failed = False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compilation runs without us; a plain mode would switch it off silently."""
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> TraceMode:
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        if types and not all(t is Tensor or t is Parameter for t in types):
            if any(t.__module__.startswith("torch._subclasses") for t in types):
                return func(*args, **kwargs)
            return NotImplemented
        entry = self._entries.get(id(func))
        if entry is None:
            entry = self._entries[id(func)] = self._sorted(func)
        if entry.kind is Kind.COMPOSITE:
            dispatch._push_mode(self)
            try:
                return func.decompose(*args, **kwargs)
            finally:
                dispatch._pop_mode()
        if entry.form is not None and entry.kind in (Kind.CHECKED, Kind.UNKNOWN):
            try:
                with self._lock:
                    self._note(entry.form, shortened(entry.form.bind(args, kwargs)))
            except Exception as error:  # a failure of the trace never stops the user's program
                self._failed(entry.form.name, error)
        return func(*args, **kwargs)

    def _sorted(self, func: Any) -> Entry:
        try:
            return classify(func)
        except Exception as error:
            self._failed(str(func), error)
            return Entry(func, Kind.NO_NUMBERS)

    def _note(self, form: OpForm, live: tuple[Any, ...]) -> None:
        is_backward = torch._C._current_autograd_node() is not None
        grad = (not is_backward and torch.is_grad_enabled()
                and any(t.requires_grad for t in tensors_in(live)))
        key = (form.op, is_backward, grad, key_of(live))
        known = self._known.get(key)
        if known is None:
            self._first(key, form, live, "backward" if is_backward else "forward", grad)
            return
        known.count += 1
        if known.count & (known.count - 1):
            return
        known.seen = [merged(a, b) for a, b in
                      zip(known.seen, self._looked_at(form, live), strict=True)]
        known.reals = [(min(low, r), max(high, r)) for (low, high), r in
                       zip(known.reals, reals_in(live), strict=True)]
        self._tell(known)

    def _first(
        self, key: tuple[Any, ...], form: OpForm, live: tuple[Any, ...], phase: str, grad: bool
    ) -> None:
        num = self._num_by_op.get(form.packet, 0)
        if num >= MAX_CALLS_PER_OP or len(self._known) >= MAX_CALLS:
            self.file.left_out[f"{form.packet}: more than {MAX_CALLS_PER_OP} distinct calls, or "
                               f"{MAX_CALLS} of all operators"] += 1
            return
        seen = self._looked_at(form, live)
        with dispatch._disable_current_modes():
            args = described(live, seen, self._max_data_bytes)
        call = Call(id=len(self._known), op=form.name, args=args, phase=phase, grad=grad)
        if not self.file.write(call):
            self.file.left_out[f"{form.packet}: the file is full or cannot be written"] += 1
            return
        self._num_by_op[form.packet] = num + 1
        self._known[key] = _Known(call.id, seen, reals_in(live))

    @staticmethod
    def _looked_at(form: OpForm, live: tuple[Any, ...]) -> list[Statistics | None]:
        with dispatch._disable_current_modes():  # a guard below is not to see us look
            return looked_at(form, live)

    def _tell(self, known: _Known) -> None:
        known.told = known.count
        reals = tuple(("", "") if low != low or high != high else (low.hex(), high.hex())
                      for low, high in known.reals)
        self.file.write(Seen(id=known.id, count=known.count, tensors=tuple(known.seen),
                             reals=reals))

    def tell_all(self) -> None:
        """Write every count that has changed, and what is left out; a forked child writes nothing
        into its parent's file."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            for known in self._known.values():
                if known.count != known.told:
                    self._tell(known)
            self.file.write_left()

    def _failed(self, op: str, error: Exception) -> None:
        self.file.left_out[f"the trace failed in {op}: {type(error).__name__}"] += 1
        if not self._has_failed:
            self._has_failed = True
            _log.warning("sdc_guard: the trace failed in %s (%r); training goes on", op, error)
