"""``sdc-guard run`` around commands that do not use torch: nothing of theirs changes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdc_guard.errors import UsageError
from sdc_guard.launch import parent
from sdc_guard.launch.waiting import RUN_FOLDER, _Finder
from sdc_guard.settings import resolve
from tests.unit.launch.commands import RUN, environment, run, script

PYTHON = sys.executable
SHOW = """
import json, os, signal, sys, warnings
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "main": sorted(vars()), "path": sys.path,
    "stdin": sys.stdin.read(), "excepthook": sys.excepthook is sys.__excepthook__,
    "warnings": [str(f) for f in warnings.filters], "modules": sorted(
        m for m in sys.modules if not m.startswith("sdc_guard") and m != "__future__"),
    "term": str(signal.getsignal(signal.SIGTERM)), "int": str(signal.getsignal(signal.SIGINT)),
    "hook": getattr(sys, "own_hook", None), "fds": sorted(os.listdir("/dev/fd")),
}))
"""


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("sys.exit(3)", 3), ("raise ValueError('own')", 1), ("os._exit(4)", 4), ("", 5),
     ("os.kill(os.getpid(), 15)", 128 + 15), ("sys.exit('words')", 1)],
)
def test_the_exit_code_passes_through_and_0_is_5_where_nothing_was_guarded(
    tmp_path: Path, code: str, exit_code: int
) -> None:
    done = run([*RUN, "--", PYTHON, "-c", f"import os, sys\n{code}"], tmp_path)
    assert done.returncode == exit_code
    assert "nothing was guarded" in done.stderr
    assert done.stdout == ""


def test_a_command_that_cannot_be_started_is_said_as_a_shell_says_it(tmp_path: Path) -> None:
    done = run([*RUN, "--", "no-such-program"], tmp_path)
    assert done.returncode == parent.NOT_FOUND
    assert "'no-such-program' cannot be started" in done.stderr
    done = run([*RUN, "--", str(tmp_path)], tmp_path)
    assert done.returncode == parent.NOT_EXECUTABLE
    assert run([*RUN, "--report", "pdf", "--", "true"], tmp_path).returncode == 2


def test_a_baseline_that_cannot_be_read_is_said_before_the_script_starts(tmp_path: Path) -> None:
    done = run([*RUN, "--baseline", "gone.txt", "--", "echo", "started"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "gone.txt cannot be read: No such file" in done.stderr
    assert "sdc-guard baseline write" in done.stderr
    assert not (tmp_path / "sdc-guard-runs").exists()


def test_script_module_and_console_script_see_what_they_see_without_us(tmp_path: Path) -> None:
    script(tmp_path, "show.py", SHOW)
    console = tmp_path / "show"
    console.write_text(f"#!{PYTHON}\n{SHOW}", encoding="utf-8")
    console.chmod(0o755)
    own = tmp_path / "own"
    own.mkdir()
    script(own, "sitecustomize.py", "import sys\nsys.own_hook = __file__\n")
    plain = environment()
    hooked = environment(PYTHONPATH=os.pathsep.join([plain["PYTHONPATH"], str(own)]))
    for command, env in (
        ([PYTHON, "show.py", "--lr", "1", "--", "x y"], plain),
        ([PYTHON, "-W", "error", "-m", "show", "--help"], hooked),
        ([str(console), "-v"], plain),
    ):
        alone = run(command, tmp_path, text="typed\n", env=env)
        below = run([*RUN, *command], tmp_path, text="typed\n", env=env)
        seen, expected = json.loads(below.stdout), json.loads(alone.stdout)
        more = set(seen.pop("modules")) - set(expected.pop("modules"))
        assert {name.partition(".")[0] for name in more} <= sys.stdlib_module_names
        assert seen == expected
        assert alone.stderr == ""
    assert "sitecustomize" not in more
    hook = json.loads(run([*RUN, PYTHON, "show.py"], tmp_path, env=hooked).stdout)["hook"]
    assert hook == str(own / "sitecustomize.py")


def test_switched_off_the_command_runs_as_it_is(tmp_path: Path) -> None:
    code = "import os; print(sorted(k for k in os.environ if 'SDC_GUARD' in k))"
    done = run([*RUN, "--", PYTHON, "-c", code], tmp_path, env=environment(SDC_GUARD="off"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "['SDC_GUARD']\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_command_and_its_answer_comes_back(
    tmp_path: Path, number: signal.Signals
) -> None:
    code = ("import signal, sys, time\n"
            f"signal.signal({int(number)}, lambda *_: sys.exit(9))\n"
            "print('ready', flush=True)\ntime.sleep(60)")
    process = subprocess.Popen([*RUN, "--", PYTHON, "-c", code], cwd=tmp_path, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == 9


def test_a_run_never_writes_into_an_earlier_one(tmp_path: Path) -> None:
    first = parent.new_folder(Path("out"), tmp_path)
    assert first == tmp_path / "out" == parent.new_folder(Path("out"), tmp_path)
    (first / "log").touch()
    assert parent.new_folder(Path("out"), tmp_path) == tmp_path / "out-2"
    assert parent.new_folder(None, tmp_path).parent == tmp_path / "sdc-guard-runs"
    with pytest.raises(UsageError, match="log/out cannot be made: Not a directory; name another"):
        parent.new_folder(Path("out/log/out"), tmp_path)


def test_the_child_gets_every_setting_and_its_own_path_behind_ours(tmp_path: Path) -> None:
    settings = resolve({"budget": "all"}, environ={}, folder=tmp_path)
    found = parent.child_environment({"PYTHONPATH": "a"}, settings, tmp_path, tmp_path)
    assert found["PYTHONPATH"] == f"{parent.SITE}{os.pathsep}a"
    assert found["SDC_GUARD_BUDGET"] == "all"
    assert found[RUN_FOLDER] == str(tmp_path)
    assert parent.child_environment({}, settings, tmp_path, tmp_path)["PYTHONPATH"] == str(
        parent.SITE)


def test_another_python_without_us_runs_unguarded_and_the_parent_says_why(tmp_path: Path) -> None:
    env = environment()
    broken = tmp_path / "broken"
    (broken / "sdc_guard").mkdir(parents=True)
    script(broken / "sdc_guard", "__init__.py", "raise ImportError('no msgspec here')")
    code = (f"import subprocess, sys\nsubprocess.run([{PYTHON!r}, '-c', 'print(1)'], env="
            "{**__import__('os').environ, 'PYTHONPATH': "
            f"{str(parent.SITE)!r} + {os.pathsep + str(broken)!r}}})")
    done = run([*RUN, "--", PYTHON, "-c", code], tmp_path, env=env)
    assert done.stdout == "1\n"
    assert "no msgspec here" in done.stderr
    assert done.returncode == 5


def test_torch_is_heard_of_once_it_is_complete_and_keeps_its_own_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    script(package, "__init__.py", "import sys\nhalf = 'torch' in sys.modules\n__version__ = '1'")
    monkeypatch.syspath_prepend(str(tmp_path))
    heard: list[object] = []
    finder = _Finder()
    monkeypatch.setattr(finder, "loaded", lambda: heard.append(sys.modules["torch"].half))
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    for name in [m for m in sys.modules if m.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    assert importlib.util.find_spec("torch") is not None
    assert heard == []  # who only asks whether there is a torch does not start the guard
    module = importlib.import_module("torch")
    assert heard == [True]
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__.loader is module.__loader__
    assert finder.find_spec("torchvision") is None
