"""The event log: one line per event, whatever happens to the process or to the disk."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sdc_guard.evidence import EventLog, read_events
from sdc_guard.evidence import eventlog as eventlog_module
from sdc_guard.records import Cause, Verdict
from tests.unit.evidence.calls_to_store import CALLS, finding_for

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.getcwd()}


def events_in(log: EventLog) -> list[dict[str, Any]]:
    assert log.path is not None
    return list(read_events(log.path))


def test_the_header_comes_first_and_events_keep_their_order(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "new" / "deep", 3, seed=7, environment={"torch": "x"})
    log.write("finding", step=1)
    log.write("step_skipped", step=2)
    assert log.path == tmp_path / "new" / "deep" / "events.rank3.jsonl"
    header, *events = events_in(log)
    assert {k: header[k] for k in ("seq", "kind", "schema_version", "pid", "rank", "seed")} == {
        "seq": 0, "kind": "header", "schema_version": 1, "pid": os.getpid(), "rank": 3, "seed": 7}
    assert header["environment"] == {"torch": "x"}
    assert header["start_utc"].endswith("+00:00")
    assert [(e["seq"], e["kind"], e["step"]) for e in events] == [
        (1, "finding", 1), (2, "step_skipped", 2)]
    assert 0 <= header["time_s"] <= events[0]["time_s"] <= events[1]["time_s"]


def test_findings_are_written_without_bare_nan_or_infinity(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 0)
    finding = finding_for(CALLS["fp32 mm"]())
    log.write("finding", finding=finding, nan=math.nan, inf=-math.inf, zero=-0.0,
              cause=Cause.UNKNOWN, odd=object, text="a\nb\ud800")
    assert log.path is not None
    last = log.path.read_bytes().splitlines()[-1]

    def refuse(word: str) -> None:
        raise AssertionError(f"bare {word}")

    event = json.loads(last, parse_constant=refuse)
    assert event["nan"] == {"dtype": "float64", "bits": "0x7ff8000000000000", "repr": "nan"}
    assert event["inf"]["bits"] == "0xfff0000000000000"
    assert math.copysign(1, event["zero"]) == -1
    assert event["finding"]["verdict"] == Verdict.CORRUPTION.value
    assert event["finding"]["worst"]["error_ulps"]["repr"] == "inf"
    assert (event["cause"], event["odd"]) == ("unknown", "<class 'object'>")


def test_a_field_that_cannot_be_written_costs_only_itself(tmp_path: Path) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no repr")

    log = EventLog(tmp_path, 0)
    log.write("guard_error", thing=Broken())
    assert events_in(log)[-1]["unwritable"] == "ValueError"


def test_kill_9_loses_at_most_the_event_being_written(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from sdc_guard.evidence.eventlog import EventLog
log = EventLog(Path({str(tmp_path)!r}), 0)
n = 0
while True:
    log.write("finding", n=n, filler="x" * 2000)
    print(n, flush=True)
    n += 1
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                          env=ENVIRONMENT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 200:
                os.kill(process.pid, signal.SIGKILL)
                break
        confirmed = 200 + len(process.stdout.read().split())
    assert process.returncode == -signal.SIGKILL
    numbers = [e["n"] for e in read_events(tmp_path / "events.rank0.jsonl")
               if e["kind"] == "finding"]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > confirmed


def test_a_torn_last_line_is_told_and_the_next_run_starts_on_a_line_of_its_own(
    tmp_path: Path,
) -> None:
    log = EventLog(tmp_path, 0)
    log.write("finding", n=1)
    log.close()
    assert log.path is not None
    with open(log.path, "ab") as file:
        file.write(b'{"seq":2,"kind":"find')
    assert events_in(log)[-1] == {"kind": "torn", "line": 3, "text": '{"seq":2,"kind":"find'}
    EventLog(tmp_path, 0).write("finding", n=3)
    assert [e["kind"] for e in events_in(log)] == ["header", "finding", "torn", "header", "finding"]


def test_a_whole_object_without_its_newline_counts_as_torn(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b'{"kind":"a"}\n[1]\n\xff\xfe\n{"kind":"b"}')
    assert [e["kind"] for e in read_events(path)] == ["a", "torn", "torn", "torn"]


@pytest.mark.parametrize("kind", ["file in the way", "dev full", "no space", "short write"])
def test_a_disk_that_refuses_is_counted_and_reported_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "out"
    if kind == "file in the way":
        directory.write_text("")
    elif kind == "dev full":
        directory.mkdir()
        (directory / "events.rank0.jsonl").symlink_to("/dev/full")
    elif kind == "no space":
        def refuse(fd: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(eventlog_module.os, "write", refuse)
    else:
        monkeypatch.setattr(eventlog_module.os, "write", lambda fd, data: len(data) // 2)
    with caplog.at_level(logging.WARNING, logger="sdc_guard"):
        log = EventLog(directory, 0)
        for n in range(5):
            log.write("finding", n=n)
    monkeypatch.undo()
    assert log.failures.count == (1 if kind == "file in the way" else 6)
    assert str(log.path) in log.failures.last
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "training goes on" in caplog.text
    assert [e["n"] for e in log.events if e["kind"] == "finding"] == list(range(5))


def test_a_read_only_directory_is_counted(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from sdc_guard.evidence.eventlog import EventLog
os.chmod({str(tmp_path)!r}, 0o555)
if os.getuid() == 0:
    os.setuid(65534)
log = EventLog(Path({str(tmp_path)!r}), 0)
log.write("finding", n=1)
print(log.failures.count, log.failures.last, len(log.events))
"""
    os.chmod(tmp_path, 0o755)
    loaded = "import torch, sdc_guard.evidence.eventlog\n" + code
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True,
                          timeout=300, env=ENVIRONMENT, check=True)
    os.chmod(tmp_path, 0o755)
    assert done.stdout.startswith("1 ")
    assert "Permission denied" in done.stdout
    assert done.stdout.rstrip().endswith(" 2")


