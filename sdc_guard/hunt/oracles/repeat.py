"""The very same call again, on memory that was left dirty in another way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from sdc_guard.document.operators import packet_of
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution, execute
from sdc_guard.hunt.judging import judged, verdict_of
from sdc_guard.hunt.oracles import _facts
from sdc_guard.hunt.oracles._compare import alike, plain, types_differ
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import Trial
from sdc_guard.ops._determinism import RACING
from sdc_guard.ops._generic import NOT_REPEATED

NUM_RUNS = 8
MAX_POISON_BYTES = 1 << 20


@oracle("repeat", share=0.15)
def repeat(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """The same call again, after the memory that it will be given was filled with NaN, then with
    zeros.  Other bits are ``corruption`` or ``precision`` where a run is outside its bound, and
    ``nondeterminism``, told as k of n, where all are inside, or where there is none."""
    packet = packet_of(trial.target)
    if session.told:
        return
    if _facts.matches(trial.target, _facts.UNINITIALISED) or _facts.draws(base):
        session.not_judged["repeat", packet, "draws, or its result holds no numbers"] += 1
        return
    session.compared("repeat", packet, times=2)
    runs = [_again(trial, base, byte) for byte in (0xFF, 0x00)]
    if all(_same(base, run) for run in runs):
        return
    runs += [_again(trial, base, (0xFF, 0x00)[i % 2]) for i in range(NUM_RUNS - 2)]
    others = [run for run in runs if not _same(base, run)]
    told = f"{len(others)} of {NUM_RUNS} repeats give other bits"
    sides = ("the call", "the same call again")
    wrong = False
    for execution in (others[0], base):
        for observation, entry in zip(execution.observations, execution.entries, strict=True):
            for divergence in judged(session, "repeat", observation, entry):
                yield replace(divergence, sides=sides, message=f"{divergence.message}; {told}")
            wrong |= bool(verdict_of(session, observation, entry).divergences)
    guilty = _first_unlike(base, others[0])
    if wrong or guilty is None:
        return
    name = base.observations[guilty].call.form.name
    found = base.observations[guilty].call.form.packet
    if found in NOT_REPEATED or (found in RACING and trial.modes.threads > 1):
        session.not_judged["repeat", found, "known to race, or not to repeat"] += 1
        return
    yield replace(plain("repeat", base, "nondeterminism", told, sides, op=name),
                  observation=base.observations[guilty])


def _again(trial: Trial, base: Execution, byte: int) -> Execution:
    _poison(base, byte)
    return execute(trial)


def _poison(base: Execution, byte: int) -> None:
    """Leave blocks of the sizes that the call will ask for, full of one byte, to the allocator."""
    sizes = {o.numel() * o.element_size() for seen in base.observations for o in seen.held
             if o is not None}
    blocks = [torch.empty(size, dtype=torch.uint8).fill_(byte)
              for size in sorted(sizes) if 0 < size <= MAX_POISON_BYTES for _ in range(3)]
    del blocks


def _same(a: Execution, b: Execution) -> bool:
    if types_differ(a, b) or a.refusal != b.refusal:
        return False
    scratch = _scratch(a)
    return all(x is None or y is None or i in scratch or alike(x, y)
               for i, (x, y) in enumerate(zip(a.outcome(), b.outcome(), strict=False)))


def _scratch(execution: Execution) -> frozenset[int]:
    """Results of an overload's own call that hold no numbers."""
    if len(execution.observations) != 1:
        return frozenset()
    spec = execution.entries[0].spec
    return frozenset(spec.scratch if spec is not None else ())


def _first_unlike(a: Execution, b: Execution) -> int | None:
    """The first operator that gave other bits for equal operands."""
    if [o.call.form.name for o in a.observations] != [o.call.form.name for o in b.observations]:
        return None
    for place, (x, y) in enumerate(zip(a.observations, b.observations, strict=True)):
        left = [t for _, t in x.call.tensors()]
        right = [t for _, t in y.call.tensors()]
        written = x.call.form.is_out
        if not written and not all(alike(s, t) for s, t in zip(left, right, strict=True)):
            continue
        spec = a.entries[place].spec
        scratch = spec.scratch if spec is not None else ()
        for i, (s, t) in enumerate(zip(x.held, y.held, strict=True)):
            if s is not None and t is not None and i not in scratch and not alike(s, t):
                return place
    return None
