"""Baselines: stable, mergeable by git, and a damaged line is named before anything is written."""

from __future__ import annotations

import shutil
import subprocess
from datetime import date
from pathlib import Path

import msgspec
import pytest

from sdc_guard.document.schema import Known, Report
from sdc_guard.errors import UsageError
from sdc_guard.records import Verdict
from sdc_guard.report.baseline import (
    Baseline,
    baseline_text,
    parse_baseline,
    read_baseline,
    updated,
    without,
    write_baseline,
)
from sdc_guard.report.entries import entry_of
from tests.made_reports import (
    HOSTILE,
    ROOT,
    SHAPES,
    made_finding,
    made_report,
    made_run,
    many_report,
)

DAY = date(2026, 11, 23)
LINE = "ef8ad83411ad8528 | corruption | 2.13 | cpu | aten.sum | a.py | 2027-01-31 | why"


def of_one_op(op: str, *, verdict: Verdict = Verdict.CORRUPTION, torch: str = "2.13.0") -> Report:
    run = made_run(environment={"torch": torch})
    return made_report(0, runs=(run,), findings=(entry_of(
        made_finding(op=op, verdict=verdict), tool="guard", run=run.id, root=ROOT),))


def lines_of(baseline: Baseline) -> list[Known]:
    return list(baseline.known.values())


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_reads_back_and_is_stable(shape: str) -> None:
    baseline, _, _ = updated(Baseline(), SHAPES[shape](), reason=HOSTILE, today=DAY)
    text = baseline_text(baseline)
    again = parse_baseline(text)
    assert baseline_text(again) == text
    assert baseline_text(updated(again, SHAPES[shape](), today=DAY)[0]) == text


def test_a_line_holds_no_line_number_and_two_runs_give_the_same_text() -> None:
    moved = made_report(0, findings=tuple(
        entry_of(made_finding(i, source=f"{ROOT}/train/model.py:{900 + i}", step=7, call_index=i),
                 tool="guard", run="run 0", root=ROOT) for i in range(3)))
    first, _, _ = updated(Baseline(), made_report())
    second, _, _ = updated(Baseline(), moved)
    assert baseline_text(first) == baseline_text(second)
    assert ":57" not in baseline_text(first)
    assert len(first.known) == 1


def test_entries_are_sorted_one_a_line() -> None:
    text = baseline_text(updated(Baseline(), many_report(50))[0])
    ids = [line[:16] for line in text.splitlines() if " | corruption | " in line]
    assert len(ids) == 50
    assert ids == sorted(ids)


def test_a_line_that_is_there_keeps_its_reason_and_expiry_and_new_ones_get_theirs() -> None:
    first, num_new, _ = updated(Baseline(), of_one_op("a"), reason="old", expires="2027-01-31",
                                today=DAY)
    assert num_new == 1
    both = made_report(0, findings=(*of_one_op("a").findings, *of_one_op("b").findings))
    second, num_new, num_renewed = updated(first, both, reason="young", expires="2028-01-31",
                                           today=DAY)
    assert (num_new, num_renewed) == (1, 0)
    assert {(k.op, k.reason, k.expires) for k in lines_of(second)} == {
        ("a", "old", "2027-01-31"), ("b", "young", "2028-01-31")}


def test_an_expired_line_that_is_met_again_is_renewed_only_if_asked() -> None:
    old, _, _ = updated(Baseline(), of_one_op("a"), expires="2026-01-31", reason="why", today=DAY)
    same, _, num = updated(old, of_one_op("a"), today=DAY)
    assert (num, lines_of(same)[0].expires) == (0, "2026-01-31")
    renewed, _, num = updated(old, of_one_op("a"), expires="2027-05-05", today=DAY)
    assert num == 1
    assert (lines_of(renewed)[0].expires, lines_of(renewed)[0].reason) == ("2027-05-05", "why")


def test_lines_of_other_keys_stay_and_the_more_severe_verdict_is_kept() -> None:
    first, _, _ = updated(Baseline(), of_one_op("a", torch="2.8.1"))
    second, num_new, _ = updated(first, of_one_op("a", verdict=Verdict.PRECISION))
    assert num_new == 1
    assert {k.torch for k in lines_of(second)} == {"2.8", "2.13"}
    third, num_new, _ = updated(second, of_one_op("a"))
    assert num_new == 0
    fourth, _, _ = updated(third, of_one_op("a", verdict=Verdict.PRECISION))
    assert {k.verdict for k in lines_of(fourth)} == {"corruption"}


def test_what_is_gone_takes_its_environment_along() -> None:
    baseline, _, _ = updated(Baseline(), of_one_op("a"))
    assert baseline.environments
    assert without(baseline, lines_of(baseline)) == Baseline()


