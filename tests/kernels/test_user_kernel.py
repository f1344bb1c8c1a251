"""A user's own Triton kernels: the worked example, and every configuration of a tuned one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.meta.tree import ROOT

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import sdc_guard
from sdc_guard.attribute.arbitrate import arbitrate
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.cases import make_case
from sdc_guard.check import variants
from sdc_guard.check.plan import Plan, make_plan
from sdc_guard.check.variants import Variant, variant_suspicions
from sdc_guard.errors import UsageError
from sdc_guard.ops import _registry, lookup, packet_name
from sdc_guard.records import Verdict
from sdc_guard_kernels.autotuned import NotUsed, autotuners, configurations, forced
from tests.kernels import user_kernels
from tests.kernels.compiled import ptx_of

PAGE = ROOT / "docs" / "your_triton_kernel.md"
EXAMPLE = ROOT / "examples" / "triton_rmsnorm_swiglu.py"
Array = np.ndarray
X = torch.ones(50)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone afterwards."""
    _registry.discover()
    for name in ("_SPECS", "_OWNERS"):
        monkeypatch.setattr(_registry, name, dict(getattr(_registry, name)))


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "page.py"
    file.write_text(code, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "error", str(file)], cwd=folder, capture_output=True, text=True,
        timeout=300, check=False, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.skipif(torch.cuda.is_available(), reason="the page shows the interpreter's numbers")
def test_the_page_s_code_runs_and_prints_what_the_page_shows(tmp_path: Path) -> None:
    done = run("\n".join(blocks("python")), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(blocks("text"))
    assert "corruption" in done.stdout


def test_the_example_is_the_page_s_code() -> None:
    example = EXAMPLE.read_text(encoding="utf-8")
    for block in blocks("python")[:-1]:
        assert block.strip() in example


def test_the_example_compiles_for_a_device(tmp_path: Path) -> None:
    pointers = {f"{name}_ptr": "*bf16" for name in ("x", "gate", "weight", "out")}
    ptx = ptx_of(
        EXAMPLE, "rmsnorm_swiglu_kernel", tmp_path,
        signature={**pointers, "stride_x": "i32", "stride_gate": "i32", "eps": "fp32"},
        constants={"NUM_COLS": 100, "BLOCK": 64, "SHORT_BY": 0})
    assert "rsqrt.approx" in ptx
    assert re.search(r"cvt\.rn\.bf16", ptx)  # the result is rounded, not cut off


def user_op(name: str, function: Any) -> Any:
    return sdc_guard.checked(
        reference=lambda x: 2.0 * x, operands=("n",), outputs=("n",),
        name=f"test_user_kernel::{name}")(function)


def call_of(op: Any, x: Tensor) -> tuple[Plan, BoundCall]:
    """The plan and the call of a site; results are what a right one would give."""
    spec = lookup(packet_name(op))
    assert spec is not None
    call = BoundCall(form_of(op._opoverload), (x,))
    return make_plan(spec, call, (2 * x,)), call


def variants_of(op: Any, x: Tensor) -> list[Variant]:
    plan, call = call_of(op, x)
    return list(variant_suspicions(plan, call, (2 * x,)))


def test_every_configuration_is_judged_and_the_wrong_one_named() -> None:
    x = torch.arange(1.0, 51.0)
    right = variants_of(user_op("right", user_kernels.doubled), x)
    assert [v.name for v in right] == [
        f"double_kernel[BLOCK: {b}, num_warps: 1, num_ctas: 1, num_stages: 3]" for b in (16, 32, 64)
    ]
    assert [v.suspicion for v in right] == [None] * 3
    wrong = variants_of(user_op("wrong", user_kernels.doubled_wrongly), x)
    assert [v.suspicion is not None for v in wrong] == [False, True, False]
    found = wrong[1].suspicion
    assert found is not None
    assert np.flatnonzero(found.wrong).tolist() == [49]


def test_a_wrong_configuration_is_arbitrated_as_itself() -> None:
    """The identical call, made again for the verdict, takes the same configuration."""
    op, x = user_op("arbitrated", user_kernels.doubled_wrongly), torch.arange(1.0, 51.0)
    plan, call = call_of(op, x)
    variant = next(v for v in variant_suspicions(plan, call, (2 * x,)) if v.suspicion)
    assert variant.suspicion is not None
    assert "BLOCK: 32" in variant.observation.call.form.name
    ruling = arbitrate(make_case(plan, variant.observation, variant.suspicion, None, None))
    assert ruling.verdict is Verdict.CORRUPTION
    assert ruling.repeatable
    assert ruling.wrong.sum() == 1


def test_large_calls_are_judged_in_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "VARIANT_WORK", 49)
    op, x = user_op("windowed", user_kernels.doubled_wrongly), torch.arange(1.0, 51.0)
    plan, call = call_of(op, x)
    seen = [
        [v.suspicion.witness for v in variant_suspicions(
            plan, call, (2 * x,), np.random.default_rng(seed)) if v.suspicion]
        for seed in range(8)]
    assert ["sample"] in seen  # the window reached the last element


