"""Every implementation that an op may choose between is judged, not only the one in use.

An autotuned kernel runs in the configuration that was fastest here; a wrong one waits for another
machine, or for the next tuning.  So the first time that a site is checked, its call is made once in
each configuration, on copies, and every result goes to the op's reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.check.plan import Plan
from sdc_guard.check.reference import sampled_reference
from sdc_guard.records import Observation, Suspicion

VARIANT_WORK = 2**26
"""Operations that the reference of one variant may cost, a fraction of a second of NumPy; of a
larger call it sees a window."""


class Variant(NamedTuple):
    """What one implementation gave.

    ``observation`` holds its results and a call that takes it whenever it is made again, so the
    suspicion is arbitrated as any other is; the call's name carries that of the variant.
    ``suspicion`` is None where the reference agrees.
    """

    name: str
    observation: Observation
    suspicion: Suspicion | None


def variant_suspicions(
    plan: Plan,
    call: BoundCall,
    held: tuple[Tensor, ...],
    generator: np.random.Generator | None = None,
) -> Iterator[Variant]:
    """Make a call in every variant of its op and judge each; nothing for an op without variants or
    without a reference.  One that does not take this call is left out.

    Args:
        plan: the plan of the call's site, whose results are ``held``.
        generator: draws the window in which a large call is judged.

    Raises whatever a variant raises; each leaves its op as it was before.
    """
    spec = plan.spec
    if spec.variants is None or spec.reference is None:
        return
    generator = generator or np.random.default_rng(0)
    for name, chosen in spec.variants():
        forced = _forced(call, name, chosen)
        try:
            results = forced.run_identical()
        except Exception as error:
            if _is_not_used(error):
                continue
            raise
        _, found = sampled_reference(plan, forced, results, generator, VARIANT_WORK)
        yield Variant(name, Observation(forced, results), found[0] if found else None)


def _is_not_used(error: BaseException | None) -> bool:
    """By name, since the class is beside Triton; an operator may have wrapped the error."""
    while error is not None:
        if type(error).__name__ == "NotUsed":
            return True
        error = error.__cause__
    return False


def _forced(
    call: BoundCall, name: str, chosen: Callable[[], AbstractContextManager[None]]
) -> BoundCall:
    """The same call, in one variant however often it is made."""
    form = call.form
    original = form.op

    class Forced:
        """Stands in for the operator; its schema is the operator's."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with chosen():
                return original(*args, **kwargs)

        def __getattr__(self, attribute: str) -> Any:
            return getattr(original, attribute)

    op = Forced()
    functional = op if form.functional is original else None
    positions = form.functional_positions if functional is not None else ()
    return BoundCall(
        dataclasses.replace(form, op=op, functional=functional, functional_positions=positions,
                            name=f"{form.name} {name}"),
        call.args,
    )
