"""What a test is called on a unit: PASS, FAIL, SUSPECT, AMBIGUOUS, INVALID, SKIP or TOOL ERROR.

FAIL rests on an answer that is known exactly, on a vote, or on a golden digest.  An exact answer
that was missed once, and is still wrong where it is stored, is enough: nothing makes a wrong number
right.  Whatever has no outside answer needs two observations.  What every unit does alike is put
down to software; what two units dispute, with nobody else to ask, is AMBIGUOUS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdc_guard.records import Cause, Vote
from sdc_guard.sweep.declared import Oracle, is_short_of_memory
from sdc_guard.sweep.messages import Confirmed, Miscompare

PASS, FAIL, SUSPECT, AMBIGUOUS = "PASS", "FAIL", "SUSPECT", "AMBIGUOUS"
INVALID, SKIP, TOOL_ERROR = "INVALID", "SKIP", "TOOL ERROR"
MISSING = "missing"
"""Of a whole host that gave no document."""
WORST_FIRST = (FAIL, AMBIGUOUS, SUSPECT, TOOL_ERROR, INVALID, PASS, SKIP)
"""Of several words for one test on one unit the first of these stands."""
SOFTWARE_LIKELY = "every unit that was asked gives the same: software or toolchain likely"


@dataclass(frozen=True)
class Decision:
    """A word and what it rests on.  ``place`` is the unit to blame, empty for none."""

    word: str
    cause: Cause
    place: str
    reason: str
    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What ``unit`` said when the case was taken to it."""

    unit: str
    said: Confirmed


def decide(seen: Miscompare, unit: str, answers: Sequence[Answer]) -> Decision:
    """The word for a miscompare on ``unit``, after the same case was run by others."""
    others = [a for a in answers if a.unit != unit and a.said.tried and not a.said.error]
    votes = _votes(seen, unit, others)
    tally = f"wrong in {seen.wrong} of {seen.tried} repetitions here"
    if others:
        right = [a for a in others if _is_right(seen, a)]
        tally += f", right on {', '.join(a.unit for a in right)}" if right else ""
    if seen.oracle == Oracle.SELF.value:
        return _of_self(seen, unit, others, tally, votes)
    if others and not any(_is_right(seen, a) for a in others):
        return Decision(FAIL, Cause.SOFTWARE, "", f"{tally}; {SOFTWARE_LIKELY}", votes)
    if seen.oracle == Oracle.GOLDEN.value:
        if not seen.wrong:
            return Decision(SUSPECT, Cause.TRANSIENT, unit, f"off the golden digest once; {tally}",
                            votes)
        return Decision(FAIL, _cause(seen, others), unit, f"off the golden digest; {tally}", votes)
    return _of_exact(seen, unit, others, tally, votes)


def decide_host(seen: Miscompare, unit: str, answers: Sequence[Answer]) -> Decision:
    """The word for a miscompare of all cores together, after each core has run the case alone: a
    core that is wrong alone is to blame, and if none is, no core is."""
    # A core whose probe of the case fails, where another core's does not, is wrong too.
    said = [a for a in answers if (a.said.tried or a.said.unsupported) and not a.said.error
            and not a.said.is_unavailable]
    wrong = [a.unit for a in said if a.said.wrong or a.said.unsupported]
    if wrong and len(wrong) < len(said):
        return Decision(
            FAIL, Cause.PERSISTENT_HARDWARE, ", ".join(wrong),
            f"wrong in {seen.wrong} of {seen.tried} repetitions by all cores together; alone "
            f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} wrong, and "
            f"{len(said) - len(wrong)} of {len(said)} cores are right",
            _votes(seen, unit, said))
    found = decide(seen, unit, answers)
    if found.word != FAIL or found.cause is Cause.SOFTWARE:
        return found
    if seen.isolated:
        return Decision(FAIL, Cause.PERSISTENT_HARDWARE, seen.isolated,
                        f"wrong in {seen.wrong} of {seen.tried} repetitions by all together; "
                        f"{seen.isolation}", found.votes)
    alone = ""
    if said:
        alone = (f"; none of {len(said)} cores is right alone" if wrong else
                 f"; each of {len(said)} cores is right alone")
    return Decision(FAIL, Cause.TRANSIENT if not seen.wrong else Cause.UNKNOWN, "",
                    f"wrong in {seen.wrong} of {seen.tried} repetitions by all cores together"
                    f"{alone}: an intermittent core, or the threads' own traffic", found.votes)


