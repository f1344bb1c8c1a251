"""The thread's stack of dispatch modes, with the guard's mode at the bottom.

A mode that is pushed and left on the thread covers backward, both kinds of activation
checkpointing, ``vmap`` and export.  At the *bottom* it lies below every mode of the user, entered
before or after:
``with`` blocks of the user pop their own mode and never ours, a user's counter never sees our
replays, and we see the operators that really run.
"""

from __future__ import annotations

from typing import Any

from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.observe.mode import GuardMode
from sdc_guard.observe.tracing.mode import TraceMode


def is_installed(mode: TorchDispatchMode) -> bool:
    """True if the mode is on this thread's stack."""
    return any(m is mode for m in dispatch._get_current_dispatch_mode_stack())


def install(mode: TorchDispatchMode) -> bool:
    """Put the mode at the bottom of this thread's stack; False if it is there already."""
    if is_installed(mode):
        return False
    above = _pop_all()
    dispatch._push_mode(mode)
    _push_all([m for m in above if not _is_spent(m)])
    return True


def remove(mode: TorchDispatchMode) -> bool:
    """Take the mode off this thread's stack, wherever it lies; False if it is not there."""
    if not is_installed(mode):
        return False
    above = _pop_all()
    _push_all([m for m in above if m is not mode])
    return True


def _is_spent(mode: Any) -> bool:
    """True for a mode of ours that could not be taken away, from another thread."""
    return isinstance(mode, (GuardMode, TraceMode)) and not mode.active


def _pop_all() -> list[TorchDispatchMode]:
    """Empty the stack; the bottom mode comes last."""
    return [dispatch._pop_mode() for _ in range(len(dispatch._get_current_dispatch_mode_stack()))]


def _push_all(popped: list[TorchDispatchMode]) -> None:
    for mode in reversed(popped):
        dispatch._push_mode(mode)
