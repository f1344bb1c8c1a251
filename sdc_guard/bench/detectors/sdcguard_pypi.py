"""The package ``sdcguard`` of PyPI, in its documented use."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.stacking import at_bottom
from sdc_guard.bench.workload import Workload
from sdc_guard.errors import UsageError

PACKAGE = "sdcguard"
VERSION = "0.4.0"


class SdcguardPypi(Detector):
    """``SDCGuard(every=interval)`` around forward and backward, as its documentation has it::

        with guard.on_step(step):
            loss = model(x, y); loss.backward()
        optimizer.step()

    This is its operator-level mode, which looks at every matrix product, attention's included.  Its
    other mode, ``protect(model)``, is cheaper, looks at linear layers alone and computes them in
    calls of its own, so that a fault drawn from the calls of the plain step would strike another
    call.  All options have their defaults.  The interval counts the steps of the run, which
    :meth:`reset` does not turn back.

    Raises:
        UsageError: at construction if ``interval`` is below 1; at :meth:`begin` if version 0.4.0
            of the package is not installed.
    """

    def __init__(self, interval: int = 1) -> None:
        if interval < 1:
            raise UsageError(f"interval={interval}: must be at least 1, which checks every step")
        self.interval = interval
        self.exhaustive = interval == 1
        self.steps_of_repeated = 3 * interval
        self.steps_per_turn = interval
        self.name = f"{PACKAGE} {VERSION}" + ("" if interval == 1 else f" every {interval}")
        often = "each step" if interval == 1 else f"every {interval}th step"
        self.description = (
            f"checksums of the matrix products of {often} (PyPI, {PACKAGE} {VERSION})")
        self._guard: Any = None
        self._num_steps = 0

    def begin(self, workload: Workload) -> None:
        self._guard = load().SDCGuard(every=self.interval, on_alert=self._take)
        self._num_steps = 0
        self.changes_training = "" if workload.device.type != "cuda" else (
            "checked steps switch reduced-precision reductions of bf16 and fp16 products off")

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.alarms = ()
        batch = workload.next_batch()
        with at_bottom(self._guard.on_step(self._num_steps)):
            workload.forward_backward(batch)
        self.num_checks += self._num_steps % self.interval == 0
        self._num_steps += 1
        workload.update()
        return self.alarms

    def end(self) -> None:
        self._guard = None

    def _take(self, event: Any) -> None:
        detail = dict(event.detail)
        name = str(detail.get("op", ""))
        self.alarms += (Alarm(op=overload_of(name), verdict=str(event.detector), firm=True,
                              cause="", detail=str(detail)[:300]),)


def overload_of(name: str) -> str:
    """``aten.mm.default`` for ``aten::mm``: the matrix products have no other overload in use."""
    namespace, _, base = name.partition("::")
    return f"{namespace}.{base}.default" if base else name


def load() -> Any:
    """The installed package.

    Raises:
        UsageError: if it is not installed, or another version.
    """
    install = "pip install 'torch-sdc-guard[bench]'"
    if importlib.util.find_spec(PACKAGE) is None:
        raise UsageError(f"{PACKAGE} {VERSION} is not installed: {install}")
    module = importlib.import_module(PACKAGE)
    if module.__version__ != VERSION:
        raise UsageError(f"{PACKAGE} {module.__version__} is installed, the benchmark compares "
                         f"with {VERSION}: {install}")
    return module
