"""Adversarial values: what an operand of an attack is filled with.

The recipes are those of the hunt (``sdc_guard.hunt.fills``), which aim at what rounding analysis
fears; here they are drawn at random, or by Hypothesis.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from sdc_guard.hunt.fills import EDITS, filled
from sdc_guard.hunt.fills import KINDS as KINDS_OF_HUNTS
from sdc_guard.hunt.trial import Fill

__all__ = ["EDITS", "KEPT", "KINDS", "Fill", "drawn_fill", "filled", "fills"]

Rng = np.random.Generator
KEPT = "as sampled"
KINDS = {k: make for k, make in KINDS_OF_HUNTS.items() if k not in ("infinite", "integer edges")}
"""Those that ``reports/bench/soundness.md`` was made with: bounds speak of floating numbers."""


def drawn_fill(rng: Rng) -> Fill:
    """Any recipe; one in four is scaled far, to where squares leave the range."""
    kind = str(rng.choice(list(KINDS)))
    exponent = int(rng.integers(-70, 71) if rng.random() < 0.25 else rng.integers(-3, 4))
    return Fill(kind=kind, exponent=exponent, seed=int(rng.integers(2**32)))


def fills() -> st.SearchStrategy[Fill]:
    """The same for Hypothesis, with edits; it starts from plain kinds."""
    return st.builds(
        Fill, kind=st.sampled_from(list(KINDS)),
        exponent=st.integers(-3, 3) | st.integers(-140, 140), seed=st.integers(0, 2**32 - 1),
        edits=st.lists(st.tuples(st.integers(0, 2**16), st.sampled_from(list(EDITS))),
                 max_size=3).map(tuple))
