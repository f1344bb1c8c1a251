"""Put a broken kernel in place of a correct one, for as long as a ``with`` lasts.

:class:`KernelOverride` registers a Python kernel for one operator overload at one backend key of
the dispatcher (``torch.library.Library(ns, "IMPL")``).  That kernel calls the original computed
kernel (``torch.library.get_kernel(...).call_boxed``) with the very arguments that came in, then
hands the results to a ``transform`` that may change them in place.

A number in a Tensor's place (``x * 0.5``) is handled by :mod:`sdc_guard.inject.numbers`.

The registration sits below autograd, below autocast and below every Python dispatch mode, so it
reaches each call of that overload on the device whoever makes it: the user's code, the backward
pass, another operator's C++ code that goes through the dispatcher, the guard's own replays and
references, code that runs with modes disabled.  It does not reach C++ code that calls a kernel
without the dispatcher (``at::native::...``, ``at::cpu::...``) nor code that Inductor generated,
and overriding one overload leaves its siblings alone (``mm`` is not ``mm.out``), unless their own
kernels call it: in torch 2.13 ``sum.default`` calls ``sum.dim_IntList``, ``mul.Scalar`` calls
``mul.Tensor``.

Never imported by a production stage.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.errors import UsageError
from sdc_guard.inject.numbers import is_number, takes_tensor, with_numbers_as_tensors

Results = tuple[Tensor | None, ...]
"""Flat results of a call: the operands that it overwrote, then the tensors that it made; None for
one that was masked out."""

_OWN_KEYS = {
    "CPU": ("CPU", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"),
    "CUDA": ("CUDA", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"),
}

_active: dict[tuple[str, str], KernelOverride] = {}
_active_lock = threading.Lock()


class CallInfo:
    """One execution of an overridden kernel, as ``before`` and ``transform`` see it.

    ``call_number`` counts executions from 0 since the override was entered.  ``note`` is free for
    ``before`` to leave something for ``transform``, ``images`` for the call on private images of
    what it overwrites, ``results`` for its flat results.
    """

    __slots__ = ("_original", "args", "call_number", "images", "kwargs", "note", "op",
                 "results")

    def __init__(
        self,
        op: Any,
        call_number: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        original: Callable[..., Any],
    ) -> None:
        self.op = op
        self.call_number = call_number
        self.args = args
        self.kwargs = kwargs
        self.note: Any = None
        self.images: BoundCall | None = None
        self.results: Results = ()
        self._original = original

    @property
    def call(self) -> BoundCall:
        """The call with its operands by name.  Operands that the op overwrites hold what it wrote
        once it has run."""
        form = form_of(self.op)
        return BoundCall(form, form.bind(self.args, self.kwargs))

    def rerun(self, call: BoundCall) -> Results:
        """Run the original kernel on other operands; it overwrites what ``call`` names for it."""
        n = call.form.num_positional
        names = call.form.argument_names[n:]
        keyword = dict(zip(names, call.args[n:], strict=True))
        return call.results(call.args, self._original(*call.args[:n], **keyword))


Before = Callable[[CallInfo], None]
Transform = Callable[[CallInfo, Results], None]


def refusal(op: Any, device: str = "CPU") -> str:
    """Why ``op`` cannot be overridden on ``device``; empty if it can be.

    An op that is only ``CompositeImplicitAutograd`` has no kernel of its own and takes its gradient
    from the ops that it is made of: a kernel at the backend key would silently detach it.  A view
    has no numbers of its own, and torch relies on some views having no Python object yet
    (``Parameter`` on ``detach``), which a Python kernel gives them.
    """
    if device not in _OWN_KEYS:
        return f"device is {device!r}, must be one of {', '.join(_OWN_KEYS)}"
    if not isinstance(op, torch._ops.OpOverload):
        return (
            f"{op!r} is {type(op).__name__}, must be an overload such as torch.ops.aten.mm.default"
        )
    if any(r.alias_info is not None and not r.alias_info.is_write for r in op._schema.returns):
        return f"{op} makes a view: it has no numbers of its own"
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if any(has(op._name, key) for key in _OWN_KEYS[device]):
        return ""
    if has(op._name, "CompositeImplicitAutograd"):
        return (
            f"{op} is composite on {device}: it has no kernel of its own there; "
            "override the ops that it calls"
        )
    return f"{op} has no kernel on {device}"


class KernelOverride:
    """Context manager: ``transform(info, results)`` runs after every execution of ``op``.

    ``results`` are the flat results in the order of :meth:`BoundCall.results`; change them in
    place.  ``before(info)``, if given, runs first, on operands as they come in.  Calls of the same
    op made from within the two hooks, on that thread, go straight to the original kernel and are
    not counted.

    On exit the kernel that was there at entry is back.  One object can be entered again and again,
    one after the other; the count starts at 0 each time.  Overrides of different ops nest freely.

    Raises:
        UsageError: at construction if ``op`` cannot be overridden on ``device``
            (:func:`refusal`); on entry if an override of the same op and device is active.
    """

    def __init__(
        self,
        op: torch._ops.OpOverload,
        transform: Transform,
        device: str = "CPU",
        *,
        before: Before | None = None,
    ) -> None:
        reason = refusal(op, device)
        if reason:
            raise UsageError(f"cannot override a kernel: {reason}")
        self.op = op
        self.device = device
        self._transform = transform
        self._before = before
        self._library: torch.library.Library | None = None
        self._kernel: Any = None
        self._lock = threading.Lock()
        self._num_calls = 0
        self._inside = threading.local()
        self._tensor_positions = tuple(
            i for i, argument in enumerate(op._schema.arguments) if takes_tensor(argument)
        )

    @property
    def num_calls(self) -> int:
        """Executions of the kernel since the last entry, all threads together."""
        with self._lock:
            return self._num_calls

    @property
    def active(self) -> bool:
        return self._library is not None

    def __enter__(self) -> Self:
        name = self.op._name
        with _active_lock:
            if (name, self.device) in _active:
                raise UsageError(
                    f"an override of {name} on {self.device} is already active; "
                    "leave it before entering another one"
                )
            self._kernel = torch.library.get_kernel(self.op, self.device)
            self._num_calls = 0
            library = torch.library.Library(self.op.namespace, "IMPL")
            with warnings.catch_warnings():
                # The process's first override of a kernel is announced; this one is on purpose.
                warnings.filterwarnings(
                    "ignore",
                    message=r"(?s).*Overriding a previously registered kernel",
                    category=UserWarning,
                )
                library.impl(self.op, self._run, self.device, with_keyset=True)
            self._library = library
            _active[name, self.device] = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _active_lock:
            if self._library is not None:
                self._library._destroy()
                self._library = None
                del _active[self.op._name, self.device]

    def _run(self, keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self._inside, "hook", False):
            return self._original(keyset, args, kwargs)
        with self._lock:
            number = self._num_calls
            self._num_calls += 1

        def original(*other_args: Any, **other_kwargs: Any) -> Any:
            return self._original(keyset, other_args, other_kwargs)

        info = CallInfo(self.op, number, args, kwargs, original)
        if self._before is not None:
            self._hook(self._before, info)
        returned = self._original(keyset, args, kwargs)
        call = info.call
        self._hook(self._transform, info, call.results(call.args, returned))
        return returned

    def _original(self, keyset: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kernel = self._kernel
        if any(is_number(args[i]) for i in self._tensor_positions if i < len(args)):
            return with_numbers_as_tensors(lambda: kernel.call_boxed(keyset, *args, **kwargs))
        return kernel.call_boxed(keyset, *args, **kwargs)

    def _hook(self, hook: Callable[..., None], *arguments: Any) -> None:
        self._inside.hook = True
        try:
            hook(*arguments)
        finally:
            self._inside.hook = False