def _of_exact(
    seen: Miscompare, unit: str, others: Sequence[Answer], tally: str, votes: tuple[Vote, ...]
) -> Decision:
    disputed = [a for a in others if a.said.expected_digest
                and a.said.expected_digest != seen.expected_digest]
    if disputed and 2 * len(disputed) > len(others):
        tally += ("; the expected bits that this unit made are not those that others make: its "
                  "integer arithmetic or memory is wrong too")
    if not seen.num_reread and not seen.wrong:
        return Decision(SUSPECT, Cause.TRANSIENT, unit,
                        f"right when the stored result was read again; {tally}", votes)
    return Decision(FAIL, _cause(seen, others), unit, tally, votes)


def _of_self(
    seen: Miscompare, unit: str, others: Sequence[Answer], tally: str, votes: tuple[Vote, ...]
) -> Decision:
    """Without an outside answer: other bits than the unit itself gave before."""
    shaky = [a.unit for a in others if a.said.wrong]
    if 2 * len(shaky) > len(others):  # one other faulty unit must not excuse this one
        return Decision(INVALID, Cause.SOFTWARE, "", "does not give equal bits again on "
                        f"{', '.join(shaky)} either: not deterministic", votes)
    if not seen.wrong:
        return Decision(SUSPECT, Cause.TRANSIENT, unit, f"other bits once; {tally}", votes)
    return Decision(FAIL, _cause(seen, others), unit,
                    f"not the bits of its own first run; {tally}", votes)


def decide_repeated(
    before: Decision, oracle: str, times_off: int, others: Mapping[str, int]
) -> Decision:
    """What was a suspicion, once the unit was off ``times_off`` times in the sweep; ``others`` says
    how often units of its model were.  An exact answer that was missed twice needs no other unit.
    Without one, if others were off, too, or there are none, as of a host whose threads may race, it
    may be the software, and the word stays."""
    if before.word != SUSPECT or times_off < 2:
        return before
    if oracle in (Oracle.SELF.value, Oracle.GOLDEN.value):
        if not others or any(others.values()):
            return before
        text = f"off its own results or the golden digest {times_off} times in this sweep, and " \
               f"never on {', '.join(others)}"
    else:
        text = f"off an answer that is known {times_off} times in this sweep"
    return Decision(FAIL, Cause.TRANSIENT, before.place,
                    f"{text}; the first time: {before.reason}", before.votes)


def _is_right(seen: Miscompare, answer: Answer) -> bool:
    """Whether that unit does not do the same."""
    if seen.oracle == Oracle.GOLDEN.value:
        return answer.said.digest != seen.got_digest
    return not answer.said.wrong


def _cause(seen: Miscompare, others: Sequence[Answer]) -> Cause:
    if not seen.wrong:
        return Cause.TRANSIENT
    return Cause.PERSISTENT_HARDWARE if others else Cause.UNKNOWN


def _votes(seen: Miscompare, unit: str, others: Sequence[Answer]) -> tuple[Vote, ...]:
    here = [Vote(place=unit, method="again", identical=True, result="held")
            ] * seen.wrong_alike
    here += [Vote(place=unit, method="again", identical=True, result="other")
             ] * (seen.wrong - seen.wrong_alike)
    here += [Vote(place=unit, method="again", identical=True, result="expected")
             ] * (seen.tried - seen.wrong)
    there = [Vote(place=a.unit, method="the same case", identical=True,
                  result="expected" if _is_right(seen, a) else "held") for a in others]
    return (*here, *there)


def decide_unsupported(
    unit: str, reason: str, again: Confirmed, others: Sequence[Answer]
) -> Decision | None:
    """A case that this unit could not do and others of its model can, with the same software: its
    probe has a known answer, which was not met.  None if no other can do it either."""
    if not any(a.said.tried for a in others):
        return None
    names = ", ".join(a.unit for a in others if a.said.tried)
    if again.tried:
        return Decision(FAIL, Cause.TRANSIENT, unit, "a probe with a known answer failed here "
                        f"once, and not on {names}: {reason}")
    return Decision(FAIL, Cause.PERSISTENT_HARDWARE, unit, "a probe with a known answer fails here "
                    f"again and again, and not on {names}: {reason}")


