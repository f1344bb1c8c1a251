"""Rival: Hypothesis with contiguous random tensors, and default tolerances."""

from __future__ import annotations

import contextlib
import time

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.hunt_power.mutant import Mutant, planted
from tests.hunt_power.outcome import Outcome
from tests.hunt_power.rivals.comparing import difference
from tests.hunt_power.rivals.draws import DRAWS, Call


class _Stop(BaseException):
    """Ends a search of Hypothesis, which catches every Exception."""


def search(mutant: Mutant, seconds: float, seed: int) -> Outcome:
    """Random calls until one differs, or ``seconds`` of this process are over: what else runs on
    the machine takes nothing from it."""
    started_s = time.process_time()
    calls, message = 0, ""
    make = st.composite(DRAWS[mutant.draws])

    with planted(mutant) as state:
        @hypothesis.seed(seed)
        @settings(max_examples=10**8, deadline=None, database=None, phases=(Phase.generate,),
                  suppress_health_check=list(HealthCheck))
        @given(make())
        def look(call: Call) -> None:
            nonlocal calls, message
            if time.process_time() - started_s > seconds:
                raise _Stop
            calls += 1
            message = difference(state, lambda: _fresh(call))
            if message:
                raise _Stop

        with contextlib.suppress(_Stop):
            look()
        elapsed_s = time.process_time() - started_s
        return Outcome(is_found=bool(message), found_s=elapsed_s if message else None,
                       elapsed_s=elapsed_s, calls=calls, wrong_calls=state.num_wrong,
                       message=message)


def _fresh(call: Call) -> Call:
    """The call with gradients asked for on operands of its own."""
    function, args, kwargs = call

    def leaf(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.detach().clone().requires_grad_(value.is_floating_point())
        if isinstance(value, (list, tuple)):
            return type(value)(leaf(v) for v in value)
        return value

    return function, tuple(leaf(a) for a in args), kwargs
