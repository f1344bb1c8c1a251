"""What the meta-tests walk: this repository's own source files and their imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT_ROOTS = (ROOT / "sdc_guard", ROOT / "kernels" / "sdc_guard_kernels")
TEXT_ROOTS = ("sdc_guard", "kernels", "tests", "reports", ".ci")
TEXT_SUFFIXES = {"", ".cfg", ".html", ".json", ".md", ".py", ".toml", ".txt", ".xml", ".yml"}


def python_files(*roots: Path) -> list[Path]:
    """Every Python file below the given folders; the product's own where none is given."""
    found = [p for root in roots or PRODUCT_ROOTS for p in root.rglob("*.py")]
    return sorted(p for p in found if "__pycache__" not in p.parts)


def text_files() -> list[Path]:
    """Every text file that the project ships or is built from."""
    found = [p for p in ROOT.iterdir() if p.is_file()]
    found += [p for name in TEXT_ROOTS for p in (ROOT / name).rglob("*") if p.is_file()]
    return sorted(p for p in found if p.suffix in TEXT_SUFFIXES and "__pycache__" not in p.parts)


def place(path: Path) -> str:
    """The path as a person names it, from the repository's root."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


@dataclass(frozen=True)
class Import:
    """One imported name: ``module`` is dotted and absolute, ``typing_only`` tells whether it
    stands under ``if TYPE_CHECKING``."""

    module: str
    line: int
    typing_only: bool


def imports_of(source: str) -> Iterator[Import]:
    """Every import in a file, wherever it stands, functions included.

    ``from a import b`` yields ``a.b``, because ``b`` may be a module; so does the attribute chain
    ``torch.distributed``, which needs no import statement of its own.
    """
    yield from _walk(ast.parse(source), typing_only=False)


def _walk(node: ast.AST, *, typing_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and _names_type_checking(node.test):
        for child in node.body:
            yield from _walk(child, typing_only=True)
        for child in node.orelse:
            yield from _walk(child, typing_only=typing_only)
        return
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, typing_only)
    elif isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        for alias in node.names:
            yield Import(f"{base}.{alias.name}", node.lineno, typing_only)
    elif (
        isinstance(node, ast.Attribute)
        and node.attr == "distributed"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
    ):
        yield Import("torch.distributed", node.lineno, typing_only)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, typing_only=typing_only)


def _names_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )
