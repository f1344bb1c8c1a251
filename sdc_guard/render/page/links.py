"""Links from the page to bundles: only to paths, and where they lie seen from the page."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from sdc_guard.render.page.text import shown

MAX_CHARS = 1024
BUNDLES = "bundles"
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def bundle_link(bundle: str, log: str, folder: Path | None) -> str:
    """An address for a bundle's file, or "" where its path is not plainly one.

    ``log`` is the event log that names it: the bundles of a run lie beside its log, also where the
    run's folder was moved.  ``folder`` is where the page will lie; None leaves the path as it is.
    The scheme is always written by us, so that no text of a log can choose another.
    """
    return _link(_beside(bundle, log), ".sdcz", folder)


def script_link(script: str, folder: Path | None) -> str:
    """The same for the script of a hunt's finding."""
    return _link(script, ".py", folder)


def _link(path: str, suffix: str, folder: Path | None) -> str:
    if not path.endswith(suffix) or len(path) > MAX_CHARS or shown(path) != path:
        return ""
    if _DRIVE.match(path):
        return "file:///" + path[:2] + quote(path[2:].replace("\\", "/"))
    if path.startswith(("//", "\\")):
        return ""
    if folder is not None:
        return "./" + quote(os.path.relpath(path, folder).replace(os.sep, "/"))
    return "file://" + quote(path) if path.startswith("/") else "./" + quote(path)


def _beside(bundle: str, log: str) -> str:
    path = PurePosixPath(bundle)
    if log.endswith(".jsonl") and path.parent.name == BUNDLES:
        return (PurePosixPath(log).parent / BUNDLES / path.name).as_posix()
    return bundle
