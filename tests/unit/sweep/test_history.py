"""The history: nothing that was added is lost, and it never costs a sweep."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from sdc_guard.errors import UsageError
from sdc_guard.sweep import history as module
from sdc_guard.sweep.history import FILE, History, state_folder
from tests.made_reports import hostile_sweep_report, made_run, sweep_report

is_root = hasattr(os, "geteuid") and os.geteuid() == 0


def add(history: History, *, sweep: str = "a", unit: str = "core 1", test: str = "exact_product",
        seconds: float = 2.0, checks: int = 10, next_case: int = 3) -> None:
    history.add_visit(sweep=sweep, host="node-7", unit=unit, test=test, seconds=seconds,
                      checks=checks, next_case=next_case)


def test_visits_add_up_over_sweeps_and_the_cursor_is_the_latest(tmp_path: Path) -> None:
    path = tmp_path / "new" / FILE
    warnings: list[str] = []
    history = History.open(path, warnings.append)
    add(history)
    add(history, next_case=5)
    add(history, sweep="b", next_case=1)
    add(history, unit="core 2", seconds=7.0)
    history.close()
    again = History.open(path, warnings.append)
    assert again.dwell("node-7", "core 1") == {"exact_product": 6.0}
    assert again.dwell("node-8", "core 1") == {}
    assert again.last_case("node-7", "core 1", "exact_product") == 1
    assert again.last_case("node-7", "core 1", "another") == 0
    assert [(r.unit, r.num_sweeps, r.checks) for r in again.rows()] == [
        ("core 1", 2, 30), ("core 2", 1, 10)]
    assert (warnings, again.is_kept) == ([], True)


def test_a_report_adds_words_and_failures_once(tmp_path: Path) -> None:
    history = History.open(tmp_path / FILE)
    report = sweep_report()
    add(history, sweep=report.runs[0].id, seconds=9.0, checks=5, next_case=4)
    history.record(report)
    history.record(report)
    (record,) = history.rows(unit="core 1")
    assert record.words["exact_product"] == {"FAIL": 1}
    assert record.words["memory_patterns"] == {"PASS": 1}
    (failure,) = record.failures
    assert (failure.word, failure.wrong, failure.tried, failure.xor) == ("FAIL", 10, 10,
                                                                         "0x00400000")
    assert history.last_case("node-7", "core 1", "exact_product") == 4
    assert history.dwell("node-7", "core 1")["exact_product"] == 9.0
    assert [r.unit for r in history.rows(host="node-7")] == [
        "core 0", "core 1", "core 2", "core 3", "cuda:0"]
    assert [r.failures[0].word for r in history.rows(unit="core 2")] == ["SUSPECT"]


def test_a_hostile_report_is_stored(tmp_path: Path) -> None:
    warnings: list[str] = []
    history = History.open(tmp_path / FILE, warnings.append)
    report = hostile_sweep_report()
    run = made_run(kind="sweep", host="h\udc80", seed=2**64 - 1)
    cell = msgspec.structs.replace(report.cells[0], checks=2**64 - 1, unit="x\udc80")
    history.record(msgspec.structs.replace(report, runs=(run,), cells=(cell,)))
    assert warnings == []
    assert {r.checks for r in history.rows()} == {2**63 - 1, 0}


def test_old_sweeps_are_left_out_on_request(tmp_path: Path) -> None:
    history = History.open(tmp_path / FILE)
    history.record(sweep_report())
    now = datetime.now(UTC)
    assert history.rows(since=now + timedelta(hours=1)) == []
    assert len(history.rows(since=now - timedelta(hours=1))) == 5


def test_many_sweeps_are_added_up_and_failures_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SWEEPS", 2)
    # A clock that stands still, as a coarse one does between two visits.
    monkeypatch.setattr(module, "_now", lambda: "2026-11-24T00:00:00.000000+00:00")
    history = History.open(tmp_path / FILE)
    report = sweep_report()
    history.record(report)
    for number in range(5):
        add(history, sweep=f"s{number}", next_case=number)
    run = made_run(id="last", kind="sweep")
    history.record(msgspec.structs.replace(report, runs=(run,), cells=(), findings=()))
    (record,) = history.rows(unit="core 1")
    assert [s.id for s in record.sweeps] == ["s4", "s3", "earlier sweeps"]
    assert history.dwell("node-7", "core 1")["exact_product"] == 2.5 + 5 * 2.0
    assert record.checks == 5 * 10 + sum(c.checks for c in report.cells
                                         if c.unit == "node-7, core 1")
    assert [f.word for f in record.failures] == ["FAIL"]
    assert history.last_case("node-7", "core 1", "exact_product") == 4


@pytest.mark.parametrize("damage", ["text", "torn", "page"])
def test_a_damaged_file_is_moved_aside_and_the_sweep_goes_on(tmp_path: Path, damage: str) -> None:
    path = tmp_path / FILE
    history = History.open(path)
    history.record(sweep_report())
    history.close()
    good = path.read_bytes()
    bad = {"text": b"no database at all" * 400, "torn": good[:len(good) // 2],
           "page": good[:4096] + b"\x55" * (len(good) - 4096)}[damage]
    path.write_bytes(bad)
    path.with_name(FILE + "-journal").write_bytes(b"")
    warnings: list[str] = []
    again = History.open(path, warnings.append)
    add(again)
    assert again.dwell("node-7", "core 1") == {"exact_product": 2.0}
    again.close()
    (aside,) = (p for p in tmp_path.glob(f"{FILE}.damaged-*") if not p.name.endswith("-journal"))
    assert aside.read_bytes() == bad
    (warning,) = warnings
    assert aside.name in warning


def test_damage_that_shows_during_a_sweep_costs_the_file_and_not_the_sweep(
    tmp_path: Path,
) -> None:
    path = tmp_path / FILE
    warnings: list[str] = []
    history = History.open(path, warnings.append)
    add(history)
    path.write_bytes(b"\x55" * path.stat().st_size)
    add(history)
    add(history)
    assert history.dwell("node-7", "core 1") == {"exact_product": 4.0}
    assert len(warnings) == 1
    assert "damaged" in warnings[0]


def test_where_nothing_can_be_written_the_sweep_remembers_for_itself(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    warnings: list[str] = []
    history = History.open(blocked / "folder" / FILE, warnings.append)
    add(history)
    assert history.dwell("node-7", "core 1") == {"exact_product": 2.0}
    assert not history.is_kept
    (warning,) = warnings
    assert "cannot be used" in warning


def test_a_file_that_another_process_has_locked_is_not_waited_for_longer_than_said(
    tmp_path: Path
) -> None:
    path = tmp_path / FILE
    History.open(path).close()
    warnings: list[str] = []
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        history = History.open(path, warnings.append, 0.05)
        assert not history.is_kept
        history.close()
    assert "locked" in warnings[0]


@pytest.mark.skipif(is_root, reason="root may write anywhere")
def test_a_read_only_file_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / FILE
    History.open(path).close()
    path.chmod(0o400)
    warnings: list[str] = []
    add(History.open(path, warnings.append))
    assert len(warnings) == 1


def test_a_full_disk_is_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    history = History.open(tmp_path / FILE, warnings.append)
    (pages,) = history._database.execute("PRAGMA page_count").fetchone()
    history._database.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(200):
        add(history, unit=f"core {number}" * 20)
    (warning,) = warnings
    assert "full" in warning


def test_a_file_of_a_newer_version_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / FILE
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 9")
    database.close()
    before = path.read_bytes()
    warnings: list[str] = []
    history = History.open(path, warnings.append)
    add(history)
    assert not history.is_kept
    assert path.read_bytes() == before
    assert "its format is 9" in warnings[0]


def test_a_lock_that_stays_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.05)
    path = tmp_path / FILE
    warnings: list[str] = []
    history = History.open(path, warnings.append)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    add(history)
    other.execute("COMMIT")
    other.close()
    add(history)
    assert history.dwell("node-7", "core 1") == {"exact_product": 2.0}
    assert len(warnings) == 1
    assert "locked" in warnings[0]


WRITER = """
import sys
from pathlib import Path
from sdc_guard.sweep.history import History
history = History.open(Path(sys.argv[1]), lambda m: sys.exit(m))
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    history.add_visit(sweep=sys.argv[2], host="node-7", unit="core 1", test="t", seconds=1.0,
                      checks=1, next_case=number)
    print(number, flush=True)
