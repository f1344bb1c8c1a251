"""How fast the device copies its own memory: the floor of whatever must read every byte."""

from __future__ import annotations

import torch

from sdc_guard.bench.gpu.clock import Clock
from sdc_guard.bench.gpu.figures import Copy
from sdc_guard.bench.gpu.job import Setting, Telling
from sdc_guard.intervals import median


def copy_name(num_bytes: int) -> str:
    """``copy of 4 GiB``."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if num_bytes >> power:
            return f"copy of {num_bytes >> power} {unit}"
    return f"copy of {num_bytes} bytes"


def expected(setting: Setting) -> tuple[str, ...]:
    """One figure per size."""
    return tuple(map(copy_name, setting.sizes.copy_bytes))


def measure(telling: Telling) -> None:
    """Copies of each size, timed by the device's events; tells one :class:`Copy` per size."""
    setting = telling.setting
    clock = Clock(setting.device)

    def copy(num_bytes: int) -> Copy:
        source = torch.zeros(num_bytes, dtype=torch.uint8, device=setting.device)
        target = torch.empty_like(source)
        times_ms = [clock.times_ms([lambda: target.copy_(source)])[0][0]
                    for _ in telling.rounds(setting.sizes.rounds)]
        return Copy(num_bytes=num_bytes, num_rounds=len(times_ms), time_ms=median(times_ms))

    for num_bytes in setting.sizes.copy_bytes:
        telling.attempt(copy_name(num_bytes), lambda n=num_bytes: copy(n))  # type: ignore[misc]
