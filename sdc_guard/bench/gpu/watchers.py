"""Who watches the measured training steps: nobody, the guard in two ways, a rerun, and a rival."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.bench.detectors.sdcguard_pypi import PACKAGE, VERSION, SdcguardPypi
from sdc_guard.bench.gpu.asked_ops import is_asked, is_asked_name
from sdc_guard.bench.gpu.figures import OpSeen, Seen
from sdc_guard.bench.gpu.job import Setting
from sdc_guard.bench.workload import Workload
from sdc_guard.calls import flatten
from sdc_guard.guard import Guard
from sdc_guard.observe.classify import Kind, classify

PLAIN, KERNELS, BUDGET, RERUN, RIVAL = (
    "plain", "guarded, kernels", "guarded, budget 1 %", "rerun", f"{PACKAGE} {VERSION}")
SHARE = 0.01
NOTHING = Seen(ops=(), num_alarms=0, num_errors=0, messages=(), own_overhead_share=None)


class Watcher:
    """Runs steps of a training and watches them.

    ``steps_per_turn``: steps that are timed as one; a turn begins inside of :meth:`around`.
    """

    description = "the step alone"
    steps_per_turn = 4

    def around(self) -> AbstractContextManager[object]:
        """Entered around a turn, and not timed, as a user enters it once around a training."""
        return nullcontext()

    def step(self, training: Workload) -> None:
        """One step."""
        training.step()

    def seen(self) -> Seen:
        """What was looked at so far."""
        return NOTHING


class Guarded(Watcher):
    """Steps under a guard."""

    def __init__(self, guard: Guard, description: str, steps_per_turn: int) -> None:
        self.guard = guard
        self.description = description
        self.steps_per_turn = steps_per_turn

    def around(self) -> AbstractContextManager[object]:
        return self.guard

    def seen(self) -> Seen:
        coverage = self.guard.coverage
        ops = tuple(
            OpSeen(op=op.op, is_asked=is_asked_name(op.op), calls=op.calls,
                   calls_checked=op.calls_checked, witnesses=dict(op.witnesses),
                   not_tested=dict(op.not_tested))
            for op in coverage.ops)
        findings = self.guard.findings
        messages = [f"{f.verdict.value}: {f.op}"[:200] for f in findings[:5]]
        return Seen(ops=ops, num_alarms=len(findings), num_errors=coverage.guard_errors,
                    messages=(*messages, *(gap[:200] for gap in coverage.gaps[:10])),
                    own_overhead_share=coverage.overhead_share)


def _kernels(setting: Setting) -> Watcher:
    # On a CPU there is only the interpreter, which the guard does not take by itself.
    where = "auto" if setting.device == "cuda" else "always"
    guard = _guard(budget="all", witnesses=("kernel",), kernels=where, seed=setting.seed)
    return Guarded(guard, "every matrix product and reduction call checked by kernels", 4)


def _budget(setting: Setting) -> Watcher:
    guard = _guard(budget=SHARE, seed=setting.seed)
    return Guarded(guard, "1 % of the run time for checks, all witnesses", 6)


def _guard(**options: Any) -> Guard:
    return Guard(evidence="none", **options)


class Rerun(Watcher):
    """Makes each matrix product and reduction call again: ``torch.equal`` of each result."""

    description = "each matrix product and reduction call made twice, torch.equal"
    steps_per_turn = 1

    def __init__(self) -> None:
        self.mode = _Twice()

    def around(self) -> AbstractContextManager[object]:
        return self.mode

    def seen(self) -> Seen:
        mode = self.mode
        ops = tuple(
            OpSeen(op=name, is_asked=True, calls=calls, calls_checked=mode.num_compared[name],
                   witnesses={"rerun": mode.num_compared[name]}, not_tested={})
            for name, calls in sorted(mode.num_calls.items()))
        return Seen(ops=ops, num_alarms=sum(mode.num_differing.values()), num_errors=0,
                    messages=tuple(f"{name}: {num} calls differ"
                                   for name, num in sorted(mode.num_differing.items())),
                    own_overhead_share=None)


class _Twice(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_calls: Counter[str] = Counter()
        self.num_compared: Counter[str] = Counter()
        self.num_differing: Counter[str] = Counter()
        self._asked: dict[Any, bool] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        asked = self._asked.get(func)
        if asked is None:
            entry = classify(func)
            asked = self._asked[func] = entry.kind is Kind.CHECKED and is_asked(entry.spec)
        returned = func(*args, **kwargs)
        if not asked:
            return returned
        name = str(func)
        self.num_calls[name] += 1
        if func._schema.is_mutable:
            return returned
        self.num_compared[name] += 1
        held = [t for t in flatten(returned) if _has_numbers(t)]
        again = [t for t in flatten(func(*args, **kwargs)) if _has_numbers(t)]
        if not all(torch.equal(a, b) for a, b in zip(held, again, strict=True)):
            self.num_differing[name] += 1
        return returned


def _has_numbers(value: Tensor | None) -> bool:
    """Attention also returns the state of a generator, in integers on the host or the device."""
    return value is not None and value.is_floating_point()


class Rival(Watcher):
    """PyPI's ``sdcguard``, every step."""

    steps_per_turn = 1

    def __init__(self, training: Workload) -> None:
        self.detector = SdcguardPypi()
        self.detector.begin(training)
        self.description = self.detector.description
        self.num_alarms = 0

    def step(self, training: Workload) -> None:
        self.num_alarms += len(self.detector.step(training))

    def seen(self) -> Seen:
        return Seen(ops=(), num_alarms=self.num_alarms, num_errors=0, messages=(),
                    own_overhead_share=None)


WATCHERS: dict[str, Callable[[Setting, Workload], Watcher]] = {
    PLAIN: lambda setting, training: Watcher(),
    KERNELS: lambda setting, training: _kernels(setting),
    BUDGET: lambda setting, training: _budget(setting),
    RERUN: lambda setting, training: Rerun(),
    RIVAL: lambda setting, training: Rival(training),
}
"""By name; the plain step is first, all others are measured against it."""
