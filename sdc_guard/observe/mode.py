"""The dispatch mode: turns operator calls into observations.

What the mode may never do: change an argument, a result, a random stream, or raise anything but
what the operator itself or the policy raises.  Whatever fails in the guard's own work is reported to
``on_error`` and the call goes through.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard import bits
from sdc_guard.calls import BoundCall, flatten
from sdc_guard.observe.classify import Entry, Kind, classify
from sdc_guard.observe.provenance import Origin, Provenance
from sdc_guard.observe.sampling import Scheduler
from sdc_guard.observe.sites import site_key, uncovered
from sdc_guard.observe.tally import NUM_MEASURED, Tally
from sdc_guard.records import Observation

Check = Callable[[Observation, Any, "Watch"], None]
"""Called with an observation, the site's key and what is known about the call."""


class Watch:
    """What an observation needs besides its tensors: where it comes from and its running number."""

    __slots__ = ("call_index", "entry", "origin", "tally")

    def __init__(self, entry: Entry, tally: Tally, call_index: int,
                 origin: Callable[[], Origin]) -> None:
        self.entry = entry
        self.tally = tally
        self.call_index = call_index
        self.origin = origin


class GuardMode(TorchDispatchMode):
    """See the module docstring.  One object serves all threads of a guard."""

    supports_higher_order_operators = True

    def __init__(
        self,
        scheduler: Scheduler,
        provenance: Provenance,
        check: Check,
        settle: Callable[[], None],
        cost_of_site: Callable[[Any], float],
        is_known_site: Callable[[Any], bool],
        on_error: Callable[[str, BaseException], None],
        memory_budget_bytes: int,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.active = True
        self.scheduler = scheduler
        self.provenance = provenance
        self.tallies: dict[str, Tally] = {}
        self.on_new_step: Callable[[], None] | None = None
        self.last_sequence_nr = -1
        self.num_autograd_ops = 0
        self._entries: dict[Any, tuple[Entry, Tally | None]] = {}
        self._check = check
        self._settle = settle
        self._cost_of_site = cost_of_site
        self._is_known_site = is_known_site
        self._on_error = on_error
        self._memory_budget_bytes = memory_budget_bytes
        self._lock = threading.RLock()
        self.num_threads = torch.get_num_threads()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compilation runs without us; a plain mode would switch it off silently."""
        return True

    def rearm(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` at the first differentiable op from now on."""
        self.last_sequence_nr = torch._C._autograd._get_sequence_nr()
        self.on_new_step = hook

    def __deepcopy__(self, memo: dict[int, Any]) -> GuardMode:
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        if types and not all(t is Tensor or t is Parameter for t in types):
            return NotImplemented
        if self.on_new_step is not None and not self.provenance.in_optimizer:
            self._new_step()
        self.scheduler.num_dispatched += 1
        known = self._entries.get(func)
        if known is None:
            known = self._sort(func)
        entry, tally = known
        if tally is None:
            if entry.kind is Kind.COMPOSITE:
                return self._decomposed(func, args, kwargs)
            return func(*args, **kwargs)
        return self._watch(entry, tally, args, kwargs)

    def _new_step(self) -> None:
        """A step begins with the first op that makes an autograd node after an optimizer step:
        clipping, ``zero_grad`` and evaluation in between make none."""
        if torch._C._autograd._get_sequence_nr() == self.last_sequence_nr:
            return
        hook, self.on_new_step = self.on_new_step, None
        try:
            if hook is not None:
                hook()
        except Exception as error:
            self._on_error("at the start of a step", error)

    def _sort(self, func: Any) -> tuple[Entry, Tally | None]:
        try:
            entry = classify(func)
        except Exception as error:
            self._on_error(f"while classifying {func}", error)
            entry = Entry(func, Kind.UNKNOWN, reason="guard error")
        tally = None
        if entry.kind in (Kind.CHECKED, Kind.UNKNOWN):
            name = entry.form.packet if entry.form is not None else str(func)
            tally = self.tallies.setdefault(name, Tally(
                name, reduction=entry.spec is not None and entry.spec.reduction))
        self._entries[func] = (entry, tally)
        return entry, tally

    def _decomposed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        dispatch._push_mode(self)
        try:
            return func.decompose(*args, **kwargs)
        finally:
            dispatch._pop_mode()

    def _watch(
        self, entry: Entry, tally: Tally, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        tally.calls += 1
        if entry.spec is None or entry.form is None:
            returned = entry.op(*args, **kwargs)
            self._not_tested(tally, entry.reason, returned)
            return returned
        if torch.is_grad_enabled() and torch._C._current_autograd_node() is None:
            self.num_autograd_ops += 1
            self.provenance.note_forward()
        due = self.scheduler.wants(tally)
        if not due and tally.num_measured >= NUM_MEASURED:
            return entry.op(*args, **kwargs)
        started_s = time.perf_counter()
        prepared = self._prepare(entry, tally, args, kwargs) if due else None
        if prepared is None:
            returned = entry.op(*args, **kwargs)
            self._measure(entry, tally, args, kwargs, returned)
            return returned
        call, key, live = prepared
        before_s = time.perf_counter()
        returned = entry.op(*args, **kwargs)
        after_s = time.perf_counter()
        try:
            self._observe(entry, tally, call, key, live, returned)
        except Exception as error:
            tally.not_tested["guard error"] += 1
            self._on_error(f"while checking {entry.form.name}", error)
        finally:
            spent_s = time.perf_counter() - after_s + before_s - started_s
            self.scheduler.charge(tally, spent_s)
        self._settle()
        return returned

    def _prepare(
        self, entry: Entry, tally: Tally, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[BoundCall, Any, tuple[Any, ...]] | None:
        """The call with images of what it will overwrite; None if it is not to be checked."""
        form = entry.form
        assert form is not None
        try:
            live = form.bind(args, kwargs)
            key = site_key(entry.op, live, self.num_threads)
            if not self.scheduler.accepts(tally, hash(key), self._cost_of_site(key)):
                return None
            if not self._is_known_site(key):
                for value in live:
                    for tensor in flatten(value):
                        if tensor is not None and (reason := uncovered(tensor)):
                            tally.not_tested[reason] += 1
                            return None
            if not form.overwrites:
                return BoundCall(form, live), key, live
            return self._imaged(BoundCall(form, live)), key, live
        except _TooLarge:
            tally.not_tested["memory budget"] += 1
        except Exception as error:
            tally.not_tested["guard error"] += 1
            self._on_error(f"while preparing {form.name}", error)
        return None

    def _imaged(self, call: BoundCall) -> BoundCall:
        """Images of the overwritten operands and of every operand that shares memory with them."""
        form = call.form
        num_bytes = sum(bits.span(t) * t.element_size()
                        for i in form.overwrites for t in flatten(call.args[i]) if t is not None)
        if num_bytes > self._memory_budget_bytes:
            raise _TooLarge
        if len(form.overwrites) == 1 and len(call.args) < 4 and isinstance(call.args[0], Tensor):
            return self._imaged_alone(call)
        return call.with_private_images()

    @staticmethod
    def _imaged_alone(call: BoundCall) -> BoundCall:
        """The common in-place call on one tensor with at most two other operands, fast."""
        (position,) = call.form.overwrites
        target = call.args[position]
        low, high = bits.address_range(target)
        for i, other in enumerate(call.args):
            if i != position and isinstance(other, Tensor):
                start, stop = bits.address_range(other)
                if start < high and stop > low:
                    return call.with_private_images()
        args = list(call.args)
        args[position] = bits.snapshot(target)
        return BoundCall(call.form, tuple(args))

    def _observe(
        self, entry: Entry, tally: Tally, call: BoundCall, key: Any, live: tuple[Any, ...],
        returned: Any,
    ) -> None:
        held = call.results(live, returned)
        present = [t for t in held if t is not None]
        if not self._is_known_site(key):
            for tensor in present:
                if reason := uncovered(tensor):
                    tally.not_tested[reason] += 1
                    return
            if not any(t.numel() for t in present):
                tally.calls -= 1
                return
        with self._lock:
            watch = Watch(entry, tally, tally.calls - 1, self.provenance.origin)
            self._check(Observation(call, held), key, watch)

    def _measure(
        self, entry: Entry, tally: Tally, args: tuple[Any, ...], kwargs: dict[str, Any],
        returned: Any,
    ) -> None:
        """Count elements and FLOPs of an early call that is not checked."""
        if tally.num_measured >= NUM_MEASURED or entry.form is None or entry.spec is None:
            return
        try:
            call = BoundCall(entry.form, entry.form.bind(args, kwargs))
            held = call.results(call.args, returned)
            tally.measure(sum(t.numel() for t in held if t is not None),
                          entry.spec.flops(call, held))
        except Exception as error:
            self._on_error(f"while counting {entry.form.name}", error)

    @staticmethod
    def _not_tested(tally: Tally, reason: str, returned: Any) -> None:
        tally.not_tested[reason] += 1
        elements = sum(t.numel() for t in flatten(returned) if t is not None)
        tally.measure(elements, elements)


class _TooLarge(Exception):
    """The images that a check needs do not fit into the memory budget."""
