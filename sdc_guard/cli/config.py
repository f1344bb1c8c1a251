"""``sdc-guard config``: show every setting, its value, and where the value comes from."""

from __future__ import annotations

import json
from typing import Any

import click


@click.group("config")
def command() -> None:
    """Settings come from the command line, the environment, a settings file and defaults, in this
    order.

    The file is the nearest sdc_guard.toml, or pyproject.toml with a table [tool.sdc_guard], from
    the current folder upwards.

    \b
    Examples:
      sdc-guard config show
      SDC_GUARD_BUDGET=all sdc-guard config show --json
    """


@command.command("show")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def show(as_json: bool) -> None:
    """Every setting with its value and its source.

    \b
    Examples:
      sdc-guard config show
      sdc-guard config show --json
    """
    from sdc_guard.settings import SETTINGS, resolve
    from sdc_guard.settings.values import text_of

    settings = resolve()
    if as_json:
        rows: dict[str, Any] = {
            s.name: {
                "value": text_of(getattr(settings, s.name)),
                "source": settings.sources[s.name],
                "default": text_of(s.default),
                "variable": s.variable,
                "allowed": s.allowed,
                "help": s.help,
            }
            for s in SETTINGS
        }
        click.echo(json.dumps({"file": settings.file, "settings": rows}, indent=1))
        return
    cells = [("setting", "value", "from", "environment variable")]
    cells += [(s.name, text_of(getattr(settings, s.name)), settings.sources[s.name], s.variable)
              for s in SETTINGS]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    for row in cells:
        click.echo("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