def test_a_file_size_limit_tears_one_line_and_later_lines_are_readable(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from sdc_guard.evidence.eventlog import EventLog
log = EventLog(Path({str(tmp_path)!r}), 0)
log.write("finding", n=0)
size = log.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
log.write("finding", n=1)
log.write("finding", n=2)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write("summary", n=3)
print(log.failures.count)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=300, env=ENVIRONMENT, check=True)
    assert done.stdout == "2\n"
    events = list(read_events(tmp_path / "events.rank0.jsonl"))
    assert [e["kind"] for e in events] == ["header", "finding", "torn", "summary"]
    assert events[-1]["write_failures"] == 2


def test_the_file_stops_growing_at_its_limit_and_the_summary_still_fits(tmp_path: Path) -> None:
    limit = 200_000
    log = EventLog(tmp_path, 0, max_bytes=limit)
    for n in range(500):
        log.write("finding", n=n, filler="x" * 1000)
    log.write("summary", steps=500)
    assert log.path is not None
    assert log.path.stat().st_size <= limit
    events = events_in(log)
    kinds = [e["kind"] for e in events]
    kept = kinds.count("finding")
    assert kinds == ["header", *["finding"] * kept, "truncated", "summary"]
    assert 100 < kept < 200
    assert log.dropped == events[-1]["events_dropped"] == 500 - kept


def test_without_a_directory_events_stay_in_memory_and_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eventlog_module, "MAX_EVENTS_IN_MEMORY", 10)
    log = EventLog(None, 0)
    for n in range(100):
        log.write("finding", n=n)
    log.close()
    assert log.path is None
    assert [e["n"] for e in log.events] == list(range(90, 100))


def test_threads_write_whole_lines_with_distinct_numbers(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 0)

    def work(who: int) -> None:
        for n in range(100):
            log.write("finding", who=who, n=n, filler="y" * 500)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = events_in(log)
    assert [e["seq"] for e in events] == list(range(401))
    assert all(e["kind"] != "torn" for e in events)


def test_after_close_events_are_kept_in_memory_only(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 0)
    log.close()
    log.close()
    log.write("finding", n=1)
    assert len(events_in(log)) == 1
    assert len(log.events) == 2
    assert log.failures.count == 0
