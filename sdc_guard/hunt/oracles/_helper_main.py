"""What a helper process runs: trials from stdin, answers to stdout, until the pipe closes."""

from __future__ import annotations

import os
import sys

import msgspec
import torch

from sdc_guard.errors import UsageError
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.judging import NO_REFERENCE, judged, verdict_of
from sdc_guard.hunt.oracles._helper import Answer, Question, Told, bits_of
from sdc_guard.hunt.oracles._registry import Session
from sdc_guard.hunt.targets import allow
from sdc_guard.hunt.trial import decode


def main() -> None:
    """Serve until stdin ends; only answers reach the real stdout."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    answers.write(torch.backends.cpu.get_cpu_capability().encode() + b"\n")
    for line in sys.stdin.buffer:
        reply = msgspec.json.encode(_answer(line)) + b"\n"
        view = memoryview(reply)
        while view:
            view = view[answers.write(view):]


def _answer(line: bytes) -> Answer:
    try:
        question = msgspec.json.decode(line, type=Question)
        trial = decode(question.trial)
        allow(trial.target)  # the process that asks has called it before
        execution = execute(trial)
    except (UsageError, msgspec.DecodeError, MemoryError) as error:
        return Answer(failure=f"{type(error).__name__}: {error}"[:200])
    if execution.refusal:
        return Answer(refusal=execution.refusal)
    told: list[Told] = []
    unjudged = False
    if question.judge:
        session = Session()
        for observation, entry in zip(execution.observations, execution.entries, strict=True):
            told += [Told(op=d.op, word=d.word, message=d.message, dtype_class=d.dtype_class,
                          layout_class=d.layout_class, magnitude_class=d.magnitude_class,
                          formula=d.formula, worst=d.worst)
                     for d in judged(session, "isa", observation, entry)]
            unjudged |= verdict_of(session, observation, entry).reason == NO_REFERENCE
    return Answer(results=tuple(bits_of(t) for t in execution.outcome()), told=tuple(told),
                  unjudged=unjudged)
