"""The lazy group: help without imports, one file per command, exit codes that mean one thing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sdc_guard.cli.main import FOLDER, INCONCLUSIVE, INTERNAL_ERROR, LazyGroup, first_line, main
from sdc_guard.errors import BundleError, UsageError
from tests.meta.tree import ROOT

NUM_TRIES = 5
HELP = "import sys; from sdc_guard.cli.main import main; main(['--help'], standalone_mode=False)"


def run_python(code: str) -> tuple[str, float]:
    """Output of a fresh interpreter, and the CPU time that it took in seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])})
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    return output, usage.ru_utime + usage.ru_stime


def test_help_takes_less_than_150_ms_of_one_core() -> None:
    best_s = min(run_python(HELP)[1] for _ in range(NUM_TRIES))
    assert best_s < 0.15


def test_help_imports_no_torch_and_no_command() -> None:
    output, _ = run_python(HELP + "; print(*sorted(sys.modules), sep='\\n')")
    loaded = set(output.split())
    assert {"click", "sdc_guard.cli.main"} <= loaded
    assert loaded.isdisjoint({"torch", "numpy", "rich", "jinja2"})
    assert not [m for m in loaded if m.startswith("sdc_guard.cli.") and m != "sdc_guard.cli.main"]


def test_every_command_file_is_listed_with_its_line_and_loads() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    names = {p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")} - {"main"}
    assert {"demo", "doctor", "ops", "replay"} <= names
    context = click.Context(main)
    for name in names:
        line = first_line(FOLDER / f"{name}.py")
        assert line, f"{name}.py has no docstring"
        assert f"  {name}" in output
        command = main.get_command(context, name)
        assert command is not None
        assert command.name == name
    assert "_progress" not in output
    assert "_optable" not in output


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('"""``sdc-guard x``: do a thing.\n\nMore."""', "Do a thing"),
        ('"""Say ``so``: twice."""', "Say ``so``: twice"),
        ("x = 1", ""),
    ],
)
def test_the_help_line_is_read_from_the_docstring(tmp_path: Path, source: str, line: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(source)
    assert first_line(path) == line


def test_an_unknown_command_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["frobnicate"])
    assert result.exit_code == 2
    assert "No such command 'frobnicate'" in result.output


def test_an_unknown_option_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["ops", "--frobnicate"]).exit_code == 2


def test_the_version_is_the_packages() -> None:
    import sdc_guard

    assert sdc_guard.__version__ in CliRunner().invoke(main, ["--version"]).output


def group_that_raises(error: BaseException) -> LazyGroup:
    def fail() -> None:
        raise error

    class OneCommand(LazyGroup):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            return click.Command("c", callback=fail)

    return OneCommand("g")


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (UsageError("budget='2%': give a share"), 2, "budget='2%': give a share"),
        (BundleError("damaged"), INTERNAL_ERROR, "Error: damaged"),
        (ZeroDivisionError("secret detail"), INTERNAL_ERROR, "secret detail"),
        (ZeroDivisionError(), INTERNAL_ERROR, "says nothing about the numbers"),
        (KeyboardInterrupt(), INCONCLUSIVE, "nothing is concluded"),
        (click.Abort(), INCONCLUSIVE, "nothing is concluded"),
        (click.ClickException("one"), 1, "one"),
        (click.exceptions.Exit(5), 5, ""),
        (SystemExit(1), 1, ""),
    ],
)
def test_an_error_never_looks_like_a_finding(
    error: BaseException, exit_code: int, words: str
) -> None:
    result = CliRunner().invoke(group_that_raises(error), ["c"])
    assert result.exit_code == exit_code
    assert words in result.output


def all_commands() -> list[tuple[str, click.Command]]:
    """Every command and subcommand, with its full name."""
    found: list[tuple[str, click.Command]] = []
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", item) for sub, item in command.commands.items()]
    return found


def shown_without_examples(commands: list[tuple[str, click.Command]]) -> list[str]:
    """Commands whose help has no example that begins with their own name."""
    found = []
    for name, command in commands:
        text = command.get_help(click.Context(command, info_name=name))
        examples = text.partition("Examples:")[2]
        if f"sdc-guard {name}" not in examples:
            found.append(name)
    return found


def test_every_command_has_examples_in_its_help() -> None:
    commands = all_commands()
    assert {"explain", "baseline", "baseline write", "config show"} <= {n for n, _ in commands}
    assert not shown_without_examples(commands)


def test_a_command_without_examples_is_found() -> None:
    plain = click.Command("plain", help="Do a thing.\n\n\b\nExamples:\n  sdc-guard other\n")
    assert shown_without_examples([("plain", plain)]) == ["plain"]
