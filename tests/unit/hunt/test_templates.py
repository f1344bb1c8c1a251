"""What can be called, and what ``--ops`` means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdc_guard.errors import UsageError
from sdc_guard.hunt.loading import load_templates
from sdc_guard.hunt.selection import may_match
from sdc_guard.hunt.templates import Template, of_spec
from sdc_guard.ops import lookup

pytestmark = pytest.mark.usefixtures("built_in_catalogue")


def _templates(packet: str, dtype: str = "float32") -> list[Template]:
    spec = lookup(packet)
    assert spec is not None
    return list(of_spec(spec, dtypes=(dtype,)))


def test_a_saved_mean_is_not_free_and_the_incoming_gradient_is() -> None:
    template = _templates("aten.native_layer_norm_backward")[0]
    free = [o.free for o in template.trial.operands()]
    assert free[0]
    assert not all(free)


def test_an_index_is_not_free_and_integer_data_are() -> None:
    assert {o.free for t in _templates("aten.index_select", "int64")
            for o in t.trial.operands()} == {True, False}
    assert all(o.free for t in _templates("aten.add", "int64") if not t.trial.kwargs
               for o in t.trial.operands()
               if o.dtype == "int64")


def test_sums_of_squares_stay_positive() -> None:
    template = _templates("aten._fused_adam")[0]
    assert "not negative" in template.domains.values()
    assert set(template.layouts) == {"contiguous", "offset"}


@pytest.mark.parametrize("pattern", ["aten.sum", "sum", "aten.sum.dim_IntList", "aten.su[m]*"])
def test_ops_take_overloads_packets_and_globs(pattern: str, tmp_path: Path) -> None:
    found = load_templates(tmp_path, ops=(pattern,))
    assert "aten.sum.dim_IntList" in found.by_target
    assert list(found.by_target) == sorted(found.by_target)
    assert all(t.trial.target == target for target, ts in found.by_target.items() for t in ts)


@pytest.mark.parametrize(("glob", "is_meant"), [
    ("aten.su[m]*", True), ("aten.sum.d*", True), ("aten.s*.dim_IntList", True), ("aten.*", True),
    ("aten.mm*", False), ("aten.sum_*", True), ("aten.summ*", False), ("torch.*", False),
])
def test_a_glob_asks_for_the_packets_that_its_beginning_fits(glob: str, is_meant: bool) -> None:
    assert may_match("aten.sum", (glob,)) is is_meant


def test_a_name_that_means_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no_such_operator"):
        load_templates(tmp_path, ops=("sum", "no_such_operator"))


def test_in_place_functions_are_found_by_the_name_without_the_mark(tmp_path: Path) -> None:
    assert torch.ops.aten.relu_.default is not None
    assert load_templates(tmp_path, ops=("relu",)).by_target
