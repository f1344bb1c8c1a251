"""A trial that ended its process, or stopped it, as a finding."""

from __future__ import annotations

import dataclasses
import re

import msgspec

from sdc_guard.hunt.divergence import LOST, Divergence, dtype_class
from sdc_guard.hunt.finding_record import finding_of
from sdc_guard.hunt.findings import written_up
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.messages import Died
from sdc_guard.hunt.repetition import Repeats
from sdc_guard.hunt.trial import Modes, Trial

ORACLE = "process"
MAX_LOSSES = 8
"""Workers that one target may cost before it is given up."""
MAX_AT_ONE_PLACE = 2
"""Losses of one target at one place that are confirmed; the round that had the last of them is not
made again."""

MAX_LINES = 4
_FATAL = "Fatal Python error: "
_CURRENT = "Current thread "
_FRAME = re.compile(r'File "(?:[^"]*[\\/])?([^"\\/]+)", line (\d+) in (\S+)')


def without_modes(trial: Trial) -> str:
    """The digest that a lost trial is left out by: with other modes it is the same call."""
    return msgspec.structs.replace(trial, modes=Modes()).digest


def place_of_loss(died: Died) -> str:
    """The signal, and where the process was."""
    return f"{died.how} {last_words(died.tail)}"


def divergence_of_loss(trial: Trial, died: Died) -> Divergence:
    """Its classes are those of the first operand, its magnitude the signal's name."""
    first = next(trial.operands(), None)
    word = "hang" if died.how == "hang" else "crash"
    words = last_words(died.tail)
    said = f"; the process said: {words}" if words else ""
    what = ("does not come to an end" if word == "hang"
            else f"ends its process with {died.how}"
            + (" (out of memory, or ended from outside)" if died.how == "SIGKILL" else ""))
    return Divergence(
        oracle=ORACLE, op=trial.target, word=word, message=f"{trial.target} {what}{said}"[:1000],
        dtype_class=dtype_class(first.dtype) if first is not None else "none",
        layout_class=first.layout.kind if first is not None else "none", magnitude_class=died.how)


def found_of_loss(
    trial: Trial, divergence: Divergence, target: str, wrong: int, tried: int
) -> FoundDivergence:
    """``wrong`` of ``tried`` fresh processes were lost to the trial, too.  Where none was, it is a
    lost process and no crash of this operator, with a fingerprint of its own: it says nothing of
    the call, so a hunt does not fail for it, and it hides no crash of that call."""
    if not tried:
        why = "no time was left to make it again"
    elif wrong:
        why = f"in {wrong} of {tried} fresh processes too"
    else:
        why = (f"in 0 of {tried} fresh processes: an earlier call may have damaged the memory of "
               "that one, or the machine is at fault; is the hardware sound? a sweep of this "
               "machine would tell")
        divergence = dataclasses.replace(
            divergence, word=LOST,
            magnitude_class=f"{divergence.magnitude_class}, not in a fresh process")
    found = FoundDivergence(
        fingerprint=divergence.fingerprint, seen_as=divergence.fingerprint, word=divergence.word,
        oracle=divergence.oracle, op=divergence.op, target=target,
        dtype_class=divergence.dtype_class, layout_class=divergence.layout_class,
        magnitude_class=divergence.magnitude_class, message=f"{divergence.message}; {why}",
        finding=finding_of(trial, divergence, divergence.word, Repeats(wrong, tried, None), why),
        trial=trial, drawn=trial, wrong=wrong, tried=tried)
    return written_up(found, divergence, None, runs_script=False)


def written_again(found: FoundDivergence) -> FoundDivergence:
    """The same with its script and texts, made of the trial alone."""
    divergence = Divergence(
        oracle=found.oracle, op=found.op, word=found.word, message=found.message,
        dtype_class=found.dtype_class, layout_class=found.layout_class,
        magnitude_class=found.magnitude_class)
    try:
        return written_up(found, divergence, None, runs_script=False)
    except (MemoryError, OverflowError):  # operands that cannot be made
        return found


def last_words(tail: str) -> str:
    """What a log ends with: of a fatal error its kind and the innermost places, without folders."""
    _, fatal, rest = tail.rpartition(_FATAL)
    if fatal:
        _, _, current = rest.rpartition(_CURRENT)
        frames = [f"{file}:{line} in {name}" for file, line, name in _FRAME.findall(current)]
        return ", ".join([rest.partition("\n")[0].strip(), *frames[:MAX_LINES]])
    return " / ".join(tail.splitlines()[-MAX_LINES:])
