from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sdc_guard.cli.main import main
from sdc_guard.document.reading import read_document_file
from sdc_guard.hunt.asking import Asked, Outcome
from sdc_guard.hunt.document import document
from sdc_guard.report.baseline import read_baseline
from tests.unit.hunt.made_hunt import made_found, made_ledger

ROOT = Path(__file__).parents[3]
BROKEN = ("--import", "tests.unit.hunt.broken_exp", "--ops", "aten.exp.default")


def _asked(*words: str) -> Result:
    return CliRunner().invoke(main, ["hunt", *words])


def _command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from sdc_guard.cli.main import main; main()", *words]


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*words), capture_output=True, text=True, cwd=ROOT,
                          env=_environment(), timeout=300, check=False)


@pytest.mark.usefixtures("built_in_catalogue")
@pytest.mark.parametrize(("words", "message"), [
    (("--oracles", "crystal ball"), "is unknown; choose of"),
    (("--ops", "aten.no_such_operator"), "aten.no_such_operator"),
    (("--minutes", "1", "--seconds", "1"), "give one of"),
    (("--examples", "1", "--seconds", "1"), "give one of"),
    (("--resume", "--ops", "abs", "--examples", "1"), "--corpus DIR"),
    (("--resume", "--fresh"), "one of --resume and --fresh"),
    (("--import", "no_such_module"), "no_such_module"),
    (("--import", "tests.unit.hunt.raises_on_import"), "ValueError: no backend here"),
    (("--seconds", "nan"), "nan is no time"),
    (("--hang-s", "nan"), "nan is no time"),
    (("--devices", ""), "--devices names none"),
    (("--write-test", "/dev/null/tests"), "/dev/null is no folder"),
    (("--devices", "abacus", "--ops", "abs"), "device 'abacus' cannot be used"),
    (("--fail-on", "fridays"), "fail-on"),
    (("--baseline", "no-such-file.txt"), "no-such-file.txt"),
])
def test_wrong_usage_is_told_before_anything_is_hunted(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    result = _asked(*words, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_verify_needs_a_script(tmp_path: Path) -> None:
    result = _asked("verify", str(tmp_path / "none.py"), "--python", sys.executable)
    assert result.exit_code == 2
    assert "there is no script" in result.output


def test_a_report_that_cannot_be_written_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may fill up while a hunt is under way."""
    found = made_found()

    def hunted(asked: Asked, **tell: object) -> Outcome:
        (tmp_path / "out").write_text("no folder")
        return Outcome(document(made_ledger(found), seed=0, command="hunt", targets=(),
                                is_complete=True), (found,))

    monkeypatch.setattr("sdc_guard.hunt.asking.hunted", hunted)
    result = _asked("--out", str(tmp_path / "out"), "--json")
    assert result.exit_code == 2
    assert [e["id"] for e in json.loads(result.stdout)["findings"]] == [found.fingerprint]


@pytest.mark.slow
def test_a_broken_operator_is_found_and_known_the_next_time(tmp_path: Path) -> None:
    out, known = tmp_path / "out", tmp_path / "known.txt"
    hunt = ("hunt", *BROKEN, "--examples", "40", "--workers", "1", "--oracles", "bound",
            "--out", str(out), "--baseline", str(known), "--json")
    known.write_text("")
    first = _run(*hunt, "--write-test", str(tmp_path / "tests"))
    assert first.returncode == 1, first.stderr
    shown = json.loads(first.stdout)["findings"]
    assert {e["finding"]["call"]["op"] for e in shown} == {"aten.exp.default"}
    assert {e["verdict"] for e in shown} == {"corruption"}
    assert list(out.glob("findings/*/*.py"))
    assert list((tmp_path / "tests").glob("test_*.py"))
    found = read_document_file(out / "hunt.json").findings
    ids = {e.id for e in found}
    written = _run("baseline", "write", str(out), "--baseline", str(known))
    assert written.returncode == 0, written.stderr
    assert {id for id, _, _ in read_baseline(known).known} == {e.cause for e in found}
    second = _run(*hunt)
    assert second.returncode == 0, "the same seed draws the same calls, reduced to the same ids"
    assert {e["id"] for e in json.loads(second.stdout)["findings"]} == ids


@pytest.mark.slow
def test_an_interrupted_hunt_leaves_a_report_and_goes_on(tmp_path: Path) -> None:
    words = ("hunt", "--ops", "aten.exp.default", "--oracles", "bound", "--seconds", "35",
             "--workers", "1", "--corpus", str(tmp_path / "corpus"), "--out", str(tmp_path / "out"))
    hunt = subprocess.Popen(_command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            cwd=ROOT, env=_environment(), text=True)
    state = tmp_path / "corpus" / "state.json"
    for _ in range(1200):
        if state.exists() or hunt.poll() is not None:
            break
        time.sleep(0.1)
    hunt.send_signal(signal.SIGINT)
    _, told = hunt.communicate(timeout=300)
    assert hunt.returncode == 3, told
    partial = read_document_file(tmp_path / "out" / "hunt.json")
    assert not partial.runs[0].is_complete
    assert partial.calls_checked > 0
    resumed = _run(*words, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    whole = read_document_file(tmp_path / "out" / "hunt.json")
    assert whole.runs[0].is_complete
    assert whole.calls_checked > partial.calls_checked
    again = _run(*words, "--resume")
    assert again.returncode == 2
    assert "no unfinished hunt" in again.stderr
