"""The scheduler: budgets parse strictly and hold on average; sites are visited in turn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sdc_guard.errors import UsageError
from sdc_guard.observe import sampling
from sdc_guard.observe.sampling import Scheduler, parse_budget
from sdc_guard.observe.tally import Tally


@pytest.mark.parametrize("budget", ["2%", None, -1, 1.5, True, "ALL", float("nan"), [0.02]])
def test_bad_budgets_are_errors_that_show_the_value(budget: object) -> None:
    with pytest.raises(UsageError, match="budget="):
        parse_budget(budget)


@pytest.mark.parametrize("budget", [0, 0.02, 1, "all"])
def test_good_budgets(budget: object) -> None:
    assert parse_budget(budget) == budget


class _Clock:
    """Simulated time, so that the test measures the rule and not this machine."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


def _simulate(
    budget: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[Scheduler, Counter[str], dict]:
    clock = _Clock()
    monkeypatch.setattr(sampling, "perf_counter", clock.perf_counter)
    scheduler = Scheduler(budget, seed=1)
    scheduler.floor_s = 1e-6
    scheduler.start()
    tallies = {"product": Tally("product"), "sum": Tally("sum", reduction=True)}
    checked: Counter[str] = Counter()
    sites: dict[str, Counter[int]] = {"product": Counter(), "sum": Counter()}
    for call in range(40_000):
        for op, run_s, check_s, num_sites in (("product", 2e-3, 2.5e-3, 7), ("sum", 1e-5, 4e-5, 5)):
            tally = tallies[op]
            tally.calls += 1
            scheduler.num_dispatched += 1
            clock.now_s += run_s + scheduler.floor_s
            site = call % num_sites
            if scheduler.wants(tally) and scheduler.accepts(tally, site, check_s):
                clock.now_s += check_s
                scheduler.charge(tally, check_s)
                checked[op] += 1
                sites[op][site] += 1
        if scheduler.due_for_retune():
            scheduler.retune(tallies.values())
    return scheduler, checked, sites


@pytest.mark.parametrize("budget", [0.005, 0.02, 0.1])
def test_the_average_stays_near_the_budget(budget: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, checked, sites = _simulate(budget, monkeypatch)
    own_s = scheduler.elapsed_s - scheduler.spent_s
    assert 0.5 * budget <= scheduler.spent_s / own_s <= 1.1 * budget
    assert checked["product"] > 0
    for counts in sites.values():
        assert max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize("watch_s", [1e-6, 30e-6])
def test_watching_that_costs_more_than_it_seems_is_paid_from_the_budget(
    watch_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1000 calls a step of 150 ms: at 30 us a call, watching each step would cost 20 %."""
    clock = _Clock()
    monkeypatch.setattr(sampling, "perf_counter", clock.perf_counter)
    noise = np.random.default_rng(5)
    scheduler = Scheduler(0.02, seed=1)
    scheduler.floor_s = 1e-6
    scheduler.start()
    tally = Tally("sum", reduction=True)
    watched, own_s, num_watched = True, 0.0, 0
    for _ in range(4000):
        started_s = clock.now_s
        step_s = 0.15 * float(noise.normal(1.0, 0.03))
        own_s += step_s
        clock.now_s += step_s
        for call in range(1000 if watched else 0):
            tally.calls += 1
            scheduler.num_dispatched += 1
            clock.now_s += watch_s
            if scheduler.wants(tally) and scheduler.accepts(tally, call % 5, 1e-4):
                clock.now_s += 1e-4
                scheduler.charge(tally, 1e-4)
        num_watched += watched
        scheduler.note_step(clock.now_s - started_s, watched)
        if scheduler.due_for_retune():
            scheduler.retune([tally])
        watched = scheduler.draw_duty()
    share = clock.now_s / own_s - 1
    assert 0.5 * 0.02 <= share <= 1.25 * 0.02
    assert num_watched > 40
    if watch_s > 1e-5:
        assert watch_s / 2 < scheduler.floor_s < 2 * watch_s


def test_cheap_reductions_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _, checked, _ = _simulate(0.05, monkeypatch)
    assert checked["sum"] / 40_000 > 0.9
    assert checked["product"] / 40_000 < 0.2


def test_zero_checks_nothing_and_all_checks_everything() -> None:
    tally = Tally("sum")
    assert not Scheduler(0.0, 0).wants(tally)
    everything = Scheduler("all", 0)
    assert everything.wants(tally)
    assert everything.accepts(tally, 0, 1e9)


def test_a_change_of_the_steps_length_makes_no_debt(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 steps of 350 ms, then steps of 3 ms: both are watched as often as their cost allows."""
    clock = _Clock()
    monkeypatch.setattr(sampling, "perf_counter", clock.perf_counter)
    noise = np.random.default_rng(5)
    scheduler = Scheduler(0.02, seed=1)
    scheduler.floor_s = 5e-6
    scheduler.start()
    tally = Tally("mm")
    watched, num_watched = True, 0
    for step in range(6060):
        started_s = clock.now_s
        clock.now_s += (0.35 if step < 60 else 0.003) * float(noise.normal(1.0, 0.05))
        for call in range(40 if watched else 0):
            tally.calls += 1
            scheduler.num_dispatched += 1
            clock.now_s += 1e-5
            if scheduler.wants(tally) and scheduler.accepts(tally, call % 5, 1e-4):
                clock.now_s += 1e-4
                scheduler.charge(tally, 1e-4)
        num_watched += watched and step >= 60
        scheduler.note_step(clock.now_s - started_s, watched)
        if scheduler.due_for_retune():
            scheduler.retune([tally])
        watched = scheduler.draw_duty()
    assert num_watched > 50


def test_sites_that_come_once_do_not_starve_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(sampling, "perf_counter", clock.perf_counter)
    scheduler = Scheduler(0.5, seed=1)
    scheduler.floor_s = 1e-6
    scheduler.start()
    tally = Tally("add")
    checked: Counter[str] = Counter()
    for call in range(5000):
        site = f"once {call}" if call < 2000 else "always"
        tally.calls += 1
        scheduler.num_dispatched += 1
        clock.now_s += 1e-3
        if scheduler.wants(tally) and scheduler.accepts(tally, site, 1e-4):
            clock.now_s += 1e-4
            scheduler.charge(tally, 1e-4)
            checked[site.split()[0]] += 1
        if scheduler.due_for_retune():
            scheduler.retune([tally])
    assert checked["always"] > 1000


def test_early_visits_meet_their_reference_whatever_references_have_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Visit v with probability 4 / v, once the share of the time is spent."""
    clock = _Clock()
    monkeypatch.setattr(sampling, "perf_counter", clock.perf_counter)
    scheduler, tally = Scheduler("all", seed=1), Tally("product")
    scheduler.start()
    clock.now_s, scheduler.reference_s = 1.0, 1.0
    assert all(scheduler.wants_reference(tally, v - 1, v) for v in range(1, 5))
    met = sum(scheduler.wants_reference(tally, 4, 1000) for _ in range(10_000))
    assert 10 <= met <= 90  # 40 expected
    scheduler.reference_s = 0.0
    assert all(scheduler.wants_reference(tally, 4, 1000) for _ in range(100))


def test_compiling_is_told_and_not_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(sampling, "perf_counter", clock.perf_counter)
    scheduler, tally = Scheduler(0.01, seed=1), Tally("product")
    scheduler.start()
    scheduler.excuse(3.0)
    scheduler.charge(tally, 3.001)
    clock.now_s = 4.001
    assert scheduler.check_s == pytest.approx(0.001, rel=1e-6)
    assert tally.cost_s < 1e-3
    assert scheduler.excused_s == 3.0
    assert scheduler.wants(tally), "a second of compiling must not silence a small budget"
    scheduler.charge(tally, 3.0)
    clock.now_s += 3.0
    assert not scheduler.wants(tally), "what was not excused is charged"


def test_the_devices_time_is_charged_when_it_is_known() -> None:
    scheduler, tally = Scheduler(0.01, seed=1), Tally("product")
    for _ in range(200):
        scheduler.charge(tally, 1e-4)
        scheduler.charge_device(tally, 5e-4)
    assert scheduler.check_s == pytest.approx(200 * 6e-4, rel=1e-6)
    assert tally.cost_s == pytest.approx(6e-4, rel=0.01)
