"""The comparison of ``make test-third-party`` sees a difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.made_reports import made_report
from tests.third_party.run import Outcome, differences, is_good, row_of

ALONE = Outcome(0, "out", "abc", {"losses": [0.5]}, ["results.json"], "")


@pytest.mark.parametrize(
    ("change", "name"),
    [({"model": "abd"}, "model"), ({"numbers": {"losses": [0.25]}}, "numbers"),
     ({"exit_code": 86}, "exit_code"), ({"output": ""}, "output"), ({"files": []}, "files")],
)
def test_what_differs_is_named_and_fails(change: dict, name: str) -> None:
    guarded = replace(ALONE, **change)
    assert differences(ALONE, guarded) == [name]
    assert differences(ALONE, replace(ALONE, errors="told")) == []
    row = {**row_of("m", "all", ALONE, guarded, made_report()), "findings": 0, "guard_errors": 0}
    assert not is_good([row], True)
    assert is_good([{**row, "differs": []}], True)
    assert not is_good([{**row, "differs": []}], False)
    assert not is_good([{**row, "differs": [], "findings": 1}], True)
    assert not is_good([{**row, "differs": [], "checked": 0}], True)
