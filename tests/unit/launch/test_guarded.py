"""``sdc-guard run`` around scripts that use torch: equal bits, findings, exit codes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sdc_guard.document.exits import FINDING
from sdc_guard.document.reading import read_document_file
from tests.unit.launch.commands import RUN, environment, run, script

PYTHON = sys.executable

TRAIN = """
import hashlib
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1))
        self.head = nn.Linear(16, 4)
    def forward(self, x):
        return self.head(self.body(x))

def train():
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    for step in range(6):
        loss = nn.functional.cross_entropy(net(torch.randn(5, 8)), torch.arange(5) % 4)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item().hex())
    digest = hashlib.sha256()
    for tensor in (*net.state_dict().values(), torch.get_rng_state()):
        digest.update(tensor.numpy().tobytes())
    return [*losses, digest.hexdigest(), len(net._forward_pre_hooks)]
"""

CLEAN = TRAIN + """
import json, os, sys, threading

def state():
    return {"threads": [t.name for t in threading.enumerate()], "argv": sys.argv,
            "torch": [torch.get_num_threads(), torch.is_grad_enabled()],
            "meta": [type(m).__name__ for m in sys.meta_path], "cwd": os.getcwd(),
            "excepthook": sys.excepthook is sys.__excepthook__, "profile": sys.getprofile(),
            "loader": [type(torch.__spec__.loader).__name__, type(torch.__loader__).__name__]}

before = state()
print(json.dumps([train(), before, state(),
                  len(torch.nn.modules.module._global_forward_pre_hooks)]))
sys.exit(3)
"""

BROKEN = '''
import json, os, sys, torch
from torch import nn

WRONG = """
def wrong(a, b, calls=[0]):
    out = torch.from_numpy(a.detach().numpy() @ b.detach().numpy())
    calls[0] += 1
    if calls[0] > 4 and os.environ.get("RANK", "1") == "1":
        out[0, 0] += 1.0
    return out
"""
apart = {"os": os, "torch": torch}  # torch keeps what it is given, and with it all names beside it
exec(WRONG, apart)
library = torch.library.Library("aten", "IMPL")
library.impl("mm", apart["wrong"], "CPU", allow_override=True)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Linear(8, 4, bias=False)
    def forward(self, x):
        return self.down(x)

class Late:
    def __init__(self):
        self.file = open("late.txt", "w")
        self.file.write("never closed")
    def __del__(self):
        self.file.write(", and deleted")

def main():
    net = Net()
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
        net = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(6):
        net(torch.randn(5, 8)).sum().backward()
        optimizer.step()
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()
main()
late = Late()
print("no newline at the end", end="")
'''


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """The folder, exit code, output and errors of a script in which ``mm`` breaks."""
    folder = tmp_path_factory.mktemp("finding")
    name = script(folder, "bad.py", BROKEN)
    error = folder / "error.json"
    error.write_text(json.dumps({"message": "the script's own error"}))
    done = run([*RUN, "--budget", "all", "--out", "run", PYTHON, "-W", "ignore", name], folder,
               env=environment(TORCHELASTIC_ERROR_FILE=str(error)))
    return folder, done.returncode, done.stdout, done.stderr


def test_a_guarded_script_leaves_equal_bits_and_its_own_exit_code(tmp_path: Path) -> None:
    name = script(tmp_path, "clean.py", CLEAN)
    done = run([*RUN, "--budget", "all", "--out", "run", PYTHON, name, "a b"], tmp_path)
    trained, before, after, num_hooks = json.loads(done.stdout)
    here: dict[str, Any] = {"__name__": "clean"}
    exec(TRAIN, here)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert trained == here["train"]()
    torch.set_num_threads(num_threads)
    assert before == after
    assert after["loader"] == ["SourceFileLoader", "SourceFileLoader"]
    assert (after["argv"], num_hooks, done.returncode) == ([name, "a b"], 0, 3)
    report = read_document_file(tmp_path / "run" / "report.json")
    (watched,) = report.runs
    assert watched.is_complete
    assert watched.steps == 6
    assert report.calls_checked > 0.8 * report.calls > 100
    assert {"", "body", "head", "body.0"} <= {m.name for m in watched.modules}
    assert watched.script == name
    assert "calls checked" in done.stderr
    assert str(tmp_path / "run") in done.stderr


def test_a_finding_sets_the_exit_code_and_loses_nothing(
    finding: tuple[Path, int, str, str]
) -> None:
    folder, code, output, errors = finding
    assert code == FINDING, errors
    assert output == "no newline at the end"
    assert (folder / "late.txt").read_text() == "never closed, and deleted"
    report = read_document_file(folder / "run" / "report.json")
    assert report.num_by_verdict["corruption"] >= 2
    assert {e.finding.module for e in report.findings} == {"down"}
    assert {e.location.file for e in report.findings if e.location} == {"bad.py"}
    assert "divergence: new" in errors
    assert "CORRUPTION in aten." in errors


def test_a_finding_is_the_launcher_s_first_error_before_the_script_s_own(
    finding: tuple[Path, int, str, str]
) -> None:
    folder = finding[0]
    told = json.loads((folder / "error.json").read_text())["message"]
    text = told["extraInfo"]["py_callstack"]
    assert text.startswith("SDC: CORRUPTION in aten.mm.default at step ")
    assert "of down (bad.py:" in text
    assert "sdc-guard replay" in text
    assert text.endswith("the script's own error")
    report = read_document_file(folder / "run" / "report.json")
    assert int(told["extraInfo"]["timestamp"]) <= os.path.getmtime(folder / "error.json")
    assert told["extraInfo"]["timestamp"].isdigit()
    assert report.judgement is not None
    assert report.judgement.exit_code == 1


@pytest.mark.slow
def test_a_finding_can_leave_the_exit_code_be_known_or_raised(tmp_path: Path) -> None:
    from sdc_guard.report.baseline import Baseline, updated, write_baseline

    name = script(tmp_path, "bad.py", BROKEN)
    command = [*RUN, "--budget", "all", "--out", "run"]
    done = run([*command, "--finding-exit", "none", PYTHON, "-W", "ignore", name], tmp_path)
    assert done.returncode == 0
    assert "new 2" in done.stderr
    report = read_document_file(tmp_path / "run" / "report.json")
    write_baseline(tmp_path / "known.txt", updated(Baseline(), report)[0])
    done = run([*command, "--baseline", "known.txt", PYTHON, "-W", "ignore", name], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "known 2" in done.stderr
    done = run([*command, "--on-finding", "raise", PYTHON, "-W", "ignore", name], tmp_path)
    assert done.returncode == FINDING
    assert "CorruptionDetected" in done.stderr


@pytest.mark.slow
def test_torchrun_names_the_finding_as_root_cause_and_its_agent_is_no_run(tmp_path: Path) -> None:
    name = script(tmp_path, "bad.py", BROKEN)
    done = run([*RUN, "--budget", "all", "--out", "run", PYTHON, "-W", "ignore", "-m",
                "torch.distributed.run", "--standalone", "--nproc-per-node", "2", name], tmp_path)
    assert done.returncode == FINDING, done.stderr
    table = done.stderr.partition("Root Cause (first observed failure):")[2]
    assert "SDC: CORRUPTION in aten.mm.default" in table
    assert f"exitcode  : {FINDING}" in table
    report = read_document_file(tmp_path / "run" / "report.json")
    assert sorted(r.rank for r in report.runs) == [0, 1]
    assert {e.finding.rank for e in report.findings} == {1}
    assert {e.finding.module for e in report.findings} == {"module.down"}


CHILDREN = """
import multiprocessing, os, subprocess, sys, threading

