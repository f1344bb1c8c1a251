"""A hunt from its first round to its last: what is made next, and what becomes of each answer."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sdc_guard.hunt.crew import Crew
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.ledger import Ledger
from sdc_guard.hunt.losses import (
    MAX_AT_ONE_PLACE,
    MAX_LOSSES,
    divergence_of_loss,
    found_of_loss,
    place_of_loss,
    without_modes,
    written_again,
)
from sdc_guard.hunt.messages import (
    Again,
    Died,
    Done,
    Failed,
    Found,
    MadeAgain,
    Message,
    Options,
    Reduce,
    Round,
    Task,
)
from sdc_guard.hunt.repetition import LOUD
from sdc_guard.hunt.schedule import FIRST_LONG, rounds
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import Trial, decode, encode

ROUND_LIMIT_S = 20.0
"""A round of a hunt by time ends here at the latest, so that slow operators leave time to others"""
CRASH_REPEATS, HANG_REPEATS, REPLAYS = 3, 1, 3
GRACE_S = 15.0
"""What the last rounds may take longer than the time that was given."""
REDUCING_SHARE = 0.5
"""Of the workers' time, while there is time to search."""
AFTER_S, AFTER_SHARE = 30.0, 1 / 3
"""What confirming and reducing may take when the search has ended: so long, or this share of the
budget."""
REDUCE_S, LEAST_REDUCE_S = 15.0, 5.0
"""Of one reduction; with less than the second there is no use in beginning one."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a hunt is made.  ``limit_s`` or ``examples`` (calls of each target) ends it; ``hang_s``
    is the longest that one trial may take.  ``databases`` is a folder in which calls near to a
    bound are kept for later hunts, None for none."""

    seed: int = 0
    limit_s: float | None = None
    examples: int | None = None
    num_workers: int = 1
    hang_s: float = 120.0
    databases: Path | None = None
    options: Options = field(default_factory=Options)


@dataclass
class _Loss:
    """A trial that ended its worker, being made again in fresh processes."""

    trial: Trial
    target: str
    divergence: Divergence
    left: int
    wrong: int = 1
    tried: int = 1


