"""What a sweep cannot do: a clear message, the right exit code, and never 0 for nothing."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sdc_guard.cli.main import main
from sdc_guard.document import exits
from sdc_guard.sweep import forking, sensors
from sdc_guard.sweep.golden import Recorded, read_golden, write_golden
from tests.unit.sweep.running import LONG, ONE_CORE, Started

PRODUCTS = ("--tests", "exact_product")


def refused(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [
        "sweep", "--seconds", "5", "--state", str(tmp_path / "state"), "--out",
        str(tmp_path / "out"), *arguments])


@pytest.mark.parametrize(("arguments", "words"), [
    (["--cores", "9999"], "9999 is not among the cores that this process may run on"),
    (["--cores", "0-"], "is no core; write all, none, or numbers and ranges"),
    (["--devices", "cuda:99"], "cuda:99 is not there; torch sees"),
    (["--devices", "tpu"], "'tpu' is no device"),
    (["--cores", "none", "--devices", "cpu"], "leave nothing to test"),
    (["--tests", "nosuch"], "no test is called nosuch"),
    (["--case", "x"], "--case needs --tests"),
    (["--quick"], "give one of --quick"),
    (["--hang-s", "nan"], "nan is no time"),
    (["--golden", "absent.json"], "golden file absent.json cannot be read"),
    (["--golden", "/dev/zero"], "golden file /dev/zero is no regular file"),
    (["--cores", "5-2"], "'5-2' runs backwards; write 2-5"),
    (["--cores", "0-99999999999999"], "is not among the cores that this process may run on"),
    (["--cores", ""], "names no core; write all, none"),
    (["--wait-s", "nan"], "nan is no time"),
    (["--tests", "exact_product", "--case", "float32 33x65"],
     "exact_product has no such case here; nearest of its 35: 'float32 33x65x17 TN'"),
])
def test_wrong_usage_is_told_before_anything_is_started(
    tmp_path: Path, arguments: list[str], words: str
):
    result = refused(tmp_path, *arguments)
    assert result.exit_code == exits.USAGE, result.output
    assert words in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}', "\x00", "{}"])
def test_a_golden_file_that_is_damaged_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "golden.json"
    path.write_text(text)
    result = refused(tmp_path, "--golden", str(path))
    assert result.exit_code == exits.USAGE
    assert f"golden file {path}" in result.output


def test_a_golden_file_with_one_changed_digit_is_refused(tmp_path: Path):
    path = tmp_path / "golden.json"
    write_golden(path, [Recorded({"torch": "2"}, {"case": "0123456789abcdef"})])
    assert read_golden(path)
    path.write_text(path.read_text().replace("0123", "0124"))
    result = refused(tmp_path, "--golden", str(path))
    assert result.exit_code == exits.USAGE
    assert f"golden file {path}" in result.output


def test_an_output_below_a_file_is_refused_before_the_sweep(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for arguments in (["--out", str(tmp_path / "file" / "x")],
                      ["--html", str(tmp_path / "file" / "x.html")],
                      ["--write-golden", str(tmp_path / "file" / "x.json")]):
        result = refused(tmp_path, *arguments)
        assert result.exit_code == exits.USAGE
        assert "is no folder that you may write to" in result.output


@pytest.mark.parametrize(("error", "words"), [
    (OSError(24, "Too many open files"), "Too many open files; see ulimit -n"),
    (FileNotFoundError(2, "No such file or directory"), "the current folder is gone"),
])
def test_where_no_process_can_be_started_the_reason_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
):
    def refuses() -> None:
        raise error

    monkeypatch.setattr(forking, "begin", refuses)
    result = refused(tmp_path)
    assert result.exit_code == exits.USAGE
    assert "no process can be started: " in result.output
    assert words in result.output


def test_unreadable_sensors_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sensors, "CPUS", tmp_path / "absent")
    monkeypatch.setattr(sensors, "_inputs", lambda: (tmp_path / "absent", tmp_path))
    assert sensors.sensors_of("core", 0)() == {}
    assert sensors.sensors_of("gpu", 99)() == {}
    (tmp_path / "temp1_input").write_text("no number")
    monkeypatch.setattr(sensors, "_inputs", lambda: (tmp_path / "temp1_input",))
    assert sensors.sensors_of("core", 0)() == {}


def cells(sweep: Started) -> dict[str, str]:
    return {f"{c['unit'].rpartition(', ')[2]}": c["reason"] for c in sweep.report()["cells"]}


def test_a_sweep_that_may_not_pin_tests_nothing_and_says_why(tmp_path: Path):
    with Started(tmp_path, "--seconds", "8", *ONE_CORE, *PRODUCTS,
                 variables={"SWEEP_POWER_NO_PINNING": "1"}) as sweep:
        code, err = sweep.ended()
    assert code == exits.NOTHING_TESTED, err
    assert all("cannot be pinned" in r and "seccomp" in r for r in cells(sweep).values())
    assert len(cells(sweep)) == 2


@pytest.mark.slow
def test_a_state_that_cannot_be_used_and_a_full_log_are_warnings(tmp_path: Path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "sweep.sqlite").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.jsonl").symlink_to("/dev/full")
    with Started(tmp_path, *LONG, *ONE_CORE, *PRODUCTS) as sweep:
        sweep.until(lambda: sweep.checks)
        code, err = sweep.end(signal.SIGTERM)
    assert code == exits.INCONCLUSIVE, err
    assert "this sweep remembers nothing of earlier ones" in err
    assert "the log of events ends early: No space left on device" in err


@pytest.mark.slow
@pytest.mark.parametrize("is_faulty", [False, True])
def test_a_full_disk_is_told_and_hides_no_fault(tmp_path: Path, is_faulty: bool):
    """A limit on the size of files stands for the disk: writing fails in the same way."""
    (tmp_path / "counts").mkdir()
    fault: dict[str, Any] = {
        "core": int(ONE_CORE[1]), "ops": ["mm.default"], "kind": "low bit", "rate": 0.01,
        "seed": 1, "counts": str(tmp_path / "counts")}
    with Started(tmp_path, "--seconds", "20", *ONE_CORE, *PRODUCTS, prefix="ulimit -f 2",
                 fault=fault if is_faulty else None) as sweep:
        code, err = sweep.ended()
    assert "sweep.json cannot be written" in err
    assert code == (exits.DIVERGENCE if is_faulty else exits.USAGE), err


@pytest.mark.slow
def test_a_corrupt_history_is_put_aside(tmp_path: Path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "sweep.sqlite").write_bytes(bytes(range(256)) * 20)
    with Started(tmp_path, "--seconds", "20", *ONE_CORE, *PRODUCTS) as sweep:
        code, err = sweep.ended()
    assert code == exits.CLEAN, err
    assert "was damaged" in err
    assert len(list((tmp_path / "state").glob("sweep.sqlite.damaged-*"))) == 1


@pytest.mark.slow
def test_a_golden_file_of_another_torch_is_no_verdict(tmp_path: Path):
    path = tmp_path / "golden.json"
    write_golden(path, [Recorded({"torch": "0.4.1"}, {"case": "00" * 16})])
    with Started(tmp_path, "--seconds", "20", *ONE_CORE, "--tests", "golden_digests", "--golden",
                 str(path)) as sweep:
        code, err = sweep.ended()
    assert code != exits.DIVERGENCE, err
    assert json.dumps(sweep.report()["cells"]).count("FAIL") == 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [
    ["--tests", "per_sm", "--seconds", "15"], ["--seconds", "0.1"]])
def test_nothing_verified_is_never_a_clean_exit(tmp_path: Path, arguments: list[str]):
    no_interpreter = {"TRITON_INTERPRET": "0"}  # per_sm is a core's test where Triton interprets
    with Started(tmp_path, *ONE_CORE, *arguments, variables=no_interpreter) as sweep:
        code, err = sweep.ended()
    assert code == exits.NOTHING_TESTED, err
    assert "nothing was tested" in err
