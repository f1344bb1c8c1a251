"""Statistics of gradients, held against what they were before."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

import torch

from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.images import gradients
from sdc_guard.bench.detectors.stacking import unseen
from sdc_guard.bench.workload import Workload

ANOMALY = 1_000_000.0
"""First threshold, times the running mean: an anomaly."""
SUSPECT = 100.0
"""Second threshold: suspected, and left out of the mean."""
SAMPLE_INTERVAL = 3
"""One gradient in so many is looked at."""
DECAY = 0.99
"""Of the running mean; the description gives no value."""

Z_LIMIT = 6.0
NUM_NORMS = 100
LEAST_NORMS = 8


@dataclass(frozen=True, slots=True)
class _Mean:
    """Exponential running mean of a norm over ``num`` steps."""

    average: float = 0.0
    num: int = 0

    def value(self) -> float:
        """The mean with its bias towards the start at 0 taken off."""
        return self.average / (1.0 - DECAY**self.num) if self.num else 0.0

    def after(self, norm: float) -> _Mean:
        return replace(self, average=DECAY * self.average + (1.0 - DECAY) * norm, num=self.num + 1)


class GradientStatistics(Detector):
    """Holds the norm of one gradient in three against its own running mean: NaN, Inf and 1,000,000
    times the mean are an anomaly, 100 times the mean is suspected.

    It follows Huawei's feature value detection: torch_npu (``NPU_ASD_CONFIG``, its thresholds and
    sampling interval are the defaults here; ``aclnnSilentCheckV2`` for the threshold as a multiple
    of the bias-corrected mean) and MindSpore (``MS_NPU_ASD_CONFIG``).  The gradients looked at are
    the first, the fourth and so on of the model's parameters.  Left out: three strikes within 480
    minutes, which switch on a checksum of matrix products there (each anomaly is an alarm here),
    activations' gradients, and loss scales of float16.
    """

    name = "gradient statistics"
    description = ("norms of 1 gradient in 3 against 100 and 1,000,000 x their running mean "
                   "(torch_npu and MindSpore, feature value detection)")

    steps_after_one = 5
    steps_of_repeated = 50
    steps_per_turn = 5

    def __init__(self) -> None:
        self._means: dict[str, _Mean] = {}
        self._marked: dict[str, _Mean] = {}

    def begin(self, workload: Workload) -> None:
        self._means, self._marked = {}, {}

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.alarms = ()
        workload.forward_backward(workload.next_batch())
        with unseen():
            sampled = gradients(workload.model)[::SAMPLE_INTERVAL]
            norms = {name: float(torch.linalg.vector_norm(g, dtype=torch.float32))
                     for name, g in sampled}
        self.num_checks += len(norms)
        for name, norm in norms.items():
            self._judge(name, norm)
        workload.update()
        return self.alarms

    def mark(self) -> None:
        self._marked = dict(self._means)

    def reset(self) -> None:
        self._means = dict(self._marked)

    def _judge(self, name: str, norm: float) -> None:
        known = self._means.get(name, _Mean())
        mean = known.value()
        is_anomaly = not math.isfinite(norm) or (mean > 0.0 and norm > ANOMALY * mean)
        if not is_anomaly and not (mean > 0.0 and norm > SUSPECT * mean):
            self._means[name] = known.after(norm)
            return
        self.alarms += (Alarm(
            op="", verdict="gradient anomaly" if is_anomaly else "suspected", firm=is_anomaly,
            cause="", detail=f"gradient of {name} has norm {norm:.6g}, before {mean:.6g}"),)


class GlobalNormZScore(Detector):
    """The norm of all gradients together, in standard deviations from the mean of the last 100.

    A simple statistic such as many training loops watch, of no one description: an alarm beyond 6
    standard deviations above the mean (of 8 norms at least), or for NaN and Inf.  What raised an
    alarm does not enter the mean.
    """

    name = "global norm z-score"
    description = "norm of all gradients against mean + 6 standard deviations of the last 100 steps"

    steps_after_one = 5
    steps_of_repeated = 50
    steps_per_turn = 5

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=NUM_NORMS)
        self._marked: list[float] = []

    def begin(self, workload: Workload) -> None:
        self._norms.clear()
        self._marked = []

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.alarms = ()
        workload.forward_backward(workload.next_batch())
        with unseen():
            norm = float(torch.nn.utils.get_total_norm([g for _, g in gradients(workload.model)]))
        self.num_checks += 1
        limit = math.inf
        if len(self._norms) >= LEAST_NORMS:
            limit = fmean(self._norms) + Z_LIMIT * pstdev(self._norms)
        if math.isfinite(norm) and norm <= limit:
            self._norms.append(norm)
        else:
            self.alarms = (Alarm(op="", verdict="gradient norm spike", firm=True, cause="",
                                 detail=f"norm {norm:.6g}, limit {limit:.6g}"),)
        workload.update()
        return self.alarms

    def mark(self) -> None:
        self._marked = list(self._norms)

    def reset(self) -> None:
        self._norms = deque(self._marked, maxlen=NUM_NORMS)