def work(number):
    import torch
    torch.nn.Linear(3, 3)(torch.ones(2, 3)).sum().backward()
    sys.exit(number)

if __name__ == "__main__":
    for method in ("spawn", "forkserver", "fork"):
        child = multiprocessing.get_context(method).Process(target=work, args=(7,))
        child.start()
        child.join()
        print(method, child.exitcode)
    thread = threading.Thread(target=sys.exit, args=(9,))
    thread.start()
    thread.join()
    code = "import torch, sys; torch.ones(2) + 1; sys.exit(5)"
    print(subprocess.run([sys.executable, "-c", code]).returncode)
    import torch
    from torch.utils.data import DataLoader
    data = [torch.ones(1), torch.ones(1)]
    print(len(list(DataLoader(data, num_workers=1, multiprocessing_context="spawn"))))
    sys.stdout.flush()
    if sys.argv[1:]:
        os.kill(os.getpid(), 15)
    os._exit(4)
"""


@pytest.mark.slow
def test_children_of_every_kind_are_guarded_but_data_loader_workers(tmp_path: Path) -> None:
    name = script(tmp_path, "children.py", CHILDREN)
    for ending, code in (((), 4), (("kill",), 128 + 15)):
        out = tmp_path / f"run{code}"
        done = run([*RUN, "--out", str(out), PYTHON, name, *ending], tmp_path)
        assert done.stdout.split("\n")[:5] == ["spawn 7", "forkserver 7", "fork 7", "5", "2"]
        assert done.returncode == code
        runs = read_document_file(out / "report.json").runs
        assert len(runs) == 5, "three children, a grandchild and the script itself"
        own = [r for r in runs if r.script == name and not r.is_complete]
        assert len(own) == (not ending), "os._exit leaves no summary, a signal does"


THREADS = """
import threading, torch

def loop():
    net = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        net(torch.ones(2, 3)).sum().backward()
        optimizer.step()

with torch.inference_mode(), torch.device("meta"):  # the guard is made here
    torch.ones(3) + 1
torch.set_num_interop_threads(2)
torch.multiprocessing.set_start_method("spawn")
thread = threading.Thread(target=loop)
thread.start()
thread.join()
"""


@pytest.mark.slow
def test_a_thread_that_trains_is_watched_from_its_first_step(tmp_path: Path) -> None:
    name = script(tmp_path, "threads.py", THREADS)
    done = run([*RUN, "--budget", "all", "--out", "run", PYTHON, "-W", "error", name], tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (watched,) = read_document_file(tmp_path / "run" / "report.json").runs
    assert watched.coverage is not None
    assert watched.steps == 5
    assert {op.op: op.calls_checked for op in watched.coverage.ops}["aten.addmm"] == 4


GUARDS_ITSELF = """
import torch, sdc_guard
net = torch.nn.Linear(3, 3)
(net.weight + 1).sum()
sdc_guard.wrap(net)
net(torch.ones(2, 3)).sum().backward()
print(net.sdc_guard.coverage.calls > 0)
sdc_guard.unwrap(net)
with torch.inference_mode(), torch.device("meta"):
    torch.ones(3) + 1
"""


@pytest.mark.slow
def test_a_script_that_guards_itself_runs_as_before(tmp_path: Path) -> None:
    name = script(tmp_path, "own.py", GUARDS_ITSELF)
    done = run([*RUN, "--out", "run", PYTHON, name], tmp_path)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    (watched,) = read_document_file(tmp_path / "run" / "report.json").runs
    assert watched.coverage is not None
    assert any("guards a model itself" in gap for gap in watched.coverage.gaps)
