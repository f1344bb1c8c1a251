"""Under a guard: every configuration of a tuned kernel, and launches that nobody decorated."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import sdc_guard
from sdc_guard import Cause, Verdict
from sdc_guard.observe import launches
from sdc_guard.ops import _registry
from sdc_guard_kernels.autotuned import autotuners, configurations, forced
from tests.kernels import user_kernels

X = torch.arange(1.0, 51.0)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone afterwards."""
    _registry.discover()
    for name in ("_SPECS", "_OWNERS"):
        monkeypatch.setattr(_registry, name, dict(getattr(_registry, name)))
    monkeypatch.setattr(launches, "_checked_launchers", set())


def test_a_configuration_that_is_not_in_use_is_found_wrong() -> None:
    op = sdc_guard.checked(
        reference=lambda x: 2.0 * x, operands=("n",), outputs=("n",),
        name="test_variants::doubled_wrongly")(user_kernels.doubled_wrongly)
    (tuner,) = autotuners(user_kernels.doubled_wrongly)
    in_use = configurations(tuner)[0][1]  # blocks of 16; those of 32 are wrong
    with sdc_guard.Guard(budget="all") as guard, forced(tuner, in_use):
        results = [op(X) for _ in range(3)]
    assert all(torch.equal(r, 2 * X) for r in results)
    (finding,) = guard.findings
    assert finding.verdict is Verdict.CORRUPTION
    one_core = len(os.sched_getaffinity(0)) == 1  # which tells no cause
    assert finding.attribution.cause is (Cause.UNKNOWN if one_core else Cause.SOFTWARE)
    assert "BLOCK: 32" in finding.op
    assert finding.worst is not None
    assert finding.worst.index == (49,)
    (covered,) = [row for row in guard.coverage.ops if "doubled_wrongly" in row.op]
    assert covered.witnesses["variant"] == 3  # once at this site, for each configuration
    assert guard.coverage.guard_errors == 0


def test_a_bare_launch_is_listed_and_a_checked_one_is_not() -> None:
    op = sdc_guard.checked(
        reference=lambda x: x + 1.0, operands=("n",), outputs=("n",),
        name="test_variants::plus_one")(user_kernels.plus_one)
    with sdc_guard.Guard(budget="all") as guard:
        op(X)
        user_kernels.plus_one_again(X)
    (bare,) = [row for row in guard.coverage.ops if row.op.startswith("triton kernel")]
    assert (bare.op, bare.calls, bare.calls_checked) == ("triton kernel bare_kernel", 1, 0)
    assert any("1 launches of Triton kernels are not tested" in gap for gap in guard.coverage.gaps)
    assert not guard.findings


def test_after_the_guard_nobody_listens() -> None:
    with sdc_guard.Guard(budget="all") as guard:
        pass
    user_kernels.plus_one_again(X)
    assert not [row for row in guard.coverage.ops if row.op.startswith("triton kernel")]
