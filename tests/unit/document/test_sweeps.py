"""Several sweeps are one: nothing is counted twice, a missed canary is not forgotten."""

from __future__ import annotations

import msgspec

from sdc_guard.document.schema import SensorSample, Sweep, SweptUnit
from sdc_guard.document.sweeps import joined
from tests.made_reports import sweep_report


def test_none_of_none_and_one_of_one() -> None:
    assert joined([]) is None
    one = Sweep(seed=3)
    assert joined([one]) is one


def test_units_and_tests_stand_once_and_work_is_added() -> None:
    one = sweep_report().sweep
    assert one is not None
    other = msgspec.structs.replace(
        one, units=(SweptUnit(id="node-8, core 0", kind="core", name="core 0"),), cursor="later",
        is_partial=True, canaries={"exact_product": "missed"},
        samples=(SensorSample(time_s=0.0, unit="node-8, core 0", readings={"a": 1.0}),))
    both = joined([one, other])
    assert both is not None
    assert [u.id for u in both.units][-1] == "node-8, core 0"
    assert len(both.units) == len(one.units) + 1
    assert both.tests == one.tests
    assert both.digests == one.digests
    assert len(both.samples) == len(one.samples) + 1
    assert (both.checks, both.budget_s) == (2 * one.checks, 2 * one.budget_s)
    assert (both.is_partial, both.cursor) == (True, "")
    assert both.canaries["exact_product"] == "missed"
    assert both.canaries["memory_patterns"] == "caught"


def test_a_canarys_later_word_is_no_pass() -> None:
    words = [{"t": "caught"}, {"t": "half"}, {"t": "caught"}]
    both = joined([Sweep(canaries=w) for w in words])
    assert both is not None
    assert both.canaries == {"t": "half"}
