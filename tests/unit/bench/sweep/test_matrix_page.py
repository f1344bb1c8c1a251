"""The campaign goes on where a file stops, and the page says what the file holds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sdc_guard.bench.results import Stamp
from sdc_guard.bench.sweep.campaign import Campaign
from sdc_guard.bench.sweep.checklist import checklist
from sdc_guard.bench.sweep.counts import MatrixFile, encoded, read
from sdc_guard.bench.sweep.kinds import KINDS
from sdc_guard.bench.sweep.page import render
from sdc_guard.bench.sweep.rivals.imbue import Imbue
from sdc_guard.errors import UsageError
from tests.unit.bench.sweep.made_tests import CORE_0, small_test

STAMP = Stamp(
    commands=("sdc-guard bench sweep",), commits=("c0ffee",), seed=1, python="3", torch="2",
    numpy="2", platform="p", processor="x", instruction_set="y", num_cores=2, devices=(), load=0.5)
EMPTY = MatrixFile(stamp=STAMP, budget_s=0.1, ops=(), dtypes=())
SOME = tuple(KINDS[name] for name in (
    "bit: sign, now and then", "1 ulp, always", "NaN, always", "per run 1e-06"))
TESTS = [small_test("known", is_known=True), small_test("own", is_known=False)]


def campaign(file: MatrixFile, num: int, seed: int = 1) -> Campaign:
    return Campaign(places=(CORE_0,), seed=seed, num=num, budget_s=0.1, file=file, kinds=SOME)


@pytest.fixture(scope="module")
def file() -> MatrixFile:
    return campaign(EMPTY, 2).run(TESTS, [Imbue], 600.0)


def test_every_cell_has_its_trials(file: MatrixFile) -> None:
    assert {c.name for c in file.columns} == {"Imbue", "known, exact", "own, self", "own, peers"}
    assert len(file.cells) == 4 * len(SOME)
    assert {c.num for c in file.cells} == {2}
    assert file.dtypes == ("bfloat16", "float32")


def test_a_second_run_adds_what_is_missing_and_changes_nothing_else(file: MatrixFile) -> None:
    more = campaign(file, 3).run(TESTS, [Imbue], 600.0)
    assert {c.num for c in more.cells} == {3}
    before = {(c.column, c.kind): c for c in file.cells if c.kind != "per run 1e-06"}
    for cell in more.cells:
        old = before.get((cell.column, cell.kind))
        if old is not None:
            assert 0 <= cell.num_found - old.num_found <= 1
            assert 0 <= cell.num_reached - old.num_reached <= 1


def test_a_test_that_is_done_is_not_made_again(
    file: MatrixFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_again(*arguments: object, **options: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("sdc_guard.bench.sweep.campaign.columns_of", made_again)
    assert campaign(file, 2).run(TESTS, [], 600.0).cells == file.cells
    with pytest.raises(AssertionError, match="made again"):
        campaign(file, 3).run(TESTS, [], 600.0)


def test_no_time_is_no_trial() -> None:
    assert campaign(EMPTY, 2).run(TESTS, [Imbue], 0.0).cells == ()


def test_another_seed_is_not_added(file: MatrixFile) -> None:
    with pytest.raises(UsageError, match=r"seed 1 .*not 2"):
        campaign(file, 2, seed=2)
    with pytest.raises(UsageError, match="num=0"):
        campaign(file, 0)


def test_the_file_is_read_as_it_was_written(file: MatrixFile, tmp_path: Path) -> None:
    path = tmp_path / "matrix.json"
    path.write_bytes(encoded(file))
    assert read(path) == file
    path.write_bytes(b"{}")
    with pytest.raises(UsageError, match="no matrix"):
        read(path)


def test_a_clean_visit_counts_once_however_many_answers_it_serves(file: MatrixFile) -> None:
    checks = {c.name: c.checks for c in file.columns}
    assert checks["own, self"] == checks["own, peers"]
    counted = checks["known, exact"] + checks["own, self"]
    assert f"0 miscompares in {counted:.3g} checks" in render(file)


def met(file: MatrixFile) -> list[bool | None]:
    return [claim.is_met for claim in checklist(file)]


def test_the_checklist_holds_for_sound_results(file: MatrixFile) -> None:
    assert met(file) == [True, True, True, True, False, False]  # too few trials for the last
    assert met(EMPTY) == [None] * 6


def test_a_fault_that_was_missed_fails_the_checklist_and_is_listed(file: MatrixFile) -> None:
    cells = tuple(
        msgspec.structs.replace(
            c, found=(), bits={k: (n, 0) for k, (n, _) in c.bits.items()})
        if (c.column, c.kind) == ("known, exact", "bit: sign, now and then") else c
        for c in file.cells)
    bad = msgspec.structs.replace(file, cells=cells)
    assert met(bad) == [False, True, True, True, False, False]
    assert "known, exact, bit: sign, now and then: 0 of 2 found, though it must" in render(bad)


def test_flips_of_every_position_meet_the_checklist_and_a_missed_one_does_not(
    file: MatrixFile,
) -> None:
    def with_bits(missed: int) -> bool | None:
        bits = {f"float32 {b}": (1, int(b != missed)) for b in range(32)}
        cells = tuple(msgspec.structs.replace(
            c, bits=bits if c.column == "known, exact" else {}) for c in file.cells)
        return met(msgspec.structs.replace(file, cells=cells))[4]

    assert with_bits(missed=-1)
    assert not with_bits(missed=17)


def test_false_alarms_and_wrong_blame_fail_the_checklist(file: MatrixFile) -> None:
    columns = tuple(msgspec.structs.replace(c, false_alarms=1) for c in file.columns)
    blames = tuple(msgspec.structs.replace(b, words={"wrong": b.num}) for b in file.blames)
    bad = msgspec.structs.replace(file, columns=columns, blames=blames)
    assert met(bad) == [True, False, False, False, False, False]


def test_the_page_says_how_it_was_made_and_where_it_is_blind(file: MatrixFile) -> None:
    page = render(file)
    for text in ("`sdc-guard bench sweep`", "c0ffee; seed 1", "own, self: wrong in the same way",
                 "## Blame", "| Imbue", "100 [34, 100]", "(blind)"):
        assert text in page
