"""The README's figures of the sweep stand, word for word, in the reports that they link."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.meta.tree import ROOT

HEAD = "| Sweep | Measured, 95 % interval | Report |"
ONE_FIGURE = re.compile(r"\d+ (?:of|false alarms in) \d+(?: verdicts)?(?:,? \[[^]]*\](?: %)?)?")


def rows(readme: str) -> list[tuple[str, str]]:
    """Measured and report, of each row."""
    table = readme.split(HEAD)[1].split("\n\n")[0]
    cells = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]
    return [(measured, report) for _, measured, report in cells]


def not_in_reports(root: Path) -> list[str]:
    """Figures that the linked report does not have, or that are not understood."""
    found = []
    for measured, report in rows((root / "README.md").read_text(encoding="utf-8")):
        path, = re.findall(r"\]\((reports/[^)]*)\)", report)
        text = (root / path).read_text(encoding="utf-8")
        figures = [m.group() for m in ONE_FIGURE.finditer(measured)]
        assert ", ".join(figures) == measured.strip(), measured
        found += [figure for figure in figures if figure not in text]
    return found


def test_every_figure_stands_in_its_report() -> None:
    assert len(rows((ROOT / "README.md").read_text(encoding="utf-8"))) >= 5
    assert not_in_reports(ROOT) == []


@pytest.mark.parametrize(("figure", "wrong"), [
    ("100 of 100 [96.4%, 100.0%]", "99 of 100 [96.4%, 100.0%]"),
    ("0 false alarms in 1932 verdicts", "0 false alarms in 2932 verdicts"),
])
def test_another_figure_is_noticed(tmp_path: Path, figure: str, wrong: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert figure in readme
    (tmp_path / "README.md").write_text(readme.replace(figure, wrong), encoding="utf-8")
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    assert not_in_reports(tmp_path) == [wrong]
