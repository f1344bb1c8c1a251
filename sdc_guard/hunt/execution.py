"""Makes the call of a trial and records the operators that run in it.

Every operator that computes numbers, forward and backward, becomes an
:class:`~sdc_guard.records.Observation` with its operands as they were before the call, so that
each can be judged by its own bound, whichever public function asked for it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard import bits
from sdc_guard.bits import address_range
from sdc_guard.calls import BoundCall, flatten
from sdc_guard.hunt.materialise import Made, materialise
from sdc_guard.hunt.trial import Alias, Modes, Trial, dtype_of
from sdc_guard.observe.classify import Entry, Kind, classify
from sdc_guard.records import Observation

REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, KeyError,
            AttributeError, AssertionError, OverflowError)
"""What an operator may raise because it does not take such a call."""


@dataclass(slots=True)
class Execution:
    """What came of a trial.  ``results``: every tensor of what the call returned, then what it
    overwrote; ``gradients``: one for each operand that requires one (None where none came);
    ``refusal``: why the call was not taken, empty where it was.  ``observations`` are the operators
    that ran, in order, backward ones from ``num_forward`` on."""

    trial: Trial
    made: Made
    results: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor | None] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    num_forward: int = 0
    refusal: str = ""

    def outcome(self) -> list[Tensor | None]:
        """Results and gradients."""
        return [*self.results, *self.gradients]


@dataclass(slots=True)
class Recorded(Observation):
    """A call with the switches it was made under, which its bound depends on: threads, oneDNN."""

    threads: int
    mkldnn: bool


class Recorder(TorchDispatchMode):
    """Notes every operator that computes numbers, with images of what it overwrites."""

    supports_higher_order_operators = True
    _entries: dict[Any, Entry] = {}  # noqa: RUF012 - one table for all recorders of a process

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.observations: list[Observation] = []
        self.entries: list[Entry] = []
        self._by_storage: dict[int, list[int]] = {}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compilation runs without us."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        entry = self._entries.get(func)
        if entry is None:
            entry = self._entries[func] = classify(func)
        if entry.kind is Kind.COMPOSITE:
            dispatch._push_mode(self)
            try:
                return func.decompose(*args, **(kwargs or {}))
            finally:
                dispatch._pop_mode()
        form = entry.form
        if form is None or entry.kind not in (Kind.CHECKED, Kind.UNKNOWN):
            if entry.writes and form is not None:
                self._keep(form.bind(args, kwargs or {}), form.overwrites)
            return func(*args, **(kwargs or {}))
        live = form.bind(args, kwargs or {})
        call = BoundCall(form, live)
        if form.overwrites:
            self._keep(live, form.overwrites)
            call = call.with_private_images()
        returned = func(*args, **(kwargs or {}))
        if form.is_out:
            call = _with_resized(call, live)
        self._record(Recorded(
            call, call.results(live, returned), torch.get_num_threads(),
            torch._C._get_mkldnn_enabled()), entry)
        return returned

    def _record(self, seen: Observation, entry: Entry) -> None:
        number = len(self.observations)
        self.observations.append(seen)
        self.entries.append(entry)
        results = (t for t in seen.held if t is not None)
        for tensor in (*(t for _, t in seen.call.tensors()), *results):
            self._by_storage.setdefault(_storage(tensor), []).append(number)

    def _keep(self, live: tuple[Any, ...], overwrites: tuple[int, ...]) -> None:
        """Images of everything recorded that is about to be overwritten.  What shares a storage is
        looked at, not all: a gradient may be filled thousands of times."""
        written = [t for i in overwrites for t in flatten(live[i]) if t is not None]
        ranges = [address_range(t) for t in written]
        numbers = {n for t in written for n in self._by_storage.get(_storage(t), ())}

        def kept(tensor: Tensor) -> Tensor:
            low, high = address_range(tensor)
            if any(low < stop and high > start for start, stop in ranges):
                return bits.snapshot(tensor)
            return tensor

        for seen in (self.observations[n] for n in sorted(numbers)):
            seen.held = tuple(t if t is None else kept(t) for t in seen.held)
            seen.call = seen.call.mapped(lambda _, t: kept(t))


def _storage(tensor: Tensor) -> int:
    """Where the memory begins that a tensor is a view of."""
    return tensor.untyped_storage().data_ptr()


def _with_resized(call: BoundCall, live: tuple[Any, ...]) -> BoundCall:
    """Results that the call has resized, with their new shape also in the record of it: what they
    held before means nothing."""
    changed = {
        call.form.argument_names[i]: torch.empty_like(live[i]) for i in call.form.overwrites
        if isinstance(live[i], Tensor) and live[i].shape != call.args[i].shape}
    return call.replaced(**changed) if changed else call


@contextlib.contextmanager
def under(modes: Modes) -> Iterator[None]:
    """The modes for as long as the block lasts."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(switched(modes.threads, modes.mkldnn))
        if modes.deterministic != deterministic:
            torch.use_deterministic_algorithms(modes.deterministic)
            stack.callback(torch.use_deterministic_algorithms, deterministic)
        if modes.autocast:
            stack.enter_context(torch.autocast("cpu", dtype=dtype_of(modes.autocast)))
        if modes.inference:
            stack.enter_context(torch.inference_mode())
        yield


