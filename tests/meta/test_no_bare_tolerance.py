"""No bare tolerance in the product: a verdict comes from equal bits or from a derived bound."""

from __future__ import annotations

import ast

import pytest

from tests.meta.tree import place, python_files

FORBIDDEN = {
    "allclose",
    "approx",
    "assert_allclose",
    "assert_almost_equal",
    "assert_close",
    "isclose",
    "atol",
    "rtol",
    "abs_tol",
    "rel_tol",
}

# "file: name" -> why this one is not a verdict.
ALLOWED: dict[str, str] = {
    "sdc_guard/bench/detectors/float64.py: assert_close":
        "a rival of the benchmark that compares this way, which shows what a tolerance costs",
}


def tolerances(where: str, source: str) -> list[tuple[str, int]]:
    """``file: name`` and line of every forbidden name, however it is used."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                pass
            case ast.keyword(arg=str(name)) | ast.arg(arg=name) | ast.alias(name=name):
                pass
            case _:
                continue
        name = name.rpartition(".")[2]
        if name in FORBIDDEN:
            found.append((f"{where}: {name}", node.lineno))
    return found


def test_no_bare_tolerance_in_the_product() -> None:
    found = [
        (key, line)
        for path in python_files()
        for key, line in tolerances(place(path), path.read_text(encoding="utf-8"))
    ]
    new = [f"{key} (line {line})" for key, line in found if key not in ALLOWED]
    assert not new, "derive a bound instead, or list it with its reason:\n" + "\n".join(new)
    unused = set(ALLOWED) - {key for key, _ in found}
    assert not unused, f"listed but gone: {sorted(unused)}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("torch.allclose(a, b)", "allclose"),
        ("compare(a, b, atol=1e-3)", "atol"),
        ("def compare(a, b, *, rtol): ...", "rtol"),
        ("from math import isclose", "isclose"),
        ("from torch.testing import assert_close as same", "assert_close"),
    ],
)
def test_planted_tolerance_is_found(source: str, name: str) -> None:
    assert tolerances("planted.py", source) == [(f"planted.py: {name}", 1)]


def test_a_word_in_a_docstring_is_no_tolerance() -> None:
    assert tolerances("planted.py", '"""Neither atol nor rtol."""\nlimit = gamma(n)') == []
