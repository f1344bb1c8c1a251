"""Draws repeated faults for the calls of a catalogue sample, each with an effect above the bound.

Kinds: ``flip`` inverts one bit of one result element in every execution; the others misread one
element of one operand (:class:`sdc_guard.inject.misread.MisreadElement`): the next one is read in
its place (``offset``) or zero (``dropped``), in every execution at one place (``place``) or
wherever that number occurs (``data``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.inject.campaign import makes_numbers
from sdc_guard.inject.faults import Fault, RepeatedFlip
from sdc_guard.inject.flip import flip_bit, num_bits
from sdc_guard.inject.misread import MisreadElement
from sdc_guard.inject.override import refusal
from sdc_guard.inject.trigger import is_left_to_a_subclass
from sdc_guard.observe.sites import uncovered
from sdc_guard.ops import OpSpec, Reference, lookup, lookup_complex
from sdc_guard.ops._registry import HostCall

KINDS = ("flip", "offset place", "dropped place", "offset data", "dropped data")
TRIES = 24
"""Draws until one has an effect above twice the bound."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call on images of its operands, with images of its results and twice the contract of each
    (None where the operator's file gives no bound)."""

    call: BoundCall
    held: tuple[Tensor | None, ...]
    limits: tuple[NDArray[Any] | float | None, ...]


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Recorded] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if types and is_left_to_a_subclass(types):
            return NotImplemented
        kwargs = kwargs or {}
        form = form_of(func) if isinstance(func, torch._ops.OpOverload) else None
        if form is None or form.seeded or not makes_numbers(func) or refusal(func):
            return func(*args, **kwargs)
        live = BoundCall(form, form.bind(args, kwargs))
        operands = [t for _, t in live.tensors()]
        if any(uncovered(t) or t.is_neg() or t.is_conj() for t in operands):
            return func(*args, **kwargs)
        own = {id(t): t for t in operands}
        images = dict(zip(own, bits.snapshot_together(list(own.values())), strict=True))
        call = live.mapped(lambda _, t: images[id(t)])
        returned = func(*args, **kwargs)
        held = live.results(live.args, returned)
        if not any(t is not None and uncovered(t) for t in held):
            kept = tuple(None if t is None else bits.snapshot(t) for t in held)
            self.calls.append(Recorded(call, kept, ()))
        return returned


def record(fn: Callable[[], object]) -> list[Recorded]:
    """The calls that ``fn`` makes and that a fault can strike."""
    recorder = _Recorder()
    with recorder:
        fn()
    return [c for c in recorder.calls if any(t is not None and t.numel() for t in c.held)]


def _spec_of(call: BoundCall, held: tuple[Tensor | None, ...]) -> OpSpec | None:
    """The operator's file that takes this call; a complex one needs one of its own."""
    tensors = (*(t for _, t in call.tensors()), *(t for t in held if t is not None))
    find = lookup_complex if any(t.is_complex() for t in tensors) else lookup
    return find(call.form.packet)