@contextlib.contextmanager
def switched(threads: int, mkldnn: bool) -> Iterator[None]:
    """Threads and oneDNN for as long as the block lasts; put back only what differs."""
    before, had = torch.get_num_threads(), torch._C._get_mkldnn_enabled()
    with contextlib.ExitStack() as stack:
        if threads != before:
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
        if mkldnn != had:
            # Its flags() sets others too, of which one warns where there is no such device.
            torch._C._set_mkldnn_enabled(mkldnn)
            stack.callback(torch._C._set_mkldnn_enabled, had)
        yield


def as_recorded(observation: Observation) -> contextlib.AbstractContextManager[None]:
    """The switches that a call was made under, while it is judged; those of now if none are
    recorded."""
    if isinstance(observation, Recorded):
        return switched(observation.threads, observation.mkldnn)
    return contextlib.nullcontext()


def execute(trial: Trial, *, record: bool = True) -> Execution:
    """Make the call on fresh operands.

    What the operator raises for a call that it does not take is kept in ``refusal``; anything
    else (out of memory, an internal failure) is raised.
    """
    with under(trial.modes), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what operators warn of is no matter of a hunt
        made = materialise(trial)
        execution = Execution(trial, made)
        recorder = Recorder() if record else None
        try:
            with recorder or contextlib.nullcontext():
                sizes = {id(t): t.shape for t in made.tensors}
                returned = made.function(*made.args, **made.kwargs)
                if any(made.kwargs[name].shape != sizes[id(made.kwargs[name])]
                       for name, value in trial.kwargs.items() if isinstance(value, Alias)):
                    raise ValueError("out= is an operand of another shape, which is lost")
                execution.results = [t for t in _tensors(returned)]
            execution.num_forward = len(recorder.observations) if recorder else 0
            if trial.backward:
                execution.gradients = _gradients(made, execution.results, recorder)
        except REFUSALS as error:
            execution.refusal = f"{type(error).__name__}: {error}"[:500]
    if recorder is not None:
        execution.observations, execution.entries = recorder.observations, recorder.entries
    return execution


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _gradients(
    made: Made, results: list[Tensor], recorder: Recorder | None
) -> list[Tensor | None]:
    """Gradients with respect to all operands that require one.  The incoming gradient of result r
    is 1, -0.5, 1, -0.5, ... along its elements: numbers that every format holds.  It is ours, and
    not recorded."""
    leaves = [t for t in made.tensors if t.requires_grad]
    outputs = [t for t in results if t.requires_grad and t.layout is torch.strided]
    if not leaves or not outputs:
        return []
    incoming = []
    for output in outputs:
        pattern = torch.ones(output.numel(), dtype=output.dtype)
        pattern[1::2] = -0.5
        incoming.append(pattern.reshape(output.shape))
    with recorder or contextlib.nullcontext():
        found = torch.autograd.grad(outputs, leaves, incoming, allow_unused=True)
        # A gradient that is 0 throughout may come without memory.
        return [g.clone() if g is not None and g._is_zerotensor() else g for g in found]
