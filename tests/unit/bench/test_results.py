"""Result files survive a round trip, say where they come from, and are told in a README."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdc_guard.bench.detection import CleanRun, new_campaign
from sdc_guard.bench.overhead import Overhead
from sdc_guard.bench.results import (
    CleanFile,
    DetectionFile,
    OverheadFile,
    make_stamp,
    read,
    write,
)
from sdc_guard.bench.trial import CORRUPTION, MISSED, Trial
from sdc_guard.errors import UsageError
from sdc_guard.inject.faults import InjectedFault
from sdc_guard.intervals import Interval, proportion
from sdc_guard.records import Value


def trial(index: int, outcome: str) -> Trial:
    fault = InjectedFault(
        model="TransientFlip", op="aten.mm.default", call_number=0, output=0, shape=(2, 3),
        flat_index=1, bit=30, before=Value(dtype="float32", bits="0x3f800000", repr="1.0"),
        after=Value(dtype="float32", bits="0x7f800000", repr="inf"), size_ulps=None, num_wrong=1)
    return Trial(index=index, op="aten.mm.default", fault=fault, num_steps=1, outcome=outcome,
                 verdicts={}, causes={}, why="no witness disagreed", sites=("rerun only",))


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.1, high=value + 0.1, confidence=0.95)


def test_campaigns_are_read_as_they_were_written_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "detection.json"
    empty = new_campaign("demo GPT", "transient", seed=3)
    done = empty.with_trials([trial(0, CORRUPTION), trial(1, MISSED)], ["an alarm"])
    contents = DetectionFile(stamp=make_stamp("first", 3), campaigns=()).with_campaign(
        make_stamp("second", 3), done)
    write(path, contents)
    again = read(path, DetectionFile)
    assert again == contents
    assert again.find(empty) == done
    other = new_campaign("demo GPT", "repeated", seed=3)
    assert again.find(other) is other
    assert again.stamp.commands == ("first", "second")
    replaced = again.with_campaign(make_stamp("third", 3), done.with_trials([trial(2, MISSED)], []))
    assert [c.done for c in replaced.campaigns] == [((0, 3),)]
    text = (tmp_path / "README.md").read_text()
    assert "1 of 2, 50.000 % [1.258, 98.742]" in text
    assert "fault 1: missed, aten.mm.default, bit 30 of result 0 [2, 3], 1.0 -> inf" in text
    assert "`first`" in text
    assert "`second`" in text


def test_the_readme_tells_every_file_of_the_folder(tmp_path: Path) -> None:
    overhead = Overhead(
        label="tiny GPT", budget="all", num_threads=1, num_pairs=5, steps_per_turn=1,
        warmup_steps=1, seed=0, plain_ms=10.0, guarded_ms=23.0, ratio=interval(2.3),
        total_ratio=interval(2.4), own_overhead_share=1.25, call_share=0.98, flop_share=0.999,
        num_findings=0, guard_errors=0)
    clean = CleanRun(
        label="tiny GPT", seed=0, num_steps=500, num_findings=0, messages=(), calls=10,
        calls_checked=9, checks_by_witness={"replay": 9}, alarms_per_check=proportion(0, 9),
        refused_relations=(), call_share=0.9, flop_share=0.95, guard_errors=0)
    stamp = make_stamp("sdc-guard bench", 0)
    write(tmp_path / "overhead.json", OverheadFile(stamp=stamp, results=(overhead,)))
    write(tmp_path / "clean.json", CleanFile(stamp=stamp, runs=(clean,)))
    text = (tmp_path / "README.md").read_text()
    assert "2.300 [2.200, 2.400]" in text
    assert "500 guarded steps" in text
    assert stamp.torch in text
    assert stamp.commits[0] in text
    assert read(tmp_path / "overhead.json", OverheadFile).results == (overhead,)
    assert not list(tmp_path.glob("*.part"))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "detection.json"
    path.write_text('{"results": []}')
    with pytest.raises(UsageError, match="no DetectionFile"):
        read(path, DetectionFile)
    with pytest.raises(UsageError, match="no DetectionFile"):
        read(tmp_path / "absent.json", DetectionFile)


def test_a_stamp_says_what_the_machine_is_and_not_whose() -> None:
    stamp = make_stamp("sdc-guard bench", 0)
    assert stamp.torch == torch.__version__
    assert stamp.num_cores >= 1
    assert str(Path.home()) not in repr(stamp)
    assert set(stamp.__struct_fields__).isdisjoint({"host", "user", "path"})
