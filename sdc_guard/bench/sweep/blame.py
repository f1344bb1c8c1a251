"""Whom the sweep blames, where the truth is known: one unit of two or three has the fault.

The units are visitors of this process under different names; what they send goes through the
same decisions as in a sweep (:mod:`sdc_guard.sweep.words`).
"""

from __future__ import annotations

from collections.abc import Callable

from sdc_guard.bench.sweep.columns import EXACT, Column, rotated
from sdc_guard.bench.sweep.faults import Fault
from sdc_guard.sweep.declared import Case
from sdc_guard.sweep.messages import Confirm, Done, Message, Miscompare, Visit
from sdc_guard.sweep.visit import Visitor
from sdc_guard.sweep.words import AMBIGUOUS, FAIL, SUSPECT, Answer, Decision, decide, vote

RIGHT, SUSPECTED, WRONG, OPEN, SOFTWARE, MISSED, NOT_REACHED = (
    "right", "suspected", "wrong", "ambiguous", "software", "missed", "not reached")
WORDS = (RIGHT, SUSPECTED, WRONG, OPEN, SOFTWARE, MISSED, NOT_REACHED)
"""``right``: FAIL on the faulty unit and on no other.  ``suspected``: SUSPECT on it alone.
``wrong``: a sound unit is blamed or suspected.  ``ambiguous``: AMBIGUOUS, nobody is blamed.
``software``: put down to software.  ``missed``: nothing was said."""
BLAME_KINDS = (
    "bit: low mantissa, now and then", "bit: exponent, always", "1 ulp, always",
    "NaN, now and then", "stride 32, always", "stale line, now and then",
    "where an input bit is 1", "per run 1e-02")
NUM_CONFIRMATIONS = 10
VISIT_S = 0.004
MAX_CASES = 8
"""Cases that are visited until somebody says something."""


def blamed(
    column: Column, make_fault: Callable[[str], Fault], num_units: int, faulty: int, *,
    all_alike: bool = False,
) -> str:
    """One of :data:`WORDS` for a fault on unit ``faulty`` of ``num_units``, or on ``all_alike``;
    ``make_fault`` gets the unit's name.

    Raises:
        RuntimeError: if a test itself fails.
    """
    names = [f"core {n}" for n in range(num_units)]
    faults = {name: make_fault(name) for n, name in enumerate(names) if all_alike or n == faulty}
    sent: list[Message] = []
    visitors = {name: column.visitor(sent.append, name) for name in names}
    for name, fault in faults.items():
        visitors[name].tamper = fault
    first = next(iter(faults.values())).number
    for case in list(rotated(column.cases, first))[:MAX_CASES]:
        decisions = _decided(column, case, visitors, sent)
        if decisions:
            return _word(decisions, "" if all_alike else names[faulty])
    return MISSED if any(f.num_changed for f in faults.values()) else NOT_REACHED


def _decided(
    column: Column, case: Case, visitors: dict[str, Visitor], sent: list[Message]
) -> list[Decision]:
    """Every unit visits the case; wrong numbers are taken to the others, and digests compared."""
    found: list[Decision] = []
    digests: dict[str, str] = {}
    task = Confirm(test=column.test.name, case=case.label, seed=column.seed,
                   times=NUM_CONFIRMATIONS)
    for name, visitor in visitors.items():
        sent.clear()
        done: Done = visitor.visit(Visit(test=column.test.name, seed=column.seed, limit_s=VISIT_S,
                                         case=case.label))
        if done.error:
            raise RuntimeError(f"{column.name}, {case.label}: {done.error}")
        digests[name] = done.cases[0].digest
        for seen in [m for m in sent if isinstance(m, Miscompare)]:
            answers = [Answer(other, visitors[other].confirm(task))
                       for other in visitors if other != name]
            found.append(decide(seen, name, answers))
    if column.oracle != EXACT and len(set(digests.values())) > 1:
        again = {name: visitor.confirm(task).run_digests for name, visitor in visitors.items()}
        found += vote(digests, again).values()
    return found


def _word(decisions: list[Decision], faulty: str) -> str:
    if any(d.place and d.place != faulty for d in decisions):
        return WRONG
    words = {d.word for d in decisions if d.place == faulty and faulty}
    if FAIL in words:
        return RIGHT
    if SUSPECT in words:
        return SUSPECTED
    return OPEN if any(d.word == AMBIGUOUS for d in decisions) else SOFTWARE
