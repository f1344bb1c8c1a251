"""Python runs this at the start of every process below ``sdc-guard run``, then the user's own."""

import os
import sys


def _wait_for_torch() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    try:
        from sdc_guard.launch.waiting import wait_for_torch

        wait_for_torch()
    except Exception as error:  # another environment's Python: its work goes on unguarded
        try:
            with open(os.path.join(os.environ["SDC_GUARD__RUN"], "not-guarded.txt"), "a",
                      encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{sys.executable} (process {os.getpid()}): {error!r}\n")
        except (OSError, KeyError):
            return


_wait_for_torch()
# Without this module, what is imported is the user's sitecustomize, or the very error that Python
# expects where there is none.
sys.modules.pop("sitecustomize", None)
__import__("sitecustomize")
