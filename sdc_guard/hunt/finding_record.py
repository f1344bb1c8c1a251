"""A divergence as the record that reports, baselines and bundles know."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.attribute.describe import tensor_meta
from sdc_guard.attribute.places import find_cause, unattributed
from sdc_guard.calls import BoundCall
from sdc_guard.document.verdicts import verdict_of
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import under
from sdc_guard.hunt.repetition import Repeats
from sdc_guard.hunt.trial import Trial
from sdc_guard.records import (
    Attribution,
    Cause,
    Evidence,
    Finding,
    OpCall,
    TensorMeta,
    Verdict,
    Vote,
)

NO_EVIDENCE = Evidence(bundle="", replay_command="", note="no bundle was asked for")


def finding_of(
    trial: Trial, divergence: Divergence, word: str, repeats: Repeats, why: str,
    evidence: Evidence = NO_EVIDENCE,
) -> Finding:
    """The record; ``word`` is what stands after repetition and ``why`` says how often it came.

    The verdict is the table's; a word that maps onto none (``documented``) is held as
    ``inconclusive``, and it is the document's entry that says it is documented.
    """
    verdict = verdict_of("hunt", word)
    is_verdict = verdict in {v.value for v in Verdict}
    return Finding(
        verdict=Verdict(verdict) if is_verdict else Verdict.INCONCLUSIVE,
        call=_call(trial, divergence), witness=divergence.oracle, relation=_relation(divergence),
        worst=divergence.worst, pattern=None,
        attribution=_attribution(trial, divergence, word, repeats, why), evidence=evidence,
        held_is_wrong=True, message=f"{word}: {divergence.message}; {why}",
        repeats=max(1, repeats.wrong))


def _relation(divergence: Divergence) -> str:
    first, second = divergence.sides
    return f"{first} against {second}" if first or second else ""


def _call(trial: Trial, divergence: Divergence) -> OpCall:
    seen = divergence.observation
    if seen is None:
        metas = tuple(
            TensorMeta(name=f"operand {i}", dtype=o.dtype, shape=o.shape, stride=(),
                       storage_offset=0, device=trial.device, alignment_bytes=0)
            for i, o in enumerate(trial.operands()))
        return OpCall(
            op=divergence.op, call_index=0, step=0, phase=_phase(trial), module="",
            source=trial.target, operands=metas, outputs=(), arguments="", flops=0,
            num_threads=trial.modes.threads)
    call = seen.call
    names = call.form.argument_names
    operands = tuple(
        tensor_meta(names[path[0]] + (f"[{path[1]}]" if len(path) > 1 else ""), tensor)
        for path, tensor in call.tensors())
    outputs = tuple(tensor_meta(f"out[{i}]", t) for i, t in enumerate(seen.held) if t is not None)
    return OpCall(
        op=call.form.name, call_index=0, step=0, phase=_phase(trial), module="",
        source=trial.target, operands=operands, outputs=outputs, arguments=_others(call),
        flops=0, num_threads=trial.modes.threads)


def _phase(trial: Trial) -> str:
    return "backward" if trial.backward else "forward"


def _others(call: BoundCall) -> str:
    """Arguments that are no tensors, as text."""
    def is_plain(value: Any) -> bool:
        parts = value if isinstance(value, (list, tuple)) else (value,)
        return value is not None and not any(isinstance(p, Tensor) for p in parts)

    named = zip(call.form.argument_names, call.args, strict=True)
    return ", ".join(f"{n}={v!r}" for n, v in named if is_plain(v))[:500]


def _attribution(
    trial: Trial, divergence: Divergence, word: str, repeats: Repeats, why: str
) -> Attribution:
    """The cause, sought only for wrong numbers: the identical call on every core."""
    seen, worst = divergence.observation, divergence.worst
    votes = [Vote(place="this process", method="the trial made again", identical=True,
                  result="held" if i < repeats.wrong else "expected")
             for i in range(repeats.tried)]
    if word != "corruption" or seen is None or worst is None:
        return unattributed(votes, why, trial.device)
    if repeats.wrong and not repeats.always:
        return Attribution(cause=Cause.UNKNOWN, place=trial.device, votes=tuple(votes), reason=why)
    with under(trial.modes):
        return find_cause(seen.call, seen.held, worst.output, repeats.always, votes, why)


def expected_results(divergence: Divergence) -> tuple[Tensor | None, ...]:
    """For a bundle: the expected value of the guilty result, None for the others."""
    seen, worst = divergence.observation, divergence.worst
    if seen is None:
        return ()
    found: list[Tensor | None] = [None] * len(seen.held)
    expected = divergence.expected
    if worst is not None and expected is not None:
        held = seen.held[worst.output]
        whole = (expected if isinstance(expected, Tensor)
                 else torch.from_numpy(np.ascontiguousarray(expected)))
        if tuple(whole.shape) == tuple(held.shape):
            found[worst.output] = whole.to(held.dtype)
    return tuple(found)
