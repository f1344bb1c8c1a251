"""The value of each setting, from the first that gives one: command line, environment, file,
default."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import field

from sdc_guard.errors import UsageError
from sdc_guard.settings.table import BY_NAME, BY_VARIABLE, NO_SETTINGS, PREFIX, SETTINGS, Setting
from sdc_guard.settings.values import text_of

OWN_FILE = "sdc_guard.toml"
PROJECT_FILE = "pyproject.toml"
BASELINE_FILE = Path("sdc-guard-baseline.txt")
"""What ``sdc-guard baseline write`` writes unless told otherwise, and what is read where it lies in
the folder and no setting names another one."""
INTERNAL = PREFIX + "_"
"""Variables of this package that are no settings begin so."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting; ``sources`` says of each where its value comes from, ``file`` is the settings
    file that was read, or empty."""

    enabled: bool
    budget: float | str
    on_finding: str
    act_on: tuple[str, ...]
    evidence: str
    kernels: str
    witnesses: tuple[str, ...] | None
    memory_budget: int | None
    seed: int
    out: Path | None
    report: tuple[str, ...]
    finding_exit: int
    fail_on: tuple[str, ...]
    policy: dict[str, str]
    coverage_floor: float | None
    baseline: Path | None
    expiry: int | None
    sources: dict[str, str] = field(default_factory=dict)
    file: str = ""

    def for_guard(self) -> dict[str, Any]:
        """The arguments of a guard, without ``out``."""
        return {s.name: getattr(self, s.name) for s in SETTINGS if s.is_guards}


def resolve(
    overrides: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    reads_file: bool = True,
) -> Settings:
    """All settings.

    Args:
        overrides: what the command line, or a caller, says; None means that it says nothing.
        environ: the environment, by default this process's.
        folder: where the search for a settings file begins, by default the current folder.
        reads_file: false where a launcher has read the file and given all values on.

    Raises:
        UsageError: for an unknown key, a value that is not allowed, or a file that is no TOML; it
            names the place, the key, the value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {s.name: s.default for s in SETTINGS}
    sources = dict.fromkeys(values, "default")
    folder = Path.cwd() if folder is None else folder
    path, table = _file(folder) if reads_file else (None, {})
    where = f"{path}{' [tool.sdc_guard]' if path and path.name == PROJECT_FILE else ''}"
    for key, given in table.items():
        setting = _known(key.replace("-", "_"), key, where)
        value = _parsed(setting, given, key, where)
        if setting.is_path and isinstance(value, Path) and path is not None:
            value = path.parent / value
        values[setting.name], sources[setting.name] = value, where
    for variable, given in environ.items():
        if not variable.startswith(PREFIX) and variable not in BY_VARIABLE:
            continue
        if variable.startswith(INTERNAL) or variable in NO_SETTINGS:
            continue
        if variable not in BY_VARIABLE:
            raise UsageError(f"the environment variable {variable} is no setting; there are "
                             f"{', '.join(BY_VARIABLE)}")
        setting = BY_VARIABLE[variable]
        values[setting.name] = _parsed(setting, given, variable, "the environment")
        sources[setting.name] = f"environment {variable}"
    for key, said in (overrides or {}).items():
        if said is None:
            continue
        setting = _known(key, key, "the command line")
        values[key] = _parsed(setting, said, setting.option, "the command line")
        sources[key] = "command line"
    if reads_file and sources["baseline"] == "default" and (folder / BASELINE_FILE).is_file():
        values["baseline"] = BASELINE_FILE
        sources["baseline"] = f"found in {folder}"
    return Settings(**values, sources=sources, file=str(path or ""))  # type: ignore[arg-type]


def variables_of(settings: Settings) -> dict[str, str]:
    """Environment variables that give another process these settings."""
    return {s.variable: text_of(getattr(settings, s.name)) for s in SETTINGS}


def _known(name: str, key: str, where: str) -> Setting:
    if name not in BY_NAME:
        raise UsageError(f"{where}: {key!r} is no setting; there are {', '.join(BY_NAME)}")
    return BY_NAME[name]


def _parsed(setting: Setting, value: object, key: str, where: str) -> object:
    try:
        return setting.parse(value)
    except (ValueError, TypeError, OverflowError) as error:
        more = f" ({error})" if isinstance(error, UsageError) else ""
        raise UsageError(f"{where}: {key} = {value!r} is not allowed{more}; give "
                         f"{setting.allowed}") from error


def _file(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The nearest settings file, from the folder upwards, and its table; None where there is none.

    A ``pyproject.toml`` without ``[tool.sdc_guard]`` is passed by.
    """
    for place in (folder, *folder.parents):
        own, project = place / OWN_FILE, place / PROJECT_FILE
        if own.is_file():
            return own, _read(own)
        if project.is_file():
            tools = _read(project).get("tool", {})
            if isinstance(tools, dict) and "sdc_guard" in tools:
                table = tools["sdc_guard"]
                if not isinstance(table, dict):
                    raise UsageError(f"{project}: [tool.sdc_guard] is {table!r}; give a table")
                return project, table
    return None, {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read as TOML: {error}; correct it, or run elsewhere"
                         ) from error
