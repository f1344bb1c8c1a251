"""Torch is there: waits for the first operator, module call or optimizer step of this process.

To make a guard costs a second, and a process that imports torch may never compute with it (a
launcher's agent, a helper), may yet choose its devices, or fork.  So nothing is made before.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.launch.waiting import tell_unguarded

_lock = threading.RLock()


class FirstOp(TorchDispatchMode):
    """Starts the guard at the first operator call of the thread that imported torch.

    The dispatcher keeps a mode off the stack while it is called and puts it back afterwards, so it
    lets calls through until the first module call or optimizer step takes it away.
    """

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compilation runs without us."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Being hidden from Dynamo would import it at the first call, wherever that is."""
        return False

    def __init__(self, watch: Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch

    def __deepcopy__(self, memo: dict[int, Any]) -> FirstOp:
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if any(t is not Tensor and t is not Parameter for t in types or ()):
            if not any(t.__module__.startswith("torch._subclasses") for t in types):
                return NotImplemented
        else:
            self._watch.begin()
        return func(*args, **(kwargs or {}))


class Watch:
    """What waits in this process.  Of its hooks only that of optimizer steps stays, for threads
    that train later: each is watched from its first step on."""

    def __init__(self) -> None:
        self._has_begun = False
        self._mode = FirstOp(self)
        self._module_hook: Any = register_module_forward_pre_hook(self._before_forward)
        register_optimizer_step_pre_hook(self._before_step)
        dispatch._push_mode(self._mode)

    def begin(self) -> None:
        """Start the guard on this thread, if this process has none yet."""
        with _lock:
            if self._has_begun or _is_importing() or _is_inheriting():
                return
            self._has_begun = True
        try:
            workers = sys.modules.get("torch.utils.data._utils.worker")
            if workers is None or workers.get_worker_info() is None:
                from sdc_guard.launch.guarded import start

                start()
        except RecursionError:  # this deep in the caller's stack; the next call tries again
            self._has_begun = False
        except Exception as error:  # a failure of the guard never stops the user's program
            tell_unguarded(repr(error))

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        self._at_rest()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._module_hook is not None:
            self._at_rest()
        guarded = sys.modules.get("sdc_guard.launch.guarded")
        if guarded is not None:
            guarded.watch_thread()

    def _at_rest(self) -> None:
        """Outside of any operator, where the mode can leave the stack for good."""
        self.begin()
        if not self._has_begun:
            return
        if self._module_hook is not None:
            self._module_hook.remove()
            self._module_hook = None
        stack = dispatch._get_current_dispatch_mode_stack()
        if any(mode is self._mode for mode in stack):
            above = [dispatch._pop_mode() for _ in range(len(stack))]
            for mode in reversed(above):
                if mode is not self._mode:
                    dispatch._push_mode(mode)


def _is_importing() -> bool:
    """True while a module is being imported that a guard needs: it is made on other threads, which
    would wait for that import while we wait for them."""
    return any(
        getattr(getattr(module, "__spec__", None), "_initializing", False)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("torch", "numpy", "sdc_guard") and name != "torch"
    )


def _is_inheriting() -> bool:
    """True while a child process takes over what its parent gave it: it may be a DataLoader worker,
    which is not known yet."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and getattr(
        processes.current_process(), "_inheriting", False)


def arm() -> None:
    """Wait in this process."""
    Watch()
