"""The options that say what a report is judged by, shared by the commands that judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from sdc_guard.errors import UsageError
from sdc_guard.settings import Settings, resolve

_F = TypeVar("_F", bound=Callable[..., Any])

RUNS = click.argument("runs", nargs=-1, metavar="RUN...",
                      type=click.Path(path_type=Path))
ROOT = click.option(
    "--root", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that source files are shown relative to: the repository's root.  "
         "[default: the current one]")


def judging_options(command: _F) -> _F:
    """``--fail-on``, ``--policy`` and ``--coverage-floor``."""
    for option in (
        click.option("--coverage-floor", metavar="PERCENT", type=float,
                     help="Exit 3 if less than this share of the calls was checked."),
        click.option("--policy", "policies", multiple=True, metavar="VERDICT=ACTION",
                     help="What a verdict does: fail, inconclusive or report.  Default: "
                          "corruption=fail, precision=report, nondeterminism=report, "
                          "inconclusive=inconclusive."),
        click.option("--fail-on", multiple=True, metavar="new|any|regression|coverage<N",
                     help="Exit 1 also on any divergence that is new, on known ones too, or on "
                          "one that is worse than the baseline knows it; exit 3 below N percent "
                          "of the calls.  May be repeated."),
    ):
        command = option(command)
    return command


def parse_policies(policies: tuple[str, ...]) -> dict[str, str]:
    """``{"precision": "fail"}`` for ``precision=fail``.

    Raises:
        UsageError: for a text without ``=``.
    """
    parsed = {}
    for text in policies:
        verdict, sign, action = text.partition("=")
        if not sign:
            raise UsageError(f"--policy {text!r}: write VERDICT=ACTION, as in precision=fail")
        parsed[verdict.strip()] = action.strip()
    return parsed


def judging_settings(
    *, fail_on: tuple[str, ...] = (), policies: tuple[str, ...] = (),
    coverage_floor: float | None = None, baseline: Path | None = None,
) -> Settings:
    """The settings, with what the command line says in their place.

    Raises:
        UsageError: for a setting, or a text of ``policies``, that is not allowed.
    """
    given = {"fail_on": fail_on, "policy": parse_policies(policies),
             "coverage_floor": coverage_floor, "baseline": baseline}
    return msgspec.structs.replace(
        resolve(), **{name: value for name, value in given.items() if value not in (None, (), {})})


def require_runs(runs: tuple[Path, ...]) -> None:
    """At least one RUN must be given.

    Raises:
        UsageError: if there is none.
    """
    if not runs:
        raise UsageError(
            "no RUN is given: name the folder that a guard wrote to, an event log, a bundle or a "
            "report's JSON, before the options (or write --html=FILE: an option takes the next "
            "word as its file)")
