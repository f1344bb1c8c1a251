"""Which calls to look at so that the measured overhead stays near the budget.

Under a budget b (a share of the user's own run time) each op is let pass for a random,
geometrically distributed number of calls, drawn from the guard's own generator; then it is *armed*
and
the next call at one of its least visited sites is checked, so that every site is visited in turn.
Rates follow from measured costs: reductions first, the cheapest first, up to ``REDUCTION_SHARE`` of
what is available; the other ops share the rest equally.  A ledger of time spent and allowed holds
the average.  Where watching alone, without any check, costs more than half of the budget, whole
steps are left out at random (``duty``), as they are while the ledger is in debt.  What watching
costs is measured: by how much watched steps take longer than the others, checks taken off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from statistics import median
from time import perf_counter

import numpy as np

from sdc_guard.errors import UsageError
from sdc_guard.observe.tally import Tally

Budget = float | str
REDUCTION_SHARE = 0.7
RETUNE_EVERY_S = 0.25
SLACK_S = 0.05
REFERENCE_SHARE = 0.02
"""With ``budget="all"``, references may take this share of the run time, early visits aside."""
EARLY_VISITS = 4
"""With ``budget="all"``, visit v of a site meets its reference with probability 4 / v at least:
about 4 (1 + ln(v / 4)) of v visits.  A kernel that is wrong for some data only is met by its
references alone, calls of one shape from several places share a site, and a run learns most at its
beginning."""
MIN_RATE = 1e-4
MAX_SITES = 4096
NUM_STEPS_COMPARED = 48
"""Last steps, watched and not, from which the cost of watching is taken."""
NEAR_STEPS = 3
"""A watched step is compared with the others at most so many steps away: batch and sequence length
change in the course of a run."""
MIN_STEPS_COMPARED = 5
DEAREST_CALL = 40
"""A watched call costs at most so many times what one that does nothing was measured to cost."""
LEARNING_DUTY = 0.75
"""Share of the steps that are watched until enough of either kind are known."""


def parse_budget(budget: object) -> Budget:
    """A share of run time in [0, 1], or ``"all"``.

    Raises:
        UsageError: for anything else, with the value and what is possible.
    """
    if budget == "all" and isinstance(budget, str):
        return "all"
    if isinstance(budget, (int, float)) and not isinstance(budget, bool) and 0 <= budget <= 1:
        return float(budget)
    raise UsageError(
        f'budget={budget!r}: give a share of run time from 0 to 1 (0.02 means 2 %), or "all"'
    )


class Scheduler:
    """Decides call by call.  ``spent_s`` is the time that the guard took so far."""

    def __init__(self, budget: Budget, seed: int) -> None:
        self.budget = budget
        self.generator = np.random.default_rng([seed, 0x5DC])
        self.floor_s = 1e-5
        self._floor_is_measured = False
        self.num_dispatched = 0
        self.check_s = 0.0
        self.reference_s = 0.0
        self.excused_s = 0.0
        self._to_excuse_s = 0.0
        self.duty = 1.0
        self._started_s = perf_counter()
        self._least_floor_s = 0.0
        self._steps: deque[tuple[float, int]] = deque(maxlen=NUM_STEPS_COMPARED)
        self._watch_s = 0.0
        self._num_priced = 0
        self._at_step = (0, 0.0)
        self._steps_since_retune = [0, 0]
        self._active_s = 0.0
        self._retuned_s = self._started_s
        self._dispatched_at_retune = 0
        self._running = False

    def measure_floor(self, measure_s: Callable[[], float]) -> None:
        """Measure, once, what a call costs that is let through."""
        if not self._floor_is_measured:
            self.floor_s = measure_s()
            self._floor_is_measured = True

    def start(self) -> None:
        if not self._running:
            self._running = True
            self._started_s = self._retuned_s = perf_counter()

    def stop(self) -> None:
        if self._running:
            self._running = False
            self._active_s += perf_counter() - self._started_s

    @property
    def elapsed_s(self) -> float:
        running = perf_counter() - self._started_s if self._running else 0.0
        return self._active_s + running

    @property
    def spent_s(self) -> float:
        unpriced = self.num_dispatched - self._num_priced
        return self.check_s + self._watch_s + unpriced * self.floor_s

    def _allowed_s(self) -> float:
        assert isinstance(self.budget, float)
        own_s = self.elapsed_s - self.spent_s - self.excused_s
        return self.budget * (max(own_s, 0.0) + SLACK_S)

    def note_step(self, step_s: float, watched: bool) -> None:
        """Learn what watching a call costs from a step's duration.

        The time by which watched steps take longer than their neighbours, checks taken off, over
        the calls in them, as a median; what a call that does nothing was measured to cost is the
        least that is believed.  Calls keep the price of their time.
        """
        dispatched = self.num_dispatched - self._at_step[0]
        aside_s = self.check_s + self.excused_s
        check_s = aside_s - self._at_step[1]
        self._at_step = (self.num_dispatched, aside_s)
        self._steps_since_retune[watched] += 1
        self._watch_s += (self.num_dispatched - self._num_priced) * self.floor_s
        self._num_priced = self.num_dispatched
        self._steps.append((step_s - check_s, dispatched if watched else 0))
        self._least_floor_s = self._least_floor_s or self.floor_s
        prices_s = self._prices_s()
        if len(prices_s) >= MIN_STEPS_COMPARED:
            self.floor_s = min(max(median(prices_s), self._least_floor_s),
                               DEAREST_CALL * self._least_floor_s)

    def _prices_s(self) -> list[float]:
        """Seconds per call of the watched steps that have an unwatched one near them."""
        steps = list(self._steps)
        found = []
        for i, (own_s, dispatched) in enumerate(steps):
            if not dispatched:
                continue
            near_s = [s for s, n in steps[max(0, i - NEAR_STEPS): i + NEAR_STEPS + 1] if not n]
            if near_s:
                found.append((own_s - median(near_s)) / dispatched)
        return found

    def _is_learning(self) -> bool:
        return len(self._prices_s()) < MIN_STEPS_COMPARED

    def wants(self, tally: Tally) -> bool:
        """Cheap first question: is this op due?"""
        if self.budget == "all":
            return True
        if self.budget == 0.0:
            return False
        if tally.countdown > 0:
            tally.countdown -= 1
            return False
        return self.spent_s <= self._allowed_s()

    def accepts(self, tally: Tally, site: Hashable, cost_s: float) -> bool:
        """Second question, once the site is known: is it this site's turn, and is there time?

        A call that is refused because another site comes first leaves the op armed; after two
        rounds without a due site any site will do.
        """
        if self.budget == "all":
            return True
        if len(tally.site_visits) >= MAX_SITES:
            tally.site_visits.clear()
        visits, sightings = tally.site_visits.get(site, (0, 0))
        tally.site_visits[site] = (visits, sightings + 1)
        # A site that came once may never come again: nobody waits for it.
        least = min((v for v, seen in tally.site_visits.values() if seen > 1), default=0)
        tally.armed_for += 1
        if visits > least and tally.armed_for < 2 * len(tally.site_visits):
            return False
        grace_s = cost_s if visits == 0 and tally.reduction else 0.0
        if self.spent_s + cost_s > self._allowed_s() + grace_s:
            return False
        tally.armed_for = 0
        tally.site_visits[site] = (visits + 1, sightings + 1)
        rate = max(tally.rate, MIN_RATE)
        tally.countdown = 0 if rate >= 1.0 else int(self.generator.geometric(rate)) - 1
        return True

    def wants_reference(self, tally: Tally, referenced: int, visits: int) -> bool:
        """The first visit of a site, which is its ``visits``-th, every checked reduction under a
        budget, and a share of the rest."""
        if referenced == 0:
            return True
        if self.budget == "all":
            return (self.generator.random() * visits < EARLY_VISITS
                    or self.reference_s < REFERENCE_SHARE * self.elapsed_s)
        return tally.reduction or bool(self.generator.random() < 0.25)

    def excuse(self, seconds: float) -> None:
        """Time of the check at hand that no later one will take: compiling kernels.  It is told
        (``excused_s``) and not charged, or a small budget would check nothing for minutes."""
        self.excused_s += seconds
        self._to_excuse_s += seconds

    def charge(self, tally: Tally, seconds: float) -> None:
        seconds = max(seconds - self._to_excuse_s, 0.0)
        self._to_excuse_s = 0.0
        self.check_s += seconds
        tally.cost_s += 0.2 * (seconds - tally.cost_s)

    def charge_device(self, tally: Tally, seconds: float) -> None:
        """Time of a check that the device took after the host had gone on."""
        self.check_s += seconds
        tally.cost_s += 0.2 * seconds

    def draw_duty(self) -> bool:
        """Whether to watch the next step at all.  With ``budget=0`` none but the first, which tells
        what there is to check."""
        if self.budget == "all":
            return True
        if self.budget == 0.0 or self.spent_s > self._allowed_s():
            return False
        duty = min(self.duty, LEARNING_DUTY) if self._is_learning() else self.duty
        return duty >= 1.0 or bool(self.generator.random() < duty)

    def draw_inside(self, step_s: float, inside_s: float) -> bool:
        """Whether to watch the ops of an optimizer step.  Under a budget, in a share of the steps
        that costs at most a third of it; the first step measures the cost, ``inside_s``."""
        if self.budget == "all" or self.budget == 0.0 or not inside_s:
            return self.budget != 0.0
        assert isinstance(self.budget, float)
        return bool(self.generator.random() < self.budget * step_s / (3 * inside_s))

    def due_for_retune(self) -> bool:
        return (
            isinstance(self.budget, float)
            and self.budget > 0.0
            and self.num_dispatched > self._dispatched_at_retune
            and perf_counter() - self._retuned_s > RETUNE_EVERY_S
        )

    def retune(self, tallies: Iterable[Tally]) -> None:
        """Set the rates from what was measured since the last time."""
        unwatched, watched = self._steps_since_retune
        self._steps_since_retune = [0, 0]
        watched_share = watched / (watched + unwatched) if unwatched else 1.0
        now_s = perf_counter()
        period_s = max((now_s - self._retuned_s) * max(watched_share, 1e-3), 1e-6)
        self._retuned_s = now_s
        dispatched = self.num_dispatched - self._dispatched_at_retune
        self._dispatched_at_retune = self.num_dispatched
        assert isinstance(self.budget, float)
        floor = dispatched * self.floor_s / period_s
        self.duty = min(1.0, 0.5 * self.budget / floor) if floor > 0.5 * self.budget else 1.0
        left = max(self.budget / self.duty - floor, 0.0)
        demands = []
        for tally in tallies:
            calls = tally.calls - tally.calls_at_retune
            tally.calls_at_retune = tally.calls
            if calls:
                demands.append((tally, calls / period_s * tally.cost_s))
        cap = REDUCTION_SHARE * left
        for tally, demand in sorted((d for d in demands if d[0].reduction), key=lambda d: d[1]):
            tally.rate = min(1.0, max(cap, 0.0) / demand) if demand > 0 else 1.0
            cap -= tally.rate * demand
            left -= tally.rate * demand
        others = sorted((d for d in demands if not d[0].reduction), key=lambda d: d[1])
        for i, (tally, demand) in enumerate(others):
            share = max(left, 0.0) / (len(others) - i)
            tally.rate = min(1.0, share / demand) if demand > 0 else 1.0
            left -= tally.rate * demand
