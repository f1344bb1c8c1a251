"""Exit codes as other programs read them."""

from __future__ import annotations

from sdc_guard.document.exits import (
    CLEAN,
    DIVERGENCE,
    INCONCLUSIVE,
)

MAPS: dict[str, dict[int, int]] = {
    # node-problem-detector's custom plugins: 0 is fine, 1 a problem, anything else is unknown.
    "npd": {CLEAN: 0, DIVERGENCE: 1},
    # A prolog or a health check drains the node for any code but 0: a suspicion alone must not.
    "slurm": {CLEAN: 0, DIVERGENCE: 1, INCONCLUSIVE: 0},
    # Megatron-LM's rerun state machine: 16 asks for another run, 17 says that validation failed.
    "megatron": {CLEAN: 0, DIVERGENCE: 17, INCONCLUSIVE: 16},
}
OTHERWISE = 2
"""Wrong usage, an internal error, or nothing tested: never 0, never a verdict."""


def mapped(code: int, name: str | None) -> int:
    """The code under the map of that name; unchanged without one."""
    if name is None:
        return code
    return MAPS[name].get(code, OTHERWISE)
