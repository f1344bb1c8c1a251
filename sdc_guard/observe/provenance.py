"""Where an op call comes from: module path and the user's source line, in forward and backward.

No module hook is used, so that a wrapped model pickles, copies and compiles as before.  In forward
both are read off the Python frames.  In backward there is no frame of the user's: autograd gives
each node the sequence number that the forward op had, and the forward call left its place under
that number.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from types import CodeType, FrameType

import torch
from torch import nn

_TORCH_ROOT = os.path.dirname(torch.__file__) + os.sep
_OWN_ROOT = os.path.dirname(os.path.dirname(__file__)) + os.sep
_OWN_ROOMS = tuple(_OWN_ROOT + room for room in (
    "observe", "check", "attribute", "evidence", "guard", "wrapping", "pipeline", "gate", "ops",
    "inject", "calls", "bits",
))
MAX_NODES = 200_000


@dataclass(frozen=True, slots=True)
class Origin:
    """``module``: fully qualified name in the wrapped model ("" for its root, "?" if unknown);
    ``source``: ``file:line`` of the user's code; ``phase``: forward, backward or optimizer."""

    module: str
    source: str
    phase: str


class Provenance:
    """Remembers the forward place of every autograd node of the step at hand."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._is_foreign: dict[CodeType, bool] = {}
        self._forward: dict[int, tuple[str, CodeType, int]] = {}
        self.in_optimizer = False

    def name_modules(self, model: nn.Module) -> None:
        """Learn the fully qualified names of a model's modules."""
        for name, module in model.named_modules():
            self._names[id(module)] = name or type(module).__name__

    def forget_step(self) -> None:
        """Drop the forward places of a finished step."""
        self._forward.clear()

    def note_forward(self) -> None:
        """Remember this place under the sequence number of the autograd node just made."""
        if len(self._forward) > MAX_NODES:
            self._forward.clear()
        self._forward[torch._C._autograd._get_sequence_nr() - 1] = self._look(sys._getframe(1))

    def origin(self) -> Origin:
        """The origin of the op call that is being dispatched on this thread."""
        node = torch._C._current_autograd_node()
        if node is not None:
            place = self._forward.get(node._sequence_nr())
            if place is None:
                module, code, line = self._look(sys._getframe(1))
                return Origin("?", self._format(code, line), "backward")
            return Origin(place[0], self._format(place[1], place[2]), "backward")
        module, code, line = self._look(sys._getframe(1))
        if self.in_optimizer and not torch.is_grad_enabled():
            return Origin("optimizer", self._format(code, line), "optimizer")
        return Origin(module, self._format(code, line), "forward")

    def _look(self, frame: FrameType) -> tuple[str, CodeType, int]:
        """Nearest named module and nearest frame of the user's own code."""
        module = ""
        found: tuple[CodeType, int] | None = None
        outermost = frame
        current: FrameType | None = frame
        while current is not None:
            code = current.f_code
            if found is None and not self._foreign(code):
                found = (code, current.f_lineno)
            if not module and code.co_name == "forward":
                owner = current.f_locals.get("self")
                if isinstance(owner, nn.Module):
                    module = self._names.get(id(owner), "") or type(owner).__name__
            if found is not None and module:
                break
            outermost = current
            current = current.f_back
        code, line = found or (outermost.f_code, outermost.f_lineno)
        return module or "?", code, line

    def _foreign(self, code: CodeType) -> bool:
        """True for torch's own files and ours: the line that the user wants is outside both."""
        known = self._is_foreign.get(code)
        if known is None:
            name = code.co_filename
            known = (name.startswith((_TORCH_ROOT, *_OWN_ROOMS)) or name.startswith("<")
                     or f"{os.sep}contextlib.py" in name)
            self._is_foreign[code] = known
        return known

    @staticmethod
    def _format(code: CodeType, line: int) -> str:
        return f"{code.co_filename}:{line}"