class Hunt:
    """``ledger`` is written to as answers come; one of an earlier hunt goes on where that ended.
    ``replays`` are trials of divergences found before, made first."""

    def __init__(
        self, plan: Plan, templates: Mapping[str, tuple[Template, ...]], ledger: Ledger,
        folder: Path, *, tick: Callable[[Hunt], None] = lambda hunt: None,
    ) -> None:
        self.plan, self.ledger, self.templates = plan, ledger, templates
        self._folder, self._tick = folder, tick
        self._files: dict[str, str] = {}
        self._with_database: set[str] = set()
        self._rounds = rounds(list(templates), plan.seed, plan.examples)
        self._pending: deque[Task] = deque()
        self._to_confirm: deque[Again] = deque()
        self._num_confirming = 0
        self._to_reduce: list[FoundDivergence] = []
        self._to_write: set[str] = set()
        self._reducing: dict[str, float] = {}
        self._reducing_s = 0.0
        self._losses: dict[str, _Loss] = {}
        self._places: Counter[tuple[str, str]] = Counter()
        self._began_s = time.monotonic()
        self._before_s = ledger.elapsed_s
        self._is_begun = False
        self.crew = Crew(plan.options, folder, num_workers=plan.num_workers, hang_s=plan.hang_s)
        self.is_complete = False

    def replay(self, kinds: Iterator[str]) -> None:
        """Make these trials of the ledger's findings first: still there, or gone."""
        for kind in kinds:
            trial = encode(self.ledger.found[kind].drawn).decode()
            self._pending.append(Again(trial=trial, kind=kind, times=REPLAYS))

    def write_anew(self, kinds: Iterable[str]) -> None:
        """Findings that came from a file, with scripts and texts of our own making."""
        for kind in kinds:
            found = self.ledger.found[kind]
            if found.word in LOUD:
                self.ledger.found[kind] = written_again(found)
            elif found.wrong:
                self._to_reduce.append(found)
                self._to_write.add(kind)

    def run(self) -> None:
        """Hunt until the budget is used.  An exception, Ctrl-C among them, ends the workers and
        leaves the ledger with what was answered."""
        self._began_s = time.monotonic()
        try:
            self.crew.work(self._next, self._take, self._ticked)
            self.is_complete = True
        finally:
            for text, loss in self._losses.items():
                if loss.left:
                    self._write_up(text)
            self._note_time()

    @property
    def num_to_reduce(self) -> int:
        """Divergences that wait to be reduced, or are being."""
        return len(self._to_reduce) + len(self._reducing)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def left_s(self) -> float:
        """Seconds of the budget."""
        return float("inf") if self.plan.limit_s is None else self.plan.limit_s - self.elapsed_s

    def _ticked(self) -> None:
        self._is_begun |= self.crew.num_trials > 0
        if not self._is_begun:  # what workers take to start is none of the budget
            self._began_s = time.monotonic()
        self._note_time()
        self._tick(self)
        has_more = self._reducing or self._num_confirming
        if self.left_s() < -(self._after_s() if has_more else min(GRACE_S, self._after_s())):
            self.crew.end()
            self._pending.clear()
            self._to_confirm.clear()

    def _note_time(self) -> None:
        self.ledger.elapsed_s = self._before_s + self.elapsed_s

    def _next(self) -> Task | None:
        if self.left_s() < -self._after_s():
            return None
        if self._pending:
            return self._pending.popleft()
        if self._to_confirm and not self._num_confirming:
            return self._confirm()
        if self._to_reduce and self._may_reduce():
            return self._reduce()
        task = self._next_round() or (self._reduce() if self._may_reduce() else None)
        return task or (self._confirm() if self._to_confirm else None)

    def _confirm(self) -> Task:
        """One at a time while others search: each needs a process of its own, which takes seconds
        to start."""
        self._num_confirming += 1
        return self._to_confirm.popleft()

    def _next_round(self) -> Task | None:
        if self.left_s() <= 0:
            return None
        for target, number, size in self._rounds:
            page = self.ledger.of(target)
            if not (page.is_done(number) or page.given_up):
                return self._round(target, number, size)
            if self.left_s() <= 0 or all(self.ledger.of(t).given_up for t in self.templates):
                return None
        return None

    def _may_reduce(self) -> bool:
        """While there is time to search, reducing gets a share of it."""
        left_s = self.left_s()
        if left_s <= 0:
            return self._after_s() + left_s > LEAST_REDUCE_S
        running_s = sum(time.monotonic() - began_s for began_s in self._reducing.values())
        share = (self._reducing_s + running_s) / (self.plan.num_workers * self.elapsed_s + 1e-9)
        return share < REDUCING_SHARE

    def _after_s(self) -> float:
        """Seconds that are left for the rest when the budget is used."""
        return max(AFTER_S, AFTER_SHARE * (self.plan.limit_s or 0.0))

    def _reduce(self) -> Task | None:
        """The most severe divergence that waits to be reduced."""
        if not self._to_reduce:
            return None
        found = min(self._to_reduce, key=lambda f: (f.severity, f.seen_as))
        self._to_reduce.remove(found)
        self._reducing[found.seen_as] = time.monotonic()
        # Twice as long at the most, for the repetitions before and after, and for the script's run.
        limit_s = min(REDUCE_S, (self.left_s() + self._after_s()) / 3)
        drawn = encode(found.drawn).decode()
        if found.seen_as in self._to_write:
            return Reduce(trial=encode(found.trial).decode(), kind=found.fingerprint,
                          oracle=found.oracle, drawn=drawn, seen_as=found.seen_as, limit_s=limit_s)
        return Reduce(trial=drawn, kind=found.seen_as, oracle=found.oracle, limit_s=limit_s)

    def _round(self, target: str, number: int, size: int) -> Round:
        limit_s = None if self.plan.limit_s is None else min(ROUND_LIMIT_S, self.left_s())
        return Round(
            target=target, templates=self._file_of(target), number=number, seed=self.plan.seed,
            examples=size, limit_s=limit_s, skip=tuple(self.ledger.of(target).skip),
            known=tuple(self.ledger.found), database=self._database(target, number))

    def _database(self, target: str, number: int) -> str:
        """For the first long round of a target in this hunt: no two rounds write into one."""
        folder = self.plan.databases
        if folder is None or number < FIRST_LONG or target in self._with_database:
            return ""
        self._with_database.add(target)
        return str(folder / re.sub(r"[^A-Za-z0-9._-]", "_", target))

    def _file_of(self, target: str) -> str:
        """The target's templates in a file that workers read."""
        if target not in self._files:
            path = self._folder / f"templates-{len(self._files)}.json"
            path.write_bytes(msgspec.json.encode(self.templates[target]))
            self._files[target] = str(path)
        return self._files[target]

    def _take(self, task: Task, message: Message) -> None:
        self._is_begun = True
        if isinstance(message, Found):
            self._take_found(message)
        elif isinstance(task, Round):
            self._take_round(task, message)
        elif isinstance(task, Reduce):
            self._take_reduced(task, message)
        elif task.trial in self._losses:
            self._take_loss(task, message)
        else:
            self._take_replay(task, message)

    def _take_found(self, message: Found) -> None:
        kind = message.found.seen_as
        if not message.is_reduced:
            if kind in self.ledger.found:
                return
            if message.found.wrong:
                self._to_reduce.append(message.found)
        self.ledger.found[kind] = message.found
        self.ledger.gone.pop(kind, None)

    def _take_reduced(self, task: Reduce, message: Message) -> None:
        """A worker that was lost while it reduced leaves the divergence as it was drawn."""
        self._reducing_s += time.monotonic() - self._reducing.pop(task.seen_as or task.kind)
        if isinstance(message, (MadeAgain, Failed)) and not message.error:
            return
        why = message.how if isinstance(message, Died) else getattr(message, "error", "")
        text = f"{task.kind} of {task.oracle} could not be reduced: {why}"
        self.ledger.errors[text] = self.ledger.errors.get(text, 0) + 1

    def _take_round(self, task: Round, message: Message) -> None:
        page = self.ledger.of(task.target)
        if isinstance(message, Done):
            self.ledger.add(task.target, task.number, message)
            return
        page.losses += 1
        if isinstance(message, Failed):
            text = f"{task.target}: {message.error}"
            self.ledger.errors[text] = self.ledger.errors.get(text, 0) + 1
            page.leave_out(message.digest)
        elif isinstance(message, Died) and message.trial:
            trial = decode(message.trial)
            page.leave_out(without_modes(trial))
            place = task.target, place_of_loss(message)
            self._places[place] += 1
            if self._places[place] <= MAX_AT_ONE_PLACE:
                self._lost(task, trial, message)
            else:
                kind = divergence_of_loss(trial, message).fingerprint
                self.ledger.met[kind] = self.ledger.met.get(kind, 0) + 1
        if page.losses >= MAX_LOSSES:
            page.given_up = f"given up after {page.losses} workers were lost or failed"
        elif isinstance(message, Died) and self._places[
                task.target, place_of_loss(message)] >= MAX_AT_ONE_PLACE:
            page.cut += 1  # its next round comes when all others have had theirs
            page.trials += message.trials
            page.add_round(task.number)
        elif self.left_s() > 0:
            self._pending.append(self._round(task.target, task.number, task.examples))

    def _lost(self, task: Round, trial: Trial, died: Died) -> None:
        """A crash or a hang: made again alone, in fresh processes, before it is written up."""
        divergence = divergence_of_loss(trial, died)
        text, kind = encode(trial).decode(), divergence.fingerprint
        self.ledger.met[kind] = self.ledger.met.get(kind, 0) + 1
        met = {loss.divergence.fingerprint for loss in self._losses.values()}
        if kind in self.ledger.found or kind in met:
            return
        times = HANG_REPEATS if died.how == "hang" else CRASH_REPEATS
        if died.how == "hang" and self.left_s() < self.plan.hang_s:
            times = 0
        loss = self._losses[text] = _Loss(trial, task.target, divergence, times)
        loss.wrong = loss.tried = 0
        if not times:
            self._write_up(text)
        for _ in range(times):
            self._to_confirm.append(Again(trial=text, kind=kind, is_fresh=True))

    def _take_loss(self, task: Again, message: Message) -> None:
        loss = self._losses[task.trial]
        self._num_confirming -= 1
        loss.tried += 1
        loss.left -= 1
        loss.wrong += isinstance(message, Died)
        if not loss.left:
            self._write_up(task.trial)

    def _write_up(self, text: str) -> None:
        loss = self._losses[text]
        found = found_of_loss(loss.trial, loss.divergence, loss.target, loss.wrong, loss.tried)
        self.ledger.found[found.seen_as] = found

    def _take_replay(self, task: Again, message: Message) -> None:
        kind = task.kind
        found = self.ledger.found[kind]
        died = isinstance(message, Died)
        wrong = message.wrong if isinstance(message, MadeAgain) else int(died)
        if wrong and (died or found.word not in LOUD):
            self.ledger.still_there.append(kind)
            self.ledger.met[kind] = self.ledger.met.get(kind, 0) + wrong
            self.write_anew((kind,))
        else:
            self.ledger.gone[kind] = self.ledger.found.pop(kind)
