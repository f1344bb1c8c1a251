"""Markdown and annotations: under GitHub's limits, and nothing from outside is acted on."""

from __future__ import annotations

import re

import pytest

from sdc_guard.render.annotations import MAX_ANNOTATIONS, annotations
from sdc_guard.render.markdown import COMMENT_BYTES, MARKER, SUMMARY_BYTES, code, comment, markdown
from sdc_guard.report.baseline import Baseline, updated
from sdc_guard.report.judging import judge
from tests.made_reports import SHAPES, clean_report, empty_report, made_report, many_report


@pytest.mark.parametrize("is_judged", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_report_keeps_within_the_limits(shape: str, is_judged: bool) -> None:
    report = judge(SHAPES[shape]()) if is_judged else SHAPES[shape]()
    assert 100 < len(markdown(report).encode()) <= SUMMARY_BYTES
    assert comment(report).startswith(MARKER + "\n")
    assert len(comment(report).encode()) <= COMMENT_BYTES


@pytest.mark.parametrize("max_bytes", [1000, 3000, 20_000, COMMENT_BYTES])
def test_the_writer_keeps_to_its_bytes_and_says_what_is_left_out(max_bytes: int) -> None:
    text = markdown(judge(many_report(300)), max_bytes=max_bytes)
    assert len(text.encode()) <= max_bytes
    assert "left out here" in text
    assert text.startswith("## sdc-guard: divergence (300 corruption)")


def test_the_summary_says_the_exit_code_why_and_what_was_not_tested() -> None:
    text = markdown(judge(made_report()))
    for part in ("Exit code 1", "`new 1 (1 corruption)`", "518 of 560 calls checked", "**fails**",
                 "`train/model.py:57`", "| `aten.bernoulli_.float` | 40 | `random draw 40` |",
                 "sdc-guard replay"):
        assert part in text
    assert "Exit code 5" in markdown(judge(empty_report()))
    assert "no divergence" in markdown(clean_report())


def test_the_baselines_lines_are_told() -> None:
    baseline, _, _ = updated(Baseline(), made_report(), reason="issue 12")
    assert "`known 1 (1 corruption)`" in markdown(judge(made_report(), baseline=baseline))
    fixed = markdown(judge(clean_report(), baseline=baseline))
    assert "### Fixed 1" in fixed
    assert "issue 12" in fixed


@pytest.mark.parametrize("text", [
    "a`b", "``", "`", "a|b", "x\n## h", "</details>", "@everyone", "![x](http://a)", "\\|", ""])
def test_no_text_leaves_its_code_span(text: str) -> None:
    span = code(text)
    assert "\n" not in span
    if not text:
        assert span == ""
        return
    fence = re.match("`+", span)
    assert fence is not None
    inside = span[len(fence.group()): -len(fence.group())]
    assert fence.group() not in re.findall("`+", inside)
    assert not re.search(r"(?<!\\)\|", inside)


def test_a_hostile_name_stands_in_code_alone() -> None:
    text = markdown(judge(SHAPES["hostile"]()))
    bare = re.sub(r"```text\n.*?\n```\n", "", text, flags=re.DOTALL)
    bare = re.sub(r"(`+).*?\1", "", bare)
    assert "<img" in text
    assert "<img" not in bare
    assert "\x1b" not in text


def test_an_annotation_is_one_escaped_command_at_the_users_line() -> None:
    (line,) = annotations(judge(made_report())).splitlines()
    assert line.startswith("::error file=train/model.py,line=57,title=corruption in aten.sum")
    assert "%0A" in line


@pytest.mark.parametrize("shape", SHAPES)
def test_every_line_is_a_command_of_ours(shape: str) -> None:
    for line in annotations(judge(SHAPES[shape]())).split("\n")[:-1]:
        assert re.match(r"::(error|warning|notice) (file=[^,:]*,line=\d+,)?title=[^,:]*::", line)


def test_at_most_ten_are_shown_and_the_rest_is_counted() -> None:
    lines = annotations(judge(many_report(25))).splitlines()
    assert len(lines) == MAX_ANNOTATIONS + 1
    assert "15 more divergences" in lines[-1]


def test_what_is_known_is_a_notice() -> None:
    baseline, _, _ = updated(Baseline(), made_report())
    assert annotations(judge(made_report(), baseline=baseline)).startswith("::notice ")
    assert annotations(judge(clean_report())) == ""
