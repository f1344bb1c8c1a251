"""The one table of verdicts, and how the words of guard, hunt and sweep map onto it."""

from __future__ import annotations

from sdc_guard.errors import UsageError
from sdc_guard.records import Verdict

CLEAN = "clean"
"""What a test that passed maps onto; no verdict of the table."""

WORDS: dict[str, dict[str, str]] = {
    "guard": {"clean": CLEAN, **{v.value: v.value for v in Verdict}},
    "hunt": {
        "agrees": CLEAN,
        "documented": CLEAN,
        "corruption": "corruption",
        "precision": "precision",
        "nondeterminism": "nondeterminism",
        "semantic difference": "precision",
        "crash": "inconclusive",
        "hang": "inconclusive",
        "inconclusive": "inconclusive",
        "lost process": "not tested",
        "not tested": "not tested",
    },
    "sweep": {
        "PASS": CLEAN,
        "FAIL": "corruption",
        "SUSPECT": "inconclusive",
        "AMBIGUOUS": "inconclusive",
        "INVALID": "not tested",
        "SKIP": "not tested",
        "TOOL ERROR": "not tested",
        "missing": "not tested",
    },
    "bench": {
        "found": CLEAN,
        "measured": CLEAN,
        "missed": "inconclusive",
        "false alarm": "precision",
    },
}
"""By tool, its own word to the table's.  A crash or a hang is loud, and leaves no number to judge;
a process that was lost at a call which ends no fresh one says nothing of the call;
a bench that has missed a planted fault, or raised a false alarm, says so about the detector."""

ACTIONS = ("fail", "inconclusive", "report")
"""What a verdict does to the exit code: 1, 3, or nothing."""

DEFAULT_POLICY: dict[str, str] = {
    "corruption": "fail",
    "precision": "report",
    "nondeterminism": "report",
    "inconclusive": "inconclusive",
    "not tested": "report",
}
"""The default of every "by policy": ``precision`` and ``nondeterminism`` are shown and do not fail,
``inconclusive`` gives exit code 3, ``not tested`` acts through the coverage floor alone."""

MEANINGS: dict[str, str] = {
    "corruption": "A proved bound, or a bit-exact relation that holds here, is broken, and "
    "arbitration confirms it: the number is wrong.",
    "precision": "Inside the proved bound, outside what the backend's algorithm keeps.",
    "nondeterminism": "Equal calls gave different results, all inside the bound.",
    "inconclusive": "A witness disagreed, and neither a bound nor a vote decides.",
    "not tested": "No witness applied; the reason is given.",
}

SEVERITY: tuple[str, ...] = tuple(v.value for v in Verdict)
"""Most severe first."""


def verdict_of(tool: str, word: str) -> str:
    """The table's verdict for a tool's own word, or :data:`CLEAN`.

    A word that is not known (of a later version) is ``inconclusive``: it is never taken for clean.

    Raises:
        UsageError: for an unknown tool.
    """
    if tool not in WORDS:
        raise UsageError(f"tool {tool!r} is unknown; choose one of {', '.join(WORDS)}")
    return WORDS[tool].get(word, Verdict.INCONCLUSIVE.value)


def parse_policy(settings: dict[str, str]) -> dict[str, str]:
    """The default policy with some verdicts' actions changed.

    Raises:
        UsageError: for an unknown verdict or action, or for ``corruption`` that does not fail.
    """
    for verdict, action in settings.items():
        if verdict not in DEFAULT_POLICY:
            raise UsageError(f"verdict {verdict!r} is unknown; choose one of "
                             f"{', '.join(DEFAULT_POLICY)}")
        if action not in ACTIONS:
            raise UsageError(f"{verdict}={action!r}: choose one of {', '.join(ACTIONS)}")
        if verdict == "corruption" and action != "fail":
            raise UsageError("corruption always fails; put a known one into a baseline instead")
    return {**DEFAULT_POLICY, **settings}
