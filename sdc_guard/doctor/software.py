"""What is installed: Python, torch, triton, this package, its entry points and its settings."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator

from sdc_guard.doctor.line import FAIL, PASS, WARN, Line
from sdc_guard.errors import UsageError

MIN_PYTHON = (3, 11)
MIN_TORCH = (2, 8)
NEWEST_TESTED_TORCH = (2, 13)
OUR_NAME = "torch-sdc-guard"
RIVAL = "sdcguard"


def lines() -> Iterator[Line]:
    """Versions, entry points, names, settings."""
    yield python()
    yield torch_version()
    yield triton()
    yield from entry_points()
    yield name_clash()
    yield settings()


def python() -> Line:
    """Its version."""
    version = platform.python_version()
    if sys.version_info < MIN_PYTHON:
        return Line(FAIL, "python", version, "use Python 3.11 or newer")
    return Line(PASS, "python", version)


def torch_version() -> Line:
    """Its version, and whether ours were tested with it."""
    import torch

    match = re.match(r"(\d+)\.(\d+)", torch.__version__)
    found = (int(match[1]), int(match[2])) if match else MIN_TORCH
    tested = f"{'.'.join(map(str, MIN_TORCH))} to {'.'.join(map(str, NEWEST_TESTED_TORCH))}"
    if found < MIN_TORCH:
        return Line(FAIL, "torch", torch.__version__, "install torch 2.8 or newer")
    if found > NEWEST_TESTED_TORCH:
        return Line(WARN, "torch", f"{torch.__version__}, newer than what was tested ({tested})",
                    "proofs hold; a contract (verdict precision) may differ in a new library")
    return Line(PASS, "torch", f"{torch.__version__} (supported: {tested})")


def triton() -> Line:
    """Whether kernels can be compiled."""
    import torch

    if importlib.util.find_spec("triton") is None:
        if torch.cuda.is_available():
            return Line(WARN, "triton", "not installed: device operands are not checked by kernels",
                        "install triton, which has wheels for Linux; without it the host checks")
        return Line(WARN, "triton", "not installed, and not needed on a CPU",
                    "nothing to do here; on a GPU machine install triton")
    return Line(PASS, "triton", "installed")


def entry_points() -> Iterator[Line]:
    """That pytest and the shell find this package."""
    plugins = [p for p in importlib.metadata.entry_points(group="pytest11")
               if p.name == "sdc_guard"]
    if not plugins:
        yield Line(WARN, "pytest", "pytest does not load the plugin: the package is not installed",
                   f"install {OUR_NAME} (in a clone: `pip install .`), or use "
                   "`pytest -p sdc_guard.pytest_plugin --sdc-guard`")
    elif {p.value for p in plugins} != {"sdc_guard.pytest_plugin"}:
        yield Line(WARN, "pytest", f"another plugin has the name sdc_guard: "
                   f"{', '.join(sorted({p.value for p in plugins}))}",
                   "uninstall the package that you do not mean")
    else:
        yield Line(PASS, "pytest", "pytest --sdc-guard is available")


def name_clash() -> Line:
    """PyPI's ``sdcguard`` is another project."""
    try:
        version = importlib.metadata.version(RIVAL)
    except importlib.metadata.PackageNotFoundError:
        return Line(PASS, "name", f"{RIVAL}, another project, is not installed")
    return Line(WARN, "name", f"{RIVAL} {version} is installed too; it is another project",
                f"`import sdc_guard` is this one, from {OUR_NAME}; uninstall {RIVAL} if you meant "
                "this one")


def settings() -> Line:
    """That every setting, from its file and the environment, has a value that is allowed."""
    from sdc_guard.settings import resolve

    try:
        found = resolve()
    except UsageError as error:
        return Line(FAIL, "settings", str(error), "correct it; `sdc-guard config show` lists all")
    given = sum(source != "default" for source in found.sources.values())
    return Line(PASS, "settings", f"{given} given, from {found.file or 'no file'} and the "
                "environment")
