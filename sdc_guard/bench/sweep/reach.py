"""Which faults a column must find wherever they change a bit, and why others are out of reach.

With an answer from outside (exact; a golden digest; a peer's digest) every changed bit is to be
found.  A unit that is compared with itself alone agrees with itself where it is wrong in the same
way from its first run on: those kinds are out of reach there, by rule.  Whether a fault changes a
bit at all within the dwell time is counted, not ruled.
"""

from __future__ import annotations

from sdc_guard.bench.sweep.columns import SELF
from sdc_guard.bench.sweep.kinds import Kind

AGREES = "wrong in the same way from the first run on: the unit agrees with itself"
NEVER_SEEN = (
    "An operator, shape, layout or thread count that no test runs.",
    "A fault that first comes after the test has ended, or too rarely for its dwell time.",
    "A fault in the comparison itself, or in the memory of the expected bits, that hides exactly "
    "the wrong result beside it; the canary of each test shows only that the comparison works.",
    "A fault of all units alike, in tests without an exact answer.",
)
"""Blind by construction, whatever is counted."""


def out_of_reach(kind: Kind, oracle: str) -> str:
    """Why this column cannot see faults of this kind; empty if it must."""
    return AGREES if oracle == SELF and kind.is_same_always else ""
