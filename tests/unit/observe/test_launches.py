"""Triton launches that nobody decorated are counted, and Triton is left as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.meta.tree import ROOT

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import triton

import sdc_guard
from sdc_guard.observe import launches as observed
from sdc_guard.observe.launches import REASON, LaunchCounts
from sdc_guard.ops import _registry
from sdc_guard_kernels import launches
from sdc_guard_kernels.reductions import reduce_sums
from tests.kernels import user_kernels

X = torch.ones(40)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone afterwards."""
    _registry.discover()
    for name in ("_SPECS", "_OWNERS"):
        monkeypatch.setattr(_registry, name, dict(getattr(_registry, name)))
    monkeypatch.setattr(observed, "_checked_launchers", set())


@pytest.fixture
def counts() -> Iterator[LaunchCounts]:
    counts = LaunchCounts()
    counts.open()
    yield counts
    counts.close()


def hooks() -> list[Any]:
    """All that listening changes in Triton."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    executor = interpreter.GridExecutor.__call__ if interpreter is not None else None
    return [executor, list(triton.knobs.runtime.launch_enter_hook.calls)]


def test_a_bare_launch_is_counted_as_not_tested(counts: LaunchCounts) -> None:
    user_kernels.plus_one(X)
    user_kernels.plus_one(X)
    assert dict(counts.counts) == {"bare_kernel": 2}
    (row,) = counts.coverage()
    assert (row.op, row.calls, row.calls_checked) == ("triton kernel bare_kernel", 2, 0)
    assert row.not_tested == {REASON: 2}
    (gap,) = counts.gaps()
    assert gap.startswith("2 launches of Triton kernels are not tested: bare_kernel (2); decorate")


def test_nothing_is_said_where_nothing_was_launched(counts: LaunchCounts) -> None:
    assert counts.gaps() == set()
    assert counts.coverage() == ()


def test_a_checked_launcher_s_launches_are_its_own(counts: LaunchCounts) -> None:
    op = sdc_guard.checked(reference=lambda x: x + 1, operands=("n",), outputs=("n",),
                           name="test_launches::plus_one")(user_kernels.plus_one)
    with sdc_guard.Guard(budget="all") as guard:
        op(X)
    assert guard.coverage.calls_checked == 1
    assert not counts.counts


def test_a_custom_operator_that_is_decorated_later_counts_as_checked(counts: LaunchCounts) -> None:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return user_kernels.plus_one_again(x)

    custom = torch.library.custom_op("test_launches::inner", inner, mutates_args=())
    custom(X)
    assert counts.counts == {"bare_kernel": 1}
    sdc_guard.checked(reference=lambda x: x + 1, operands=("n",))(custom)
    custom(X)
    assert counts.counts == {"bare_kernel": 1}


def test_our_own_kernels_and_the_guard_s_repeats_are_not_counted(counts: LaunchCounts) -> None:
    reduce_sums(X)
    assert not counts.counts
    code = compile("run()", "relations.py", "exec")

    def launch_from(module: str) -> None:
        exec(code, {"__name__": module, "run": lambda: user_kernels.plus_one_again(X)})

    for module in ("sdc_guard.check.relations", "sdc_guard.attribute.arbitrate",
                   "torch._inductor.runtime.benchmarking", "triton.testing"):
        launch_from(module)
    assert not counts.counts
    launch_from("sdc_guard.observe.mode")  # an operator that is watched, not repeated
    assert counts.counts == {"bare_kernel": 1}


def test_inductor_s_own_kernels_are_counted_elsewhere(counts: LaunchCounts) -> None:
    def launch_from(module: str, kernel: str) -> None:
        exec("tell(kernel)", {"__name__": module, "tell": launches._tell, "kernel": kernel})

    launch_from("torch._inductor.runtime.triton_heuristics", "triton_poi_fused_add_0")
    assert not counts.counts
    launch_from("torch._inductor.runtime.triton_heuristics", "the_users_kernel_0")
    launch_from("the_users_module", "triton_of_mine")
    assert counts.counts == {"the_users_kernel_0": 1, "triton_of_mine": 1}


def test_other_threads_are_counted(counts: LaunchCounts) -> None:
    thread = threading.Thread(target=lambda: user_kernels.plus_one_again(X))
    thread.start()
    thread.join()
    assert counts.counts == {"bare_kernel": 1}


def test_the_device_s_hook_gets_the_kernel_s_name(counts: LaunchCounts) -> None:
    """Called as Triton's launcher calls it, with a lazy dictionary."""
    from triton.compiler.compiler import LazyDict

    triton.knobs.runtime.launch_enter_hook(LazyDict({"name": "on_device", "stream": 0}))
    triton.knobs.runtime.launch_enter_hook(None)
    assert counts.counts == {"on_device": 1, "kernel": 1}


def test_closing_leaves_nothing_behind() -> None:
    before = hooks()
    first, second = LaunchCounts(), LaunchCounts()
    first.open()
    first.open()
    second.open()
    assert hooks() != before
    first.close()
    first.close()
    user_kernels.plus_one_again(X)
    assert not first.counts
    assert second.counts == {"bare_kernel": 1}
    second.close()
    assert hooks() == before
    assert launches._listeners == []
    user_kernels.plus_one_again(X)
    assert second.counts == {"bare_kernel": 1}


def test_more_kernels_than_a_line_holds() -> None:
    counts = LaunchCounts()
    counts.counts.update({f"k{i}": 10 - i for i in range(5)})
    (gap,) = counts.gaps()
    assert "40 launches" in gap
    assert "k0 (10), k1 (9), k2 (8) and 2 more" in gap


def test_triton_is_not_imported_for_it() -> None:
    code = """
import sys
from sdc_guard.observe.launches import LaunchCounts
counts = LaunchCounts()
counts.open()
counts.close()
assert counts.coverage() == () and counts.gaps() == set()
assert not [m for m in sys.modules if m.split(".")[0] in ("triton", "sdc_guard_kernels")]
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300,
                   env={**os.environ, "PYTHONPATH": path})


@pytest.mark.gpu
def test_a_launch_on_a_device_is_counted(counts: LaunchCounts) -> None:
    user_kernels.plus_one(X.cuda())
    assert counts.counts == {"bare_kernel": 1}
