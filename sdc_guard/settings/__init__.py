"""Every setting, and where its value comes from.  Nothing here imports torch."""

from sdc_guard.settings.resolving import BASELINE_FILE, Settings, resolve, variables_of
from sdc_guard.settings.table import SETTINGS, Setting

__all__ = ["BASELINE_FILE", "SETTINGS", "Setting", "Settings", "resolve", "variables_of"]
