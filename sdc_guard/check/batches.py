"""The small elementwise calls of an optimizer, replayed together at the end of its step.

An optimizer makes several calls for each parameter, most of them so small that a replay costs its
Python alone.  Operands and result of such a call are copied, raw, behind those of the calls before
it that differ from it in nothing but their numbers; one call on all of them recomputes the whole
group.  Every element then stands at another address, and most in another lane and another place
from the tail, which only ops take part in whose elements have the same bits wherever they stand
(see :mod:`sdc_guard.ops._places`).  The verdict is there before the gate accepts the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, OpForm
from sdc_guard.check.quick import Again, again
from sdc_guard.check.relations import Relation

MAX_ELEMENTS = 8192
"""Calls with more are replayed at once: copying them would cost more than their Python."""
CAPACITY = 32768
"""Elements of a group: fewer than what an elementwise kernel divides among threads."""
MAX_LEAD = 63
"""A group begins behind up to so many elements that belong to nobody, so that its first call moves,
too."""


@dataclass(slots=True)
class BatchForm:
    """How the calls of one site take part.  ``operands``: position and bytes of each tensor among
    the arguments; ``numbers``: positions of the others; ``kind``: what a group has in common
    besides them."""

    op: OpForm
    kind: tuple[Any, ...]
    run: Again
    operands: tuple[tuple[int, int], ...]
    numbers: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    numel: int
    num_bytes: int


def batch_form(
    call: BoundCall, held: Sequence[Tensor], relations: Sequence[Relation]
) -> BatchForm | None:
    """The form of a site's calls, None where they cannot take part: one result on a CPU, operands
    that are laid out like it, and a relation that moves elements between lanes."""
    form, run = call.form, again(call)
    moves = any(r.symmetry.known and not r.refused and m.how in ("roll", "double")
                and (m.how == "double" or "lane" in r.symmetry.places)
                for r in relations for m in r.symmetry.moves)
    if not moves or run is None or form.is_out or form.seeded or len(held) != 1:
        return None
    result = held[0]
    operands = []
    for path, tensor in call.tensors():
        if len(path) > 1 or tensor.shape != result.shape:
            return None
        operands.append((path[0], tensor))
    if len({t.dtype for _, t in operands}) > 1:  # without dimensions other types come of them
        return None
    everything = [t for _, t in operands] + [result]
    if not operands or not 0 < result.numel() <= MAX_ELEMENTS or any(
        not t.is_cpu or not t.is_contiguous() or bits.is_lazy(t) or t.is_complex()
        for t in everything
    ):
        return None
    positions = {i for i, _ in operands}
    dtypes = tuple(t.dtype for t in everything)
    return BatchForm(
        op=form, kind=(form.name, dtypes, tuple(positions)), run=run,
        operands=tuple((i, t.nbytes) for i, t in operands),
        numbers=tuple(i for i in range(len(call.args)) if i not in positions),
        dtypes=dtypes, numel=result.numel(), num_bytes=result.nbytes)


def _exact(value: Any) -> Any:
    """A number so that 1 and 1.0, and 0.0 and -0.0, are two."""
    return (type(value), value) if value else repr(value)


@dataclass(slots=True)
class Kept:
    """One call in a group: where it stands, and what the caller wants back with it."""

    form: BatchForm
    start: int
    args: tuple[Any, ...]
    note: Any
    shape: torch.Size
    stride: tuple[int, ...]


@dataclass(slots=True)
class _Group:
    """Operands, then results, of calls that differ in their numbers only, one behind the other."""

    form: BatchForm
    args: tuple[Any, ...]
    buffers: list[Tensor]
    lead: int
    addresses: list[int] = field(default_factory=list)
    used: int = 0
    kept: list[Kept] = field(default_factory=list)
    num_reserved: int = 0

    def __post_init__(self) -> None:
        self.used = self.lead
        self.addresses = [b.data_ptr() for b in self.buffers]


class Slot:
    """A place in a group, with copies of a call's operands in it, before the call is made."""

    __slots__ = ("_args", "_form", "_group", "_start")

    def __init__(self, group: _Group, form: BatchForm, args: tuple[Any, ...]) -> None:
        self._group, self._form, self._args = group, form, args
        self._start = start = group.used
        group.used += form.numel
        group.num_reserved += 1
        addresses, numel = group.addresses, form.numel
        for k, (i, num_bytes) in enumerate(form.operands):
            bits.move_memory(
                addresses[k] + start * (num_bytes // numel), args[i].data_ptr(), num_bytes)

    def keep(self, result: Any, note: Any) -> bool:
        """Copy the result; False if it is not what the calls of this site gave before."""
        form, group = self._form, self._group
        if not (isinstance(result, Tensor) and result.nbytes == form.num_bytes
                and result.dtype is form.dtypes[-1] and result.is_contiguous() and result.is_cpu):
            return False
        bits.move_memory(
            group.addresses[-1] + self._start * (form.num_bytes // form.numel), result.data_ptr(),
            form.num_bytes)
        group.kept.append(Kept(form, self._start, self._args, note, result.shape,
                               result.stride()))
        return True


@dataclass(slots=True)
class Wrong:
    """A kept call whose part of the group's results has other bits than its own result."""

    kept: Kept
    call: BoundCall
    held: Tensor
    got: Tensor


class Batches:
    """The groups of one optimizer step."""

    def __init__(self) -> None:
        self._groups: dict[Any, _Group] = {}
        self._spare: dict[tuple[torch.dtype, ...], list[list[Tensor]]] = {}
        self._num_groups = 0

    def __bool__(self) -> bool:
        return bool(self._groups)

    def reserve(self, form: BatchForm, args: tuple[Any, ...]) -> Slot | None:
        """A place for a call; None where its group is full."""
        key = (form.kind, *[_exact(args[i]) for i in form.numbers])
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = self._new_group(form, args)
        if group.used + form.numel > CAPACITY:
            return None
        return Slot(group, form, args)

    def _new_group(self, form: BatchForm, args: tuple[Any, ...]) -> _Group:
        spare = self._spare.get(form.dtypes)
        buffers = spare.pop() if spare else [
            torch.zeros(CAPACITY, dtype=dtype, device="cpu") for dtype in form.dtypes]
        self._num_groups += 1
        return _Group(form, args, buffers, lead=self._num_groups * 37 % MAX_LEAD + 1)

    def finish(self) -> Iterator[tuple[list[Kept], list[Wrong]]]:
        """Recompute each group; its calls that came out with the same bits, and the others."""
        groups, self._groups = self._groups, {}
        for group in groups.values():
            yield self._judged(group)
            self._spare.setdefault(group.form.dtypes, []).append(group.buffers)

    @staticmethod
    def _judged(group: _Group) -> tuple[list[Kept], list[Wrong]]:
        form, lead, used = group.form, group.lead, group.used
        args = list(group.args)
        for k, (i, _) in enumerate(form.operands):
            args[i] = group.buffers[k][:used]
        got = form.run(tuple(args))
        held = group.buffers[-1]
        itemsize = held.element_size()
        if not isinstance(got, Tensor) or got.dtype is not held.dtype or got.shape != (used,):
            raise RuntimeError(f"{form.kind[0]} gave {got!r:.60} for {used} elements together")
        begin, size = lead * itemsize, (used - lead) * itemsize
        if len(group.kept) == group.num_reserved and bits.memory_equals(
                got.data_ptr() + begin, held.data_ptr() + begin, size):
            return group.kept, []
        fine, wrong = [], []
        for kept in group.kept:
            begin, size = kept.start * itemsize, kept.form.num_bytes
            if bits.memory_equals(got.data_ptr() + begin, held.data_ptr() + begin, size):
                fine.append(kept)
            else:
                wrong.append(_wrong(group, kept, got))
        return fine, wrong


def _wrong(group: _Group, kept: Kept, got: Tensor) -> Wrong:
    """The call alone again, on images with the shapes it had."""

    def image(memory: Tensor) -> Tensor:
        part = memory[kept.start : kept.start + kept.form.numel]
        own = torch.empty_strided(kept.shape, kept.stride, dtype=memory.dtype, device="cpu")
        bits.move_memory(own.data_ptr(), part.data_ptr(), part.nbytes)
        return own

    args = list(kept.args)
    for k, (i, _) in enumerate(kept.form.operands):
        args[i] = image(group.buffers[k])
    call = BoundCall(kept.form.op, tuple(args))
    return Wrong(kept, call, image(group.buffers[-1]), image(got))
