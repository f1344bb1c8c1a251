"""Draw fault places from the calls that a training step really makes.

``calls = record_calls(step)``, then ``draw_transients(calls, num, seed)``: each drawn fault is
fresh, and is entered around one run of the same step.

A flip in an integer that is an index later may end in an exception (``embedding``) or, in an op
that does not check its indices, in a crash: run long campaigns in a process of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.bits import has_values
from sdc_guard.calls import BoundCall, Path, form_of
from sdc_guard.errors import UsageError
from sdc_guard.inject.faults import RepeatedFlip, TransientFlip
from sdc_guard.inject.flip import num_bits
from sdc_guard.inject.override import refusal
from sdc_guard.inject.phases import Phases
from sdc_guard.inject.trigger import is_left_to_a_subclass

# Views whose schema does not say so: they promise autograd a tensor of their own.
_UNDECLARED_VIEWS = frozenset(
    {"_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"}
)
_ALLOCATIONS = ("empty", "new_empty", "_empty", "_efficientzerotensor")
_NO_NUMBERS = frozenset({"_local_scalar_dense", "lift", "resize_", "resize_as_", "set_"})
_NAMESPACES_WITHOUT_NUMBERS = frozenset({"profiler", "prim", "prims", "record_function"})


def makes_numbers(op: Any) -> bool:
    """True if ``op`` stores numbers of its own in memory, so that a fault can change them.

    False for views and other changes of metadata (a result that shares an operand's memory and was
    not written to), for pure allocation, for reads of a scalar into Python, for profiler marks and
    for what is no operator overload.
    """
    if not isinstance(op, torch._ops.OpOverload):
        return False
    namespace, _, base = op._schema.name.partition("::")
    if namespace in _NAMESPACES_WITHOUT_NUMBERS or torch.Tag.inplace_view in op.tags:
        return False
    if base in _UNDECLARED_VIEWS or base in _NO_NUMBERS or base.startswith(_ALLOCATIONS):
        return False
    if any(r.alias_info is not None and not r.alias_info.is_write for r in op._schema.returns):
        return False
    form = form_of(op)
    return bool(form.overwrites) or any("Tensor" in str(r.type) for r in op._schema.returns)


@dataclass(frozen=True, slots=True)
class OutputShape:
    """One flat result of a recorded call."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    numel: int
    device: str


@dataclass(frozen=True, slots=True)
class OperandShape:
    """One tensor operand of a recorded call, at ``path`` among its arguments."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    numel: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CallShape:
    """One recorded call.  ``ordinal`` counts the calls of that overload from 0; ``outputs`` are the
    operands that it overwrote, then the tensors that it made, None for one masked out;
    ``operands`` are the strided tensors that came in.  ``phase`` is ``forward``, ``backward`` or
    ``optimizer`` (:class:`sdc_guard.inject.phases.Phases`)."""

    op: Any
    ordinal: int
    outputs: tuple[OutputShape | None, ...]
    operands: tuple[OperandShape, ...] = ()
    phase: str = ""

    @property
    def drawable(self) -> tuple[int, ...]:
        """Places of the outputs that a flip can be drawn in: non-empty, integer or real float, on
        the CPU; none where the op makes no numbers or cannot be overridden."""
        if not makes_numbers(self.op) or refusal(self.op):
            return ()
        return tuple(
            i
            for i, out in enumerate(self.outputs)
            if out is not None and out.numel and out.device == "cpu"
            and has_values(out.dtype) and out.dtype is not torch.bool
        )


class _Recorder(TorchDispatchMode):
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self, phases: Phases) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phases = phases
        self.calls: list[CallShape] = []
        self._ordinals: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if types and is_left_to_a_subclass(types):
            return NotImplemented
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        form = form_of(func)
        call = BoundCall(form, form.bind(args, kwargs))
        operands = tuple(
            OperandShape(path, tuple(t.shape), t.dtype, t.numel(), t.stride())
            for path, t in call.tensors() if t.layout is torch.strided)
        returned = func(*args, **kwargs)
        outputs = tuple(
            None if t is None
            else OutputShape(tuple(t.shape), t.dtype, t.numel(), t.device.type)
            for t in call.results(call.args, returned)
        )
        self.calls.append(
            CallShape(func, self._ordinals[func], outputs, operands, self.phases.now))
        self._ordinals[func] += 1
        return returned


def record_calls(fn: Callable[[], object]) -> list[CallShape]:
    """Run ``fn`` once and list every operator call that it makes on this thread, in order; those of
    a CPU backward and of the optimizer included, each with its phase."""
    with Phases() as phases:
        recorder = _Recorder(phases)
        with recorder:
            fn()
    return recorder.calls


def _draw(
    calls: Sequence[CallShape], num: int, seed: int
) -> Iterator[tuple[CallShape, int, OutputShape, int, int]]:
    """Yield (call, output, its shape, flat index, bit), each uniform given those before it."""
    candidates = [
        (call, [(i, out) for i in call.drawable if (out := call.outputs[i]) is not None])
        for call in calls
        if call.drawable
    ]
    if num and not candidates:
        raise UsageError(f"none of the {len(calls)} recorded calls makes numbers on the CPU that a "
                         "flip could change; record a whole training step")
    generator = np.random.default_rng(seed)
    for _ in range(num):
        call, outputs = candidates[int(generator.integers(len(candidates)))]
        output, out = outputs[int(generator.integers(len(outputs)))]
        flat_index = int(generator.integers(out.numel))
        yield call, output, out, flat_index, int(generator.integers(num_bits(out.dtype)))


def draw_transients(calls: Sequence[CallShape], num: int, seed: int) -> list[TransientFlip]:
    """``num`` single flips: call, output tensor, element and bit each uniform, in this order.

    Each counts the calls of the user (``counts="user"``), as the recording did: enter it above the
    guard.

    Raises:
        UsageError: if no recorded call makes numbers on the CPU.
    """
    return [
        TransientFlip(call.op, call.ordinal, output, flat_index, bit, counts="user")
        for call, output, _, flat_index, bit in _draw(calls, num, seed)
    ]


def draw_repeated(calls: Sequence[CallShape], num: int, seed: int) -> list[RepeatedFlip]:
    """``num`` flips drawn as :func:`draw_transients` draws them, each repeated in every execution
    of that op whose result has that shape and dtype.

    Enter it under a dispatch mode (a guard is one), as the recording did: without any, autograd
    adds some gradients in place, by ``add_`` where ``add`` was recorded.

    Raises:
        UsageError: if no recorded call makes numbers on the CPU.
    """
    return [
        RepeatedFlip(call.op, out.shape, output, flat_index, bit, dtype=out.dtype)
        for call, output, out, flat_index, bit in _draw(calls, num, seed)
    ]
