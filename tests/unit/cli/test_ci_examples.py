"""examples/ci: the files parse, their scripts run, and what they call is what there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from sdc_guard import pytest_plugin
from sdc_guard.cli.main import main
from tests.meta.test_docs import broken_links, unknown_commands
from tests.meta.tree import ROOT as REPOSITORY

FOLDER = REPOSITORY / "examples" / "ci"
ACTION = FOLDER / "github" / "action.yml"
WORKFLOW = FOLDER / "github" / "workflow.yml"
GITLAB = FOLDER / "gitlab" / "sdc-guard.gitlab-ci.yml"
# Notes down what it is called with, and ends as the test wants it.
STUB = """#!/bin/sh
printf '%s\\0' "{name}" "$@" >> "$CALLS"
printf '\\n' >> "$CALLS"
case "{name} $*" in
  "python -m pytest"*) exit "$TESTS_END" ;;
  sdc-guard*) exit "$REPORT_END" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def load(path: Path) -> dict[str, Any]:
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


class Shell:
    """Runs a job's scripts, with stand-ins for ``python`` and ``sdc-guard``."""

    def __init__(self, folder: Path, *, tests_end: int, report_end: int) -> None:
        self.folder = folder
        self._calls = folder / "calls"
        for name in ("python", "sdc-guard"):
            stub = folder / "bin" / name
            stub.parent.mkdir(exist_ok=True)
            stub.write_text(STUB.format(name=name))
            stub.chmod(0o755)
        self._env = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CALLS": str(self._calls),
                     "TESTS_END": str(tests_end), "REPORT_END": str(report_end)}

    def run(self, script: str, env: dict[str, str]) -> int:
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.folder, env={**self._env, **env}, capture_output=True, text=True, timeout=300,
            check=False)
        assert not done.stderr, done.stderr
        return done.returncode

    def calls(self) -> list[list[str]]:
        lines = self._calls.read_text(encoding="utf-8").split("\0\n")
        return [line.split("\0") for line in lines if line]


def run_action(shell: Shell, **given: str) -> int:
    """The exit code of the action's last script; steps that fail do not stop those that always
    run."""
    action = load(ACTION)
    inputs = {name: str(spec["default"]) for name, spec in action["inputs"].items()} | given
    outputs: dict[str, dict[str, str]] = {}
    code = 0
    for step in action["runs"]["steps"]:
        if "run" not in step:
            continue
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "an expression in a script is a hole for injection"
        file = shell.folder / "output"
        file.write_text("")
        env = {name: resolved(text, inputs, outputs) for name, text in step.get("env", {}).items()}
        code = shell.run(step["run"], {**env, "GITHUB_OUTPUT": str(file)})
        if "id" in step:
            outputs[step["id"]] = dict(
                line.split("=", 1) for line in file.read_text().splitlines())
    return code


def resolved(text: str, inputs: dict[str, str], outputs: dict[str, dict[str, str]]) -> str:
    def value(found: re.Match[str]) -> str:
        parts = found.group(1).split(".")
        return inputs[parts[1]] if parts[0] == "inputs" else outputs[parts[1]][parts[3]]

    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", value, text)


def run_gitlab(shell: Shell, **given: str) -> int:
    job = load(GITLAB)[".sdc-guard"]
    variables = {k: v for k, v in job["variables"].items() if not k.startswith("PIP")} | given
    script = "\n".join([*job["before_script"], *job["script"]])
    return shell.run(script, variables)


RUNNERS = {"github": run_action, "gitlab": run_gitlab}


def check_commands(calls: list[list[str]]) -> list[str]:
    """Each ``sdc-guard`` call is parsed by the command itself; the subcommands' names."""
    names = []
    for name, *arguments in calls:
        if name != "sdc-guard":
            continue
        with click.Context(main) as ctx:
            command = main.get_command(ctx, arguments[0])
            assert command is not None, arguments
            command.make_context(arguments[0], arguments[1:], parent=ctx)
        names.append(arguments[0])
    return names


