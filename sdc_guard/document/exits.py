"""Exit codes of every command, and of a guarded script in which something was found."""

from __future__ import annotations

CLEAN = 0
DIVERGENCE = 1
USAGE = 2
INCONCLUSIVE = 3
INTERNAL_ERROR = 4
NOTHING_TESTED = 5
FINDING = 86
"""Of a script under ``sdc-guard run``, unless ``--finding-exit`` says another."""

MEANINGS: dict[int, str] = {
    CLEAN: "something was tested, and nothing fails: clean, known, or only shown by policy",
    DIVERGENCE: "corruption, or a divergence that fails by policy",
    USAGE: "wrong usage",
    INCONCLUSIVE: "inconclusive, or coverage below the floor",
    INTERNAL_ERROR: "internal error: this says nothing about the numbers",
    NOTHING_TESTED: "nothing was tested",
    FINDING: "`sdc-guard run`: the guarded script met a finding",
}
