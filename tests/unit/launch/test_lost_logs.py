"""``sdc-guard run`` where the script leaves nothing to report on, or little room to work in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sdc_guard.document.exits import FINDING
from sdc_guard.document.reading import read_document_file
from tests.unit.launch.commands import RUN, run, script

FAULT = '''
import os, resource, shutil, signal, sys, torch
WRONG = """
def wrong(a, b, calls=[0]):
    out = torch.from_numpy(a.numpy() @ b.numpy())
    calls[0] += 1
    if calls[0] > 4:
        out[0, 0] += 1.0
    return out
"""
apart = {"torch": torch}  # torch keeps what it is given, and with it all names beside it
exec(WRONG, apart)
library = torch.library.Library("aten", "IMPL")
library.impl("mm", apart["wrong"], "CPU", allow_override=True)

def deep(depth):
    torch.ones(2) + depth
    deep(depth + 1)

if sys.argv[1] == "cleared":
    os.environ.clear()
if sys.argv[1] == "recursion":
    try:
        deep(0)
    except RecursionError:
        pass
if sys.argv[1] == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
ones = torch.ones(8, 8)
for _ in range(6):
    ones @ ones
if sys.argv[1] == "gone":
    shutil.rmtree(os.environ["SDC_GUARD__RUN"])
'''


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["gone", "full"])
def test_a_corruption_sets_the_exit_code_where_its_log_is_lost(tmp_path: Path, ending: str) -> None:
    name = script(tmp_path, "bad.py", FAULT)
    done = run([*RUN, "--budget", "all", "--out", "run", sys.executable, "-W", "ignore", name,
                ending], tmp_path)
    assert done.returncode == FINDING, done.stderr
    assert "could not be written or read in full; a corruption was found" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["plain", "recursion", "cleared"])
def test_an_operator_outside_of_modules_is_found_at_the_script_s_line(
    tmp_path: Path, ending: str
) -> None:
    name = script(tmp_path, "bad.py", FAULT)
    done = run([*RUN, "--budget", "all", "--out", "run", sys.executable, "-W", "ignore", name,
                ending], tmp_path)
    assert done.returncode == FINDING, done.stderr
    report = read_document_file(tmp_path / "run" / "report.json")
    line = 1 + FAULT.splitlines().index("    ones @ ones")
    assert {(e.location.file, e.location.line) for e in report.findings if e.location} == {
        (name, line)}
