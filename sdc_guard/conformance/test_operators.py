"""One test for each operator and dtype."""

from __future__ import annotations

import pytest

from sdc_guard.conformance.cases import Asked, Case
from sdc_guard.conformance.examining import examined, told

NOT_TESTED, NOTED = "sdc_not_tested", "sdc_noted"


def test_operator(
    sdc_case: Case, sdc_asked: Asked, request: pytest.FixtureRequest
) -> None:
    """Every call keeps what its operator promises."""
    outcome = examined(sdc_case, sdc_asked)
    properties = request.node.user_properties
    properties += [(NOT_TESTED, f"{reason} ({count})")
                   for reason, count in sorted(outcome.not_tested.items())]
    properties += [(NOTED, f"{sdc_case.id}: {one.message}")
                   for one in outcome.notes]
    if outcome.failures:
        pytest.fail(told(outcome.failures), pytrace=False)
    if not outcome.judged.total():
        pytest.skip("nothing was judged: " + ("; ".join(outcome.not_tested) or "no call was made"))
