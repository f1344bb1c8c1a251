"""The product imports what it declares, declares what it imports, and constraints.txt pins it."""

from __future__ import annotations

import re
import sys
import tomllib
from typing import Any

from tests.meta.tree import ROOT, imports_of, python_files

OWN = {"sdc_guard", "sdc_guard_kernels"}
# Imported only where the user has it already: the pytest plugin, users' trainers, and Python's own
# hook of that name.
OPTIONAL = {"pytest", "transformers", "sitecustomize"}
# Declared from the start, so that an environment need not change when their owners arrive.
PROMISED = {"hypothesis": "sdc_guard/hunt"}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_of(requirement: str) -> str:
    """``torch`` for ``torch>=2.8; ...``; import names are the lower-cased distribution names."""
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match is not None, requirement
    return match.group().lower().replace("-", "_")


def undeclared(imported: set[str], declared: set[str]) -> set[str]:
    return imported - declared - OWN - OPTIONAL - set(sys.stdlib_module_names)


def imported_packages() -> set[str]:
    return {
        item.module.split(".")[0]
        for path in python_files()
        for item in imports_of(path.read_text(encoding="utf-8"))
        if not item.module.startswith(".")
    }


def test_every_import_is_declared() -> None:
    declared = {name_of(r) for r in project()["dependencies"]}
    assert not undeclared(imported_packages(), declared)


def test_every_declared_dependency_is_imported() -> None:
    declared = {name_of(r) for r in project()["dependencies"]}
    unused = declared - imported_packages()
    assert unused <= set(PROMISED), f"declared in pyproject.toml, never imported: {sorted(unused)}"
    built = {name for name, owner in PROMISED.items() if (ROOT / owner).is_dir()}
    assert not unused & built, "the owner is here and does not import it"


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name_of(line) for line in lines if line and not line.startswith("#")}
    extras = project()["optional-dependencies"]
    asked = [*project()["dependencies"], *(r for group in extras.values() for r in group)]
    assert not {name_of(r) for r in asked} - pinned - {"torch_sdc_guard"}
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def test_torch_is_a_range_for_users() -> None:
    (torch,) = [r for r in project()["dependencies"] if name_of(r) == "torch"]
    assert torch == "torch>=2.8"


def test_an_undeclared_import_would_be_seen() -> None:
    imported = {i.module.split(".")[0] for i in imports_of("def f():\n    import pandas")}
    assert undeclared(imported, {"torch"}) == {"pandas"}
