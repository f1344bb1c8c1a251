"""The comparison with other programs: what they print is read rightly, and a flip is one bit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweep_power.beside import registers, tools
from tests.sweep_power.beside.page import Trial, page
from tests.sweep_power.beside.tools import (
    BROKEN,
    CAUGHT,
    CLEAN,
    CRASHED,
    OURS,
    STRESS_NG,
    SUSPECTED,
    Said,
)

STAMP = {"commands": ["x"], "commits": ["c"], "seed": 0, "torch": "2", "python": "3",
         "platform": "p", "processor": "q", "num_cores": 2, "load": 0.5}


@pytest.fixture
def spinning():
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield process.pid
    assert process.poll() is None, "it did not go on"
    process.kill()
    process.wait()


def test_a_flip_is_one_bit_of_a_vector_register(spinning: int) -> None:
    try:
        registers.state_of(spinning)
    except PermissionError:
        pytest.skip("ptrace is not permitted")
    draw = random.Random(3)
    for _ in range(20):
        found = registers.flip(spinning, draw)
        assert found.thread == spinning
        assert any(offset <= found.byte < offset + size for _, offset, size in registers.PARTS)
    with pytest.raises(OSError, match="No such process"):
        registers.flip(2**22 - 3, draw)


def test_a_flip_stays_in_a_thread_that_does_not_run() -> None:
    """One that sleeps in the kernel keeps its registers."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        before = registers.state_of(process.pid)
        found = registers.flip(process.pid, random.Random(5))
        after = registers.state_of(process.pid)
    except PermissionError:
        pytest.skip("ptrace is not permitted")
    finally:
        process.kill()
        process.wait()
    changed = [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b
               and not registers.STATE_PRESENT <= n < registers.STATE_PRESENT + 8]
    assert changed in ([found.byte], [])  # none where the kernel restarted the call through libc
    if changed:
        assert before[found.byte] ^ after[found.byte] == 1 << found.bit


@pytest.mark.parametrize(("code", "text", "word"), [
    (0, "stress-ng: metrc: [7] cpu 1234 10.00 19.8 0.0\n", CLEAN),
    (2, "stress-ng: fail:  [8] cpu: sum is off\n", CAUGHT),
    (2, "stress-ng: error: [8] cpu: terminated on signal: 11\n", CRASHED),
    (3, "no resources", BROKEN)])
def test_stress_ng_is_read(code: int, text: str, word: str, tmp_path: Path) -> None:
    said = tools.read_stress_ng(code, text, tmp_path, 10.0)
    assert said.word == word
    if word == CLEAN:
        assert said.rates == {"bogo operations (cpu)": 123.4}


LOG = """tests:
- test: one
  result: pass
- test: two
  result: {result}
  threads:
  - thread: 0
    id: {{ logical: 0, package: 0 }}
    messages: []
  - thread: 1
    id: {{ logical: 1, package: 0 }}
    state: failed
"""


@pytest.mark.parametrize(("code", "result", "word", "named"), [
    (1, "fail", CAUGHT, (1,)), (1, "crash", CRASHED, (1,)), (0, "pass", CLEAN, (1,))])
def test_open_dcdiag_is_read(
    code: int, result: str, word: str, named: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "log.yaml").write_text(LOG.format(result=result))
    said = tools.read_open_dcdiag(code, "", tmp_path, 10.0)
    assert (said.word, said.named) == (word, named)
    assert tools.read_open_dcdiag(0, "", tmp_path / "none", 10.0).word == BROKEN


@pytest.mark.parametrize(("code", "verdict", "witness", "word", "named"), [
    (0, "", "", CLEAN, ()), (1, "corruption", "exact", CAUGHT, (1,)),
    (1, "corruption", "process", CRASHED, (1,)), (3, "inconclusive", "peer", SUSPECTED, ()),
    (5, "", "", BROKEN, ())])
def test_ours_is_read(
    code: int, verdict: str, witness: str, word: str, named: tuple[int, ...], tmp_path: Path
) -> None:
    findings = [{"verdict": verdict, "finding": {
        "witness": witness, "attribution": {"place": "host, core 1"}}}] if verdict else []
    (tmp_path / "sweep.json").write_text(json.dumps(
        {"sweep": {"checks": 50, "num_bytes": 70, "flops": 90}, "findings": findings}))
    said = tools.read_ours(code, "", tmp_path, 10.0)
    assert (said.word, said.named) == (word, named)
    assert said.rates == {"results": 5.0, "bytes": 7.0, "FLOP": 9.0}


def test_the_page_counts_who_was_named_and_says_what_is_absent() -> None:
    def trial(core: int | None, word: str, *named: int) -> Trial:
        return Trial(tool=OURS.name, core=core, flips=9, elapsed_s=10.0, said=Said(
            word=word, named=named, rates={"bytes": 7.0}))

    text = page([trial(1, CAUGHT, 1), trial(1, CAUGHT, 0), trial(0, CRASHED), trial(0, CLEAN),
                 trial(None, CLEAN)], [OURS], STAMP, 10.0, 20.0)
    (row,) = [line for line in text.splitlines() if line.startswith("| sdc-guard sweep | answers")]
    assert "| 2 of 4 [7, 93] % | 1 of 2 [1, 99] % | 0 | 1 | 1 | 9 |" in row
    assert "Not there to be run: stress-ng --verify, OpenDCDiag." in text
    assert "1 of 1" in text
    assert "7 bytes" in text
    assert "crashed" in page([trial(0, CRASHED)], [OURS, STRESS_NG], STAMP, 10.0, 20.0)
