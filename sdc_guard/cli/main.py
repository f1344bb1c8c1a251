"""The entry point ``sdc-guard``: finds the commands in this folder and loads the one asked for.

Every file here whose name has no leading underscore is a command of that name, and its module
attribute ``command`` is the click command.  Its line in the help is the first line of the module's
docstring, read without importing the module, so that ``sdc-guard --help`` needs no torch.
"""

from __future__ import annotations

import ast
import importlib
import traceback
from pathlib import Path
from typing import Any, cast

import click

from sdc_guard import __version__
from sdc_guard.errors import SdcGuardError, UsageError

FOLDER = Path(__file__).parent
USAGE, INCONCLUSIVE, INTERNAL_ERROR = 2, 3, 4


class LazyGroup(click.Group):
    """A group whose commands are modules of one folder."""

    def __init__(self, *args: Any, folder: Path = FOLDER, package: str = __package__,
                 **options: Any) -> None:
        super().__init__(*args, **options)
        self._folder = folder
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.py")
                      if not path.stem.startswith("_") and path.stem != "main")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{self._package}.{cmd_name}")
        return cast(click.Command, module.command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, first_line(self._folder / f"{name}.py")) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong has an exit code of its own, never that of a finding."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except UsageError as error:
            raise click.UsageError(str(error), ctx) from error
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted: nothing is concluded.", err=True)
            ctx.exit(INCONCLUSIVE)
        except SdcGuardError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(INTERNAL_ERROR)
        except Exception:
            click.echo(traceback.format_exc(), err=True, nl=False)
            click.echo("Internal error: this says nothing about the numbers.", err=True)
            ctx.exit(INTERNAL_ERROR)


def first_line(path: Path) -> str:
    """First line of a module's docstring, without the command's own name and the full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = text.partition("\n")[0]
    head, colon, rest = line.partition("``: ")
    line = rest if colon and head.startswith("``sdc-guard") else line
    line = line.rstrip(".")
    return line[:1].upper() + line[1:]


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sdc-guard")
def main() -> None:
    """Find silent numerical corruption in PyTorch training.

    Data goes to stdout, progress to stderr.  Exit codes: 0 clean, 1 corruption or new divergence,
    2 usage, 3 inconclusive or coverage below the floor, 4 internal error, 5 nothing tested.
    """
