"""The system's Chromium, and how it is started for tests: alone, without any service of its own."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")


def find_chromium() -> str:
    """The program's path: ``CHROMIUM``, or the first on ``PATH``; "" where there is none."""
    given = os.environ.get("CHROMIUM", "")
    return given or next((path for name in NAMES if (path := shutil.which(name))), "")


def launch(playwright: Playwright, path: str) -> Browser:
    """A headless browser.  Its sandbox refuses to run as root, where it is left out."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return playwright.chromium.launch(
        executable_path=path, headless=True,
        args=[*ARGUMENTS, *(["--no-sandbox"] if is_root else [])])
