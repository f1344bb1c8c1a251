"""What the page is made from: groups, the grid, the tree, coverage and the environment."""

from __future__ import annotations

import msgspec

from sdc_guard.document.schema import Cell, Judgement, Module
from sdc_guard.records import Verdict
from sdc_guard.render.page.covered import covered_of
from sdc_guard.render.page.grid import grid_of
from sdc_guard.render.page.groups import first_entry, groups_of
from sdc_guard.render.page.surroundings import surroundings_of
from sdc_guard.render.page.tree import tree_of
from sdc_guard.report.entries import entry_of
from tests import made_reports


def test_findings_of_one_fingerprint_are_one_group() -> None:
    (group,) = groups_of(made_reports.made_report(5))
    assert group.count == 5
    assert group.steps == (41, 45)
    assert group.module == "blocks.0.mlp.down and 2 like it"
    assert group.anchor == f"f-{group.id}"


def test_severe_and_new_groups_come_first() -> None:
    report = made_reports.made_report(4)
    verdicts = (Verdict.PRECISION, Verdict.CORRUPTION, Verdict.NOT_TESTED, Verdict.CORRUPTION)
    entries = tuple(msgspec.structs.replace(e, id=f"{i:016x}", verdict=v) for i, (e, v) in
                    enumerate(zip(report.findings, verdicts, strict=True)))
    judgement = Judgement(exit_code=1, status="", reasons=(), fail_on=(), policy={},
                          states={f"{1:016x}": "known", f"{3:016x}": "new"})
    groups = groups_of(msgspec.structs.replace(report, findings=entries, judgement=judgement))
    assert [int(g.id, 16) for g in groups] == [3, 1, 0, 2]


def test_an_identity_that_is_not_ours_is_no_anchor() -> None:
    report = made_reports.made_report(1)
    entry = msgspec.structs.replace(report.findings[0], id='x" onload="')
    (group,) = groups_of(msgspec.structs.replace(report, findings=(entry,)))
    assert group.anchor == "f-0"


def test_the_first_finding_is_by_the_clock_between_runs_and_by_the_call_in_one() -> None:
    early = made_reports.made_run(0, start_utc="2026-11-23T09:00:00+00:00")
    late = made_reports.made_run(1, start_utc="2026-11-23T12:00:00+00:00")
    entries = [entry_of(made_reports.made_finding(i), tool="guard", run=run.id,
                        root=made_reports.ROOT, time_s=time_s)
               for i, run, time_s in ((0, late, 1.0), (7, early, 5.0), (3, early, 9.0))]
    first = first_entry(made_reports.made_report(0, runs=(late, early), findings=tuple(entries)))
    assert first is not None
    assert first[0].finding.step == 44
    assert first[1] == early


def test_the_grid_puts_findings_first_and_says_what_it_leaves_out() -> None:
    cells = [Cell(unit=f"u{u}", test=f"t{t}", word="PASS", verdict="clean", checks=1)
             for u in range(6) for t in range(9)]
    cells[-1] = msgspec.structs.replace(cells[-1], word="FAIL", verdict="corruption")
    cells[20] = msgspec.structs.replace(cells[20], word="later word", verdict="later verdict")
    grid = grid_of(cells, max_columns=4, max_rows=3)
    assert [c.test for c in grid.columns] == ["t8", "t2", "t0", "t1"]
    assert [unit for unit, _ in grid.rows] == ["u5", "u2", "u0"]
    assert (grid.num_more_columns, grid.num_more_units) == (5, 3)
    assert grid.counts == {"corruption": 1, "inconclusive": 1, "clean": 52}
    assert grid.words["clean"] == {"PASS": 52}


def test_a_unit_without_a_test_has_a_hole() -> None:
    cells = [Cell(unit="a", test="s", word="PASS", verdict="clean"),
             Cell(unit="b", test="t", word="PASS", verdict="clean")]
    assert grid_of(cells, max_columns=9, max_rows=9).rows == (
        ("a", (cells[0], None)), ("b", (None, cells[1])))


def test_the_tree_marks_the_first_divergent_op() -> None:
    tree = tree_of(made_reports.made_report(3), max_rows=100)
    assert tree is not None
    marked = [row.node.path for row in tree.rows if row.node is not None and row.node.first]
    assert marked == ["blocks.0.mlp.down"]
    root = tree.rows[0].node
    assert root is not None
    assert (root.kind, root.num_below) == ("GPT", 3)


def test_equal_layers_without_a_finding_are_counted() -> None:
    modules = (Module(name="", kind="GPT"), *(
        Module(name=f"blocks.{i}{part}", kind=kind) for i in range(40)
        for part, kind in (("", "Block"), (".mlp", "MLP"))))
    run = made_reports.made_run(modules=modules)
    report = made_reports.made_report(1, runs=(run,))
    tree = tree_of(report, max_rows=100)
    assert tree is not None
    assert [row.note for row in tree.rows if row.note] == [
        "38 more modules alike, without a finding"]
    short = tree_of(report, max_rows=4)
    assert short is not None
    assert [row.node.path for row in short.rows if row.node is not None] == [
        "", "blocks", "blocks.0", "blocks.0.mlp"]
    assert short.num_more > 0


def test_modules_are_known_from_findings_alone() -> None:
    bare = made_reports.made_run(modules=())
    tree = tree_of(made_reports.made_report(1, runs=(bare,)), max_rows=9)
    assert tree is not None
    assert [row.node.name for row in tree.rows if row.node] == ["(model)", "blocks", "0", "mlp",
                                                                "down"]
    assert tree_of(made_reports.made_report(0, runs=(bare,)), max_rows=9) is None


def test_coverage_is_added_over_runs_and_unchecked_calls_come_first() -> None:
    runs = (made_reports.made_run(0), made_reports.made_run(1))
    covered = covered_of(made_reports.made_report(0, runs=runs), max_rows=2)
    assert covered is not None
    assert [(row.op, row.calls - row.calls_checked) for row in covered.ops] == [
        ("aten.bernoulli_.float", 80), ("aten.sum.dim_IntList", 4)]
    assert covered.num_more_ops == 1
    assert [(row.reason, row.calls) for row in covered.reasons] == [("random draw", 80),
                                                                    ("budget", 4)]
    assert covered_of(made_reports.empty_report(), max_rows=2) is None


def test_settings_that_differ_between_runs_are_shown_apart() -> None:
    one = made_reports.made_run(0)
    other = made_reports.made_run(1, environment={
        **one.environment, "cpu": {**one.environment["cpu"], "microcode": "0xa0011d6"}})
    found = surroundings_of((one, one, other), max_rows=99)
    assert found is not None
    (setting,) = found.differing
    assert setting.name == "cpu.microcode"
    assert [(value, len(ids)) for value, ids in setting.values] == [("0xa0011d5", 2),
                                                                    ("0xa0011d6", 1)]
    unset = {f"{head}.{name}" for head, _, names in found.heads for name in names}
    assert unset == {"cuda.version"}
    assert surroundings_of((), max_rows=9) is None
