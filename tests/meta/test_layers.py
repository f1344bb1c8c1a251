"""Imports point down only, and some packages have one owner (ARCHITECTURE.md, "Layers")."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.meta.tree import ROOT, imports_of, place, python_files

# Top row first.  A part may import parts of lower rows, and parts of its own group; other groups
# of its own row are siblings, which never import each other.
LAYERS: tuple[tuple[frozenset[str], ...], ...] = (
    (frozenset({"cli", "__main__"}),),
    (frozenset({"bench"}),),
    (frozenset({"demo"}),),
    (
        frozenset({"launch"}), frozenset({"pytest_plugin"}), frozenset({"integrations"}),
        frozenset({"conformance"}),
    ),
    (frozenset({"__init__"}),),
    (
        frozenset(
            {"guard", "wrapping", "active", "gate", "images", "pipeline", "wording", "limits"}
            | {"cases", "public_ops", "policy", "accounting", "device_witness", "progress"}
            | {"shared_log", "interruptions"}
        ),
        frozenset({"hunt"}),
        frozenset({"sweep"}),
        frozenset({"report"}),
        frozenset({"doctor"}),
    ),
    tuple(
        frozenset({part})
        for part in ("observe", "check", "attribute", "evidence", "render", "inject")
    ),
    (frozenset({"ops"}),),
    (
        frozenset({"calls", "bits", "device_bits", "fingerprints"}),
        frozenset({"bounds"}),
        frozenset({"ranks"}),
        frozenset({"settings"}),
    ),
    (frozenset({"document"}),),
    (frozenset({"records", "errors", "formats", "intervals", "plain_json", "version"}),),
)

# Imports for the type checker alone that may point up, each with its reason.
TYPING_ONLY = {("records", "calls"): "an Observation holds a live call and names its type"}

OWNERS = {
    "triton": "sdc_guard_kernels",
    "click": "cli",
    "hypothesis": "hunt",
    "torch.distributed": "ranks",
}
KERNELS_MAY_IMPORT = {"torch", "triton", "sdc_guard_kernels"} | set(sys.stdlib_module_names)
# Travels in each bundle and runs where sdc_guard is not installed: its files name each other by
# relative imports, and beyond that only torch and the standard library.
STANDALONE = "sdc_guard/evidence/standalone/"
STANDALONE_MAY_IMPORT = {"torch"} | set(sys.stdlib_module_names)
FAULT_MODEL_USERS = {"cli", "demo", "bench", "hunt", "sweep", "inject"}

_ROW = {part: row for row, groups in enumerate(LAYERS) for group in groups for part in group}
_GROUP = {part: group for groups in LAYERS for group in groups for part in group}


def part_of(path: Path) -> str:
    """``check`` for ``sdc_guard/check/bits.py``; ``sdc_guard_kernels`` for every kernel file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "sdc_guard_kernels" if parts[0] == "kernels" else parts[1]


def target_of(module: str) -> str | None:
    """The part that an import of ``sdc_guard...`` reaches; None for anything else."""
    names = module.split(".")
    if names[0] != "sdc_guard":
        return None
    if len(names) > 1 and names[1] in _ROW:
        return names[1]
    return "__init__"


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def violations(part: str, where: str, source: str) -> list[str]:
    """What ``source``, a file of ``part``, imports and may not."""
    found = []
    if part != "sdc_guard_kernels" and part not in _ROW:
        return [f"{where}: {part} is in no layer; add it to LAYERS and to ARCHITECTURE.md"]
    for item in imports_of(source):
        at = f"{where}:{item.line}"
        if where.startswith(STANDALONE):
            inside = item.module.startswith(".") and not item.module.startswith("..")
            if not inside and item.module.split(".")[0] not in STANDALONE_MAY_IMPORT:
                found.append(f"{at}: a bundle's own code imports {item.module}")
        elif item.module.startswith("."):
            found.append(f"{at}: relative import {item.module}")
        for package, owner in OWNERS.items():
            if is_within(item.module, package) and part != owner:
                found.append(f"{at}: {package} is imported only in {owner}, not in {part}")
        if part == "sdc_guard_kernels":
            if item.module.split(".")[0] not in KERNELS_MAY_IMPORT:
                found.append(f"{at}: a kernel imports only torch and triton, not {item.module}")
            continue
        target = target_of(item.module)
        if target is None or target == part:
            continue
        if item.typing_only and (part, target) in TYPING_ONLY:
            continue
        if _ROW[target] <= _ROW[part] and target not in _GROUP[part]:
            found.append(
                f"{at}: {part} (row {_ROW[part]}) imports {target} (row {_ROW[target]}); "
                "imports point to lower rows only"
            )
        if target == "inject" and part not in FAULT_MODEL_USERS:
            found.append(f"{at}: {part} imports the fault models; no production stage does")
    return found


def test_imports_point_down_only() -> None:
    found = [
        line
        for path in python_files()
        for line in violations(part_of(path), place(path), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_the_walk_sees_the_product() -> None:
    parts = {part_of(path) for path in python_files()}
    assert {"records", "calls", "ops", "sdc_guard_kernels"} <= parts


@pytest.mark.parametrize(
    ("part", "source", "message"),
    [
        ("check", "from sdc_guard.observe import mode", "check (row 6) imports observe (row 6)"),
        ("check", "import sdc_guard.guard", "check (row 6) imports guard (row 5)"),
        ("bounds", "def f():\n    from sdc_guard.ops import mm", "bounds (row 8) imports ops"),
        ("records", "from sdc_guard.calls import BoundCall", "records (row 10) imports calls"),
        ("ops", "from sdc_guard import wrap", "ops (row 7) imports __init__ (row 4)"),
        ("demo", "from sdc_guard.bench import paired", "demo (row 2) imports bench (row 1)"),
        ("check", "import triton.language as tl", "triton is imported only in sdc_guard_kernels"),
        ("guard", "import click", "click is imported only in cli"),
        ("guard", "import hypothesis", "hypothesis is imported only in hunt"),
        ("guard", "from torch import distributed", "torch.distributed is imported only in ranks"),
        ("guard", "import torch\ntorch.distributed.is_initialized()", "only in ranks"),
        ("guard", "from sdc_guard.inject import flip", "imports the fault models"),
        ("sdc_guard_kernels", "import numpy", "a kernel imports only torch and triton"),
        ("sdc_guard_kernels", "from sdc_guard import errors", "a kernel imports only torch"),
        ("check", "from . import replay", "relative import"),
        ("helpers", "", "helpers is in no layer"),
    ],
)
def test_planted_violation_is_found(part: str, source: str, message: str) -> None:
    assert any(message in line for line in violations(part, "planted.py", source))


@pytest.mark.parametrize(
    ("source", "num_found"),
    [
        ("import numpy", 1),
        ("from sdc_guard.bits import raw", 1),
        ("from ..bundle import read", 1),
        ("import json, torch\nfrom .archive import read", 0),
    ],
)
def test_the_code_in_a_bundle_stands_alone(source: str, num_found: int) -> None:
    assert len(violations("evidence", STANDALONE + "planted.py", source)) == num_found


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("check", "from sdc_guard.ops import registry\nfrom sdc_guard import bits"),
        ("calls", "from sdc_guard.bits import snapshot"),
        ("cli", "import click\nfrom sdc_guard import Guard"),
        (
            "records",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sdc_guard.calls",
        ),
        ("sdc_guard_kernels", "import torch\nimport triton.language as tl\nimport math"),
    ],
)
def test_allowed_import_is_not_reported(part: str, source: str) -> None:
    assert violations(part, "planted.py", source) == []
