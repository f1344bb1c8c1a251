"""The dispatch mode: turns operator calls into observations.

What the mode may never do: change an argument, a result, a random stream, or raise anything but
what the operator itself or the policy raises.  Whatever fails in the guard's own work is reported
to ``on_error`` and the call goes through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard import bits, device_bits
from sdc_guard.calls import BoundCall, flatten, without
from sdc_guard.observe.classify import Entry, Kind, classify
from sdc_guard.observe.provenance import Origin, Provenance
from sdc_guard.observe.sampling import Scheduler
from sdc_guard.observe.sites import Conditions, conditions, site_key, uncovered
from sdc_guard.observe.tally import NUM_MEASURED, Tally
from sdc_guard.records import Observation

_ONES_LIKE = torch.ops.aten.ones_like.default
NUM_FLOOR_CALLS = 65
Check = Callable[[Observation, Any, Any, "Watch"], None]
"""Called with an observation, the site's key, the site's plan (None for a new site), and what is
known about the call."""


class Watch:
    """What an observation needs besides its tensors: where it comes from and its running number."""

    __slots__ = ("call_index", "conditions", "entry", "origin", "tally")

    def __init__(
        self, entry: Entry, tally: Tally, call_index: int, conditions: Conditions,
        origin: Callable[[], Origin],
    ) -> None:
        self.entry = entry
        self.conditions = conditions
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
        find_plan: Callable[[Any], Any],
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
        self.num_backward_ops = 0
        self.settle_step: Callable[[], None] = lambda: None
        self.on_loss: Callable[[Any], None] = lambda tensor: None
        self.is_dispatching = False
        self.owns_buffer: Callable[[object], bool] = lambda tensor: False
        self.before_write: Callable[[list[Tensor], bool], None] | None = None
        self.is_idle_for: Callable[[Entry], bool] = lambda entry: False
        self._entries: dict[int, tuple[Entry, Tally | None]] = {}
        self._check = check
        self._settle = settle
        self._find_plan = find_plan
        self._on_error = on_error
        self._memory_budget_bytes = memory_budget_bytes
        self._lock = threading.RLock()
        self.conditions = conditions()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compilation runs without us; a plain mode would switch it off silently."""
        return True

    def measure_floor_s(self) -> float:
        """What one call costs that is let through, in seconds: medians of an op that makes no
        numbers, in a thread of its own, where no mode of the user's sees the calls."""
        counted, times_s = self.scheduler.num_dispatched, ([0.0], [0.0])

        def measure() -> None:
            tensor = torch.zeros(1)
            for watched in (False, True):
                if watched:
                    dispatch._push_mode(self)
                try:
                    for _ in range(NUM_FLOOR_CALLS):
                        started_s = perf_counter()
                        tensor.detach()
                        times_s[watched].append(perf_counter() - started_s)
                finally:
                    if watched:
                        dispatch._pop_mode()

        thread = threading.Thread(target=measure, name="sdc_guard floor")
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: the default stays until steps tell
            self._on_error("while measuring what a call costs", error)
            return self.scheduler.floor_s
        thread.join()
        self.scheduler.num_dispatched = counted
        alone_s, watched_s = (sorted(t)[len(t) // 2] for t in times_s)
        return max(watched_s - alone_s, 1e-7)

    def locked(self) -> threading.RLock:
        """The lock under which checks run, on whatever thread."""
        return self._lock

    def rearm(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` at the first differentiable op from now on."""
        self.last_sequence_nr = torch._C._autograd._get_sequence_nr()
        self.on_new_step = hook

    def __deepcopy__(self, memo: dict[int, Any]) -> GuardMode:
        return self

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        if types and not all(t is Tensor or t is Parameter for t in types):
            if any(t.__module__.startswith("torch._subclasses") for t in types):
                return func(*args, **kwargs)  # fake tensors, which rely on modes below to let go
            return NotImplemented
        if self.provenance.in_optimizer and torch.is_grad_enabled():
            self._settle_step()  # an optimizer's own ops run without gradients
        if self.on_new_step is not None and not self.provenance.in_optimizer:
            self.begin_step_if_due(func, args)
        if func is _ONES_LIKE and args:
            self.on_loss(args[0])
        self.scheduler.num_dispatched += 1
        known = self._entries.get(id(func))
        if known is None:
            known = self._sort(func)
        entry, tally = known
        if entry.writes and self.before_write is not None:
            self._announce(entry, args, kwargs)
        if tally is None:
            if entry.kind is Kind.COMPOSITE:
                return self._decomposed(func, args, kwargs)
            if self.scheduler.budget == "all":
                self.provenance.note_nodes()
            return func(*args, **kwargs)
        return self._watch(entry, tally, args, kwargs)

    def _announce(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Tell what an operator is about to write to; what it may write to where its schema is
        not one of ATen's, which name all."""
        form, says_all = entry.form, entry.says_all
        try:
            values = (*args, *kwargs.values()) if form is None else form.bind(args, kwargs)
            written = [t for i, value in enumerate(values) for t in flatten(value)
                       if t is not None and (not says_all or form is None or i in form.overwrites)]
            with self._lock:
                assert self.before_write is not None
                self.before_write(written, says_all)
        except Exception as error:
            self._on_error(f"before {entry.op}", error)
        self._settle()

    def _settle_step(self) -> None:
        """Let the gate notice a step that raised.  The dispatcher keeps this mode off the stack
        while we are called, and puts it back: it must not be installed meanwhile."""
        self.is_dispatching = True
        try:
            self.settle_step()
        finally:
            self.is_dispatching = False

    def begin_step_if_due(self, func: Any = None, args: tuple[Any, ...] = ()) -> None:
        """A step begins with the first op that makes an autograd node after an optimizer step, or
        that writes to a module buffer with gradients on (BatchNorm counts its batches before it
        looks at one): clipping, ``zero_grad`` and evaluation in between do neither."""
        if self.on_new_step is None or (
            torch._C._autograd._get_sequence_nr() == self.last_sequence_nr
            and not (
                args
                and torch.is_grad_enabled()
                and isinstance(func, torch._ops.OpOverload)
                and func._schema.is_mutable
                and self.owns_buffer(args[0])
            )
        ):
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
        if entry.kind is Kind.CHECKED and self.is_idle_for(entry):
            entry.spec, entry.reason = None, "no witness of those chosen applies"
        tally = None
        if entry.kind in (Kind.CHECKED, Kind.UNKNOWN):
            name = entry.form.packet if entry.form is not None else str(func)
            tally = self.tallies.setdefault(
                name, Tally(name, reduction=entry.spec is not None and entry.spec.reduction)
            )
        self._entries[id(func)] = (entry, tally)
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
        self.provenance.note_nodes()
        self.num_backward_ops += torch._C._current_autograd_node() is not None
        due = self.scheduler.wants(tally)
        if not due and tally.num_measured >= NUM_MEASURED:
            return entry.op(*args, **kwargs)
        started_s = perf_counter()
        prepared = self._prepare(entry, tally, args, kwargs) if due else None
        if prepared is None:
            returned = entry.op(*args, **kwargs)
            self._measure(entry, tally, args, kwargs, returned)
            return returned
        call, key, plan, live = prepared
        before_s = perf_counter()
        returned = entry.op(*args, **kwargs)
        after_s = perf_counter()
        try:
            self._observe(entry, tally, call, key, plan, live, returned)
        except Exception as error:
            tally.not_tested["guard error"] += 1
            self._on_error(f"while checking {entry.form.name}", error)
        finally:
            spent_s = perf_counter() - after_s + before_s - started_s
            self.scheduler.charge(tally, spent_s)
        self._settle()
        return returned

    def _prepare(
        self, entry: Entry, tally: Tally, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[BoundCall, Any, Any, tuple[Any, ...]] | None:
        """The call with images of what it will overwrite; None if it is not to be checked."""
        form = entry.form
        assert form is not None
        try:
            if device_bits.is_capturing():
                tally.not_tested["recorded in a CUDA graph, whose replays are not seen"] += 1
                return None
            live = form.bind(args, kwargs)
            key = site_key(entry.op, live, self.conditions)
            plan = self._find_plan(key)
            if not self.scheduler.accepts(tally, key, plan.cost_s if plan is not None else 0.0):
                return None
            if plan is None:
                for value in live:
                    for tensor in (t for t in flatten(value) if t is not None):
                        reason = uncovered(tensor)
                        if form.overwrites and (tensor.is_neg() or tensor.is_conj()):
                            reason = "lazily negated or conjugated operand of a call that writes"
                        if reason:
                            tally.not_tested[reason] += 1
                            return None
            if not form.overwrites:
                return BoundCall(form, live), key, plan, live
            return self._imaged(BoundCall(form, live)), key, plan, live
        except _TooLarge:
            tally.not_tested["memory budget"] += 1
        except Exception as error:
            tally.not_tested["guard error"] += 1
            self._on_error(f"while preparing {form.name}", error)
        return None

    def _imaged(self, call: BoundCall) -> BoundCall:
        """Images of the overwritten operands and of every operand that shares memory with them."""
        form = call.form
        if len(form.overwrites) == 1 and isinstance(call.args[form.overwrites[0]], Tensor):
            return self._imaged_alone(call)
        num_bytes = sum(bits.span(t) * t.element_size() for i in form.overwrites
                        for t in flatten(call.args[i]) if t is not None)
        if num_bytes > self._memory_budget_bytes:
            raise _TooLarge
        return call.with_private_images()

    def _imaged_alone(self, call: BoundCall) -> BoundCall:
        """The common call that overwrites one tensor, fast."""
        (position,) = call.form.overwrites
        target = call.args[position]
        low, high = bits.address_range(target)
        if high - low > self._memory_budget_bytes:
            raise _TooLarge
        for i, other in enumerate(call.args):
            if isinstance(other, (list, tuple)) and other and isinstance(other[0], Tensor):
                return call.with_private_images()
            if (
                i != position
                and isinstance(other, Tensor)
                and other.data_ptr() < high
                and bits.address_range(other)[1] > low
            ):
                return call.with_private_images()
        args = list(call.args)
        args[position] = bits.snapshot(target)
        return BoundCall(call.form, tuple(args))

    def _observe(
        self,
        entry: Entry,
        tally: Tally,
        call: BoundCall,
        key: Any,
        plan: Any,
        live: tuple[Any, ...],
        returned: Any,
    ) -> None:
        held = call.results(live, returned)
        if entry.spec is not None and entry.spec.scratch:
            held = without(held, entry.spec.scratch)
        if plan is None:
            present = [t for t in held if t is not None]
            for tensor in present:
                if reason := uncovered(tensor):
                    tally.not_tested[reason] += 1
                    return
            if not any(t.numel() for t in present):
                tally.calls -= 1
                return
        with self._lock:
            watch = Watch(
                entry, tally, tally.calls - 1, self.conditions, self.provenance.origin)
            self._check(Observation(call, held), key, plan, watch)

    def _measure(
        self,
        entry: Entry,
        tally: Tally,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        returned: Any,
    ) -> None:
        """Count elements and FLOPs of an early call that is not checked."""
        if tally.num_measured >= NUM_MEASURED or entry.form is None or entry.spec is None:
            return
        try:
            call = BoundCall(entry.form, entry.form.bind(args, kwargs))
            held = call.results(call.args, returned)
            tally.measure(
                sum(t.numel() for t in held if t is not None), entry.spec.flops(call, held)
            )
        except Exception as error:
            self._on_error(f"while counting {entry.form.name}", error)

    @staticmethod
    def _not_tested(tally: Tally, reason: str, returned: Any) -> None:
        tally.not_tested[reason] += 1
        elements = sum(t.numel() for t in flatten(returned) if t is not None)
        tally.measure(elements, elements)


class _TooLarge(Exception):
    """The images that a check needs do not fit into the memory budget."""
