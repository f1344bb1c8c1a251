"""What a training step costs under each watcher, in turn in one process, on one training run."""

from __future__ import annotations

from sdc_guard.bench.gpu import gpt
from sdc_guard.bench.gpu.clock import Clock
from sdc_guard.bench.gpu.figures import StepCost
from sdc_guard.bench.gpu.job import Failed, Measured, Setting, Started, Telling
from sdc_guard.bench.gpu.watchers import PLAIN, WATCHERS, Watcher
from sdc_guard.intervals import median, ratio_of_totals

FIRST_ROUNDS = 3
"""After so many rounds figures are told for the first time; later ones replace them."""


def step_name(watcher: str) -> str:
    """``step, rerun``."""
    return f"step, {watcher}"


def expected(setting: Setting) -> tuple[str, ...]:
    """One figure per watcher."""
    return tuple(map(step_name, WATCHERS))


def measure(telling: Telling) -> None:
    """Tells one :class:`StepCost` per watcher; one that raises is dropped, the others go on."""
    setting = telling.setting
    if telling.is_late:
        for name in WATCHERS:
            telling.begins(step_name(name))
        return
    training = gpt.build(setting.sizes.gpt, device=setting.device, seed=setting.seed)
    clock = Clock(setting.device)
    watchers: dict[str, Watcher] = {}
    times_ms: dict[str, list[float]] = {}

    def turn_ms(name: str, num_steps: int) -> float:
        watcher = watchers[name]

        def turn() -> None:
            for _ in range(num_steps):
                watcher.step(training)

        with watcher.around():
            return clock.turn_ms(turn) / num_steps

    def drop(name: str, error: Exception) -> None:
        watchers.pop(name, None)
        times_ms.pop(name, None)
        training.optimizer.zero_grad()
        telling.fails(step_name(name), error)

    for name, make in WATCHERS.items():
        # Without the plain step there is nothing to compare with, also in a second process.
        if name == PLAIN:
            telling.send(Started(step_name(name)))
        elif not telling.begins(step_name(name)):
            continue
        try:
            watchers[name] = make(setting, training)
            turn_ms(name, setting.sizes.warmup_steps)
            times_ms[name] = []
        except Exception as error:
            drop(name, error)
    for number in telling.rounds(setting.sizes.step_rounds if PLAIN in watchers else 0):
        names = list(watchers)
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            telling.send(Started(step_name(name)))
            try:
                times_ms[name].append(turn_ms(name, _turn(telling, watchers[name])))
            except Exception as error:
                drop(name, error)
        if PLAIN not in watchers:
            break
        if number + 1 >= min(FIRST_ROUNDS, setting.sizes.step_rounds):
            _tell(telling, watchers, times_ms)
    if PLAIN not in watchers:
        for name in watchers:
            telling.send(Failed(step_name(name), "the plain step failed"))
    elif len(times_ms[PLAIN]) < FIRST_ROUNDS:
        _tell(telling, watchers, times_ms)


def _turn(telling: Telling, watcher: Watcher) -> int:
    return min(watcher.steps_per_turn, telling.setting.sizes.longest_turn)


def _tell(
    telling: Telling, watchers: dict[str, Watcher], times_ms: dict[str, list[float]]
) -> None:
    plain_ms = times_ms[PLAIN]
    for name, watcher in watchers.items():
        telling.send(Measured(step_name(name), cost_of(
            name, watcher, times_ms[name], plain_ms, steps_per_turn=_turn(telling, watcher),
            warmup_steps=telling.setting.sizes.warmup_steps, seed=telling.setting.seed)))


def cost_of(
    name: str, watcher: Watcher, times_ms: list[float], plain_ms: list[float], *,
    steps_per_turn: int, warmup_steps: int, seed: int,
) -> StepCost:
    """The figure of one watcher from the times of a step in each round."""
    return StepCost(
        watcher=name, description=watcher.description, steps_per_turn=steps_per_turn,
        warmup_steps=warmup_steps, num_rounds=len(times_ms), step_ms=median(times_ms),
        ratio=median([t / p for t, p in zip(times_ms, plain_ms, strict=True)]),
        total_ratio=ratio_of_totals(times_ms, plain_ms, seed=seed), seen=watcher.seen())
