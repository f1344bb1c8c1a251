"""What an import costs: a user of the guard pays neither for triton nor for hypothesis."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.meta.tree import ROOT

LIST_MODULES = "; import sys; print('\\n'.join(sorted(sys.modules)))"


def modules_after(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after ``statement``."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", statement + LIST_MODULES],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


SHOW_HELP = "from sdc_guard.cli.main import main; main(['--help'], standalone_mode=False)"


def test_the_package_imports_neither_triton_nor_hypothesis_nor_click() -> None:
    loaded = modules_after("import sdc_guard; sdc_guard.Guard; sdc_guard.wrap")
    assert "sdc_guard.guard" in loaded
    assert loaded.isdisjoint({"triton", "hypothesis", "click", "jinja2", "sdc_guard_kernels"})


def test_a_guard_imports_no_fault_model() -> None:
    loaded = modules_after("import sdc_guard; sdc_guard.Guard()")
    assert not {name for name in loaded if name.startswith("sdc_guard.inject")}


def test_help_imports_no_torch() -> None:
    loaded = modules_after(SHOW_HELP)
    assert "click" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "triton", "hypothesis"})


def test_a_kernel_imports_nothing_of_the_guard() -> None:
    pytest.importorskip("triton", reason="triton has no wheel for this platform")
    loaded = modules_after("import sdc_guard_kernels.reductions")
    assert "triton" in loaded
    assert "sdc_guard" not in loaded


def test_the_listing_shows_an_import_that_should_not_be_there() -> None:
    assert "hypothesis" in modules_after("import hypothesis")
