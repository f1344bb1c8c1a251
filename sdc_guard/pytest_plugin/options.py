"""What ``pytest --sdc-guard`` was asked for: command line, ini file, then the package's settings
(environment, ``[tool.sdc_guard]``), then pytest's own defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sdc_guard.errors import UsageError
from sdc_guard.settings import SETTINGS, Settings, resolve

LOGS = "logs"
"""Below the folder of reports, one folder for each session, and in it one for each worker."""
ASKED = ("budget", "out", "baseline", "fail_on", "report")
"""Settings that have an option of pytest and a key in its ini file."""
DEFAULTS: dict[str, Any] = {"budget": "all", "out": Path("runs/pytest")}
"""Where pytest's default is another than the package's: tests are short."""


@dataclass(frozen=True)
class Options:
    """``guards_all`` tells that every test is guarded, not only those that ask; ``out`` and
    ``baseline`` are absolute, the settings' relative paths start at pytest's rootdir."""

    guards_all: bool
    settings: Settings
    out: Path
    baseline: Path | None


def parse_options(config: pytest.Config, *, guards_all: bool) -> Options:
    """The options of this session.

    Raises:
        pytest.UsageError: for a value that is not allowed, or a baseline that is not there.
    """
    overrides = {setting.name: _parsed(setting, given) for setting in SETTINGS
                 if setting.name in ASKED and (given := _given(config, setting.name))}
    try:
        settings = resolve(overrides, folder=config.rootpath)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    settings = msgspec.structs.replace(settings, **{
        name: value for name, value in DEFAULTS.items() if settings.sources[name] == "default"})
    baseline = None
    if settings.baseline is not None:
        baseline = config.rootpath / settings.baseline
        if not baseline.is_file():
            raise pytest.UsageError(
                f"the baseline {baseline} is no file; `sdc-guard baseline write` makes one")
    assert settings.out is not None
    return Options(guards_all=guards_all, settings=settings, out=config.rootpath / settings.out,
                   baseline=baseline)


def _given(config: pytest.Config, name: str) -> str:
    given = config.getoption(f"sdc_{name}")
    return str(config.getini(f"sdc_{name}") if given is None else given).strip()


def _parsed(setting: Any, given: str) -> Any:
    """The value, told about under the names that pytest's users see."""
    try:
        return setting.parse(given)
    except (ValueError, UsageError) as error:
        raise pytest.UsageError(
            f"--sdc-{setting.name.replace('_', '-')} {given!r}: it must be {setting.allowed}"
        ) from error
