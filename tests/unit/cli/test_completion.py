"""``sdc-guard completion``: the scripts complete in real shells, and are installed openly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sdc_guard.cli.completion import SHELLS, place, script
from sdc_guard.cli.main import main
from tests.meta.tree import ROOT

DRIVERS = {
    "bash": ["--norc", "--noprofile", "-c", """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_sdc_guard_completion sdc-guard
printf '%s\\n' "${COMPREPLY[@]}"
""", "bash"],
    "zsh": ["-f", "-c", """
compdef() { }
_describe() { print -l -- ${${(P)3}%%:*} }
compadd() { print -l -- ${@[(r)-a,-1]} }
source "$1"; shift
words=("$@"); CURRENT=$#
_sdc_guard_completion
""", "zsh"],
    "fish": ["--no-config", "-c", """
source $argv[1]
complete --do-complete "$argv[2..]" | string replace -r '\\t.*' ''
"""],
}


def completion(*words: str) -> Result:
    return CliRunner().invoke(main, ["completion", *words])


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed on this machine")
    return name


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with ``sdc-guard`` as pip would install it."""
    path = tmp_path / "bin" / "sdc-guard"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom sdc_guard.cli.main import main\nmain()\n",
                    encoding="utf-8")
    path.chmod(0o755)
    return path.parent


def complete(shell: str, program: Path, source: Path, *words: str) -> list[str]:
    done = subprocess.run(
        [shell, *DRIVERS[shell], str(source), *words], capture_output=True, text=True, timeout=300,
        check=False, env={
            **os.environ, "PATH": f"{program}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])})
    assert not done.stderr, done.stderr
    return done.stdout.split()


def test_a_shell_completes_commands_and_options(
    shell: str, program: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_text(completion(shell).stdout, encoding="utf-8")
    assert complete(shell, program, source, "sdc-guard", "expl") == ["explain"]
    assert "--json" in complete(shell, program, source, "sdc-guard", "explain", "--j")
    assert "frobnicate" not in complete(shell, program, source, "sdc-guard", "frob")


def test_installing_writes_one_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "BASH_COMPLETION_USER_DIR"):
        monkeypatch.delenv(name, raising=False)
    for shell in SHELLS:
        home = tmp_path / shell
        home.mkdir()
        (home / f".{shell}rc").write_text("# mine\n", encoding="utf-8")
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
        result = completion("install")
        assert result.exit_code == 0
        target = Path(result.stdout.strip())
        assert target == place(shell, home)
        assert target.read_text(encoding="utf-8") == script(shell)
        assert ("fpath" in result.stderr) == (shell == "zsh")
        assert (home / f".{shell}rc").read_text(encoding="utf-8") == "# mine\n"
        assert {p for p in home.rglob("*") if p.is_file()} == {target, home / f".{shell}rc"}
        assert completion("install").exit_code == 0  # again, over its own


def test_a_file_of_someone_else_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("# mine\n", encoding="utf-8")
    result = completion("install", "bash", "--path", str(target))
    assert result.exit_code == 2
    assert "is no completion script" in result.stderr
    assert target.read_text(encoding="utf-8") == "# mine\n"


@pytest.mark.parametrize(("words", "shell", "message"), [
    (["install"], "/bin/tcsh", "the shell 'tcsh' in $SHELL"),
    (["bash", "zsh"], "/bin/bash", "goes with `install`"),
    (["tcsh"], "/bin/bash", "'tcsh' is not one of"),
])
def test_wrong_usage_says_what_to_do(
    words: list[str], shell: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", shell)
    result = completion(*words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_variables_of_a_system_move_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("BASH_COMPLETION_USER_DIR", str(tmp_path / "b"))
    assert place("fish", tmp_path) == tmp_path / "c" / "fish" / "completions" / "sdc-guard.fish"
    assert place("bash", tmp_path) == tmp_path / "b" / "completions" / "sdc-guard"
