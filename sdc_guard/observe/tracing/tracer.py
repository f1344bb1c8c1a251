"""A trace around whatever runs on the threads where it is open."""

from __future__ import annotations

from pathlib import Path

from sdc_guard.errors import UsageError
from sdc_guard.observe.stack import install, remove
from sdc_guard.observe.tracing.file import MAX_BYTES, TraceFile
from sdc_guard.observe.tracing.mode import TraceMode


class Tracer:
    """Appends the distinct operator calls to ``path``.

    Args:
        path: the file; made with its folder at the first call.  None: nothing is traced.
        max_data_bytes: operands of up to this many bytes are written with their bits; 0: none are.
        max_bytes: of the file.

    Raises:
        UsageError: for a ``path`` that is none.
    """

    def __init__(
        self, path: object, *, max_data_bytes: int = 0, max_bytes: int = MAX_BYTES
    ) -> None:
        self._mode: TraceMode | None = None
        if path is None:
            return
        if not isinstance(path, (str, Path)) or not str(path) or Path(path).is_dir():
            raise UsageError(f"trace={path!r}: give the path of a file that the trace is written "
                             "to, or None")
        self._mode = TraceMode(TraceFile(Path(path), max_bytes), max_data_bytes=max_data_bytes)

    def open(self) -> None:
        """Trace this thread from now on."""
        if self._mode is not None:
            self._mode.active = True
            install(self._mode)

    def close(self) -> None:
        """Trace no thread any more; counts are written."""
        if self._mode is not None:
            self._mode.active = False
            remove(self._mode)
            self._mode.tell_all()


def tracer_of(trace: object) -> Tracer:
    """What ``Guard(trace=...)`` was given as a tracer.

    Raises:
        UsageError: for what is no path.
    """
    return trace if isinstance(trace, Tracer) else Tracer(trace)
