"""An exit code that is set once Python has already decided on another."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys


def exit_with(code: int) -> None:
    """Let this process, which is ending, end with ``code``.

    Python offers no way to change its exit code from what runs at exit, and to end the process
    there would lose what objects write when they are deleted afterwards, such as files that were
    never closed.  So the C library is told to leave with the code once Python is done; where it has
    no such call, what is open is flushed and the process ends here.
    """
    try:
        library = ctypes.CDLL(None)
        register, leave, flush = library.__cxa_atexit, library._exit, library.fflush
    except (OSError, AttributeError, TypeError):
        _leave_now(code)
        return
    register.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    for function, argument in ((leave, code), (flush, None)):  # the last one runs first
        register(ctypes.cast(function, ctypes.c_void_p), argument, None)


def _leave_now(code: int) -> None:
    import gc
    import io

    for found in [*gc.get_objects(), sys.stdout, sys.stderr]:
        if issubclass(type(found), io.IOBase):
            try:
                found.flush()
            except ValueError:  # closed already: nothing is lost
                continue
            except Exception as error:
                _say(f"sdc-guard: {found!r} could not be flushed at the end: {error}\n")
    os._exit(code)


def _say(text: str) -> None:
    """To the process's own stderr, past every buffer."""
    with contextlib.suppress(OSError):  # it is closed, too: there is nobody left to tell
        os.write(2, text.encode("utf-8", "backslashreplace"))
