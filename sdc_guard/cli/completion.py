"""``sdc-guard completion``: print, or install, the completion script of bash, zsh or fish."""

from __future__ import annotations

import os
from pathlib import Path

import click

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "sdc-guard"
VARIABLE = "_SDC_GUARD_COMPLETE"


@click.command("completion")
@click.argument("what", type=click.Choice([*SHELLS, "install"]))
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.option("--path", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="install: write to this file instead of the shell's own place.")
def command(what: str, shell: str | None, path: Path | None) -> None:
    """Print the completion script of a shell, or install it to the folder where that shell looks
    for scripts of a user.

    `install` writes one file and names it on stdout; no start-up file of the shell is edited, and
    what zsh needs there is said.

    Exit code: 0, or 2 for a shell that is not known or a file that cannot be written.

    \b
    Examples:
      eval "$(sdc-guard completion bash)"   complete in this bash
      sdc-guard completion install          for the shell in $SHELL, from its next start on
      sdc-guard completion install zsh      for zsh
      sdc-guard completion fish > FILE      to a place of your own
    """
    from sdc_guard.document.files import write_whole
    from sdc_guard.errors import UsageError

    if what != "install":
        if shell is not None or path is not None:
            raise UsageError("a shell after the shell, or --path, goes with `install`")
        click.echo(script(what), nl=False)
        return
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(f"the shell {name!r} in $SHELL is none of {', '.join(SHELLS)}; name one: "
                         "sdc-guard completion install bash")
    target = path or place(name, Path.home())
    if target.exists() and VARIABLE not in target.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(f"{target} exists and is no completion script of {PROGRAM}; move it away, "
                         "or give --path")
    write_whole(target, script(name))
    click.echo(str(target))
    if name == "zsh":
        click.echo(f"zsh looks there if its .zshrc has: fpath+=({target.parent}); "
                   "autoload -Uz compinit && compinit", err=True)


def script(shell: str) -> str:
    """The script that ``shell`` sources."""
    from click.shell_completion import get_completion_class

    from sdc_guard.cli.main import main

    maker = get_completion_class(shell)
    assert maker is not None, shell
    # click's own source() starts the shell to ask for its version, and it need not be here.
    made = maker(main, {}, PROGRAM, VARIABLE)
    return made.source_template % made.source_vars()


def place(shell: str, home: Path) -> Path:
    """The file that the shell loads for a user."""
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    bash = Path(os.environ.get("BASH_COMPLETION_USER_DIR") or data / "bash-completion")
    return {
        "bash": bash / "completions" / PROGRAM,
        "zsh": home / ".zfunc" / f"_{PROGRAM}",
        "fish": config / "fish" / "completions" / f"{PROGRAM}.fish",
    }[shell]
