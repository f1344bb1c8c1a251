"""What a fault does to a training that nobody watches.

Each fault of a trial strikes here as it struck there: same state, batch and place
(:mod:`sdc_guard.bench.arena`).  Training goes on for ``num_steps`` steps; a fault that is tied to a
place or to data strikes in all of them.  The held-out loss at the end is compared with that of the
same steps without it.  Training is chaotic: any changed bit changes the loss in the end.  So the
yardstick is the change that the smallest of all differences makes, the last bit of one weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from sdc_guard.bench.arena import NUM_STARTS, Prepared, prepare
from sdc_guard.bench.cells import Harm
from sdc_guard.bench.workload import Workload, intra_op_threads
from sdc_guard.bench.workloads.table import held_out_loss
from sdc_guard.errors import UsageError
from sdc_guard.inject import MODELS, AnyFault, draw
from sdc_guard.inject.flip import flip_bit


class HarmRun:
    """A workload after the warm-up, from which trainings with and without faults start.

    Raises:
        UsageError: if ``num_steps`` or ``num_controls`` is below 1, or a training without a fault
            ends with a loss that is not finite.
    """

    def __init__(
        self, build: Callable[[], Workload], *, seed: int, num_steps: int = 200,
        num_controls: int = 16,
    ) -> None:
        if num_steps < 1 or num_controls < 1:
            raise UsageError(f"num_steps={num_steps}, num_controls={num_controls}: both must be at "
                             "least 1")
        self.seed = seed
        self.num_steps = num_steps
        self.num_controls = num_controls
        with intra_op_threads(1):
            self._prepared = prepare(build, lambda workload: workload.step(), seed=seed)
            self._clean = [self._trained(start, None) for start in range(NUM_STARTS)]
            changes = list(self._controls())
        self.noise = max(changes)
        if not all(map(math.isfinite, changes)):  # max() may pass over a NaN
            raise UsageError(
                f"the held-out loss after {num_steps} steps without a fault is no finite number; "
                "harm is the change of that loss, so train fewer steps (--steps) or with a "
                "smaller learning rate")

    def _controls(self) -> Iterator[float]:
        generator = np.random.default_rng(self.seed)
        parameters = [p for p in self._prepared.workload.model.parameters()
                      if p.is_floating_point()]
        for control in range(self.num_controls):
            weight = parameters[int(generator.integers(len(parameters)))]
            place = int(generator.integers(weight.numel()))

            def disturb(weight: object = weight, place: int = place) -> None:
                flip_bit(weight, place, 0)  # type: ignore[arg-type]

            start = control % NUM_STARTS
            yield abs(self._trained(start, None, disturb) - self._clean[start])

    def _trained(
        self, index: int, fault: AnyFault | None, disturb: Callable[[], None] = lambda: None
    ) -> float:
        """The held-out loss after the steps; NaN where one of them ends with an exception."""
        prepared: Prepared = self._prepared
        workload = prepared.workload
        prepared.rewind(index, self.seed)
        disturb()
        try:
            for _ in range(self.num_steps):
                if fault is None:
                    workload.step()
                    continue
                with fault:
                    workload.step()
            return held_out_loss(workload)
        except Exception:
            return math.nan
        finally:
            prepared.state.put_back(workload)

    def measure(self, model: str, numbers: Iterable[int], *, label: str, dtype: str,
                device: str = "cpu") -> Harm:
        """Train with each of these faults of a model, one by one."""
        changes: dict[str, float | None] = {}
        with intra_op_threads(1):
            for index in numbers:
                try:
                    fault = draw(model, self._prepared.target, index, self.seed)
                except UsageError:
                    break  # there is nothing of the kind in this training
                clean = self._clean[index % NUM_STARTS]
                change = self._trained(index, fault) - clean
                if fault.injected:
                    changes[str(index)] = change if math.isfinite(change) else None
        return Harm(
            workload=label, dtype=dtype, fault=model, kind=MODELS[model].kind, device=device,
            seed=self.seed, num_steps=self.num_steps, num_controls=self.num_controls,
            noise=self.noise, clean_loss=float(np.mean(self._clean)), changes=changes)
