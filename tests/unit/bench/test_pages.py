"""The results page says what the document holds: the right counts in the right cells, what is
missing as not measured, and what falls short as such."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

import msgspec
import pytest

from sdc_guard.bench.benchfile import BenchFile
from sdc_guard.bench.cells import ELSEWHERE, FIRM, MISSED, SOFT
from sdc_guard.bench.detectors.table import DETECTORS
from sdc_guard.bench.pages.checklist import Check, checks
from sdc_guard.bench.pages.harm import missed
from sdc_guard.bench.pages.names import budget_of, detectors, label, workloads
from sdc_guard.bench.pages.page import PAGE, render_page
from sdc_guard.bench.pages.summary import alarms, comparisons, first_table, points
from sdc_guard.bench.pages.tally import (
    Share,
    best_costs,
    mean_ratio,
    num_distinct,
    quantile,
    wrong_causes,
)
from sdc_guard.bench.pages.text import bracket, code, counted, percent, table
from sdc_guard.bench.workloads.table import WORKLOADS
from sdc_guard.intervals import proportion
from tests.unit.bench.synthetic import (
    NUM,
    SHARES,
    cell,
    clean,
    cost,
    document,
    harm,
    trial,
)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return render_page(document())


def row(text: str, first: str) -> list[str]:
    """The cells of the first row of any table that begins with ``first``."""
    found = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [part.strip() for part in found.strip("|").split("|")]


def check(file: BenchFile, start: str) -> Check:
    return next(c for c in checks(file) if c.what.startswith(start))


def test_every_figure_is_small_xml_and_is_shown(pages: dict[str, str]) -> None:
    figures = {name: text for name, text in pages.items() if name != PAGE}
    assert len(figures) == 6
    for name, text in figures.items():
        ElementTree.fromstring(text)
        assert len(text.encode()) < 60_000
        assert f"]({name})" in pages[PAGE]


def test_the_page_is_a_function_of_the_document(pages: dict[str, str]) -> None:
    assert render_page(document()) == pages


def test_tables_are_aligned(pages: dict[str, str]) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", pages[PAGE], flags=re.MULTILINE):
        assert len({len(line) for line in block.splitlines()}) == 1


def test_the_first_table_leads_with_the_budgets(pages: dict[str, str]) -> None:
    names = re.findall(r"^\| (\w[^|]*?) +\|", pages[PAGE], flags=re.MULTILINE)
    assert names[1:6] == ["ours, 0.5 %", "ours, 1 %", "ours, 2 %", "ours, 5 %", "ours, exhaustive"]


def test_the_first_table_holds_the_counts() -> None:
    counts = {"product | 2 to 100": {FIRM: 3, SOFT: 1}, "pointwise | no bound": {MISSED: 4}}
    file = BenchFile(
        cells=(cell("sdc_guard 2 %", "single bit", counts=counts,
                    causes={"transient": 2, "software": 1}),
               cell("sdc_guard 2 %", "stuck bit", kind="repeated",
                    counts={"product | 2 to 100": {FIRM: 4}},
                    delays={"1": 1, "7": 2, "30": 1}, causes={"unknown": 4})),
        clean=(clean("sdc_guard 2 %", num_alarms=1, num_steps=1000),),
        costs=(cost("sdc_guard 2 %", 1.019),))
    cells = row(first_table(file), "ours, 2 %")
    assert cells[1].startswith("1.019 [1.014, 1.025]")
    assert cells[2] == "1.019 [1.014, 1.025], n=1"
    assert cells[3] == "37.5 % [8.5, 75.6], n=8"
    assert cells[4] == "100 % [39.7, 100], n=4"
    assert cells[5] == "not measured"
    assert cells[6] == "7 / 30 of at most 200"
    assert cells[7].startswith("1 [0.025, 5.6]")
    assert cells[8] == "14.3 %, n=7"
    assert set(row(first_table(file), "ours, exhaustive")[1:]) == {"not measured"}
    assert set(row(first_table(file), "sdcguard 0.4.0")[1:]) == {"not measured"}


def test_an_empty_document_has_a_page_on_which_nothing_was_measured() -> None:
    pages = render_page(BenchFile())
    assert list(pages) == [PAGE]
    assert pages[PAGE].count("not measured") > 100
    assert "**not met**" not in pages[PAGE]
    assert not re.search(r"\d %,? n=|\*\*met", pages[PAGE])


def test_cuda_rows_are_always_there(pages: dict[str, str]) -> None:
    after = pages[PAGE].split("## CUDA")[1]
    assert set(row(after, "ours, 2 %")[1:]) == {"not measured"}
    rows = re.findall(r"\| CUDA +\|.*not measured", pages[PAGE])
    assert len(rows) >= 12
    on_device = [msgspec.structs.replace(c, device="cuda:0") for c in document().cells]
    cuda = render_page(BenchFile(cells=tuple(on_device), costs=tuple(
        msgspec.structs.replace(c, device="cuda") for c in document().costs)))
    assert "cuda-frontier-transient.svg" in cuda
    assert "frontier-transient.svg: not measured" in cuda[PAGE]


def test_the_page_says_what_it_must(pages: dict[str, str]) -> None:
    text = pages[PAGE]
    num = len(SHARES) * 4 * 4 * NUM
    assert f"{num} were injected ({4 * 4 * NUM} different ones" in text
    for sentence in ("no faulty device was available", "about as often as the share of work",
                     "`sdc-guard bench matrix --seed 0`", "Python 3.11.7, torch 2.13.0",
                     "commits 0123456789ab", "name CPU vendor Maker", "seed 0"):
        assert sentence in text


def test_what_comes_from_a_report_cannot_break_the_page() -> None:
    held = cell("rival <b>| x", "a|b", counts={"p | 2 to 100": {MISSED: 1}})
    pages = render_page(BenchFile(cells=(held,)))
    assert "<summary>rival &lt;b&gt;| x" in pages[PAGE]
    test_tables_are_aligned(pages)
    assert "\\|" in table(["a"], [["x|y"]])
    assert code("a`b") == "`` a`b ``"


@pytest.mark.parametrize(("detector", "budget", "printed"), [
    ("sdc_guard 0.5 %", 0.5, "ours, 0.5 %"), ("sdc_guard 10 %", 10.0, "ours, 10 %"),
    ("sdc_guard all", "all", "ours, exhaustive"), ("sdcguard 0.4.0", None, "sdcguard 0.4.0"),
    ("rerun and compare", None, "rerun and compare")])
def test_ours_are_told_from_others(detector: str, budget: object, printed: str) -> None:
    assert budget_of(detector) == budget
    assert label(detector) == printed


def test_what_can_be_measured_is_listed_once_and_ours_lead() -> None:
    names = detectors(["sdc_guard 2 %", "sdc_guard 10 %", "my own"])
    assert len(names) == len(set(names))
    assert set(DETECTORS) <= set(names)
    assert [budget_of(n) for n in names[:7]] == [0.5, 1.0, 2.0, 5.0, 10.0, "all", None]
    assert names[-1] == "my own"
    assert workloads(["my own"])[0] == "gpt-demo"
    assert set(WORKLOADS) < set(workloads(["my own"]))


def many(outcomes: dict[str, int], kind: str, size: str = "2 to 100", **more: object) -> BenchFile:
    held = cell("sdc_guard all", "f", kind=kind, counts={f"product | {size}": outcomes},
                **more)  # type: ignore[arg-type]
    return BenchFile(cells=(held,))


@pytest.mark.parametrize(("kind", "start"), [
    ("transient", "transient faults found"), ("repeated", "repeated faults bound"),
    ("deterministic", "deterministic kernel faults")])
def test_requirements_are_met_at_the_limit_and_not_below(kind: str, start: str) -> None:
    least = 999 if kind == "transient" else 990
    good = check(many({FIRM: least, MISSED: 1000 - least}, kind), start)
    bad = check(many({FIRM: least - 1, MISSED: 1001 - least}, kind,
                     examples=(trial(7, why="rerun only"),)), start)
    assert (good.met, bad.met) == (True, False)
    assert bad.short == (f"fp32, f, product, size 2 to 100: found {least - 1} of 1000. "
                         "Why: rerun only (1)",)
    assert check(BenchFile(), start).result == "not measured"


def test_one_bad_operator_class_or_size_is_enough_to_fall_short() -> None:
    counts = {"product | 2 to 100": {FIRM: 9999}, "scan | not finite": {FIRM: 9, ELSEWHERE: 1}}
    found = check(BenchFile(cells=(cell("sdc_guard all", "f", counts=counts),)), "transient faults")
    assert found.met is False
    assert "lowest op class: scan 90 %; lowest size: not finite 90 %" in found.measured


def test_small_deterministic_faults_do_not_count_against_the_requirement() -> None:
    counts = {"product | 0.1 to 1": {MISSED: 50}, "product | 2 to 100": {FIRM: 10}}
    file = BenchFile(cells=(cell("sdc_guard all", "f", kind="deterministic", counts=counts),))
    found = check(file, "deterministic kernel faults")
    assert found.met
    assert found.measured.endswith("n=10")


def test_a_false_alarm_and_a_high_cost_are_not_met() -> None:
    good = BenchFile(clean=(clean("sdc_guard all"),), costs=(cost("sdc_guard all", 2.5),))
    bad = BenchFile(clean=(clean("sdc_guard all", num_alarms=1),),
                    costs=(cost("sdc_guard all", 2.51),))
    for start in ("false alarms, demo GPT fp32", "false alarms, every workload",
                  "cost of a step, demo GPT fp32"):
        assert check(good, start).met is True
        assert check(bad, start).met is False
    in_budget = BenchFile(clean=(clean("sdc_guard 2 %", num_alarms=1),))
    assert check(in_budget, "false alarms, every workload").met is False


def rivals(rival_share: int, our_share: int, our_cost: float) -> BenchFile:
    def of(detector: str, found: int) -> object:
        counts = {"product | 2 to 100": {FIRM: found, MISSED: 10 - found}}
        return cell(detector, "f", counts=counts)

    return BenchFile(cells=(of("rerun", rival_share), of("sdc_guard 2 %", our_share)),  # type: ignore[arg-type]
                     costs=(cost("rerun", 2.0), cost("sdc_guard 2 %", our_cost)))


@pytest.mark.parametrize(("rival", "ours", "price", "ahead"), [
    (5, 6, 1.5, True), (5, 5, 2.0, True), (6, 5, 1.5, False), (5, 9, 2.1, False),
    (0, 9, 2.1, True)])
def test_ahead_is_as_much_for_as_little(rival: int, ours: int, price: float, ahead: bool) -> None:
    file = rivals(rival, ours, price)
    assert [c.ahead for c in comparisons(file, "transient")] == [ahead]
    assert check(file, "ahead of every other detector at its cost, transient").met is ahead


def test_detectors_are_compared_on_the_faults_that_both_met() -> None:
    more = cell("sdc_guard 2 %", "hard one", counts={"product | 2 to 100": {MISSED: 1000}})
    file = rivals(5, 6, 1.5)
    file = msgspec.structs.replace(file, cells=(*file.cells, more))
    assert [c.ahead for c in comparisons(file, "transient")] == [True]
    ours = next(p for p in points(file, "transient") if p.detector == "sdc_guard 2 %")
    assert ours.share == Share(6, 1010)


def test_harm_is_counted_where_number_and_workload_agree() -> None:
    held = harm("single bit", "transient", changes={"0": 0.5, "1": 0.0, "2": None, "3": -0.5})
    counts = {"product | 2 to 100": {FIRM: 1, MISSED: 2}}
    met = cell("sdc_guard all", "single bit", counts=counts, missed=((1, 3),))
    assert missed([met], [held]) == Share(1, 2)  # 2 was harmful and missed; 3 was never met
    for other in ({"dtype": "bf16"}, {"seed": 1}, {"workload": "lstm"}):
        apart = cell("sdc_guard all", "single bit", counts=counts, missed=((1, 3),),
                     **other)  # type: ignore[arg-type]
        assert missed([apart], [held]) == Share(0, 0)
    text = render_page(BenchFile(cells=(met,), harms=(held,)))[PAGE].split("## Harm")[1]
    assert row(text, "single bit")[2] == "75 % [19.4, 99.4], n=4"
    assert row(text, "ours, exhaustive")[1] == "1 of 2"


def test_causes_are_wrong_by_kind() -> None:
    causes = {"transient": 1, "software": 2, "persistent hardware": 4, "unknown": 8}
    wrong = {kind: wrong_causes([cell("sdc_guard all", "f", counts={}, kind=kind, causes=causes)])
             for kind in ("transient", "repeated", "deterministic", "state")}
    assert {kind: found.found for kind, found in wrong.items()} == {
        "transient": 6, "repeated": 1, "deterministic": 5, "state": 0}
    assert wrong["state"].num == 0
    rare = cell("sdc_guard all", "rare flip", counts={}, kind="repeated", causes=causes)
    assert wrong_causes([rare]).found == 0


def test_faults_met_by_two_detectors_are_different_ones_once() -> None:
    counts = {"product | 2 to 100": {FIRM: 5}}
    one, other = cell("a", "f", counts=counts), cell("b", "f", counts=counts, start=3)
    assert num_distinct([one, other]) == 8
    without = msgspec.structs.replace(one, done=((0, 7),), not_injected=2)
    assert num_distinct([without]) == 5


def test_costs_take_few_threads_and_their_mean_is_geometric() -> None:
    two = msgspec.structs.replace(cost("a", 9.0), num_threads=2)
    chosen = best_costs([two, cost("a", 2.0), cost("a", 8.0, workload="lstm")])
    assert sorted(c.ratio.value for c in chosen.values()) == [2.0, 8.0]
    mean = mean_ratio(list(chosen.values()))
    assert mean is not None
    assert mean.value == pytest.approx(4.0)


def test_shares_are_rounded_without_becoming_whole() -> None:
    assert percent(0.9999) == "99.99 %"
    assert percent(0.0001) == "< 0.1 %"
    assert (percent(0.0), percent(1.0), percent(0.5)) == ("0 %", "100 %", "50 %")
    assert bracket(proportion(499, 500)) == "[98.8, 99.995]"
    assert counted(0, 0) == "not measured"
    assert alarms(Share(5, 2)) == "5 in 2 checks"


def test_quantiles_are_values_that_were_seen() -> None:
    assert quantile(Counter({1: 9, 50: 1}), 0.5) == 1
    assert quantile(Counter({1: 9, 50: 1}), 0.9) == 1
    assert quantile(Counter({1: 8, 50: 2}), 0.9) == 50
    assert quantile(Counter(), 0.5) is None
