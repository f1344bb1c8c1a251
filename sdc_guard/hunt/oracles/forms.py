"""In place, into ``out=``, and as a new tensor: the same numbers, and no others touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, OpForm, form_of
from sdc_guard.document.text import counted
from sdc_guard.hunt.divergence import OUTSIDE, Divergence
from sdc_guard.hunt.execution import REFUSALS, Execution, Recorder
from sdc_guard.hunt.judging import NO_REFERENCE, judged, verdict_of
from sdc_guard.hunt.oracles import _facts
from sdc_guard.hunt.oracles._compare import alike, comparable, plain, unexplained
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.promises import hands_on_out
from sdc_guard.hunt.trial import Trial
from sdc_guard.observe.classify import Entry
from sdc_guard.records import Observation

CANARY = 0x5A
MARGIN_BYTES = 4096
OUT_LAYOUTS = ("dense", "empty", "gaps", "columns")


@oracle("forms", share=0.2)
def forms(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """Each operator that ran as a new tensor, made in place and with ``out=`` (dense, with gaps,
    transposed, empty, the input itself).  Where the bits differ both are judged by their bounds;
    a write outside of the elements of ``out=`` is ``corruption``, a result of another dtype or
    shape a ``semantic difference``."""
    if not comparable(session, "forms", base):
        return
    turn = int(trial.digest, 16)
    for observation, entry in zip(base.observations, base.entries, strict=True):
        form = observation.call.form
        if form.overwrites or _facts.matches(form.name, _facts.READS_MEMORY):
            continue
        out, in_place = siblings(form)
        if out is not None and hands_on_out(form.packet):
            kinds = [*OUT_LAYOUTS, *(("input",) if _takes_itself(observation) else ())]
            yield from _with_out(session, base, observation, entry, out,
                                 kinds[turn % len(kinds)])
        if in_place is not None:
            yield from _in_place(session, base, observation, entry, in_place)


def siblings(form: OpForm) -> tuple[OpForm | None, OpForm | None]:
    """The ``out=`` overload and the in-place one of a functional form, by argument names and types;
    None where there is none."""
    return _siblings(form.op)


@cache
def _siblings(op: Any) -> tuple[OpForm | None, OpForm | None]:
    form = form_of(op)
    wanted = [(a.name, str(a.type)) for a in form.op._schema.arguments]
    namespace, _, base = form.op._schema.name.partition("::")
    found: list[OpForm | None] = [None, None]
    for place, name in enumerate((base, base + "_")):
        packet = getattr(getattr(torch.ops, namespace), name, None)
        for overload in () if packet is None else packet.overloads():
            other = form_of(getattr(packet, overload))
            rest = [(a.name, str(a.type)) for a in other.op._schema.arguments if not a.is_out]
            if rest == wanted and other.overwrites and other.is_out == (place == 0):
                found[place] = other
                break
    return found[0], found[1]


def _takes_itself(observation: Observation) -> bool:
    """``out=`` may be the input of an elementwise call of that shape and dtype."""
    first = observation.call.args[0] if observation.call.args else None
    held = observation.held
    return (torch.Tag.pointwise in observation.call.form.op.tags and len(held) == 1
            and isinstance(first, Tensor) and _alike_types(first, held[0])
            and bits.is_injective(first) and bits.distinct(first) is first)


def _alike_types(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and a.dtype is b.dtype


def _with_out(
    session: Session, base: Execution, seen: Observation, entry: Entry, out: OpForm, kind: str
) -> Iterator[Divergence]:
    if any(t is None or t.layout is not torch.strided for t in seen.held) or (
            len(out.overwrites) != len(seen.held)):
        return
    call = seen.call
    memories: list[_Memory | None] = []
    if kind == "input":
        image = bits.snapshot(call.args[0])
        call = call.replaced(**{call.form.argument_names[0]: image})
        targets = [image]
    else:
        memories = [_memory(t, kind) for t in seen.held]
        targets = [t.new_empty((0,) if kind == "empty" else t.shape) if m is None else m.target
                   for t, m in zip(seen.held, memories, strict=True)]
    args = dict(zip(call.form.argument_names, call.args, strict=True))
    args |= {out.argument_names[i]: t for i, t in zip(out.overwrites, targets, strict=True)}
    bound = BoundCall(out, tuple(args[n] for n in out.argument_names))
    sides = ("a new tensor", f"out= ({kind})")
    recorded = _made(session, bound)
    if recorded is None:
        return
    touched = sum(memory.num_touched() for memory in memories if memory is not None)
    if touched:
        guilty = next((o for o in recorded.observations if o.call.form is out), None)
        yield replace(plain("forms", base, "corruption",
                            f"{OUTSIDE} ({kind}): {counted(touched, 'element')} of the memory "
                            "around it overwritten", sides, op=out.name),
                      magnitude_class="gross", formula=OUTSIDE, observation=guilty)
        return
    yield from _differing(session, base, seen, entry, recorded, tuple(targets), sides)


@dataclass(slots=True)
class _Memory:
    """``target``, what is written to, inside of a block full of one byte."""

    target: Tensor
    block: Tensor

    def num_touched(self) -> int:
        """Elements outside of those of the target that are not what they were."""
        block, target = bits.raw(self.block), self.target
        if target.untyped_storage().data_ptr() != self.block.data_ptr():
            return 0  # resized: it has other memory
        outside = np.ones(block.size // target.element_size(), dtype=bool)
        strides = tuple(s * outside.itemsize for s in target.stride())
        np.lib.stride_tricks.as_strided(
            outside[target.storage_offset():], tuple(target.shape), strides)[...] = False
        elements = block.reshape(outside.size, -1)
        return int((elements[outside] != CANARY).any(axis=1).sum())


def _memory(like: Tensor, kind: str) -> _Memory | None:
    """Where to write to: room on both sides, so that what is written too far is seen and harms
    nothing; None for a target without elements, and for a single number, which kernels resize."""
    if kind == "empty" or not like.numel() or not like.dim():
        return None
    shape = tuple(like.shape)
    strides = _strides(shape, kind)
    size = like.element_size()
    reach = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    margin = MARGIN_BYTES // size + 2 * reach
    block = torch.empty((margin * 2 + reach) * size, dtype=torch.uint8).fill_(CANARY)
    lead = (MARGIN_BYTES // size + reach) // 64 * 64
    target = block.view(like.dtype).as_strided(shape, strides, lead)
    return _Memory(target, block)


def _strides(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    order = range(len(shape)) if kind == "columns" else reversed(range(len(shape)))
    strides, reach = [0] * len(shape), 2 if kind == "gaps" else 1
    for place, dim in enumerate(order):
        strides[dim] = reach
        reach *= max(1, shape[dim])
        reach += kind == "gaps" and not place
    return tuple(strides)


def _in_place(
    session: Session, base: Execution, seen: Observation, entry: Entry, form: OpForm
) -> Iterator[Divergence]:
    call, held = seen.call, seen.held
    written = [call.args[i] for i in form.overwrites]
    if len(written) != len(held) or not all(
            isinstance(t, Tensor) and _alike_types(t, h) and bits.is_injective(t)
            and bits.distinct(t) is t and not bits.is_lazy(t)
            for t, h in zip(written, held, strict=True)):
        return
    others = [bits.address_range(t) for p, t in call.tensors() if p[0] not in form.overwrites]
    if any(low < stop and high > start for t in written
           for start, stop in [bits.address_range(t)] for low, high in others):
        return  # what is written is read as another operand, too
    bound = BoundCall(form, call.args).with_private_images()
    recorded = _made(session, bound)
    if recorded is None:
        return
    results = tuple(bound.args[i] for i in form.overwrites)
    yield from _differing(session, base, seen, entry, recorded, results,
                          ("a new tensor", "in place"))


def _made(session: Session, bound: BoundCall) -> Recorder | None:
    recorder = Recorder()
    try:
        with torch.no_grad(), recorder:
            bound.form.call(bound.args)
    except REFUSALS as error:
        session.not_judged["forms", bound.form.packet, f"not taken: {type(error).__name__}"] += 1
        return None
    return recorder


def _differing(
    session: Session, base: Execution, seen: Observation, entry: Entry, recorder: Recorder,
    results: tuple[Any, ...], sides: tuple[str, str],
) -> Iterator[Divergence]:
    packet = seen.call.form.packet
    session.compared("forms", packet)
    scratch = entry.spec.scratch if entry.spec is not None else ()
    unlike = [i for i, (a, b) in enumerate(zip(seen.held, results, strict=True))
              if i not in scratch and a is not None and not alike(a, b)]
    if not unlike:
        return
    place = unlike[0]
    a, b = seen.held[place], results[place]
    if not _alike_types(a, b):
        yield replace(plain("forms", base, "semantic difference",
                            f"result {place} is {a.dtype}{list(a.shape)} as {sides[0]} and "
                            f"{b.dtype}{list(b.shape)} with {sides[1]}", sides,
                            op=seen.call.form.name), observation=seen)
        return
    wrong, is_open = False, False
    for observation, its in ((seen, entry), *zip(recorder.observations, recorder.entries,
                                                 strict=True)):
        for divergence in judged(session, "forms", observation, its):
            yield replace(divergence, sides=sides)
        verdict = verdict_of(session, observation, its)
        wrong |= bool(verdict.divergences)
        is_open |= verdict.reason == NO_REFERENCE
    if is_open and not wrong and len(base.observations) == 1 and not _facts.matches(
            seen.call.form.name, _facts.NOT_UNIQUE):
        pairs = [(a, b) for a, b in zip(seen.held, results, strict=True) if _alike_types(b, a)]
        yield from unexplained(session, "forms", base, pairs, sides)
