"""Altered copies of a kernel file, loaded as modules: what a check must catch is made here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load_variant(original: ModuleType, folder: Path, *changes: tuple[str, str]) -> ModuleType:
    """A copy of ``original`` with each (old, new) text replaced; every old text must occur.

    The copy is a real file because triton reads a kernel's source from its file.
    """
    assert original.__file__ is not None
    source = Path(original.__file__).read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) > 0, f"{old!r} is not in {original.__name__}"
        source = source.replace(old, new)
    path = folder / "variant.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("variant", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
