"""Importing this module gives the rest of the process the demo's broken ``torch.sum``.

It is meant for ``sdc-guard replay --import sdc_guard.demo.broken_sum BUNDLE``: there the stored
call goes wrong again, while a plain replay, in a process whose kernel is sound, comes out right.
"""

from __future__ import annotations

from contextlib import ExitStack

from sdc_guard.demo.fault import faulty_sum

_installed = ExitStack()
record = _installed.enter_context(faulty_sum(rows_only=True))
