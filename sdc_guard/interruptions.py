"""Whose exception it is: a handler of signals may raise at any moment, in the guard's work too."""

from __future__ import annotations

import functools
import signal
from types import CodeType
from typing import Any


def raise_if_users(error: BaseException) -> None:
    """Raise ``error`` again if a Python signal handler raised it: it was meant for the program (a
    time limit, say), and would be lost among the guard's own failures."""
    codes = set()
    trace = error.__traceback__
    while trace is not None:
        codes.add(trace.tb_frame.f_code)
        trace = trace.tb_next
    if codes & _handlers():
        raise error


def _handlers() -> set[CodeType]:
    """The code of every handler that is set."""
    found = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    return {code for code in found if code is not None}


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__code__") and callable(handler):
        handler = getattr(handler, "__func__", type(handler).__call__)
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
