"""Parts of a benchmark add up to the whole, nothing counts twice, and diffs stay readable."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sdc_guard.bench.benchfile import BenchFile, merge, read, write
from sdc_guard.bench.cells import FIRM, MISSED
from sdc_guard.errors import UsageError
from tests.unit.bench.synthetic import cell, clean, cost, document, harm, stamp, trial


def of(*cells: object, **parts: object) -> BenchFile:
    return BenchFile(cells=tuple(cells), **parts)  # type: ignore[arg-type]


def test_a_document_is_read_as_it_was_written_with_one_result_in_a_line(tmp_path: Path) -> None:
    file = document()
    path = tmp_path / "bench" / "bench.json"
    write(path, file)
    assert read(path) == file
    lines = path.read_text().splitlines()
    num = sum(len(getattr(file, name)) for name in BenchFile.__struct_fields__)
    assert sum(line.startswith('{"') for line in lines) == num
    assert list(path.parent.iterdir()) == [path]


def test_the_order_of_results_does_not_show_in_the_file(tmp_path: Path) -> None:
    file = document()
    mixed = msgspec.structs.replace(file, cells=file.cells[::-1], costs=file.costs[::-1])
    write(tmp_path / "a", file)
    write(tmp_path / "b", mixed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_no_document_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text('{"cells": 3}')
    with pytest.raises(UsageError, match=r"bench\.json is no BenchFile"):
        read(path)


def test_disjoint_parts_of_a_cell_are_added() -> None:
    first = cell("sdc_guard all", "single bit", counts={"product | 0.1 to 1": {FIRM: 3, MISSED: 1}},
                 missed=((2, 3),), delays={"1": 3}, causes={"transient": 3}, examples=(trial(2),))
    second = cell("sdc_guard all", "single bit", counts={"product | 0.1 to 1": {FIRM: 1, MISSED: 1},
                                                  "pointwise | no bound": {FIRM: 1}},
                  start=4, missed=((5, 6),), delays={"1": 1, "12": 1}, causes={"unknown": 2},
                  examples=(trial(5),))
    [both] = merge(of(second), of(first)).cells
    assert both.done == ((0, 7),)
    assert both.missed == ((2, 3), (5, 6))
    assert both.counts == {"pointwise | no bound": {FIRM: 1},
                           "product | 0.1 to 1": {FIRM: 4, MISSED: 2}}
    assert both.delays == {"1": 4, "12": 1}
    assert both.causes == {"transient": 3, "unknown": 2}
    assert [t.index for t in both.examples] == [2, 5]
    assert both.injected == 7


def test_cells_of_different_faults_stay_apart() -> None:
    counts = {"product | 0.1 to 1": {FIRM: 1}}
    cells = [cell("sdc_guard all", "single bit", counts=counts, seed=seed) for seed in (0, 1)]
    assert len(merge(of(cells[0]), of(cells[1])).cells) == 2


def test_a_continued_cell_replaces_the_one_that_it_continues() -> None:
    short = cell("sdc_guard all", "single bit", counts={"product | 0.1 to 1": {FIRM: 2}})
    longer = cell("sdc_guard all", "single bit", counts={"product | 0.1 to 1": {FIRM: 5}})
    assert merge(of(short), of(longer)).cells == merge(of(longer), of(short)).cells == (longer,)


def test_merging_with_itself_changes_nothing() -> None:
    file = document()
    assert merge(file, file) == file


def test_faults_that_would_count_twice_are_refused() -> None:
    one = cell("sdc_guard all", "single bit", counts={"product | 0.1 to 1": {FIRM: 5}})
    other = cell("sdc_guard all", "single bit", counts={"product | 0.1 to 1": {FIRM: 5}}, start=3)
    with pytest.raises(UsageError, match=r"single bit.*2 faults in common, number 3 first"):
        merge(of(one), of(other))


def test_no_more_examples_stay_where_not_all_were_kept() -> None:
    missed = {"product | 0.1 to 1": {MISSED: 8}}
    parts = [cell("step replay", "single bit", counts=missed, start=start,
                  examples=tuple(trial(start + i) for i in range(5))) for start in (8, 0)]
    [both] = merge(of(parts[0]), of(parts[1])).cells
    assert [t.index for t in both.examples] == [0, 1, 2, 3, 4]
    complete = [cell("sdc_guard all", "single bit", counts=missed, start=start,
                     examples=tuple(trial(start + i) for i in range(8))) for start in (8, 0)]
    [both] = merge(of(complete[0]), of(complete[1])).cells
    assert len(both.examples) == 16


def test_clean_runs_costs_and_harm_are_joined() -> None:
    one = BenchFile(clean=(clean("sdc_guard all", num_steps=30),),
                    costs=(cost("sdc_guard all", 2.0),),
                    harms=(harm("single bit", "transient", changes={"0": 0.0}),))
    other = BenchFile(
        clean=(clean("sdc_guard all", num_steps=20, num_alarms=2),),
        costs=(cost("sdc_guard all", 3.0, num_pairs=5),),
        harms=(harm("single bit", "transient", changes={"1": None}),))
    both = merge(one, other)
    assert both.clean == other.clean  # the same steps, and no alarm is lost
    assert both.costs[0].ratio.value == 2.0
    assert both.harms[0].changes == {"0": 0.0, "1": None}


def test_a_longer_clean_run_replaces_the_shorter() -> None:
    short, longer = clean("sdc_guard all", num_steps=10), clean("sdc_guard all", num_steps=20)
    parts = BenchFile(clean=(short,)), BenchFile(clean=(longer,))
    assert merge(*parts).clean == merge(*parts[::-1]).clean == (longer,)


def test_stamps_of_one_machine_hold_all_commands_and_commits() -> None:
    parts = [BenchFile(stamps=(stamp(f"run {i}", f"commit{i}"),)) for i in (1, 2)]
    [both] = merge(*parts).stamps
    assert both.commands == ("run 1", "run 2")
    assert both.commits == ("commit1", "commit2")
    elsewhere = msgspec.structs.replace(stamp("run 3"), processor="name Other")
    assert len(merge(merge(*parts), BenchFile(stamps=(elsewhere,))).stamps) == 2
