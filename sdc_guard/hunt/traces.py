"""Traces to templates: the calls that a program has made, as calls to hunt near."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sdc_guard.calls import OpForm
from sdc_guard.errors import UsageError
from sdc_guard.hunt.promises import is_free, is_public, layouts_of
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import (
    STRIDED,
    Alias,
    Argument,
    Fill,
    Items,
    Layout,
    Literal,
    Modes,
    Operand,
    Trial,
    Within,
    num_elements,
    scalar,
)
from sdc_guard.observe.classify import Kind, classify
from sdc_guard.observe.tracing import records as traced
from sdc_guard.observe.tracing.reading import Trace, read_trace, tensors_of

MAX_BYTES = 1 << 28
MAX_THREADS = 256
ALIGNMENT_BYTES = 64
DTYPES = frozenset({
    "float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool", "uint8",
    "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
})
NUMBERS = ("float", "bfloat", "complex")
"""Beginnings of the dtypes of numbers; beside such an operand an integer one is an index."""
_OVERLOAD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*){2}")
_ORDINARY = Fill(kind="normal")


@dataclass(slots=True)
class Traced:
    """``templates``, one for each distinct call that can be made again; ``skipped``: reasons, by
    ``operator: reason``, with how many distinct calls each left out."""

    templates: tuple[Template, ...]
    skipped: Counter[str] = field(default_factory=Counter)


class _SkippedError(Exception):
    """Why a call of a trace is not hunted."""


def templates_of(
    path: Path, *, device: str = "cpu", max_bytes: int = MAX_BYTES
) -> tuple[Template, ...]:
    """The calls of a trace, a file or a folder of them, that can be made on ``device``.

    Raises:
        UsageError: as :func:`read_templates`.
    """
    return read_templates(path, device=device, max_bytes=max_bytes).templates


def read_templates(
    path: Path, *, device: str = "cpu", max_bytes: int = MAX_BYTES
) -> Traced:
    """The same with what is left out, and why.  ``max_bytes`` is the largest working set of a call.

    Raises:
        UsageError: if there is no trace, or none of its calls can be made again.
    """
    trace = read_trace(path)
    found: list[Template] = []
    skipped = Counter({f"not in the trace: {reason}": n for reason, n in trace.left_out.items()})
    if trace.damaged:
        skipped["damaged lines of the trace"] = trace.damaged
    for call in trace.calls:
        try:
            found.append(_template(call, trace, device, max_bytes))
        except _SkippedError as why:
            skipped[f"{call.op[:100]}: {why}"] += 1
        except (ValueError, TypeError, OverflowError) as error:  # UsageError is a ValueError
            skipped[f"{call.op[:100]}: {error}"[:300]] += 1
    if not found:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in skipped.most_common(3))
        raise UsageError(f"no call of the trace {path} can be hunted: "
                         f"{reasons or 'it holds none'}")
    return Traced(tuple(found), skipped)


def _template(call: traced.Call, trace: Trace, device: str, max_bytes: int) -> Template:
    form = _form(call.op)
    if len(call.args) != len(form.argument_names):
        raise _SkippedError("this torch knows it with other arguments")
    backward = call.grad and call.phase == "forward" and not form.overwrites
    floats = any(t.dtype.startswith(NUMBERS) for t in tensors_of(call))
    made = _Arguments(form, device, max_bytes, backward=backward, has_floats=floats)
    args = tuple(made.argument(i, value) for i, value in enumerate(call.args))
    if not made.num_operands:
        raise _SkippedError("it has no operand")
    header, n = trace.header, form.num_positional
    return Template(
        name=form.packet, source="trace", layouts=tuple(sorted(layouts_of(form.packet) or ())),
        trial=Trial(
            target=form.name, args=args[:n], device=device, backward=backward,
            kwargs=dict(zip(form.argument_names[n:], args[n:], strict=True)),
            modes=Modes(threads=min(max(header.threads, 1), MAX_THREADS),
                        deterministic=header.deterministic, mkldnn=header.mkldnn)))


def _form(name: str) -> OpForm:
    """What a trace may make us call: an operator's overload with numbers to look at, and nothing
    that a Python path could name."""
    if not _OVERLOAD.fullmatch(name):
        raise _SkippedError("this is no name of an overload")
    namespace, packet, overload = name.split(".")
    op = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
    if not isinstance(op, torch._ops.OpOverload):
        raise _SkippedError("no such operator here; import what defines it, or it is of another "
                       "version of torch")
    entry = classify(op)
    if entry.kind is not Kind.CHECKED or entry.form is None:
        raise _SkippedError(entry.reason or "nothing is known of its numbers")
    return entry.form


class _Arguments:
    """The arguments of one call, one after the other."""

    def __init__(
        self, form: OpForm, device: str, max_bytes: int, *, backward: bool, has_floats: bool
    ) -> None:
        self.form = form
        self._has_floats = has_floats
        self.device = device
        self.num_operands = 0
        self._left_bytes = max_bytes
        self._max_bytes = max_bytes
        self._backward = backward
        self._positions: list[int] = []
        self._is_internal = not is_public(form.packet)

    def argument(self, place: int, value: traced.Argument) -> Argument:
        name = self.form.argument_names[place]
        if isinstance(value, traced.Listed):
            return Items(items=tuple(self._one(name, place, item) for item in value.items))
        return self._one(name, place, value)

    def _one(self, name: str, place: int, value: traced.Argument) -> Argument:
        match value:
            case traced.TracedTensor():
                return self._tensor(name, place, value)
            case traced.Plain():
                return scalar(value.value)
            case traced.Real():
                return scalar(float.fromhex(value.value))
            case traced.Named():
                return scalar(_named(value, self.device))
            case traced.Opaque() if value.what == "Generator":
                return scalar(None)
        what = value.what if isinstance(value, traced.Opaque) else type(value).__name__
        raise _SkippedError(f"argument {name!r} is {what}, which a trace does not hold")

    def _tensor(self, name: str, place: int, value: traced.TracedTensor) -> Argument:
        if value.same_as >= 0:
            if value.same_as >= len(self._positions):
                raise _SkippedError(f"operand {name!r} is to be a later one")
            self._positions.append(self._positions[value.same_as])
            return Alias(of=self._positions[-1])
        itemsize = _itemsize(name, value)
        layout, reach = _layout(value, itemsize)
        self._left_bytes -= max(reach, num_elements(value.shape)) * itemsize
        if self._left_bytes < 0:
            raise _SkippedError(f"its operands take more than {self._max_bytes} bytes "
                                "(--max-bytes)")
        self._positions.append(self.num_operands)
        self.num_operands += 1
        free = is_free(self.form.packet, name) and value.dtype.startswith(NUMBERS)
        grad = self._backward and value.requires_grad
        return Operand(
            dtype=value.dtype, shape=value.shape, values=self._values(name, place, value),
            layout=layout, requires_grad=grad, free=free, resizable=False)

    def _values(self, name: str, place: int, value: traced.TracedTensor) -> Any:
        if value.data is not None:
            return _literal(name, value)
        if self.form.is_out and place in self.form.overwrites:
            return _ORDINARY
        is_number = value.dtype.startswith(NUMBERS)
        may = is_free(self.form.packet, name)
        if is_number and not may and (self._is_internal or _is_bound(self.form.packet, name)):
            raise _SkippedError(
                f"operand {name!r} belongs to the others; the call that it comes from is hunted "
                "with its gradient, or trace again with --data")
        if value.seen is None or not value.seen.elements:
            return _ORDINARY
        return _within(name, value.seen, is_index=not is_number and self._has_floats)


def _is_bound(packet: str, name: str) -> bool:
    """True if the operand is one that is free elsewhere: here it must fit the others."""
    return not is_free(packet, name) and is_free("aten.add", name)


def _itemsize(name: str, value: traced.TracedTensor) -> int:
    if value.dtype not in DTYPES:
        raise _SkippedError(f"operand {name!r} has dtype {value.dtype}")
    if len(value.strides) != len(value.shape) or min((*value.shape, *value.strides, 0)) < 0:
        raise _SkippedError(f"operand {name!r} has shape {value.shape} and strides {value.strides}")
    dtype: torch.dtype = getattr(torch, value.dtype)
    return dtype.itemsize


def _layout(value: traced.TracedTensor, itemsize: int) -> tuple[Layout, int]:
    """The layout, with an offset that gives the same alignment, and the elements it reaches over.
    """
    offset = value.alignment % ALIGNMENT_BYTES // itemsize
    if not offset and value.offset:
        offset = ALIGNMENT_BYTES // itemsize
    dense, step = [], 1
    for size in reversed(value.shape):
        dense.append(step)
        step *= max(size, 1)
    is_dense = all(n == 1 or a == b for n, a, b in
                   zip(value.shape, value.strides, reversed(dense), strict=True))
    reach = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.strides, strict=True) if n)
    if (is_dense and not offset) or not num_elements(value.shape):
        return Layout(), num_elements(value.shape)
    return Layout(kind=STRIDED, detail=offset, strides=value.strides), reach + offset


def _literal(name: str, value: traced.TracedTensor) -> Literal:
    try:
        base64.b64decode(value.data or "", validate=True)
    except binascii.Error as error:
        raise _SkippedError(f"the data of operand {name!r} are damaged: {error}") from error
    return Literal(data=value.data or "")


def _share(count: int, elements: int) -> float:
    return min(max(count / elements, 0.0), 1.0)


def _within(name: str, seen: traced.Statistics, *, is_index: bool) -> Within:
    low, high = (0 if v is None else v for v in (seen.low, seen.high))
    if not (math.isfinite(low) and math.isfinite(high) and low <= high
            and 0 <= seen.smallest <= max(abs(low), abs(high))):
        raise _SkippedError(f"the figures of operand {name!r} do not fit together")
    n = seen.elements
    fillers, filler = 0.0, 0
    if is_index and seen.negatives > 0 and seen.least_index is not None:
        fillers, filler, low = _share(seen.negatives, n), int(low), seen.least_index
    return Within(
        fill=_ORDINARY, low=low, high=high, smallest=float(seen.smallest), whole=seen.whole,
        zeros=_share(seen.zeros, n), nans=_share(seen.nans, n), filler=filler, fillers=fillers,
        pos_infs=_share(seen.pos_infs, n), neg_infs=_share(seen.neg_infs, n),
        is_sorted=seen.is_sorted, is_distinct=seen.is_distinct)


def _named(value: traced.Named, device: str) -> Any:
    if value.of == "device":
        return torch.device(device)
    if value.of == "complex":
        real, imaginary = value.name.split()
        return complex(float.fromhex(real), float.fromhex(imaginary))
    found = getattr(torch, value.name, None)
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise _SkippedError(f"{value.name!r} is no {value.of} of this torch")
    return found