"""


def writer(path: Path, name: str, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(times)],
                            stdout=subprocess.PIPE, text=True)


def test_sweeps_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / FILE
    started = [writer(path, f"s{i}", 25) for i in range(3)]
    for one in started:
        one.communicate()
        assert one.returncode == 0
    assert History.open(path).dwell("node-7", "core 1") == {"t": 75.0}


def test_a_killed_sweep_loses_no_visit(tmp_path: Path) -> None:
    path = tmp_path / FILE
    killed = writer(path, "s", 1_000_000)
    assert killed.stdout is not None
    told = [killed.stdout.readline() for _ in range(30)]
    killed.send_signal(signal.SIGKILL)
    rest = killed.communicate()[0].splitlines()
    last = int(next((line for line in reversed(rest) if line), told[-1]))
    history = History.open(path)
    assert history.dwell("node-7", "core 1")["t"] >= last + 1
    assert history.last_case("node-7", "core 1", "t") >= last


def test_the_folder_is_the_users_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SDC_GUARD_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local" / "state" / "sdc-guard"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder() == tmp_path / ".local" / "state" / "sdc-guard"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert state_folder() == tmp_path / "x" / "sdc-guard"
    monkeypatch.setenv("SDC_GUARD_STATE", "/s")
    assert state_folder() == Path("/s")
    assert state_folder(Path("/t")) == Path("/t")


def test_no_home_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    for name in ("SDC_GUARD_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UsageError, match="--state"):
        state_folder()
