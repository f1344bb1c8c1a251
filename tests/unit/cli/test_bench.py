"""``sdc-guard bench`` from the command line: a user's model, results that add up, clear errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sdc_guard.bench.benchfile import read, sole_writer
from sdc_guard.bench.results import make_stamp
from sdc_guard.bench.sweep.counts import MatrixFile, encoded
from sdc_guard.cli.main import main

MODEL = "tests.unit.bench.small:small_workload"
WATCH = "NaN and loss-spike watch"


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    log = logging.getLogger("sdc_guard")
    before = log.level
    yield
    log.setLevel(before)


def bench(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments, "--out", str(folder)])


@pytest.mark.slow
def test_a_users_model_from_faults_to_the_page(tmp_path: Path) -> None:
    chosen = ("--model", MODEL, "--detector", WATCH, "--fault", "weight flip")
    for num in ("2", "3"):
        done = bench(tmp_path, "faults", *chosen, "--num", num)
        assert done.exit_code == 0, done.output
    (cell,) = read(tmp_path / "bench.json").cells
    assert (cell.workload, cell.dtype, cell.done) == (MODEL, "own", ((0, 3),))
    assert bench(tmp_path, "cost", *chosen, "--pairs", "2").exit_code == 0
    assert bench(tmp_path, "harm", *chosen, "--num", "2", "--steps", "3").exit_code == 0
    found = read(tmp_path / "bench.json")
    assert [cost.detector for cost in found.costs] == [WATCH]
    assert [set(harm.changes) for harm in found.harms] == [{"0", "1"}]
    shown = bench(tmp_path, "page")
    assert shown.exit_code == 0
    assert MODEL in shown.stdout
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == shown.stdout.removesuffix("\n")
    as_json = json.loads(bench(tmp_path, "page", "--json").stdout)
    assert len(as_json["cells"]) == 1
    other = tmp_path / "other"
    more = ("--model", MODEL, "--detector", WATCH, "--fault", "gradient flip", "--num", "1")
    assert bench(other, "faults", *more).exit_code == 0
    assert bench(tmp_path, "page", "--join", str(other / "bench.json")).exit_code == 0
    assert {c.fault for c in read(tmp_path / "bench.json").cells} == {"weight flip",
                                                                      "gradient flip"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("faults", "--detector", "oracle"), "no detector 'oracle'; there are: sdc_guard all"),
        (("faults", "--workload", "gpt-5"), "no workload 'gpt-5'; there are: gpt-tiny"),
        (("faults", "--fault", "gamma ray"), "no fault 'gamma ray'; there are: single bit"),
        (("page",), "bench.json"),
    ],
)
def test_what_does_not_exist_is_said_so(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = bench(tmp_path, *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_a_model_that_cannot_be_loaded_is_not_measured(tmp_path: Path) -> None:
    done = bench(tmp_path, "faults", "--model", "tests.unit.bench.small:nothing", "--detector",
                 WATCH, "--fault", "weight flip", "--num", "1")
    assert "nothing" in done.output
    assert not (tmp_path / "README.md").exists()


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with sole_writer(tmp_path):
        done = bench(tmp_path, "cost", "--detector", WATCH)
    assert done.exit_code == 2
    assert "another sdc-guard bench writes there now" in done.output


def test_a_folder_that_cannot_be_written_is_said_so_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    done = bench(tmp_path / "file" / "deeper", "cost", "--detector", WATCH)
    assert done.exit_code == 2
    assert "no result can be written there" in done.output


def test_a_seed_below_zero_is_refused(tmp_path: Path) -> None:
    assert bench(tmp_path, "faults", "--seed", "-1").exit_code == 2


def test_the_matrix_of_the_sweep_is_written_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # else the command sets it for this process
    chosen = ("sweep", "--part", "exact_sort", "--limit-s", "0.2")
    done = bench(tmp_path, *chosen, "--num", "1")
    assert done.exit_code == 0, done.output
    assert "# The sweep against injected faults" in done.stdout
    assert (tmp_path / "matrix.md").read_text() in done.stdout + "\n"
    first = json.loads((tmp_path / "matrix.json").read_text())
    assert {c["num"] for c in first["cells"]} == {1}
    more = json.loads(bench(tmp_path, *chosen, "--num", "2", "--json").stdout)
    assert {c["num"] for c in more["cells"]} == {2}
    assert len(more["cells"]) == len(first["cells"])


@pytest.mark.parametrize(("arguments", "told"), [
    (("--part", "no_such_test"), "no test is called no_such_test"),
    (("--seed", "9"), "give another folder with --out")])
def test_a_matrix_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    empty = MatrixFile(stamp=make_stamp("sdc-guard bench sweep", 0), budget_s=120.0, ops=(),
                       dtypes=())
    (tmp_path / "matrix.json").write_bytes(encoded(empty))
    done = bench(tmp_path, "sweep", "--num", "1", "--minutes", "0.001", *arguments)
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())
