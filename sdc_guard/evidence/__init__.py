"""Findings on disk: event log, environment, bundles, and their replay."""

from sdc_guard.evidence.bundle import BundleWriter
from sdc_guard.evidence.environment import collect_environment, environment_differences
from sdc_guard.evidence.eventlog import EventLog, read_events
from sdc_guard.evidence.reading import Bundle, read_bundle
from sdc_guard.evidence.redaction import without_values
from sdc_guard.evidence.replaying import ReplayResult, replay

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
