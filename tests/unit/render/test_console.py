"""The text of findings and summaries: every fact is there, and nothing unchecked sounds clean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import pytest

from sdc_guard.records import Evidence, Pattern, Verdict
from sdc_guard.render.console import (
    MAX_FINDINGS,
    MAX_OPS,
    extent,
    render_finding,
    render_summary,
    short_source,
    ulps,
)
from tests.unit.render.records_made_by_hand import coverage, finding, op_coverage


@pytest.mark.parametrize(
    "fact",
    [
        "CORRUPTION in aten.sum.dim_IntList at step 41",
        "backward of blocks.2.mlp.down (model.py:57)",
        "3 of 768 elements wrong in [17..21], every 2 elements",
        "worst [17]: got 3.1415927 (0x40490fdb), expected 2.5 (0x40200000), 3.1e+06 ulps off",
        "proof bound 1.25e-05 = gamma_(n-1) sum|x|",
        "witness: replay (roll d0)",
        "cause:   software (the identical call: 6 of 6 gave the same result at 2 places, "
        "other recomputations: 0 of 1 gave the same result)",
        "the identical call is wrong everywhere",
        "replay:  sdc-guard replay b.sdcz",
    ],
)
def test_a_finding_says(fact: str) -> None:
    assert fact in render_finding(finding())


def test_a_finding_without_values_or_bundle_still_reads() -> None:
    evidence = Evidence(bundle="", replay_command="", note="evidence is switched off")
    text = render_finding(finding(worst=None, pattern=None, evidence=evidence))
    assert "no element can be named" in text
    assert "no bundle: evidence is switched off" in text
    assert "worst" not in text
    assert "replay:" not in text


def test_repeats_ranks_and_a_right_result_are_mentioned() -> None:
    text = render_finding(finding(repeats=12, rank=3, held_is_wrong=False))
    assert "12 findings of this kind" in text
    assert "rank 3" in text
    assert "the result in use is the right one" in text


def test_one_wrong_element_has_no_box() -> None:
    one = Pattern(num_wrong=1, num_elements=9, first=((2,),), box_low=(2,), box_high=(2,),
                  flat_stride=None)
    assert extent(one) == "1 of 9 elements wrong"


@pytest.mark.parametrize(
    ("count", "text"),
    [(1.0, "1 ulp"), (3.0, "3 ulps"), (0.5, "0.5 ulps"), (3.14e6, "3.1e+06 ulps"),
     (math.inf, "infinitely many ulps"), (math.nan, "an undefined number of ulps")],
)
def test_ulps_read_as_words(count: float, text: str) -> None:
    assert ulps(count) == text


@pytest.mark.parametrize(
    ("source", "text"), [("/a/b/model.py:57", "model.py:57"), ("m.py:1", "m.py:1"),
                         ("", "unknown")],
)
def test_sources_are_short(source: str, text: str) -> None:
    assert short_source(source) == text


def test_a_summary_counts_repeats_and_puts_the_worst_first() -> None:
    call = msgspec.structs.replace(finding().call, step=2)
    mild = finding(verdict=Verdict.PRECISION, call=call)
    text = render_summary([mild, finding(repeats=4)], coverage())
    assert text.startswith("FOUND 4 corruption, 1 precision; 4 of 10 calls checked (40.0%)")
    assert text.index("CORRUPTION in") < text.index("PRECISION in")


def test_many_findings_are_cut_and_the_cut_is_named() -> None:
    text = render_summary([finding()] * (MAX_FINDINGS + 3), coverage())
    assert text.count("CORRUPTION in") == MAX_FINDINGS
    assert "and 3 more findings" in text


def test_nothing_found_is_said_with_the_share_that_was_checked() -> None:
    text = render_summary([], coverage())
    assert text.startswith("no divergence in what was checked: 4 of 10 calls checked (40.0%)")
    assert "clean" not in text


def test_nothing_checked_is_not_tested() -> None:
    text = render_summary([], coverage(op_coverage(calls_checked=0)))
    assert text.startswith("NOT TESTED")
    assert render_summary([], coverage(op_coverage(calls=0, calls_checked=0))).startswith(
        "NOT TESTED")


@dataclass(frozen=True)
class Case:
    changes: dict[str, object]
    line: str


@pytest.mark.parametrize(
    "case",
    [
        Case({}, "checked   40.0% of 10 calls, 40.0% of elements, 40.0% of FLOPs, in 50 steps"),
        Case({}, "overhead  2.00% (0.20 s of 10.20 s)"),
        Case({}, "not checked  aten.sum: 6 of 10 calls (not sampled (budget) 6)"),
        Case({"steps_skipped": 2}, "2 optimizer steps were not applied"),
        Case({"guard_errors": 5}, "5 failures inside the guard"),
        Case({"gaps": ("no relation moves lanes",)}, "gap       no relation moves lanes"),
        Case({"dead_witnesses": ("replay",)}, "the witness replay failed its self-test"),
        Case({"refused_relations": ("mm: roll",)}, "refused   mm: roll"),
    ],
)
def test_a_summary_has_the_line(case: Case) -> None:
    assert case.line in render_summary([], coverage(**case.changes))
    if case.changes:
        assert case.line not in render_summary([], coverage())


def test_ops_with_the_most_unchecked_calls_come_first_and_the_rest_is_counted() -> None:
    ops = [op_coverage(f"aten.op{i:02}", calls=101 + i, calls_checked=100)
           for i in range(MAX_OPS + 2)]
    text = render_summary([], coverage(*ops))
    assert text.index(f"aten.op{MAX_OPS + 1:02}:") < text.index("aten.op05:")
    assert "not checked  3 calls of 2 more ops" in text
    assert "aten.op00" not in text
