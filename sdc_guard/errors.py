"""Every exception and warning class of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdc_guard.records import Finding


class SdcGuardError(Exception):
    """Base of all errors that this package raises."""


class UsageError(SdcGuardError, ValueError):
    """An argument has a value that the call cannot take; the message shows value and limit."""


class DuplicateOp(SdcGuardError, ValueError):
    """Two op files register the same operator."""


class BundleError(SdcGuardError, ValueError):
    """An evidence bundle is damaged, truncated or from a newer version."""


class CorruptionDetected(SdcGuardError, RuntimeError):
    """Raised by ``on_finding="raise"``.  ``findings`` holds what was found in the step."""

    def __init__(self, message: str, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings


class SdcGuardWarning(UserWarning):
    """A finding under ``on_finding="warn"``, or a part of the run that the guard cannot cover."""