@pytest.mark.parametrize(("line", "message"), [
    ("ef8ad83411ad8528 | corruption | 2.13", "line 3: 3 columns, 8 are needed"),
    (LINE.replace("ef8a", "zzzz"), "line 3: 'zzzzd83411ad8528' is no fingerprint"),
    (LINE.replace("corruption", "bad"), "line 3: verdict 'bad' is unknown"),
    (LINE.replace("2.13", "new"), "line 3: torch 'new' is no version such as 2.13"),
    (LINE.replace("| cpu", "|"), "line 3: the device is missing"),
    (LINE.replace("2027-01-31", "20270131"), "line 3: '20270131' is no date such as 2027-03-31"),
    (LINE.replace("2027-01-31", "2027-02-30"), "line 3: '2027-02-30' is no date"),
    (LINE + " | more", "line 3: 9 columns"),
    ("environment | 2.13 | cpu", "line 3: 3 columns, an environment has 5"),
    (LINE.replace("why", "else"), "line 3: ef8ad83411ad8528 (2.13, cpu) stands in line 2 too"),
])
def test_a_damaged_line_is_named_with_its_number_and_the_file_stays(
    line: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "known.txt"
    path.write_text(f"# mine\n{LINE}\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        read_baseline(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert path.read_text(encoding="utf-8").endswith(line + "\n")


def test_every_damaged_line_is_counted_and_ten_are_named() -> None:
    with pytest.raises(UsageError, match="and 5 more"):
        parse_baseline("broken\n" * 15)


def test_order_and_repeats_do_not_matter() -> None:
    other = LINE.replace("ef8a", "0f8a")
    assert len(parse_baseline(f"{LINE}\n\n{other}\n{LINE}\n").known) == 2


@pytest.mark.parametrize("data", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_said_so(data: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "known.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=r"known\.txt cannot be read"):
        read_baseline(path)


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "known.txt"
    path.write_text("old", encoding="utf-8")

    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match=r"known\.txt cannot be written: no space"):
        write_baseline(path, Baseline())
    assert [p.name for p in tmp_path.iterdir()] == ["known.txt"]
    assert path.read_text(encoding="utf-8") == "old"


def merged(folder: Path, ours: str, base: str, theirs: str, *options: str) -> tuple[int, str]:
    for name, text in (("ours", ours), ("base", base), ("theirs", theirs)):
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run(["git", "merge-file", "-p", *options, "ours", "base", "theirs"],
                          cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def with_op(baseline: Baseline, op: str) -> Baseline:
    return updated(baseline, of_one_op(op))[0]


def starting_with(digit: str, *, after: int = 0) -> str:
    """An operator whose fingerprint starts with this digit."""
    numbers = iter(range(after, after + 1000))
    return next(op for op in (f"aten.op{n}" for n in numbers)
                if of_one_op(op).findings[0].id.startswith(digit))


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_merges_what_two_branches_add(tmp_path: Path) -> None:
    base = with_op(Baseline(), starting_with("7"))
    ours, theirs = (with_op(base, starting_with(d)) for d in "3b")
    code, text = merged(tmp_path, *(baseline_text(b) for b in (ours, base, theirs)))
    assert code == 0
    expected = with_op(ours, starting_with("b"))
    assert text == baseline_text(expected)
    # Into one gap both add a line: git's union driver joins them, and the order does not matter.
    same = with_op(base, starting_with("3", after=1000))
    texts = [baseline_text(b) for b in (ours, base, same)]
    assert merged(tmp_path, *texts)[0] > 0
    code, text = merged(tmp_path, *texts, "--union")
    assert code == 0
    assert parse_baseline(text).known == with_op(ours, starting_with("3", after=1000)).known


def test_a_text_longer_than_a_line_should_be_is_cut_and_stable() -> None:
    report = of_one_op("x" * 5000)
    text = baseline_text(updated(Baseline(), report)[0])
    assert max(len(line) for line in text.splitlines()) < 1000
    assert baseline_text(parse_baseline(text)) == text


def test_an_unknown_torch_is_a_key_too() -> None:
    run = made_run(environment={})
    report = msgspec.structs.replace(made_report(1), runs=(run,))
    (item,) = lines_of(updated(Baseline(), report)[0])
    assert item.torch == "unknown"
    assert parse_baseline(baseline_text(updated(Baseline(), report)[0])).known


def test_a_byte_order_mark_of_an_editor_does_no_harm(tmp_path: Path) -> None:
    baseline, _, _ = updated(Baseline(), made_report())
    path = tmp_path / "known.txt"
    path.write_bytes(b"\xef\xbb\xbf" + baseline_text(baseline).replace("\n", "\r\n").encode())
    assert read_baseline(path).known == baseline.known
