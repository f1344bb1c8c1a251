"""Which part of a training step runs: forward, backward or optimizer."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"


class Phases:
    """Context manager whose :attr:`now` names the phase that the calling thread is in.

    Backward is where autograd runs a graph on this thread; optimizer is between the hooks before
    and after any optimizer's step, a backward of its closure aside; forward is all the rest.
    """

    def __init__(self) -> None:
        self._in_step = False
        self._hooks = ExitStack()

    @property
    def now(self) -> str:
        if torch._C._current_graph_task_id() != -1:
            return BACKWARD
        return OPTIMIZER if self._in_step else FORWARD

    def _begin(self, *_: Any) -> None:
        self._in_step = True

    def _end(self, *_: Any) -> None:
        self._in_step = False

    def __enter__(self) -> Self:
        self._in_step = False
        self._hooks.callback(register_optimizer_step_pre_hook(self._begin).remove)
        self._hooks.callback(register_optimizer_step_post_hook(self._end).remove)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.close()
