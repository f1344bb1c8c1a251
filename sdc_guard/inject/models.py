"""All fault models, and how one fault of a campaign is drawn."""

from __future__ import annotations

import zlib

import numpy as np

from sdc_guard.errors import UsageError
from sdc_guard.inject.checker_models import CHECKER
from sdc_guard.inject.deterministic_models import DETERMINISTIC
from sdc_guard.inject.repeated_models import REPEATED
from sdc_guard.inject.state_models import STATE
from sdc_guard.inject.target import AnyFault, BatchSource, Draw, FaultModel, Target
from sdc_guard.inject.transient_models import TRANSIENT

__all__ = ["MODELS", "AnyFault", "BatchSource", "Draw", "FaultModel", "Target", "draw"]

MODELS: dict[str, FaultModel] = {
    model.name: model for model in (*TRANSIENT, *REPEATED, *DETERMINISTIC, *STATE, *CHECKER)
}


def draw(name: str, target: Target, index: int, seed: int) -> AnyFault:
    """Fault number ``index`` (from 0) of a campaign with model ``name``: fresh, and the same for
    the same name, index, seed and recorded calls, whatever was drawn before.

    Enter it inside (above) the detector, around one training step; faults that repeat may be
    entered again around each of the next steps, and one that strikes once then does no more.

    Raises:
        UsageError: for an unknown name, a negative ``index`` or ``seed``, or if the model can
            strike none of the recorded calls.
    """
    model = MODELS.get(name)
    if model is None:
        raise UsageError(f"fault model {name!r} is unknown; known are {', '.join(MODELS)}")
    if index < 0 or seed < 0:
        raise UsageError(f"index is {index} and seed {seed}, both must be 0 or more")
    generator = np.random.default_rng([zlib.crc32(name.encode()), seed, index])
    try:
        fault = model.draw(target, generator)
    except UsageError as error:
        raise UsageError(f"fault model {name!r}: {error}") from None
    return fault
