"""Each rival catches what it claims, and misses what its description implies."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from sdc_guard.bench.sweep.faults import Dwell, Fault
from sdc_guard.bench.sweep.kinds import KINDS, Kind, When
from sdc_guard.bench.sweep.rivals.base import Rival
from sdc_guard.bench.sweep.rivals.imbue import Imbue
from sdc_guard.bench.sweep.rivals.one_forward import OneForward
from sdc_guard.bench.sweep.rivals.self_compare import Dcgm, GpuBurn
from sdc_guard.bench.sweep.rivals.superbench import SuperBench
from sdc_guard.bench.sweep.rivals.table import RIVALS

ENDLESS = Dwell(10**9, 10**12)
NUM = 10


@cache
def ready(rival: type[Rival]) -> Rival:
    return rival(0)


def found(rival: Rival, kind: str) -> int:
    """How many of the faults it finds that change anything."""
    return sum(
        rival.finds(Fault(KINDS[kind], n, seed=1, where=rival.name, dwell=ENDLESS))
        for n in range(NUM))


CATCHES = [
    (GpuBurn, "bit: exponent, now and then"),
    (GpuBurn, "bit: sign, now and then"),
    (GpuBurn, "after some runs"),
    (Dcgm, "NaN, now and then"),
    (Dcgm, "NaN, always"),
    (Dcgm, "bit: sign, now and then"),
    (SuperBench, "bit: sign, always"),
    (SuperBench, "Inf, always"),
    (SuperBench, "-0.0, always"),
    (Imbue, "NaN, always"),
    (Imbue, "bit: low mantissa, always"),
    (Imbue, "bit: exponent, now and then"),
    (OneForward, "bit: exponent, always"),
    (OneForward, "NaN, always"),
]
MISSES = [
    (GpuBurn, "bit: sign, always"),  # copy 0 is wrong alike
    (GpuBurn, "NaN, now and then"),
    (GpuBurn, "NaN, always"),
    (Dcgm, "bit: sign, always"),
    (SuperBench, "1 ulp, always"),  # 0.4 % are forgiven
    (SuperBench, "bit: low mantissa, always"),
    (SuperBench, "NaN, always"),
    (Imbue, "wrong offset, always"),  # every element is the same
]


@pytest.mark.parametrize(("rival", "kind"), CATCHES)
def test_a_rival_catches_what_it_claims(rival: type[Rival], kind: str) -> None:
    assert found(ready(rival), kind) == NUM


@pytest.mark.parametrize(("rival", "kind"), MISSES)
def test_a_rival_misses_what_its_description_implies(rival: type[Rival], kind: str) -> None:
    assert found(ready(rival), kind) == 0


def test_one_pass_is_over_before_a_rare_fault_comes() -> None:
    rival = OneForward(0)
    dwell = rival.dwell(120.0)
    assert dwell == rival.dwell(1.0)
    below = [Fault(KINDS["per run 1e-05"], n, seed=1, where="", dwell=dwell).is_below_dwell
             for n in range(NUM)]
    assert all(below)


@pytest.mark.parametrize("rival", RIVALS)
def test_no_rival_alarms_without_a_fault(rival: type[Rival]) -> None:
    idle = Kind(name="idle", change=lambda target, random: None, when=When.ALWAYS)
    never = Fault(idle, 0, seed=1, where="", dwell=ENDLESS)
    assert not ready(rival).finds(never)
    assert never.num_changed == 0


@pytest.mark.parametrize("rival", RIVALS)
def test_a_longer_time_holds_more_runs(rival: type[Rival]) -> None:
    short, long = ready(rival).dwell(0.1), ready(rival).dwell(100.0)
    assert 1 <= short.runs <= long.runs
    assert np.isfinite(long.checks)
