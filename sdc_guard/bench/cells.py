"""The result of a benchmark: counts of faults by detector, workload, dtype, fault model, operator
class and size, which can be continued and added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from sdc_guard.bench.detectors.base import Alarm
from sdc_guard.inject.classes import NO_OP as NO_OP
from sdc_guard.inject.truth import SIZES as SIZES
from sdc_guard.inject.truth import InjectedFault
from sdc_guard.intervals import Interval, proportion
from sdc_guard.records import Record

FIRM, SOFT, ELSEWHERE, LOUD, MISSED = "firm", "soft", "elsewhere", "loud", "missed"
OUTCOMES = (FIRM, SOFT, ELSEWHERE, LOUD, MISSED)
"""``firm``: an accusation that names the struck operator or one that called it, or any from a
detector that names none or the first difference that it saw.  ``soft``: a softer word that names
it.  ``elsewhere``: alarms that name other operators alone.  ``loud``: the step ended with an
exception and no alarm.  Of faults in a detector's own work (``checker``) a firm one wrongly accuses
the result in use; one that accuses the recomputation is right, and soft.  Alarms that the same step
also raises without the fault are false alarms, and count for nothing here."""
KINDS = ("transient", "repeated", "deterministic", "state", "data", "checker")


class FaultTrial(Record, frozen=True, kw_only=True):
    """What became of fault number ``index``: ``outcome`` is one of :data:`OUTCOMES`.

    ``num_steps``: steps from the fault's first to the one with the alarm, that one included (or
    all that were run).  ``num_false``: alarms of the same steps without the fault.
    """

    index: int
    op: str
    op_class: str
    size: str
    outcome: str
    num_steps: int
    alarms: tuple[Alarm, ...]
    num_false: int
    fault: InjectedFault | None
    why: str


class Cell(Record, frozen=True, kw_only=True):
    """All trials of one fault model against one detector on one workload and dtype.

    ``kind`` is one of :data:`KINDS`.  ``done``: numbers of the faults tried, as ranges
    [start, stop).  ``counts``: ``op class | size`` to outcome to number.  ``delays``: steps until
    the firm alarm (1 is the fault's own step) to number; ``max_steps``: after so many the trial is
    over.  ``causes``: the cause named in firm alarms to number.  ``not_injected``: faults that
    changed no bit, which are not counted elsewhere.  ``missed``: numbers, as ranges, of faults that
    ended otherwise than firm, for :class:`Harm`.  ``examples``: trials that ended otherwise than
    firm; all of them for an exhaustive guard, the first 5 for others.
    """

    detector: str
    workload: str
    dtype: str
    fault: str
    kind: str
    device: str
    seed: int
    max_steps: int
    done: tuple[tuple[int, int], ...] = ()
    counts: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    delays: dict[str, int] = msgspec.field(default_factory=dict)
    causes: dict[str, int] = msgspec.field(default_factory=dict)
    not_injected: int = 0
    missed: tuple[tuple[int, int], ...] = ()
    examples: tuple[FaultTrial, ...] = ()

    @property
    def key(self) -> tuple[str | int, ...]:
        """What two cells must share to be one."""
        return (self.detector, self.workload, self.dtype, self.fault, self.device, self.seed,
                self.max_steps)

    @property
    def injected(self) -> int:
        return sum(sum(outcomes.values()) for outcomes in self.counts.values())

    def with_outcome(self, *outcomes: str) -> int:
        """Trials with one of these outcomes."""
        return sum(found.get(o, 0) for found in self.counts.values() for o in outcomes)

    def with_trials(
        self, trials: Sequence[FaultTrial], not_injected: Sequence[int], max_examples: int
    ) -> Cell:
        """The cell after more trials; ``not_injected`` are numbers of faults without effect."""
        counts = {group: Counter(found) for group, found in self.counts.items()}
        delays, causes = Counter(self.delays), Counter(self.causes)
        for trial in trials:
            group = f"{trial.op_class} | {trial.size}"
            counts.setdefault(group, Counter())[trial.outcome] += 1
            if trial.outcome == FIRM:
                delays[str(trial.num_steps)] += 1
                causes.update({a.cause for a in trial.alarms if a.firm and a.cause})
        numbers = {n for start, stop in self.done for n in range(start, stop)}
        numbers |= {trial.index for trial in trials} | set(not_injected)
        others = [t for t in trials if t.outcome != FIRM]
        missed = {n for start, stop in self.missed for n in range(start, stop)}
        missed |= {t.index for t in others}
        return msgspec.structs.replace(
            self, done=ranges(numbers), missed=ranges(missed),
            counts={g: dict(counts[g]) for g in sorted(counts)},
            delays=dict(sorted(delays.items(), key=lambda item: int(item[0]))),
            causes=dict(causes), not_injected=self.not_injected + len(not_injected),
            examples=(*self.examples, *others)[:max_examples])


def ranges(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Numbers as sorted ranges [start, stop)."""
    found: list[tuple[int, int]] = []
    for n in sorted(numbers):
        if found and found[-1][1] == n:
            found[-1] = (found[-1][0], n + 1)
        else:
            found.append((n, n + 1))
    return tuple(found)


class CleanCell(Record, frozen=True, kw_only=True):
    """Steps without a fault: every alarm, of any verdict, is a false one.

    ``num_checks``: comparisons that could have raised an alarm (one an operator call, or one a
    step where the detector looks at a number per step).  ``by_verdict`` counts alarms.
    """

    detector: str
    workload: str
    dtype: str
    device: str
    seed: int
    num_steps: int
    num_checks: int
    num_alarms: int
    by_verdict: dict[str, int]
    examples: tuple[str, ...]

    @property
    def rate(self) -> Interval | None:
        """False alarms per check; None without checks or with more alarms than checks."""
        if self.num_checks < 1 or self.num_alarms > self.num_checks:
            return None
        return proportion(self.num_alarms, self.num_checks)


class Cost(Record, frozen=True, kw_only=True):
    """Watched over plain time of steps that were run in turn, in one process: median of pairs and
    ratio of totals with their intervals."""

    detector: str
    workload: str
    dtype: str
    device: str
    seed: int
    num_threads: int
    num_pairs: int
    steps_per_turn: int
    plain_ms: float
    ratio: Interval
    total_ratio: Interval


class Harm(Record, frozen=True, kw_only=True):
    """What faults did to a training that nobody watched.

    ``noise``: the largest change of the held-out loss after ``num_steps`` steps, in nats, that a
    flip of the last bit of one weight before the first step made in ``num_controls`` runs without
    a fault.  ``changes``: per fault number, the change of that loss against the clean run, None
    where it is no number.  ``harmful`` are the numbers of the faults whose change is above the
    noise or no number.
    """

    workload: str
    dtype: str
    fault: str
    kind: str
    device: str
    seed: int
    num_steps: int
    num_controls: int
    noise: float
    clean_loss: float
    changes: dict[str, float | None]

    @property
    def harmful(self) -> tuple[int, ...]:
        return tuple(int(n) for n, change in self.changes.items()
                     if change is None or abs(change) > self.noise)
