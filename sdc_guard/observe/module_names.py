"""The qualified names of modules: of the model that the guard was given, or of those that it meets.

A guard without a model learns them when an operator runs inside a module that has no name yet: from
the outermost ``forward`` on the stack whose tree holds the module.  No hook is set, and nothing is
stored in a module; what is known of one goes when it does, since its ``id`` may come again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import FrameType

from torch import nn

MAX_MODULES = 5_000


class ModuleNames:
    """``modules`` maps qualified names ("" for the first root) to classes, of the first modules."""

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}
        self._names: dict[int, str] = {}
        self._owners: dict[int, str] = {}
        self._known: dict[int, weakref.ref[nn.Module]] = {}
        self._learns = True

    def give(self, model: nn.Module) -> None:
        """Name the modules of the one model that is watched; no others are learned."""
        self._learns = False
        self._name(model)

    def owner_of(self, parameter: object) -> str:
        """The name of the module that a parameter belongs to; "?" where it is not known."""
        return self._owners.get(id(parameter), "?")

    def name_of(self, module: nn.Module, frame: FrameType) -> str:
        """The module's name; its class where it has none.  ``frame`` is that of its forward."""
        name = self._names.get(id(module))
        if name is None and self._learns:
            for root in reversed(_modules_from(frame)):
                if id(module) not in self._names:
                    self._learn(root)
            name = self._names.get(id(module))
        return name or type(module).__name__

    def _learn(self, root: nn.Module) -> None:
        try:
            self._name(root)
        except Exception:  # a tree that does not list its modules: its class is a name, too
            self._names.setdefault(id(root), type(root).__name__)

    def _name(self, root: nn.Module) -> None:
        kind = type(root).__name__
        prefix = self._free(kind) if "" in self.modules else ""
        for path, module in root.named_modules():
            if id(module) in self._names:
                continue
            name = f"{prefix}.{path}" if prefix and path else prefix or path
            if len(self.modules) < MAX_MODULES:
                self.modules[name] = type(module).__name__
            shown = name or kind
            self._names[id(module)] = shown
            owned = [id(p) for p in module.parameters(recurse=False)]
            self._owners.update(dict.fromkeys(owned, shown))
            self._known[id(module)] = weakref.ref(module, self._forgets(id(module), owned))

    def _free(self, kind: str) -> str:
        number = 1
        while (name := kind if number == 1 else f"{kind}-{number}") in self.modules:
            number += 1
        return name

    def _forgets(self, module: int, owned: list[int]) -> Callable[[object], None]:
        def forget(_: object) -> None:
            self._names.pop(module, None)
            self._known.pop(module, None)
            for parameter in owned:
                self._owners.pop(parameter, None)

        return forget


def _modules_from(frame: FrameType) -> list[nn.Module]:
    """The modules whose forward is running, from this frame outwards."""
    found: list[nn.Module] = []
    current: FrameType | None = frame
    while current is not None:
        if current.f_code.co_name == "forward":
            owner = current.f_locals.get("self")
            if isinstance(owner, nn.Module):
                found.append(owner)
        current = current.f_back
    return found
