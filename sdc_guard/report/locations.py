"""Where in the user's code: paths relative to a root, and whose line it is."""

from __future__ import annotations

import functools
import os
import re
import sysconfig
from pathlib import Path, PurePath

from sdc_guard.document.schema import Location

_LINE = re.compile(r"[0-9]{1,9}")
_INSTALLED = ("site-packages", "dist-packages")
_STDLIB = tuple({sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib")})


def location_of(source: str, root: Path, base: str = "") -> Location | None:
    """The place that ``file:line`` names; None where there is none.

    ``base`` is the folder that the run was started in, for sources that are relative.
    """
    file, _, line = source.rpartition(":")
    if not file or not _LINE.fullmatch(line) or file.startswith("<"):
        return None
    path = PurePath(base, file) if base else PurePath(file)
    return Location(file=relative(path, root), line=int(line), is_users=is_users(str(path)))


def relative(path: PurePath, root: Path) -> str:
    """``path`` below ``root`` where it lies inside, with forward slashes.

    A home folder is often a link: the same file must not have two names.
    """
    normal = PurePath(os.path.normpath(path))
    for inside in (normal, _real(normal)):
        if inside.is_relative_to(root):
            return inside.relative_to(root).as_posix()
    return normal.as_posix()


@functools.lru_cache(maxsize=4096)
def _real(path: PurePath) -> PurePath:
    if not path.is_absolute():
        return path
    try:
        return PurePath(os.path.realpath(path))
    except (OSError, ValueError):  # a name that no file can have
        return path


def is_users(path: str) -> bool:
    """False for files of installed packages and of Python itself."""
    return not path.startswith(_STDLIB) and not set(_INSTALLED) & set(PurePath(path).parts)
