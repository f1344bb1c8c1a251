"""``python -m sdc_guard``: the command line, for launchers that start modules."""

from __future__ import annotations

from sdc_guard.cli.main import main

if __name__ == "__main__":
    main(prog_name="sdc-guard")
