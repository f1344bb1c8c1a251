"""The README's measured claims and the benchmark's page agree with the files they are made from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sdc_guard.bench import benchfile
from sdc_guard.bench.pages.claims import claims, power_counts
from sdc_guard.bench.pages.write import END, START, disagreements, write_pages
from sdc_guard.errors import UsageError
from tests.meta.tree import ROOT
from tests.unit.bench.synthetic import document


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """README and reports, with a benchmark's document and its page."""
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "reports", tmp_path / "reports")
    benchfile.write(tmp_path / "reports" / "bench" / "bench.json", document())
    write_pages(tmp_path / "reports", tmp_path / "README.md")
    return tmp_path


def changed(root: Path) -> list[str]:
    found = disagreements(root / "reports", root / "README.md")
    return sorted(path.relative_to(root).as_posix() for path in found)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_readme_page_and_reports_agree() -> None:
    found = disagreements(ROOT / "reports", ROOT / "README.md")
    assert not found, f"run `sdc-guard bench page`: {found} differ from the reports"


def test_every_number_in_the_measured_section_stands_between_the_marks() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## Measured\n")[1].split("\n## ")[0]
    outside = section[: section.index(START)] + section[section.index(END):]
    assert not re.search(r"\d", outside)


def test_what_was_written_agrees_and_is_not_written_again(copy: Path) -> None:
    assert changed(copy) == []
    assert write_pages(copy / "reports", copy / "README.md") == []


@pytest.mark.parametrize(("file", "old", "new"), [
    ("README.md", "1000 of 1000", "1000 of 1001"),
    ("reports/guard/transient/detection.json", '"1": 1000', '"1": 999'),
    ("reports/guard/repeated/detection.json", '"corruption": 498', '"corruption": 497'),
    ("reports/guard/clean-fp32/clean.json", '"num_findings": 0', '"num_findings": 1'),
    ("reports/guard/overhead/overhead.json", '"value": 2.705', '"value": 2.805'),
    ("reports/models/models.json", '"equal_bits": true', '"equal_bits": false'),
    ("reports/catalogue/catalogue.json", '"checks": 154965', '"checks": 154966'),
    ("reports/catalogue/power-repeated.md", "| flip | 561 | 561 |", "| flip | 560 | 561 |"),
])
def test_a_changed_figure_is_noticed(copy: Path, file: str, old: str, new: str) -> None:
    edit(copy / file, old, new)
    assert changed(copy) == ["README.md"]


def _count(copy: Path) -> None:
    edit(copy / "reports/bench/bench.json", '"firm":4', '"firm":3')


def _page(copy: Path) -> None:
    edit(copy / "reports/bench/README.md", "0 [0, 37]", "0 [0, 36]")


def _figure(copy: Path) -> None:
    edit(copy / "reports/bench/delay.svg", "100 %", "101 %")


def _old_figure(copy: Path) -> None:
    (copy / "reports/bench/old.svg").write_text("<svg/>")


@pytest.mark.parametrize(("change", "expected"), [
    (_count, "README.md"), (_count, "reports/bench/README.md"), (_page, "reports/bench/README.md"),
    (_figure, "reports/bench/delay.svg"), (_old_figure, "reports/bench/old.svg")])
def test_a_page_or_figure_that_differs_is_noticed_and_made_again(
    copy: Path, change: Callable[[Path], None], expected: str
) -> None:
    change(copy)
    assert expected in changed(copy)
    write_pages(copy / "reports", copy / "README.md")
    assert changed(copy) == []


def test_missing_reports_are_not_measured(tmp_path: Path) -> None:
    text = claims(tmp_path)
    assert "[99" not in text
    assert text.count("not measured") >= 9
    numbers = set(re.findall(r"\d+(?:\.\d+)?", text))
    assert numbers <= {"32", "16", "95"}  # fp32, bf16, and the level of the intervals


def test_a_readme_without_marks_is_refused(copy: Path) -> None:
    edit(copy / "README.md", START, "")
    with pytest.raises(UsageError, match=r"README\.md must hold <!-- claims --> once"):
        write_pages(copy / "reports", copy / "README.md")


@pytest.mark.parametrize("file", ["models/models.json", "catalogue/catalogue.json",
                                  "guard/overhead/overhead.json", "bench/bench.json"])
def test_a_broken_report_is_refused_with_its_place(copy: Path, file: str) -> None:
    (copy / "reports" / file).write_text('{"rows": 3}')
    with pytest.raises(UsageError, match=file):
        claims(copy / "reports")


def test_a_page_without_its_table_is_refused() -> None:
    with pytest.raises(UsageError, match="no table"):
        power_counts("# Repeated faults\n")
