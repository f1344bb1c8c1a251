"""The demo: one training three times, clean, with a faulty ``torch.sum``, and guarded."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import torch

import sdc_guard
from sdc_guard.demo.data import load_corpus
from sdc_guard.demo.fault import FAULTY_OP, FAULTY_PACKET, RARITY, FaultySum, faulty_sum
from sdc_guard.demo.model import CONFIGS, GptConfig
from sdc_guard.demo.report import (
    CLEAN,
    GUARDED,
    UNGUARDED,
    DemoReport,
    GuardReport,
    Rate,
    RunReport,
    StepFiring,
)
from sdc_guard.demo.training import TrainStep, build_step, held_out_perplexity
from sdc_guard.errors import UsageError
from sdc_guard.intervals import proportion
from sdc_guard.records import Finding
from sdc_guard.render.console import render_finding

RUN_NAMES = (CLEAN, UNGUARDED, GUARDED)


@dataclass(frozen=True)
class Settings:
    """What to train and how to guard it.  ``rarity``: see :mod:`sdc_guard.demo.fault`."""

    config: str = "demo"
    num_steps: int = 260
    num_windows: int = 1024
    seed: int = 0
    budget: float | str = "all"
    out: Path = Path("runs/demo")
    rarity: int = RARITY


FULL = Settings()
QUICK = replace(FULL, config="quick", num_windows=256)


class Watcher(Protocol):
    """Is told what happens, to show it."""

    def started(self, run: str, num_steps: int) -> None: ...

    def stepped(self, run: str, step: int, loss: float) -> None: ...

    def caught(self, run: str, text: str) -> None: ...

    def finished(self, run: str, perplexity: float) -> None: ...


def run_demo(settings: Settings, watcher: Watcher) -> DemoReport:
    """Train three times from the same seed on the same batches, and compare.

    Events and evidence of the guarded run go to ``settings.out``.

    Raises:
        UsageError: for an unknown config, too few steps, a seed below 0 or a wrong budget.
    """
    if settings.num_steps < 1:
        raise UsageError(f"steps is {settings.num_steps} and must be at least 1")
    if settings.seed < 0:
        raise UsageError(f"seed is {settings.seed} and must not be negative")
    corpus = load_corpus()
    clean = _train(CLEAN, settings, watcher, nullcontext(FaultySum()))
    unguarded = _train(UNGUARDED, settings, watcher, faulty_sum(settings.rarity, rows_only=True))
    guarding = _Guarding(settings, watcher)
    broken = faulty_sum(settings.rarity, rows_only=True)
    guarded = _train(GUARDED, settings, watcher, broken, guarding)
    model = _build(settings).model
    return DemoReport(
        version=sdc_guard.__version__,
        num_steps=settings.num_steps,
        seed=settings.seed,
        budget=settings.budget,
        model=_describe(CONFIGS[settings.config]),
        num_parameters=sum(p.numel() for p in model.parameters()),
        corpus_bytes=len(corpus),
        corpus_files=corpus.num_files,
        corpus_digest=corpus.digest,
        faulty_op=FAULTY_OP,
        rarity=settings.rarity,
        torch=torch.__version__,
        num_threads=torch.get_num_threads(),
        clean=clean,
        unguarded=unguarded,
        guarded=guarded,
        guard=guarding.report(guarded),
    )


def _build(settings: Settings) -> TrainStep:
    return build_step(
        settings.config, seed=settings.seed, fused=True, num_steps=settings.num_steps
    )


def _describe(config: GptConfig) -> str:
    return (f"byte-level GPT, {config.num_layers} layers, width {config.width}, context "
            f"{config.context}, batch {config.batch_size}")


def _train(
    run: str,
    settings: Settings,
    watcher: Watcher,
    fault: AbstractContextManager[FaultySum],
    guarding: _Guarding | None = None,
) -> RunReport:
    """One training and its evaluation.  The fault is gone, and the guard too, when it is judged."""
    training = _build(settings)
    losses: list[float] = []
    times_s: list[float] = []
    firings: list[StepFiring] = []
    watcher.started(run, settings.num_steps)
    started_s = time.perf_counter()
    with fault as truth, guarding.around(training) if guarding is not None else nullcontext():
        for step in range(settings.num_steps):
            num_before = len(truth.firings)
            step_started_s = time.perf_counter()
            loss = training.step().item()
            times_s.append(time.perf_counter() - step_started_s)
            losses.append(loss)
            firings += [StepFiring(step=step, shape=f.shape) for f in truth.firings[num_before:]]
            if guarding is not None:
                guarding.after_step(step, len(truth.firings) - num_before, truth)
            watcher.stepped(run, step, loss)
        elapsed_s = time.perf_counter() - started_s
    perplexity = held_out_perplexity(
        training.model, load_corpus(), num_windows=settings.num_windows
    )
    watcher.finished(run, perplexity)
    return RunReport(
        name=run,
        losses=tuple(losses),
        perplexity=perplexity,
        elapsed_s=elapsed_s,
        step_ms=1e3 * statistics.median(times_s),
        op_calls=truth.calls,
        firings=tuple(firings),
    )


class _Guarding:
    """The three lines that a user writes, and a look at the findings after each step."""

    def __init__(self, settings: Settings, watcher: Watcher) -> None:
        self._settings = settings
        self._watcher = watcher
        self._guard: sdc_guard.Guard | None = None
        self._num_found = 0
        self._num_found_wrong = 0
        self._num_fired_in_checks = 0
        self._caught_at: dict[int, int] = {}
        self._unexplained = 0

    @contextmanager
    def around(self, training: TrainStep) -> Iterator[None]:
        """Guard the training's model inside the ``with``."""
        model = sdc_guard.wrap(
            training.model, optimizer=training.optimizer, budget=self._settings.budget,
            on_finding="skip", out=self._settings.out, seed=self._settings.seed,
        )
        self._guard = cast(sdc_guard.Guard, model.sdc_guard)
        try:
            yield
        finally:
            sdc_guard.unwrap(model)

    def after_step(self, step: int, num_fired: int, truth: FaultySum) -> None:
        """Compare the step's findings with the broken kernel's own book.

        The kernel breaks the guard's recomputations as well; a finding that such a one explains is
        no catch, and no false alarm either.
        """
        findings = self._findings()
        found = sum(f.repeats for f in findings) - self._num_found
        found_wrong = sum(
            f.repeats for f in findings if f.op == FAULTY_OP and f.held_is_wrong
        ) - self._num_found_wrong
        fired_in_checks = truth.recomputations_fired - self._num_fired_in_checks
        self._num_found += found
        self._num_found_wrong += found_wrong
        self._num_fired_in_checks += fired_in_checks
        caught = min(found_wrong, num_fired)
        if caught:
            first = not self._caught_at
            self._caught_at[step] = caught
            self._watcher.caught(GUARDED, render_finding(findings[-1]) if first else (
                f"step {step}: caught another wrong sum, step skipped"))
        self._unexplained += max(0, found - caught - fired_in_checks)

    def _findings(self) -> list[Finding]:
        assert self._guard is not None
        return self._guard.findings

    def report(self, run: RunReport) -> GuardReport:
        assert self._guard is not None
        coverage = self._guard.coverage
        num_checked = sum(op.calls_checked for op in coverage.ops if op.op == FAULTY_PACKET)
        return GuardReport(
            findings=tuple(self._findings()),
            coverage=coverage,
            calls_checked=_rate(num_checked, run.op_calls),
            caught=_rate(sum(self._caught_at.values()), len(run.firings)),
            caught_steps=tuple(self._caught_at),
            unexplained=self._unexplained,
        )


def _rate(hits: int, trials: int) -> Rate:
    if not trials:
        return Rate(hits=0, trials=0, low=0.0, high=1.0)
    found = proportion(hits, trials)
    return Rate(hits=hits, trials=trials, low=found.low, high=found.high)