def decide_lost(
    unit: str, how: str, num_again: int, num_tried: int, *, is_from_outside: bool,
    is_lost_elsewhere: bool | None,
) -> Decision:
    """A worker that ended or hung in a test, ``num_again`` of ``num_tried`` times more; on another
    unit the same was done without loss, with it, or (None) not at all."""
    tally = f"the worker {how}; so it did in {num_again} of {num_tried} more tries here"
    if is_from_outside:
        return Decision(TOOL_ERROR, Cause.UNKNOWN, "",
                        f"{tally}: ended from outside, for memory or by somebody")
    if not num_again:
        return Decision(SUSPECT, Cause.TRANSIENT, unit, tally)
    if is_lost_elsewhere is None:
        return Decision(FAIL, Cause.UNKNOWN, unit, f"{tally}; there was no other unit to ask")
    if is_lost_elsewhere:
        return Decision(FAIL, Cause.SOFTWARE, "", f"{tally}; {SOFTWARE_LIKELY}")
    return Decision(FAIL, Cause.PERSISTENT_HARDWARE, unit, f"{tally}, and not on another unit")


def decide_raised(
    unit: str, error: str, num_again: int, num_tried: int, other: str
) -> Decision:
    """A test that raised ``error`` here, ``num_again`` of ``num_tried`` times more, and not on
    ``other``, a unit of the same model: the same software with the same operands went another
    way."""
    tally = (f"{error}; so it did in {num_again} of {num_tried} more tries here, and not on "
             f"{other}: a wrong number decided what was done")
    if not num_again:
        return Decision(SUSPECT, Cause.TRANSIENT, unit, tally)
    return Decision(FAIL, Cause.PERSISTENT_HARDWARE, unit, tally)


def is_want(error: str) -> bool:
    """Whether an error, as ``Done.error`` has it, is of memory, files or a network, whose state no
    other unit need share."""
    return error.partition(":")[0] in _WANTS or is_short_of_memory(error)


_WANTS = ("MemoryError", "OutOfMemoryError", "OSError", "BlockingIOError", "FileNotFoundError",
          "PermissionError", "TimeoutError", "ConnectionError", "ConnectionResetError",
          "ConnectionRefusedError", "BrokenPipeError", "DistBackendError", "DistNetworkError",
          "DistStoreError", "ImportError", "ModuleNotFoundError")


def vote(
    digests: Mapping[str, str], again: Mapping[str, Sequence[str]]
) -> dict[str, Decision]:
    """Units of one model that gave different bits for one case: the word for each to blame.

    ``digests`` are what they gave first, ``again`` what they gave when asked once more.  A unit
    that does not repeat itself is to blame; then a strict majority of at least two outvotes the
    others; with no majority all are AMBIGUOUS.
    """
    found: dict[str, Decision] = {}
    for unit, first in digests.items():
        answers = again.get(unit, ())
        off = sum(answer != first for answer in answers)
        if off:
            word = FAIL if 0 < off < len(answers) and len(set(answers)) > 1 else SUSPECT
            found[unit] = Decision(
                word, Cause.PERSISTENT_HARDWARE if word == FAIL else Cause.TRANSIENT, unit,
                f"gave other bits in {off} of {len(answers)} repetitions")
    steady = {unit: digest for unit, digest in digests.items() if unit not in found}
    counts = Counter(steady.values())
    if len(counts) < 2:
        return found
    (winner, most), *_ = counts.most_common()
    if 2 * most > len(steady) and most >= 2:
        for unit, digest in steady.items():
            if digest != winner:
                found[unit] = Decision(
                    FAIL, Cause.PERSISTENT_HARDWARE, unit,
                    f"outvoted: {most} of {len(steady)} units of its model agree on other bits",
                    tuple(Vote(place=u, method="the same case", identical=True,
                               result="held" if d == digest else "expected")
                          for u, d in steady.items()))
        return found
    for unit in steady:
        found[unit] = Decision(
            AMBIGUOUS, Cause.UNKNOWN, "",
            f"{len(steady)} units of its model give {len(counts)} different results, each always "
            "the same one, and no majority says which is right")
    return found


def worst(words: Sequence[str]) -> str:
    """The word that stands for all."""
    return min(words, key=WORST_FIRST.index)
