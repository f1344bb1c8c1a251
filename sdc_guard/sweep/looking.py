"""A wrong number, looked at from elsewhere: the same case on other units, votes, deaths again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sdc_guard.sweep.crew import Crew, Hand, Lost, NotStarted, Variables
from sdc_guard.sweep.declared import CORE, HOST, SweepTest
from sdc_guard.sweep.messages import (
    CaseDone,
    Confirm,
    Confirmed,
    Done,
    Miscompare,
    Task,
    Visit,
)
from sdc_guard.sweep.tally import Seen
from sdc_guard.sweep.units import Unit, core_facts, usable_cores
from sdc_guard.sweep.words import (
    Answer,
    decide,
    decide_host,
    decide_lost,
    decide_raised,
    decide_unsupported,
    is_want,
    vote,
)

NUM_CONFIRMATIONS = 10
MAX_OTHERS = 3
MAX_CORES = 256
MAX_VOTERS = 16
NUM_LOST_RETRIES = 2
MAX_RETRY_S = 5.0
HandOf = Callable[[Unit, Variables], "Hand | None"]
_A = TypeVar("_A", Done, Confirmed)


class Looker:
    """Asks other units; ``hand_of`` gives a unit's idle worker, starting one where there is none.

    Where only one core is swept, another core of this machine is asked all the same.
    """

    def __init__(self, crew: Crew, units: Sequence[Unit], hand_of: HandOf) -> None:
        self._crew, self._units, self._hand_of = crew, units, hand_of

    def others(self, unit: Unit) -> list[Unit]:
        """Units of its kind, the same model first; another core, if need be.  For the host its
        cores, one by one: which of them is wrong?  One alone is asked beside another."""
        cores = [u for u in self._units if u.kind == CORE]
        if unit.kind == HOST:
            return [*cores, *(self._outside(cores)[:1] if len(cores) == 1 else ())][:MAX_CORES]
        same = [u for u in self._units if u.kind == unit.kind and u.name != unit.name]
        same.sort(key=lambda u: u.model != unit.model)
        if not same and unit.kind == CORE:
            same = self._outside([unit])
        return same[:MAX_OTHERS]

    def _outside(self, cores: Sequence[Unit]) -> list[Unit]:
        """The other cores of this machine, which are not swept."""
        indices = {u.index for u in cores}
        return [Unit(CORE, f"core {n}", n, core_facts(n)) for n in usable_cores()
                if n not in indices]

    def miscompare(
        self, unit: Unit, test: SweepTest, seen: Miscompare, variables: Variables, time_s: float
    ) -> Seen:
        """The same case on other units, and the word that follows."""
        task = Confirm(test=test.name, case=seen.case, seed=seen.seed, times=NUM_CONFIRMATIONS)
        answers = self._ask(self.others(unit), task, variables)
        decision = (decide_host if unit.kind == HOST else decide)(seen, unit.name, answers)
        return Seen(unit, test, seen.case, time_s, seen.oracle.partition(" ")[0].partition("-")[0],
                    decision, seen, variables=variables, seed=seen.seed)

    def unsupported(
        self, unit: Unit, test: SweepTest, case: CaseDone, seed: int, variables: Variables,
        time_s: float, able: Sequence[Unit],
    ) -> Seen | None:
        """A case that ``able`` units of the same model could do; where none is known, another one
        is asked."""
        able = able or [u for u in self.others(unit)
                        if unit.kind == CORE and u.model == unit.model][:1]
        task = Confirm(test=test.name, case=case.case, seed=seed, times=1)
        here = self._ask([unit], task, variables)
        decision = None
        if here and not here[0].said.is_unavailable:
            decision = decide_unsupported(unit.name, case.unsupported, here[0].said,
                                          self._ask(able[:MAX_OTHERS], task, variables))
        if decision is None:
            return None
        return Seen(unit, test, case.case, time_s, "exact", decision, variables=variables,
                    seed=seed)

    def split(
        self, test: SweepTest, case: str, seed: int, digests: dict[Unit, str],
        variables: Variables, time_s: float,
    ) -> list[Seen]:
        """Peers that disagree are all asked again, and vote.  Of many that agree some are asked."""
        first = {unit.name: digest for unit, digest in digests.items()}
        values = list(digests.values())
        asked = sorted(digests, key=lambda u: values.count(digests[u]))[:MAX_VOTERS]
        task = Confirm(test=test.name, case=case, seed=seed, times=NUM_CONFIRMATIONS)
        answers = {a.unit: a.said.run_digests for a in self._ask(asked, task, variables)}
        decisions = vote(first, answers)
        by_name = {unit.name: unit for unit in digests}
        return [Seen(by_name[name], test, case, time_s, "peer", decision, digests=first,
                     variables=variables, seed=seed)
                for name, decision in decisions.items()]

    def lost(
        self, unit: Unit, test: SweepTest, task: Visit, how: Lost, variables: Variables,
        time_s: float,
    ) -> Seen:
        """The same visit again on the unit, and once on another."""
        short = _shortened(task)
        again = 0
        for _ in range(NUM_LOST_RETRIES):
            again += self._is_lost(unit, short, variables)
        elsewhere: bool | None = None
        if again:
            others = self.others(unit)
            elsewhere = self._is_lost(others[0], short, variables) if others else None
        decision = decide_lost(unit.name, how.words, again, NUM_LOST_RETRIES,
                               is_from_outside=how.is_from_outside, is_lost_elsewhere=elsewhere)
        return Seen(unit, test, "", time_s, "process", decision, variables=variables,
                    seed=task.seed, tail=how.tail)

    def raised(
        self, unit: Unit, test: SweepTest, task: Visit, error: str, variables: Variables,
        time_s: float,
    ) -> Seen | None:
        """The same visit again on the unit, and once on another of its model; None where that
        raises too, or there is none: then the test itself has failed."""
        others = [u for u in self.others(unit) if u.model == unit.model and unit.kind != HOST]
        if not others or is_want(error):
            return None
        short = _shortened(task)
        said = self._visited(others[0], short, variables)
        if not isinstance(said, Done) or said.error or said.skip:
            return None
        again = 0
        for _ in range(NUM_LOST_RETRIES):
            here = self._visited(unit, short, variables)
            again += isinstance(here, Done) and bool(here.error)
        decision = decide_raised(unit.name, error, again, NUM_LOST_RETRIES, others[0].name)
        return Seen(unit, test, "", time_s, "process", decision, variables=variables,
                    seed=task.seed)

    def _is_lost(self, unit: Unit, task: Visit, variables: Variables) -> bool:
        return self._visited(unit, task, variables) is None

    def _visited(self, unit: Unit, task: Visit, variables: Variables) -> Done | NotStarted | None:
        """What came of a visit; None if the worker was lost, or none can work."""
        try:
            hand = self._hand_of(unit, variables)
        except NotStarted as error:  # for want of memory, say: no unit is to blame for that
            return error
        return None if hand is None else self._answer(hand, task, Done)

    def _ask(self, units: Sequence[Unit], task: Confirm, variables: Variables) -> list[Answer]:
        """One after the other: a unit's answer must not depend on what its neighbour does."""
        found = []
        for unit in units:
            try:
                hand = self._hand_of(unit, variables)
            except NotStarted:
                continue
            said = None if hand is None else self._answer(hand, task, Confirmed)
            if said is not None:
                found.append(Answer(unit.name, said))
        return found

    def _answer(self, hand: Hand, task: Task, kind: type[_A]) -> _A | None:
        """None if the worker is lost over it."""
        self._crew.send(hand, task)
        while True:
            for speaker, message in self._crew.listen(0.2):
                if speaker is hand and isinstance(message, kind):
                    return message
                if speaker is hand and isinstance(message, Lost):
                    return None


def _shortened(task: Visit) -> Visit:
    return Visit(test=task.test, seed=task.seed, limit_s=min(task.limit_s, MAX_RETRY_S),
                 first_case=task.first_case, case=task.case)


def wait_ready(crew: Crew, hand: Hand, limit_s: float) -> bool:
    """Until it has said hello; False if it cannot work."""
    end_s = time.monotonic() + limit_s
    while hand.hello is None and hand.lost is None and time.monotonic() < end_s:
        crew.listen(0.2)
    return hand.is_ready


