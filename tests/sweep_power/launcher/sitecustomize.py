"""Python imports this at its start where this folder is on PYTHONPATH: a program that nobody has
changed then runs on a machine with a faulty core.

The fault is planted when torch has been loaded, in each process, forked workers included.
"""

import importlib.machinery
import os
import sys

FAULT = "SWEEP_POWER_FAULT"
NO_PINNING = "SWEEP_POWER_NO_PINNING"


class _AfterTorch:
    """Finds torch, and plants the fault once it is loaded."""

    def find_spec(self, name, path, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None:
            return None
        load = spec.loader.exec_module

        def load_and_plant(module):
            load(module)
            import faulty_core

            faulty_core.plant(os.environ[FAULT])

        spec.loader.exec_module = load_and_plant
        return spec


def _no_pinning(pid, cores):
    raise PermissionError(1, "Operation not permitted")


if os.environ.get(FAULT):
    sys.meta_path.insert(0, _AfterTorch())
if os.environ.get(NO_PINNING):
    os.sched_setaffinity = _no_pinning
