"""Coverage of several guards is added up, field by field, none left out."""

from __future__ import annotations

from typing import Any

import msgspec

from sdc_guard.pytest_plugin.totals import Totals
from sdc_guard.records import Coverage
from tests.made_reports import made_coverage


def doubled(value: Any) -> Any:
    """Every number twice; sets of words as they are."""
    if isinstance(value, dict):
        return {key: doubled(item) for key, item in value.items()}
    return 2 * value if isinstance(value, (int, float)) else value


def full() -> Coverage:
    """A coverage in which no field has its default."""
    numbers = {field.name: 3 for field in msgspec.structs.fields(Coverage) if field.type is int}
    assert {"steps", "steps_skipped", "guard_errors"} <= set(numbers)
    ops = tuple(sorted(made_coverage().ops, key=lambda op: op.op))
    return made_coverage(
        ops=ops, dead_witnesses=("sample",), refused_relations=("mm: roll",), **numbers)


def test_every_field_is_added_up() -> None:
    totals = Totals()
    totals.add(full())
    assert totals.coverage() == full()
    totals.add(full())
    given, found = msgspec.to_builtins(full()), msgspec.to_builtins(totals.coverage())
    ops = [doubled(op) for op in given.pop("ops")]
    assert ops
    assert list(found.pop("ops")) == ops
    assert found == doubled(given)


def test_operators_of_different_tests_stand_side_by_side() -> None:
    (first, second, *_) = full().ops
    totals = Totals()
    totals.add(made_coverage(ops=(second,)))
    totals.add(made_coverage(ops=(first, second)))
    by_name = {op.op: op for op in totals.coverage().ops}
    assert by_name[first.op] == first
    assert by_name[second.op].calls == 2 * second.calls


def test_failures_around_the_guards_count_too() -> None:
    totals = Totals()
    totals.add_errors(2)
    assert totals.coverage().guard_errors == 2
