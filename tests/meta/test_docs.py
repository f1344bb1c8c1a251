"""What the documents say exists: targets, commands, files, verdicts; and no file is too long."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdc_guard.records import Verdict
from tests.meta.tree import ROOT, place, python_files

MAX_LINES = 400
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "tests").glob("*.md"), *(ROOT / "kernels").glob("*.md")]
)
COMMANDS_WITHOUT_A_FILE = {"--help", "--version"}


def code_in(text: str) -> str:
    """The fenced blocks and the `spans` of a Markdown text: only there a command is a command."""
    blocks = re.findall(r"^```.*?^```", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", text))


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))


def unknown_targets(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])make ([a-z][a-z-]*)", code_in(text))) - make_targets()


def unknown_commands(text: str) -> set[str]:
    known = {p.stem for p in (ROOT / "sdc_guard" / "cli").glob("*.py")} | COMMANDS_WITHOUT_A_FILE
    return set(re.findall(r"(?<![\w-])sdc-guard (-*[a-z]+)", code_in(text))) - known


def broken_links(document: Path, text: str) -> list[str]:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    return [t for t in targets if "://" not in t and not (document.parent / t).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=place)
def test_targets_commands_and_links_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not unknown_targets(text)
    assert not unknown_commands(text)
    assert not broken_links(document, text)


def test_what_does_not_exist_is_found() -> None:
    text = "```\nmake coffee\nmake test\n```\nor `sdc-guard brew`, see [more](nowhere.md)"
    assert unknown_targets(text) == {"coffee"}
    assert unknown_commands(text) == {"brew"}
    assert broken_links(ROOT / "README.md", text) == ["nowhere.md"]


def test_every_target_is_phony_and_described() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[0].split())
    described = set(re.findall(r"^([a-z][a-z-]*):.*## \w", makefile, flags=re.MULTILINE))
    assert make_targets() == phony == described


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_the_verdict_table_is_the_code_s(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z ]+)` \|", text, flags=re.MULTILINE)
    assert [row for row in rows if row in {v.value for v in Verdict}] == [v.value for v in Verdict]


def test_files_are_short() -> None:
    files = python_files(ROOT / "sdc_guard", ROOT / "kernels", ROOT / "tests")
    lengths = {place(p): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert len(lengths) > 20
    long = {name: length for name, length in lengths.items() if length >= MAX_LINES}
    assert not long, f"split these, each file has one job: {long}"
