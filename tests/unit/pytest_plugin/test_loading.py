"""The plugin is declared, may be named twice, and costs nothing where it is not used."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.meta.tree import ROOT
from tests.unit.pytest_plugin.inner import PLUGIN

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"


def in_fresh_python(code: str, *path: Path, folder: Path | None = None) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(
        str(p) for p in (*path, ROOT, ROOT / "kernels"))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True,
                          timeout=300, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(folder: Path) -> Path:
    """What pip leaves of an installed distribution with this project's entry points."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "entry-points"]["pytest11"]
    info = folder / "made_up-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA.format(name="made-up"), encoding="utf-8")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines]), encoding="utf-8")
    return folder


def test_the_entry_point_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"sdc_guard": PLUGIN}


WAYS = """
import contextlib, io, os, sys
import pytest

def run(*arguments):
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", *arguments])
    return int(code), "--sdc-guard" in told.getvalue()

print("entry point", *run("--help"))
print("-p", *run("--help", "-p", "sdc_guard.pytest_plugin"))
print("by name", *run("--help", "-p", "sdc_guard"))
os.environ["PYTEST_PLUGINS"] = "sdc_guard.pytest_plugin"
print("variable", *run("--help", "-p", "sdc_guard.pytest_plugin"))
del os.environ["PYTEST_PLUGINS"]
print("off", *run("--help", "-p", "no:sdc_guard"))
open("conftest.py", "w").write("pytest_plugins = ['sdc_guard.pytest_plugin']")
open("test_it.py", "w").write("def test_it(): pass")
print("conftest", *run("-W", "error"))
print("collected", *run("-W", "error", "--sdc-guard", "--collect-only"))
print("torch", "torch" in sys.modules)
"""


def test_it_loads_once_by_any_way_and_imports_no_torch(
    tmp_path: Path,
) -> None:
    """Its entry point, ``-p``, both, a variable, a ``conftest.py``, and switched off."""
    folder = tmp_path / "project"
    folder.mkdir()
    lines = in_fresh_python(WAYS, installed(tmp_path / "site"), folder=folder).splitlines()
    told = {line.rsplit(" ", 2)[0]: line.rsplit(" ", 2)[1:] for line in lines}
    assert told["entry point"] == told["-p"] == told["by name"] == told["variable"] == [
        "0", "True"]
    assert told["off"] == ["0", "False"]
    assert told["conftest"] == told["collected"] == ["0", "False"]
    assert lines[-1] == "torch False"


def imported_beside_pytest(module: str, *path: Path) -> set[str]:
    code = (f"import pytest, sys; before = set(sys.modules); import {module}; "
            "print(*(set(sys.modules) - before))")
    return set(in_fresh_python(code, *path).split())


def test_the_import_loads_nothing_beside_pytest_but_itself() -> None:
    assert imported_beside_pytest(PLUGIN) == {"sdc_guard", PLUGIN, "sdc_guard.version"}


def test_an_import_of_more_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text("import sdc_guard.records", encoding="utf-8")
    assert "msgspec" in imported_beside_pytest("more", tmp_path)
