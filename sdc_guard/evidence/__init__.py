"""Findings on disk: event log, environment, bundles, and their replay.

Loaded part by part, since event logs are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdc_guard.evidence.bundle import BundleWriter
    from sdc_guard.evidence.environment import collect_environment
    from sdc_guard.evidence.environment_diff import environment_differences
    from sdc_guard.evidence.eventlog import EventLog, read_events
    from sdc_guard.evidence.reading import Bundle, read_bundle
    from sdc_guard.evidence.redaction import without_values
    from sdc_guard.evidence.replaying import ReplayResult, replay

_HOME = {
    "Bundle": "reading",
    "BundleWriter": "bundle",
    "EventLog": "eventlog",
    "ReplayResult": "replaying",
    "collect_environment": "environment",
    "environment_differences": "environment_diff",
    "read_bundle": "reading",
    "read_events": "eventlog",
    "replay": "replaying",
    "without_values": "redaction",
}

__all__ = [
    "Bundle",
    "BundleWriter",
    "EventLog",
    "ReplayResult",
    "collect_environment",
    "environment_differences",
    "read_bundle",
    "read_events",
    "replay",
    "without_values",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
