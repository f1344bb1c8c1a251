"""What ``sdc-guard trace`` adds to a guarded process: a trace, and no checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sdc_guard.observe.tracing.reading import Trace, read_trace, write_trace

if TYPE_CHECKING:
    from sdc_guard.observe.tracing.tracer import Tracer

TRACE = "SDC_GUARD__TRACE"
"""The variable that asks for a trace; its value is the bytes of an operand up to which its values
are kept."""
FILE = "trace.jsonl"


def tracer(environ: Mapping[str, str], folder: Path) -> Tracer | None:
    """The tracer of a process whose files go to ``folder``; None where no trace is asked for."""
    if TRACE not in environ:
        return None
    from sdc_guard.observe.tracing.tracer import Tracer

    return Tracer(folder / FILE, max_data_bytes=int(environ[TRACE]))


def gathered(folder: Path) -> Trace:
    """The traces of all processes of a run, as one file in its folder.

    Raises:
        UsageError: if there is none, or the file cannot be written.
    """
    trace = read_trace(folder)
    write_trace(trace, folder / FILE)
    return trace
