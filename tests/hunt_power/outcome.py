"""What came of one way to search for one mutant."""

from __future__ import annotations

from sdc_guard.records import Record


class Outcome(Record, frozen=True, kw_only=True):
    """``is_found``: something was said of a wrong call that is not said of the same call with the
    right kernel; ``found_s`` after so many seconds of search, and ``word``, ``by`` and ``message``
    tell what.  ``calls``: calls examined; ``wrong_calls``: executions that the bug spoilt on the
    way: none means that the search did not reach it, many that nothing that looked saw it.
    ``also_without``: what was said of right kernels, too.  ``reason``: why there was no search."""

    is_found: bool = False
    found_s: float | None = None
    elapsed_s: float = 0.0
    calls: int = 0
    wrong_calls: int = 0
    also_without: int = 0
    word: str = ""
    by: str = ""
    message: str = ""
    reason: str = ""
