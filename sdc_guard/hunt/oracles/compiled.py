"""The call compiled by Inductor against the eager one."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdc_guard.document.operators import packet_of
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution, under
from sdc_guard.hunt.judging import NO_REFERENCE, judged, verdict_of
from sdc_guard.hunt.materialise import Made, materialise
from sdc_guard.hunt.oracles import _facts
from sdc_guard.hunt.oracles._compare import alike, comparable, plain, unexplained
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import Trial

COMPILERS = ("g++", "clang++", "c++")
MAX_FAILURES = 5
_failures = 0


@oracle("compiled", share=0.004)
def compiled(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """``torch.compile`` (Inductor, C++).  Where the bits differ and one operator ran, the compiled
    result is judged by that operator's bound; else an estimate of conditioning decides no more than
    ``inconclusive``; another shape or dtype is a ``semantic difference``."""
    packet = packet_of(trial.target)
    if session.remarks.get("compiled", "").startswith("off"):
        return
    if not any(shutil.which(name) for name in COMPILERS):
        session.remarks["compiled"] = f"off: none of {', '.join(COMPILERS)} is on the path"
        return
    if trial.backward or trial.device != "cpu" or not comparable(session, "compiled", base):
        return
    if any(o.call.form.overwrites for o in base.observations):
        session.not_judged["compiled", packet, "writes to its operands"] += 1
        return
    results = _run(session, trial, packet)
    if results is None:
        return
    session.checked["compiled", packet] += 1
    yield from _compared(session, base, results)


def _run(session: Session, trial: Trial, packet: str) -> list[Tensor] | None:
    """Results of the compiled call; None, and counted, where it cannot be compiled."""
    global _failures
    made = materialise(trial)
    try:
        with warnings.catch_warnings(), under(trial.modes), torch.no_grad():
            warnings.simplefilter("ignore")
            _forget_compiled()
            call: Any = torch.compile(_function(made), fullgraph=True, dynamic=False)
            returned = call(*made.tensors)
    except Exception as error:  # whatever a compiler says; too many of them end the oracle
        session.not_judged["compiled", packet, f"not compiled: {type(error).__name__}"] += 1
        if type(error).__name__ in ("CppCompileError", "InvalidCxxCompiler"):
            _failures += 1
            if _failures >= MAX_FAILURES:
                session.remarks["compiled"] = f"off: the compiler failed {_failures} times"
        return None
    return [t for t in _tensors(returned)]


def _function(made: Made) -> Any:
    """The call as a function of its operands alone."""
    places = {id(t): i for i, t in enumerate(made.tensors)}

    args, kwargs = made.args, made.kwargs
    shape: list[Any] = [_skeleton(a, places) for a in args]
    named = {k: _skeleton(v, places) for k, v in kwargs.items()}
    function = made.function

    def call(*tensors: Tensor) -> Any:
        return function(*[_put(s, tensors) for s in shape],
                        **{k: _put(s, tensors) for k, s in named.items()})

    return call


def _forget_compiled() -> None:
    """Each call is another function; what was compiled before is only memory."""
    reset: Any = torch._dynamo.reset
    reset()


class _Place:
    """Stands for the operand of that number."""

    def __init__(self, number: int) -> None:
        self.number = number


def _skeleton(value: Any, places: dict[int, int]) -> Any:
    if isinstance(value, Tensor):
        return _Place(places[id(value)])
    if isinstance(value, (list, tuple)):
        return type(value)(_skeleton(v, places) for v in value)
    return value


def _put(value: Any, tensors: tuple[Tensor, ...]) -> Any:
    if isinstance(value, _Place):
        return tensors[value.number]
    if isinstance(value, list):
        return [_put(v, tensors) for v in value]
    return tuple(_put(v, tensors) for v in value) if isinstance(value, tuple) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _compared(session: Session, base: Execution, results: list[Tensor]) -> Iterator[Divergence]:
    sides = ("eager", "compiled")
    if [(t.shape, t.dtype) for t in results] != [(t.shape, t.dtype) for t in base.results]:
        yield plain("compiled", base, "semantic difference",
                    f"eager gives {_types(base.results)}, compiled {_types(results)}", sides)
        return
    pairs = list(zip(base.results, results, strict=True))
    if all(alike(a, b) for a, b in pairs):
        return
    wrong, is_open = False, True
    for observation, entry in zip(base.observations, base.entries, strict=True):
        for divergence in judged(session, "compiled", observation, entry):
            wrong = True
            yield replace(divergence, sides=sides)
    if len(base.observations) == 1 and len(base.observations[0].held) == len(results):
        entry = base.entries[0]
        other = replace(base.observations[0], held=tuple(results))
        for divergence in judged(session, "compiled", other, entry):
            wrong = True
            yield replace(divergence, sides=sides, message=f"{divergence.message}, compiled")
        is_open = verdict_of(session, other, entry).reason == NO_REFERENCE
    if is_open and not wrong and not _facts.matches(base.trial.target, _facts.NOT_UNIQUE):
        yield from unexplained(session, "compiled", base, pairs, sides)


def _types(tensors: list[Tensor]) -> str:
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in tensors)