def test_a_configuration_that_the_kernel_prunes_is_not_launched() -> None:
    small = variants_of(user_op("small", user_kernels.doubled_wrongly), torch.arange(1.0, 12.0))
    assert [v.name.partition(",")[0] for v in small] == ["double_kernel[BLOCK: 16"]


def state_of(tuner: Any) -> dict[str, Any]:
    """Everything but the arguments of the last launch, which it keeps while one is under way."""
    kept = {k: v for k, v in vars(tuner).items() if k != "nargs"}
    return {**kept, "cache": dict(tuner.cache), "configs": list(tuner.configs)}


def test_the_tuner_is_left_as_it_was_also_by_an_error() -> None:
    (tuner,) = autotuners(user_kernels.doubled)
    tuner.cache["key"] = tuner.configs[2]
    before = state_of(tuner)
    op = user_op("restored", user_kernels.doubled)
    variants_of(op, torch.ones(50))
    _, config = configurations(tuner)[2]
    with pytest.raises(NotUsed, match="BLOCK: 64"), forced(tuner, config):
        user_kernels.doubled(torch.ones(3))
    with pytest.raises(ZeroDivisionError), forced(tuner, config):
        tuner[lambda meta: (1 // 0,)](X, X, 50, WRONG_BLOCK=0)
    assert state_of(tuner) == before
    tuner.cache.clear()


def test_the_innermost_configuration_counts() -> None:
    (tuner,) = autotuners(user_kernels.doubled_wrongly)
    before = state_of(tuner)
    first, wrong, _ = (config for _, config in configurations(tuner))
    with forced(tuner, wrong):
        with forced(tuner, first):
            assert user_kernels.doubled_wrongly(X)[-1] == 2.0
        assert user_kernels.doubled_wrongly(X)[-1] == 0.0
    assert state_of(tuner) == before


def test_tuners_are_found_where_a_launcher_names_them() -> None:
    tuner = user_kernels.double_kernel

    def by_closure(x: Tensor) -> Any:
        return tuner[(1,)](x)

    def by_module(x: Tensor) -> Any:
        return user_kernels.double_kernel[(1,)](x)

    def in_a_helper(x: Tensor) -> Any:
        return [(lambda y: user_kernels.doubled(y))(x) for _ in range(2)]

    def nowhere(x: Tensor) -> Any:
        return user_kernels.plus_one(x)

    for launcher in (by_closure, by_module, in_a_helper):
        assert autotuners(launcher) == [tuner]
    assert autotuners(nowhere) == []


def test_it_is_the_launcher_that_is_decorated() -> None:
    for kernel in (user_kernels.bare_kernel, user_kernels.double_kernel):
        with pytest.raises(UsageError, match=r"function that launches a kernel, kernel\[grid\]"):
            user_op("a_kernel", kernel)


def test_an_op_without_configurations_has_no_variants() -> None:
    op = sdc_guard.checked(
        reference=lambda x: x + 1, operands=("n",), outputs=("n",),
        name="test_user_kernel::plus_one")(user_kernels.plus_one)
    assert variants_of(op, torch.ones(5)) == []


def test_triton_s_functions_are_the_instructions_that_the_contract_cites(tmp_path: Path) -> None:
    assert user_kernels.__file__ is not None
    ptx = ptx_of(
        Path(user_kernels.__file__), "functions_kernel", tmp_path,
        signature={"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32"},
        constants={"NUM": 128})
    used = {i.removesuffix(".f32").removesuffix(".ftz") for i in re.findall(
        r"\b(?:div|sqrt|rsqrt|ex2|lg2|sin|cos|tanh|rcp)\.\S*f32", ptx)}
    assert used == {"div.full", "sqrt.approx", "rsqrt.approx", "ex2.approx"}


@pytest.mark.gpu
def test_every_configuration_is_judged_on_a_device() -> None:
    x = torch.arange(1.0, 51.0, device="cuda")
    op = user_op("device", user_kernels.doubled_wrongly)
    with sdc_guard.Guard(budget="all"):
        op(x)  # the tuner chooses one
    wrong = variants_of(op, x)
    assert [v.suspicion is not None for v in wrong] == [False, True, False]
