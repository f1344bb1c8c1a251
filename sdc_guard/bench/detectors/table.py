"""The table of detectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sdc_guard.bench.detectors.base import Detector
from sdc_guard.bench.detectors.debug_hashes import DebugHashes
from sdc_guard.bench.detectors.float64 import Float64Recompute
from sdc_guard.bench.detectors.gradient_norm import GlobalNormZScore, GradientStatistics
from sdc_guard.bench.detectors.loss_watch import LossWatch
from sdc_guard.bench.detectors.ours import SHARES, GuardDetector
from sdc_guard.bench.detectors.rerun import RerunAndCompare
from sdc_guard.bench.detectors.sdcguard_pypi import SdcguardPypi
from sdc_guard.bench.detectors.step_replay import StepReplay

_MAKERS: tuple[Callable[[], Detector], ...] = (
    *(partial(GuardDetector, budget) for budget in ("all", *SHARES)),
    RerunAndCompare,
    Float64Recompute,
    LossWatch,
    StepReplay,
    partial(StepReplay, 20),
    GradientStatistics,
    GlobalNormZScore,
    DebugHashes,
    SdcguardPypi,
    partial(SdcguardPypi, 20),
)

DETECTORS: dict[str, Callable[[], Detector]] = {make().name: make for make in _MAKERS}
"""By the name that tables print.  One whose package is not installed raises ``UsageError`` from
``begin``."""
