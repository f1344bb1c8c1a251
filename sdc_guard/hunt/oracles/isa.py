"""The same call on another instruction set, in a helper process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from sdc_guard.document.operators import packet_of
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.judging import judged
from sdc_guard.hunt.materialise import tensor_of
from sdc_guard.hunt.oracles import _facts
from sdc_guard.hunt.oracles._compare import alike, comparable, plain, unexplained
from sdc_guard.hunt.oracles._helper import Answer, Bits, Helper, bits_of, helper_for
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import Literal, Operand, Trial, encode

CAPABILITIES = ("default", "avx2")
SENT_BYTES = 1 << 22


@oracle("isa", share=0.1)
def isa(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """The call in a process that runs with ``ATEN_CPU_CAPABILITY=default``, or ``avx2``.  Where the
    bits differ the operators of both processes are judged by their own bounds, and differences
    inside them are none; a process that ends is a ``crash`` where it does so twice."""
    packet = packet_of(trial.target)
    if trial.device != "cpu" or not comparable(session, "isa", base):
        return
    if sum(t.numel() * t.element_size() for t in base.results) > SENT_BYTES:
        session.not_judged["isa", packet, "too large to send"] += 1
        return
    capability = CAPABILITIES[int(trial.digest, 16) % len(CAPABILITIES)]
    helper = helper_for(capability) or helper_for(CAPABILITIES[0])
    if helper is None:
        session.remarks["isa"] = ("off: no other instruction set than "
                                  f"{torch.backends.cpu.get_cpu_capability()} can be chosen here")
        return
    answer = helper.ask(encode(trial))
    if answer.failure:
        yield from _failed(session, base, helper, capability, answer, packet)
        return
    if answer.refusal:
        session.not_judged["isa", packet, "not taken in the other way"] += 1
        return
    session.checked["isa", packet] += 1
    mine = [bits_of(t) for t in base.outcome()]
    pairs = _unlike(mine, answer.results)
    if not pairs:
        return
    yield from _judged(session, trial, base, helper, pairs)


def _judged(
    session: Session, trial: Trial, base: Execution, helper: Helper,
    pairs: list[tuple[Tensor, Tensor]],
) -> Iterator[Divergence]:
    sides = (torch.backends.cpu.get_cpu_capability(), helper.capability)
    wrong = False
    for observation, entry in zip(base.observations, base.entries, strict=True):
        for divergence in judged(session, "isa", observation, entry):
            wrong = True
            yield replace(divergence, sides=sides)
    there = helper.ask(encode(trial), judge=True)
    for told in there.told:
        wrong = True
        yield Divergence(
            oracle="isa", op=told.op, word=told.word, message=f"{told.message} on {sides[1]}",
            dtype_class=told.dtype_class, layout_class=told.layout_class,
            magnitude_class=told.magnitude_class, worst=told.worst, formula=told.formula,
            sides=sides)
    if there.unjudged and not wrong and not _facts.matches(trial.target, _facts.NOT_UNIQUE):
        yield from unexplained(session, "isa", base, pairs, sides)


def _failed(
    session: Session, base: Execution, helper: Helper, capability: str, answer: Answer, packet: str
) -> Iterator[Divergence]:
    again = helper_for(capability)
    second = again.ask(encode(base.trial)) if again is not None else None
    if second is not None and second.failure and answer.failure.startswith("ended"):
        yield plain("isa", base, "crash", f"a process with ATEN_CPU_CAPABILITY={capability} "
                    f"{second.failure}, twice of 2", ("this process", capability))
        return
    session.not_judged["isa", packet, f"the helper {answer.failure}"] += 1


def _unlike(
    mine: list[Bits | None], theirs: tuple[Bits | None, ...]
) -> list[tuple[Tensor, Tensor]]:
    found = []
    for a, b in zip(mine, theirs, strict=False):
        if a is None or b is None or a == b or (a.shape, a.dtype) != (b.shape, b.dtype):
            continue
        left, right = _tensor(a), _tensor(b)
        if not alike(left, right):
            found.append((left, right))
    return found


def _tensor(item: Bits) -> Tensor:
    operand = Operand(dtype=item.dtype, shape=item.shape, values=Literal(data=item.data))
    return tensor_of(operand)
