"""One trial: a worker's visit with a fault in the unit, until the first miscompare."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.bench.sweep.columns import PEERS, Column, rotated
from sdc_guard.bench.sweep.faults import Fault
from sdc_guard.sweep.declared import Case, Made
from sdc_guard.sweep.messages import Message, Miscompare, Visit
from sdc_guard.sweep.visit import NUM_RETESTS

Result = Tensor | NDArray[Any]

VISIT_S = 60.0
"""A trial's visit of one case ends long before, by what it sees."""


@dataclass(frozen=True)
class Outcome:
    """``is_reached``: a bit of a result was changed within the dwell time.  ``is_found``: a
    miscompare was sent, or a digest was not that of another unit."""

    is_reached: bool
    is_found: bool


class _Found(BaseException):
    """Ends a visit at its first miscompare."""


class _Over(BaseException):
    """Ends a visit from inside; not an Exception, which a visit takes for a failure of the test."""


def run_trial(column: Column, fault: Fault) -> Outcome:
    """Visit case after case, from a drawn one on, until one miscompares or all were visited.

    Raises:
        RuntimeError: if the test itself fails, or says that something is wrong which is not.
    """
    if fault.is_below_dwell:
        return Outcome(False, False)
    for case in rotated(column.cases, zlib.crc32(f"{fault.kind.name} {fault.number}".encode())):
        if not fault.is_for(case):
            continue
        is_found = _visit(column, case, fault) or (
            column.oracle == PEERS and _differs(column, case, fault))
        if is_found and not fault.num_changed:
            raise RuntimeError(f"{column.name}, {case.label}: a miscompare without a changed bit")
        if is_found or (fault.num_changed and fault.kind.is_same_always):
            # What is always the same and was not seen in one case is not seen in others.
            return Outcome(True, is_found)
    return Outcome(fault.num_changed > 0, False)


def _visit(column: Column, case: Case, fault: Fault) -> bool:
    """Whether a visit of one case sends a miscompare."""
    def send(message: Message) -> None:
        if isinstance(message, Miscompare):
            raise _Found

    num_runs, num_quiet = 0, 0

    def tamper(case: Case, made: Made, results: Sequence[Result]) -> None:
        nonlocal num_runs, num_quiet
        if fault.is_through(num_runs):
            # These may be the retests of a miscompare, which is told after them.
            num_quiet += 1
            if num_quiet > 2 * NUM_RETESTS:
                raise _Over
        num_runs += 1
        if not num_quiet or fault.kind.is_lasting:
            fault(case, made, results)

    visitor = column.visitor(send)
    visitor.tamper = tamper
    try:
        done = visitor.visit(
            Visit(test=column.test.name, seed=column.seed, limit_s=VISIT_S, case=case.label))
    except _Found:
        return True
    except _Over:
        return False
    raise RuntimeError(f"{column.name}, {case.label}: {done.error or 'the visit ended early'}")


def _differs(column: Column, case: Case, fault: Fault) -> bool:
    """Whether the first results of a visit have another digest than a unit without the fault."""
    visitor = column.visitor(lambda message: None)
    visitor.tamper = fault
    done = visitor.visit(Visit(test=column.test.name, seed=column.seed, limit_s=0.0,
                               case=case.label))
    if done.error:
        raise RuntimeError(f"{column.name}, {case.label}: {done.error}")
    return done.cases[0].digest != column.digests[case.label]