class PluginOptions:
    """Stands in for pytest's parser and plugin manager; keeps the options' names."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        pytest_plugin.pytest_addoption(self, self)  # type: ignore[arg-type]

    def getgroup(self, *_: str) -> PluginOptions:
        return self

    def addoption(self, name: str, **_: Any) -> None:
        self.names.add(name)

    def addini(self, *_: str, **__: Any) -> None:
        pass

    def get_name(self, _: object) -> str:
        return ""

    def set_blocked(self, _: str) -> None:
        pass


@pytest.mark.parametrize("host", RUNNERS)
def test_pytest_is_given_options_that_the_plugin_has_and_the_same_baseline(
    host: str, tmp_path: Path
) -> None:
    given = {"baseline": "known.txt"} if host == "github" else {"SDC_BASELINE": "known.txt"}
    shell = Shell(tmp_path, tests_end=0, report_end=0)
    RUNNERS[host](shell, **given)
    (call,) = [c for c in shell.calls() if c[1:3] == ["-m", "pytest"]]
    used = {word for word in call if word.startswith("--sdc")}
    assert {"--sdc-guard", "--sdc-baseline", "--sdc-fail-on"} <= used <= PluginOptions().names
    assert call[call.index("--sdc-baseline") + 1] == "known.txt"


@pytest.mark.parametrize("host", RUNNERS)
def test_what_the_scripts_call_is_accepted_by_the_command(host: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path, tests_end=0, report_end=0)
    assert RUNNERS[host](shell) == 0
    assert check_commands(shell.calls()) == ["report"]
    given = ({"baseline": "a b.txt"} if host == "github" else {"SDC_BASELINE": "a b.txt"})
    shell = Shell(tmp_path, tests_end=0, report_end=0)
    assert RUNNERS[host](shell, **given) == 0
    (report,) = [call for call in shell.calls()[-3:] if call[0] == "sdc-guard"]
    assert report[report.index("--baseline") + 1] == "a b.txt"
    assert check_commands([report]) == ["report"]


def test_a_call_that_the_command_does_not_know_is_noticed() -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        check_commands([["sdc-guard", "report", "x", "--pdf"]])


@pytest.mark.parametrize(("tests_end", "report_end", "expected"), [
    (0, 0, 0), (1, 1, 1), (1, 0, 1), (0, 3, 3), (0, 5, 5), (5, 0, 5)])
@pytest.mark.parametrize("host", RUNNERS)
def test_the_job_ends_as_its_tests_and_its_report_do(
    host: str, tests_end: int, report_end: int, expected: int, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, tests_end=tests_end, report_end=report_end)
    assert RUNNERS[host](shell) == expected
    assert check_commands(shell.calls()) == ["report"], "it is written however the tests end"


def test_what_a_person_types_stays_what_it_is(tmp_path: Path) -> None:
    shell = Shell(tmp_path, tests_end=0, report_end=0)
    assert run_action(shell, tests='tests -m "not slow" $(touch hole) *') == 0
    (call,) = [c for c in shell.calls() if c[1:3] == ["-m", "pytest"]]
    assert call[-6:] == ["tests", "-m", "not slow", "$(touch", "hole)", "*"]
    assert not (tmp_path / "hole").exists()


def test_the_workflow_gives_the_action_what_it_takes() -> None:
    action, workflow = load(ACTION), load(WORKFLOW)
    (job,) = workflow["jobs"].values()
    (step,) = [s for s in job["steps"] if s.get("uses", "").startswith("./")]
    assert step["uses"] == "./.github/actions/sdc-guard"
    assert set(step["with"]) <= set(action["inputs"])
    assert workflow["permissions"]["security-events"] == "write"
    used = set(re.findall(r"inputs\.([\w-]+)", ACTION.read_text(encoding="utf-8")))
    assert used == set(action["inputs"])


def test_what_is_uploaded_is_what_is_written() -> None:
    text = ACTION.read_text(encoding="utf-8")
    assert "sarif_file: ${{ inputs.out }}/report.sarif" in text
    assert '--sarif="$OUT/report.sarif"' in text
    job = load(GITLAB)[".sdc-guard"]
    script = "\n".join(job["script"]).replace("$SDC_OUT", job["variables"]["SDC_OUT"])
    for file in job["artifacts"]["reports"]["junit"]:
        assert file in script


def test_the_page_names_commands_and_files_that_exist() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert not unknown_commands(text)
    assert not broken_links(FOLDER / "README.md", text)
