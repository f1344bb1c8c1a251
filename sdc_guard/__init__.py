"""sdc_guard: catches silent numerical corruption while PyTorch trains.

``op call -> observe -> check -> attribute -> evidence -> render``: see ARCHITECTURE.md.

>>> import sdc_guard
>>> model = sdc_guard.wrap(model, optimizer=opt)  # the user's loop follows, unchanged
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdc_guard.version import __version__

if TYPE_CHECKING:
    from sdc_guard.errors import (
        BundleError,
        CorruptionDetected,
        SdcGuardError,
        SdcGuardWarning,
        UsageError,
    )
    from sdc_guard.guard import Guard
    from sdc_guard.public_ops import checked
    from sdc_guard.records import Attribution, Cause, Coverage, Finding, Verdict
    from sdc_guard.wrapping import unwrap, wrap

_HOME = {
    "Attribution": "records",
    "BundleError": "errors",
    "Cause": "records",
    "CorruptionDetected": "errors",
    "Coverage": "records",
    "Finding": "records",
    "Guard": "guard",
    "SdcGuardError": "errors",
    "SdcGuardWarning": "errors",
    "UsageError": "errors",
    "Verdict": "records",
    "checked": "public_ops",
    "unwrap": "wrapping",
    "wrap": "wrapping",
}

__all__ = [
    "Attribution",
    "BundleError",
    "Cause",
    "CorruptionDetected",
    "Coverage",
    "Finding",
    "Guard",
    "SdcGuardError",
    "SdcGuardWarning",
    "UsageError",
    "Verdict",
    "__version__",
    "bounds",
    "checked",
    "inject",
    "unwrap",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``sdc-guard --help`` needs no torch."""
    if name in ("bounds", "inject"):  # blocks for checked(); fault models, which no guard imports
        return import_module(f"sdc_guard.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'sdc_guard' has no attribute {name!r}")
    value = getattr(import_module(f"sdc_guard.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
