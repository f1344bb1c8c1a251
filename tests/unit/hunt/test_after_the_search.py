"""What a hunt may still do when its time is used, and what a lost trial is left out by."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sdc_guard.hunt.hunting import AFTER_S, Hunt, Plan
from sdc_guard.hunt.ledger import Ledger
from sdc_guard.hunt.losses import MAX_AT_ONE_PLACE, place_of_loss, without_modes
from sdc_guard.hunt.messages import Died, Options, Reduce, Round
from sdc_guard.hunt.trial import Modes, encode
from tests.unit.hunt.made_hunt import SUM, made_found, made_trial


def _hunt(folder: Path, limit_s: float = 300.0) -> Hunt:
    return Hunt(Plan(limit_s=limit_s, options=Options()), {SUM: ()}, Ledger(), folder)


def _later(hunt: Hunt, seconds: float) -> Hunt:
    hunt._began_s -= seconds
    return hunt


@pytest.mark.parametrize(("limit_s", "after_s"), [(300.0, 100.0), (6.0, AFTER_S)])
def test_reducing_ends_a_third_of_the_budget_after_it(
    tmp_path: Path, limit_s: float, after_s: float
) -> None:
    hunt = _later(_hunt(tmp_path, limit_s), limit_s + after_s / 2)
    hunt._to_reduce = [made_found(), made_found("precision")]
    task = hunt._next()
    assert isinstance(task, Reduce)
    assert 0 < task.limit_s <= after_s / 6
    _later(hunt, after_s / 2)
    assert hunt._next() is None
    assert hunt.num_to_reduce == 2, "what is not reduced is told"


def _die(hunt: Hunt, number: int, modes: Modes) -> None:
    trial = msgspec.structs.replace(made_trial(value=number), modes=modes)
    task = Round(target=SUM, templates="", number=number, seed=0, examples=10)
    hunt._take(task, Died(how="SIGSEGV", trial=encode(trial).decode(), tail="here", trials=4))


def test_a_target_that_dies_twice_at_one_place_waits_for_its_next_round(tmp_path: Path) -> None:
    hunt = _hunt(tmp_path)
    for number in range(MAX_AT_ONE_PLACE + 1):
        _die(hunt, number, Modes(threads=number + 1))
    page = hunt.ledger.of(SUM)
    assert [page.is_done(n) for n in range(3)] == [False, True, True]
    assert (page.losses, page.trials) == (3, 8)
    assert len(hunt._losses) <= MAX_AT_ONE_PLACE
    assert sum(hunt.ledger.met.values()) == 3


def test_a_lost_trial_is_the_same_one_in_other_modes() -> None:
    trial = made_trial()
    other = msgspec.structs.replace(trial, modes=Modes(threads=2, mkldnn=False))
    assert without_modes(trial) == without_modes(other) == trial.digest
    assert place_of_loss(Died(how="SIGSEGV", tail="a")) != place_of_loss(Died(how="hang"))


def test_the_budget_begins_with_the_first_trial_not_with_the_start_of_workers(
    tmp_path: Path,
) -> None:
    hunt = _later(_hunt(tmp_path), 60.0)
    hunt._ticked()
    assert hunt.left_s() > 299.0
    hunt.crew._num_trials = 1
    _later(hunt, 60.0)._ticked()
    assert hunt.left_s() < 241.0
