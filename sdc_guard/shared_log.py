"""A guard that writes into a log and a folder of bundles that it shares with others.

A test runner makes a guard for each test and wants one log for them all: a report has one run for
each process, not one for each test.
"""

from __future__ import annotations

from typing import Any

from sdc_guard.evidence.bundle import BundleWriter
from sdc_guard.evidence.eventlog import EventLog
from sdc_guard.guard import Guard
from sdc_guard.wrapping import give_way


def guard_on(log: EventLog, bundles: BundleWriter, **options: Any) -> Guard:
    """A guard whose events go to ``log`` and whose bundles ``bundles`` writes.

    The options are those of :class:`Guard`, without ``out`` and ``evidence``.  It gives way to
    :func:`sdc_guard.wrap`, so that code which guards itself runs as it would alone.

    Raises:
        UsageError: for an option out of its range.
    """
    guard = Guard(evidence=bundles.level, **options)
    guard._events = guard._pipeline.events = log
    guard._pipeline.bundles = bundles
    give_way(guard)
    return guard
