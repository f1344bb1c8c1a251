"""What the demo says: every figure is there, shortfalls are named, pages stand alone."""

from __future__ import annotations

import json
import math
import re

import msgspec
import pytest

from sdc_guard.demo.report import CLEAN, GUARDED, UNGUARDED
from sdc_guard.demo.telling import as_json, as_page, as_text, chance_of_any
from sdc_guard.records import Attribution, Cause
from tests.unit.demo.reports_made_by_hand import guard_report, report, run
from tests.unit.render.records_made_by_hand import HOSTILE, finding


def test_a_run_that_shows_everything_has_no_shortcoming() -> None:
    assert report().shortcomings() == []
    assert 0.9 < report().saved_share < 1.0


def blamed_on(cause: Cause) -> Attribution:
    return Attribution(cause=cause, place="core 1", votes=(), reason="")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unguarded": run(UNGUARDED, 12.0)}, "never struck"),
        ({"unguarded": run(UNGUARDED, 9.1, 3)}, "no visible harm: perplexity 9.100"),
        ({"unguarded": run(UNGUARDED, math.nan, 3)}, "no visible harm"),
        ({"guard": guard_report(findings=())}, "caught none of 2 wrong sums at budget 0.1"),
        ({"guard": guard_report(unexplained=2)}, "2 findings have no wrong sum behind them"),
        ({"guarded": run(GUARDED, 11.5, 5, 7)}, "was not saved: perplexity 11.500"),
        ({"guarded": run(GUARDED, math.inf, 5, 7)}, "was not saved"),
        ({"guard": guard_report(findings=(finding(
            attribution=blamed_on(Cause.PERSISTENT_HARDWARE)),))}, "called persistent hardware"),
    ],
)
def test_each_shortcoming_is_named(changes: dict[str, object], words: str) -> None:
    made = report(**changes)
    assert any(words in line for line in made.shortcomings()), made.shortcomings()
    assert words in as_text(made)
    assert "does not show what the demo claims" in as_page(made)


def test_a_run_that_the_fault_destroyed_counts_as_harmed() -> None:
    made = report(unguarded=run(UNGUARDED, math.inf, 3))
    assert made.shortcomings() == []
    assert "infinite" in as_text(made)


@pytest.mark.parametrize(
    "fact",
    [
        "CORRUPTION in aten.sum.dim_IntList at step 41",
        "backward of blocks.2.mlp.down (model.py:57)",
        "cause:   software",
        "replay:  sdc-guard replay b.sdcz",
        "and with the broken kernel: sdc-guard replay --import sdc_guard.demo.broken_sum b.sdcz",
        "clean                   9.000",
        "faulty, unguarded      12.000   +33.3% against clean",
        "faulty, guarded         9.200   +2.2% against clean",
        "about 1 sum of contiguous rows in 300",
        "faulty, unguarded: 2 of 600 calls went wrong, in 2 steps",
        "the guard caught 1, and 0 optimizer steps were skipped",
        "budget    10 % of the run time",
        "60 of 600 calls of the faulty op were checked",
        "a chance of 10.00% (95 % interval 7.70% to 12.70%)",
        "caught    1 of 2 wrong sums, 50.00% (95 % interval 1.26% to 98.74%)",
        "overhead  2.00%",
        "checked   10.0% of 600 calls",
    ],
)
def test_the_text_has(fact: str) -> None:
    assert fact in as_text(report())


def test_the_page_stands_alone_and_reads_without_scripts() -> None:
    page = as_page(report())
    assert page.startswith("<!doctype html>")
    assert not re.findall(r'(?:src|href)\s*=|url\(|@import|<script', page)
    assert "http" not in page.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 300_000
    assert page.count('class="strong') == 3
    for name in (CLEAN, UNGUARDED, GUARDED):
        assert name in page


def test_hostile_text_is_escaped_everywhere() -> None:
    call = msgspec.structs.replace(finding().call, op=HOSTILE, module=HOSTILE, source=HOSTILE)
    bad = finding(call=call, relation=HOSTILE, attribution=Attribution(
        cause=Cause.SOFTWARE, place=HOSTILE, votes=(), reason=HOSTILE))
    page = as_page(report(faulty_op=HOSTILE, model=HOSTILE,
                          guard=guard_report(findings=(bad, bad))))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_json_is_strict_and_complete() -> None:
    text = json.dumps(as_json(report(unguarded=run(UNGUARDED, math.inf, 3))), allow_nan=False)
    document = json.loads(text)
    assert document["unguarded"]["perplexity"]["repr"] == "inf"
    assert document["catch"]["call"]["module"] == "blocks.2.mlp.down"
    assert document["shortcomings"] == []
    assert document["chance_of_any_catch"] == pytest.approx(1 - 0.9**2)


def test_the_chance_of_any_catch_grows_with_the_number_of_wrong_sums() -> None:
    rate = guard_report().calls_checked
    assert chance_of_any(rate, 0) == 0.0
    assert chance_of_any(rate, 1) == pytest.approx(rate.share)
    assert chance_of_any(rate, 50) > 0.99