def limits_of(call: BoundCall, held: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
    """Twice the contract of each result, by the reference in the operator's file."""
    spec = _spec_of(call, held)
    if spec is None or spec.reference is None or any(t is None for t in held):
        return tuple(None for _ in held)
    try:
        with np.errstate(all="ignore"):
            found = spec.reference(HostCall(call, [t for t in held if t is not None]))
    except Exception:  # an operand that the file does not take; the guard repeats such a call
        return tuple(None for _ in held)
    return tuple(None if r is None else _twice_the_contract(r) for r in found)


def _twice_the_contract(reference: Reference) -> NDArray[Any]:
    """Of a complex result that is judged part by part: a modulus that one part at least must
    break."""
    if reference.parts is None:
        return 2.0 * np.asarray(reference.contract)
    real, imag = (np.asarray(part.contract) for part in reference.parts)
    return np.asarray(2.0 * np.hypot(real, imag))


def effect(got: Tensor, held: Tensor, limit: NDArray[Any] | float | None) -> str:
    """``above`` where an element that was finite is off by more than its limit, or is a NaN or an
    infinity now; ``no bound`` where only elements without a limit are off; else nothing."""
    differs = bits.wrong_mask(got, held)
    if differs.ndim > held.dim():
        differs = differs.any(-1)
    if not differs.any():
        return ""
    wrong, right = bits.numbers(got), bits.numbers(held)
    if limit is None or wrong is None or right is None:
        return "no bound"
    with np.errstate(all="ignore"):
        error = np.abs(wrong - right)
    differs &= np.isfinite(right)
    limited = np.broadcast_to(np.isfinite(limit), differs.shape)
    if (differs & limited & ~(error <= limit)).any():
        return "above"
    return "no bound" if (differs & ~limited).any() else ""


def draw(
    calls: list[Recorded], kind: str, generator: np.random.Generator
) -> tuple[Fault, bool] | None:
    """A fault of that kind in one of the calls and whether a bound was known for it; None if no
    draw had an effect above twice the bound."""
    for _ in range(TRIES):
        recorded = calls[int(generator.integers(len(calls)))]
        spec = _spec_of(recorded.call, recorded.held)
        scratch = spec.scratch if spec is not None else ()
        limits = limits_of(recorded.call, recorded.held)
        draw_one = _draw_flip if kind == "flip" else _draw_misread
        drawn = draw_one(recorded, limits, scratch, kind, generator)
        if drawn is not None:
            return drawn[0], drawn[1] == "above"
    return None


def _draw_flip(
    recorded: Recorded, limits: tuple[Any, ...], scratch: tuple[int, ...], kind: str,
    generator: np.random.Generator,
) -> tuple[Fault, str] | None:
    results = [i for i, t in enumerate(recorded.held)
               if t is not None and t.numel() and i not in scratch
               and (t.is_complex() or bits.has_values(t.dtype))]
    if not results:
        return None
    output = results[int(generator.integers(len(results)))]
    held = recorded.held[output]
    assert held is not None
    parts = torch.view_as_real(held) if held.is_complex() else held
    flat_index = int(generator.integers(parts.numel()))
    for bit in generator.permutation(num_bits(parts.dtype)):
        got = bits.snapshot(held)
        flip_bit(torch.view_as_real(got) if got.is_complex() else got, flat_index, int(bit))
        seen = effect(got, held, limits[output])
        if seen:
            return RepeatedFlip(recorded.call.form.op, tuple(parts.shape), output, flat_index,
                                int(bit), dtype=parts.dtype), seen
    return None


def _draw_misread(
    recorded: Recorded, limits: tuple[Any, ...], scratch: tuple[int, ...], kind: str,
    generator: np.random.Generator,
) -> tuple[Fault, str] | None:
    call = recorded.call
    form = call.form
    operands = [(p, t) for p, t in call.tensors()
                if t.numel() and not (form.is_out and p[0] in form.overwrites)]
    if not operands:
        return None
    path, tensor = operands[int(generator.integers(len(operands)))]
    how, _, tied = kind.partition(" ")
    flat_index = int(generator.integers(tensor.numel()))
    if tied == "place":
        fault = MisreadElement(form.op, path, how, shape=tuple(tensor.shape),
                               flat_index=flat_index)
    else:
        words = bits.raw(tensor)
        if words.dtype.kind != "u" or words.shape != tuple(tensor.shape):
            return None
        fault = MisreadElement(form.op, path, how, pattern=int(words.reshape(-1)[flat_index]))
    as_read = fault._as_read(call)
    if as_read is None:
        return None
    try:
        wrong = as_read.run_identical()
    except Exception:  # a wrong index or a matrix that is singular now: loud, not silent
        return None
    seen = {effect(a, b, limits[i])
            for i, (a, b) in enumerate(zip(wrong, recorded.held, strict=True))
            if i not in scratch and a is not None and b is not None and a.shape == b.shape}
    if "above" in seen:
        return fault, "above"
    return (fault, "no bound") if "no bound" in seen else None
