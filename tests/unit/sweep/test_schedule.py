"""Which step comes next, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from sdc_guard.sweep.declared import CORE, GPU, HOST, Company, Oracle, Pace, SweepTest
from sdc_guard.sweep.schedule import (
    MAX_DOUBLINGS,
    MAX_SLICE_S,
    MIN_SLICE_S,
    by_debt,
    slice_s,
    steps,
)
from sdc_guard.sweep.units import Unit

CORES = tuple(Unit(CORE, f"core {n}", n) for n in range(3))
WHOLE = Unit(HOST, "host", 0)
DEVICE = Unit(GPU, "cuda:0", 0)


def declared(name: str, kinds: tuple[str, ...] = (CORE,), **more: Any) -> SweepTest:
    return SweepTest(name=name, family="F1", oracles=(Oracle.EXACT,), kinds=kinds, blames="core",
                     dtypes=(), dwell_s=more.pop("dwell_s", 2.0), proves="-", cannot_prove="-",
                     cases=lambda place: (), **more)


def test_the_host_never_shares_a_step_with_its_cores():
    found = steps([declared("a", (CORE, HOST, GPU))], (*CORES, WHOLE, DEVICE))
    assert [s.units for s in found] == [(*CORES, DEVICE), (WHOLE,)]
    assert [s.name for s in found] == ["a", "a host"]


def test_a_test_without_its_kind_of_unit_is_no_step():
    assert steps([declared("a", (GPU,))], CORES) == []


def test_each_environment_is_a_step():
    variables = ((), (("ONEDNN_MAX_CPU_ISA", "AVX2"),))
    found = steps([declared("a", environments=variables)], CORES)
    assert [s.name for s in found] == ["a", "a ONEDNN_MAX_CPU_ISA=AVX2"]
    assert [s.variables for s in found] == list(variables)


@pytest.mark.parametrize("company", [Company.ALONE, Company.LOADED])
def test_alone_and_loaded_units_come_one_after_the_other(company: Company):
    (step,) = steps([declared("a", company=company)], CORES)
    assert step.batches == tuple((core,) for core in CORES)
    assert step.min_s == pytest.approx(3 * MIN_SLICE_S)


def test_units_together_are_one_batch_as_long_as_a_burst_and_its_pause():
    (step,) = steps([declared("a", pace=Pace(busy_s=1.0, idle_s=4.0))], CORES)
    assert step.batches == (CORES,)
    assert step.min_s == 5.0


def test_what_was_tested_least_of_its_dwell_comes_first_and_equals_keep_their_order():
    tests = [declared("a"), declared("b"), declared("c", dwell_s=20.0)]
    dwelt = {"a": 2.0, "b": 2.0, "c": 2.0}
    found = by_debt(steps(tests, CORES), lambda unit, test: dwelt[test])
    assert [s.test.name for s in found] == ["c", "a", "b"]


def test_a_step_owes_what_the_unit_with_the_least_owes():
    tests = [declared("a"), declared("b")]
    dwelt = {("core 2", "b"): 0.0}
    found = by_debt(steps(tests, CORES), lambda unit, test: dwelt.get((unit, test), 1.0))
    assert [s.test.name for s in found] == ["b", "a"]


def test_a_first_round_fits_into_the_time_and_later_ones_double():
    found = steps([declared("a"), declared("b")], CORES)
    assert slice_s(4.0, found, 0) == pytest.approx(0.8)
    assert slice_s(4.0, found, 1) == pytest.approx(1.6)
    assert slice_s(1e6, found, 0) == MAX_SLICE_S
    assert slice_s(0.01, found, 0) == MIN_SLICE_S
    assert slice_s(4.0, found, 99) == pytest.approx(0.8 * 2**MAX_DOUBLINGS)
