"""Every rival."""

from __future__ import annotations

from sdc_guard.bench.sweep.rivals.base import Rival
from sdc_guard.bench.sweep.rivals.imbue import Imbue
from sdc_guard.bench.sweep.rivals.one_forward import OneForward
from sdc_guard.bench.sweep.rivals.self_compare import Dcgm, GpuBurn
from sdc_guard.bench.sweep.rivals.superbench import SuperBench

RIVALS: tuple[type[Rival], ...] = (GpuBurn, Dcgm, SuperBench, Imbue, OneForward)
