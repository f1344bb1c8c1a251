"""Waits, in a process that may never use torch, until torch has been imported.

Only the standard library, and of that only what every Python has loaded at its start: this runs in
every process below ``sdc-guard run``.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

RUN_FOLDER = "SDC_GUARD__RUN"
"""The variable that names the run's folder; without it nothing is guarded."""
given: dict[str, str] = {}
"""The environment as it was when Python started: a program may clear its own before it computes."""


def wait_for_torch() -> None:
    """Guard this process once it uses torch.

    What runs at exit is registered here, long before anything of the user's: so it runs last.
    """
    if not os.environ.get(RUN_FOLDER):
        return
    given.update(os.environ)
    atexit.register(_finish)
    if "torch" in sys.modules:
        _arm()
    else:
        sys.meta_path.insert(0, _Finder())


def tell_unguarded(reason: str) -> None:
    """Leave for the parent what kept this process from being guarded."""
    try:
        path = os.path.join(given[RUN_FOLDER], "not-guarded.txt")
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sys.executable} (process {os.getpid()}): {reason}\n")
    except (OSError, KeyError):
        return


def _arm() -> None:
    try:
        from sdc_guard.launch.arming import arm

        arm()
    except Exception as error:  # a failure of the guard never stops the user's program
        tell_unguarded(repr(error))


def _finish() -> None:
    guarded = sys.modules.get("sdc_guard.launch.guarded")
    if guarded is not None:
        guarded.finish()


class _Finder:
    """Lets the other finders find torch, and hears when it has been imported."""

    def __init__(self) -> None:
        self._asks = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None,
    ) -> Any:
        """Torch's spec with a loader that calls :meth:`loaded`; None for every other module."""
        if name != "torch" or self._asks:
            return None
        self._asks = True
        try:
            found = (finder.find_spec(name, path, target) for finder in list(sys.meta_path)
                     if finder is not self and hasattr(finder, "find_spec"))
            spec: Any = next((spec for spec in found if spec is not None), None)
        finally:
            self._asks = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, self.loaded)
        return spec

    def loaded(self) -> None:
        """Torch is complete."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        _arm()


class _Loader:
    """The loader of torch, which tells when it is done and leaves no trace in the module."""

    def __init__(self, loader: Any, loaded: Callable[[], None]) -> None:
        self._loader = loader
        self._loaded = loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._loaded()
