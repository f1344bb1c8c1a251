"""The cause: votes of the identical call on other cores."""

from __future__ import annotations

import os

import pytest
import torch

from sdc_guard.attribute import places
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.records import Cause, Vote

CALL = BoundCall(form_of(torch.ops.aten.neg.default), (torch.arange(4.0),))


def _votes(**wrong_of_three: int) -> list[Vote]:
    return [
        Vote(
            place=p, method="identical call", identical=True, result="held" if i < n else "expected"
        )
        for p, n in wrong_of_three.items()
        for i in range(3)
    ]


@pytest.mark.parametrize(
    ("votes", "cause"),
    [
        (_votes(core0=3, core1=3), Cause.SOFTWARE),
        (_votes(core0=3, core1=0), Cause.PERSISTENT_HARDWARE),
        (_votes(core0=3), Cause.UNKNOWN),
        (_votes(core0=2, core1=0), Cause.UNKNOWN),
        ([], Cause.UNKNOWN),
    ],
)
def test_the_table_of_causes(votes: list[Vote], cause: Cause) -> None:
    assert places._decide(votes)[0] is cause


def test_a_result_that_comes_out_everywhere_is_software() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        assert places.find_cause(CALL, CALL.run(), 0, True, [], "").cause is Cause.UNKNOWN
        return
    before = os.sched_getaffinity(0)
    attribution = places.find_cause(CALL, CALL.run(), 0, True, [], "reason")
    assert attribution.cause is Cause.SOFTWARE
    assert all(v.identical for v in attribution.votes)
    assert os.sched_getaffinity(0) == before


def test_a_result_that_does_not_come_out_again_is_transient() -> None:
    assert places.find_cause(CALL, CALL.run(), 0, False, [], "").cause is Cause.TRANSIENT


def test_a_core_that_computes_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        assert places._decide(_votes(core0=3))[0] is Cause.UNKNOWN
        return
    wrong = (torch.tensor([9.0, 9.0, 9.0, 9.0]),)

    class Faulty(BoundCall):
        def run_identical(self) -> tuple[torch.Tensor, ...]:
            return wrong if os.sched_getaffinity(0) == {cores[1]} else super().run()

    call = Faulty(CALL.form, CALL.args)
    attribution = places.find_cause(call, wrong, 0, True, [], "")
    assert attribution.cause is Cause.PERSISTENT_HARDWARE
    assert attribution.place == f"core {cores[1]}"
