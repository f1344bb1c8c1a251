"""Where an op call comes from: module path and the user's source line, in forward and backward.

No module hook is used, so that a wrapped model pickles, copies and compiles as before.  In forward
both are read off the Python frames.  In backward there is no frame of the user's: autograd gives
each node the sequence number that the forward op had, and the forward call left its place under
that number.  Numbers count per thread, so places are kept per thread.  Activation checkpointing
runs forward again inside backward; there, frames tell it.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from sdc_guard.observe.module_names import ModuleNames

_TORCH_ROOT = os.path.dirname(torch.__file__) + os.sep
_OWN_ROOT = os.path.dirname(os.path.dirname(__file__)) + os.sep
_OWN_ROOMS = tuple(
    _OWN_ROOT + room
    for room in (
        "observe",
        "check",
        "attribute",
        "evidence",
        "guard",
        "wrapping",
        "pipeline",
        "device_",
        "policy",
        "gate",
        "ops",
        "inject",
        "launch",
        "calls",
        "bits",
    )
)
MAX_NODES = 200_000
MAX_NODES_AT_ONCE = 64
_ENGINE = torch.autograd.graph._engine_run_backward.__code__

Place = tuple[str, CodeType, int]
"""Module, code and line."""


@dataclass(frozen=True, slots=True)
class Origin:
    """``module``: fully qualified name in the wrapped model ("" for its root, "?" if unknown);
    ``source``: ``file:line`` of the user's code; ``phase``: forward, backward or optimizer."""

    module: str
    source: str
    phase: str


class _Nodes(threading.local):
    """Places of the autograd nodes that one thread made, by sequence number."""

    def __init__(self, by_thread: dict[int, dict[int, Place]]) -> None:
        self.next_nr = torch._C._autograd._get_sequence_nr()
        self.places: dict[int, Place] = by_thread.setdefault(threading.get_ident(), {})


class Provenance:
    """Remembers the forward place of every autograd node of the step at hand."""

    def __init__(self) -> None:
        self._names = ModuleNames()
        self._is_foreign: dict[CodeType, bool] = {}
        self._by_thread: dict[int, dict[int, Place]] = {}
        self._nodes = _Nodes(self._by_thread)
        self.in_optimizer = False

    @property
    def modules(self) -> dict[str, str]:
        """Qualified name ("" for the root) and class of the first modules that have a name."""
        return self._names.modules

    def name_modules(self, model: nn.Module) -> None:
        """Take the qualified names of this model's modules, and whose each parameter is, and learn
        no others."""
        self._names.give(model)

    def forget_step(self) -> None:
        """Drop the forward places of a finished step."""
        for places in list(self._by_thread.values()):
            places.clear()

    def note_nodes(self) -> None:
        """Leave this op call's place under the number of the autograd node that was made for it,
        and of those made since the last note (views, custom functions); cheap if there is none."""
        nodes, next_nr = self._nodes, torch._C._autograd._get_sequence_nr()
        if next_nr == nodes.next_nr:
            return
        first, nodes.next_nr = max(nodes.next_nr, next_nr - MAX_NODES_AT_ONCE), next_nr
        if len(nodes.places) > MAX_NODES:
            nodes.places.clear()
        node = torch._C._current_autograd_node()
        place = self._look(sys._getframe(1)) if node is None else self._within_backward(node)[0]
        for nr in range(first, next_nr):
            nodes.places[nr] = place

    def origin(self) -> Origin:
        """The origin of the op call that is being dispatched on this thread."""
        node = torch._C._current_autograd_node()
        if node is not None:
            (module, code, line), phase = self._within_backward(node)
            return Origin(module, self._format(code, line), phase)
        module, code, line = self._look(sys._getframe(1))
        if self.in_optimizer and not torch.is_grad_enabled():
            return Origin("optimizer", self._format(code, line), "optimizer")
        return Origin(module, self._format(code, line), "forward")

    def _within_backward(self, node: Any) -> tuple[Place, str]:
        """The forward place of a node, or the frame's own where forward runs again inside it."""
        place = self._place_of(node._sequence_nr())
        if torch.is_grad_enabled():
            module, found, _ = self._walk(sys._getframe(1))
            if found is not None:
                return (module or (place[0] if place else "?"), *found), "forward"
        if place is None:  # AccumulateGrad, which no forward op makes, knows its parameter
            owner = self._names.owner_of(getattr(node, "variable", None))
            place = (owner, *self._look(sys._getframe(1))[1:])
        return place, "backward"

    def _place_of(self, nr: int) -> Place | None:
        place = self._nodes.places.get(nr)
        if place is None:
            others = [p[nr] for p in list(self._by_thread.values()) if nr in p]
            place = others[0] if len(others) == 1 else None
        return place

    def _look(self, frame: FrameType) -> Place:
        """Nearest named module and nearest frame of the user's own code."""
        module, found, last = self._walk(frame)
        while found is None and last.f_back is not None:
            module, found, last = self._walk(last.f_back)
        code, line = found or (last.f_code, last.f_lineno)
        return module or "?", code, line

    def _walk(self, frame: FrameType) -> tuple[str, tuple[CodeType, int] | None, FrameType]:
        """Module, user code and line, and last frame of a walk outwards, which ends where both are
        known and where the backward engine was called."""
        module = ""
        found: tuple[CodeType, int] | None = None
        last = frame
        current: FrameType | None = frame
        while current is not None:
            last, code = current, current.f_code
            if code is _ENGINE:
                break
            if found is None and not self._foreign(code):
                found = (code, current.f_lineno)
            if not module and code.co_name == "forward":
                owner = current.f_locals.get("self")
                if isinstance(owner, nn.Module):
                    module = self._names.name_of(owner, current)
            if found is not None and module:
                break
            current = current.f_back
        return module, found, last

    def _foreign(self, code: CodeType) -> bool:
        """True for torch's own files and ours: the line that the user wants is outside both."""
        known = self._is_foreign.get(code)
        if known is None:
            name = code.co_filename
            known = (
                name.startswith((_TORCH_ROOT, *_OWN_ROOMS, "<"))
                or f"{os.sep}contextlib.py" in name
            )
            self._is_foreign[code] = known
        return known

    @staticmethod
    def _format(code: CodeType, line: int) -> str:
        return f"{code.co_filename}:{line}"
