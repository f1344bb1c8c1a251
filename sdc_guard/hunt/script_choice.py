"""Which script shows a finding: the guilty operator's call alone, or the trial's whole call."""

from __future__ import annotations

import torch

from sdc_guard.errors import UsageError
from sdc_guard.hunt.divergence import OUTSIDE, Divergence
from sdc_guard.hunt.exact import Exact
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.repetition import LOUD, Repeats
from sdc_guard.hunt.script import claim_of, script_of_call, script_of_trial
from sdc_guard.hunt.script_operands import NotWritableError
from sdc_guard.hunt.script_writes import script_of_writes


def script_of(found: FoundDivergence, divergence: Divergence, exact: Exact | None) -> str:
    """The script, or nothing where none can be short enough."""
    attempts = Repeats(found.wrong, found.tried, None).attempts if found.tried else 1
    claim = None if divergence.word in LOUD else claim_of(divergence, exact, attempts)
    title = title_of(found)
    try:
        if divergence.formula == OUTSIDE and divergence.observation is not None:
            return script_of_writes(divergence.observation.call, found.trial.modes, title=title)
        if divergence.observation is not None and claim is not None:
            return script_of_call(divergence, found.trial.modes, claim, title=title)
        is_about_form = claim is None and found.word == "semantic difference"
        if claim is None and not is_about_form and divergence.word not in LOUD:
            return ""  # nothing that a script could compare with
        seen = _printed(found) if is_about_form else ""
        return script_of_trial(found.trial, claim, divergence, title=title, seen=seen)
    except (NotWritableError, UsageError, RuntimeError):  # operands that cannot be made here, too
        return ""


def title_of(found: FoundDivergence) -> str:
    """One line: which operator gives what, where it was seen."""
    worst = found.finding.worst
    where = f"torch {torch.__version__}, {found.trial.device}"
    if found.word in LOUD:
        return f"{found.op}: {found.word} ({where})."
    if worst is None:
        told = OUTSIDE if OUTSIDE in found.message else found.word
        return f"{found.op}: {told} ({where})."
    return f"{found.op} gives {worst.got.repr} for {worst.expected.repr} ({where})."


def _printed(found: FoundDivergence) -> str:
    """Dtypes and shapes of the results as they are here."""
    results = execute(found.trial, record=False).outcome()
    return str([(t.dtype, tuple(t.shape)) for t in results if t is not None])
