"""What a run looked like over time, for the report: steps, loss, checks and overhead."""

from __future__ import annotations

from time import monotonic
from typing import Any

import torch
from torch import Tensor

from sdc_guard import bits, device_bits
from sdc_guard.evidence.eventlog import EventLog
from sdc_guard.observe.mode import GuardMode
from sdc_guard.pipeline import Pipeline

MIN_INTERVAL_S = 0.25
MAX_POINTS = 1000
"""About so many points are logged, however long a run is."""


class LossWatch:
    """The last loss that a backward pass began from.

    Autograd asks for ``ones_like`` of it, so no call of the user's is wrapped.  On a host it is
    read at once.  On a device a copy is started and read when it is done, so that nothing waits.
    """

    def __init__(self) -> None:
        self._value: float | None = None
        self._is_given = False
        self._on_the_way: tuple[Tensor, Any] | None = None

    def give(self, value: float) -> None:
        """A loss that the user, or a trainer, names; from then on no other is taken."""
        self._value, self._is_given = float(value), True

    def saw(self, tensor: Any) -> None:
        """An operand of ``ones_like``: a loss if it is one real number with a gradient to ask."""
        if (self._is_given or type(tensor) is not Tensor or tensor.numel() != 1
                or tensor.grad_fn is None or not tensor.dtype.is_floating_point):
            return
        if tensor.device.type == "cpu":
            self._value = float(bits.values(tensor).item())
        elif tensor.device.type == "cuda" and not device_bits.is_capturing():
            self._take()
            with torch._C._DisableTorchDispatch(), torch.no_grad():  # seen by no mode of the user's
                host = torch.empty((), dtype=tensor.dtype, pin_memory=True)
                host.copy_(tensor.detach().reshape(()), non_blocking=True)
                event = torch.cuda.Event()
                event.record()
            self._on_the_way = host, event

    def _take(self) -> None:
        if self._on_the_way is not None and self._on_the_way[1].query():
            host, self._on_the_way = self._on_the_way[0], None
            if not self._is_given:
                self._value = float(bits.values(host).item())

    def take(self) -> float | None:
        """The last one since this was asked, or None."""
        self._take()
        value, self._value = self._value, None
        return value


class Progress:
    """Writes points to the event log, at most one in :data:`MIN_INTERVAL_S`, fewer as a run gets
    long; and once the modules of the model."""

    def __init__(self, events: EventLog, mode: GuardMode, pipeline: Pipeline) -> None:
        self.loss = LossWatch()
        self._events, self._mode, self._pipeline = events, mode, pipeline
        self._started_s = self._written_s = monotonic()
        self._step = -1
        self._num_modules = 0
        mode.on_loss = self._saw

    def _saw(self, tensor: Any) -> None:
        try:
            self.loss.saw(tensor)
        except Exception as error:
            self._pipeline.on_error("while reading the loss", error)

    def step_done(self) -> None:
        """After each optimizer step."""
        now_s = monotonic()
        interval_s = max(MIN_INTERVAL_S, (now_s - self._started_s) / MAX_POINTS)
        if self._step < 0 or now_s - self._written_s >= interval_s:
            self._written_s = now_s
            self._write()

    def close(self) -> None:
        """The last point, if any step came after the one before."""
        if self._pipeline.step != self._step and self._pipeline.step:
            self._write()
        else:
            self._write_modules()

    def _write(self) -> None:
        self._write_modules()
        pipeline, tallies = self._pipeline, list(self._mode.tallies.values())
        self._step = pipeline.step
        self._events.write(
            "progress", step=pipeline.step, loss=self.loss.take(),
            calls=sum(t.calls for t in tallies),
            calls_checked=sum(t.calls_checked for t in tallies),
            overhead_s=round(pipeline.scheduler.spent_s, 6),
            findings=sum(f.repeats for f in list(pipeline.findings)))

    def _write_modules(self) -> None:
        modules = self._mode.provenance.modules
        if len(modules) > self._num_modules:
            self._num_modules = len(modules)
            self._events.write(
                "modules", modules=[{"name": n, "kind": k} for n, k in modules.items()])
