"""Gradients: those of float32 against float64, and those of float64 against differences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.document.operators import packet_of
from sdc_guard.formats import format_of
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution, execute
from sdc_guard.hunt.materialise import tensor_of
from sdc_guard.hunt.oracles import _facts
from sdc_guard.hunt.oracles._compare import plain
from sdc_guard.hunt.oracles._conditioning import ROOM, estimate, widened
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import Literal, Modes, Operand, Trial, num_elements

STEPS = (2.0**-14, 2.0**-16)
AGREE = 2.0**-10
"""Two steps must give one derivative to this share of its terms before it is believed."""
WRONG = 2.0**-6
"""A gradient is told that misses it by more than this share."""
FINER = (2.0**-20, 2.0**-24, 2.0**-28)
"""Steps that must confirm what is to be told, as far as rounding leaves digits of them."""
INSIDE = (0.29, -0.61, 0.83, 1.0, -1.0)
"""Where in a step, as shares of it, a function without kinks and jumps lies on a line."""
NOT_DERIVATIVES = (
    "*fake_quantize*", "*.detach*", "*dropout*", "*renorm*",
    "*linalg*", "*cholesky*", "*pinverse*", "*lstsq*", "*.svd*", "*ormqr*", "*geqrf*", "*.orgqr*",
    "*lowrank*", "*lobpcg*", "*.lu*", "*triangular_solve*", "*.logdet*", "*.slogdet*", "*.det*",
    "*max_unpool*", "*scatter*", "*put*", "*index_copy*", "*index_fill*",
)
"""Functions whose backward is not the derivative on purpose; of symmetric or triangular matrices,
of which entries are not free; and where indices may repeat, so that one of several values stays."""
MAX_ELEMENTS = 4096
WIDE = (torch.float64, torch.complex128)
"""Of a result in another dtype differences see the steps of its rounding, not the slope that
backward gives by definition."""


@oracle("gradient", share=0.2)
def gradient(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """Backward operators are judged one by one by ``bound``; here the whole: gradients against
    those of the same call in float64, within an estimate of conditioning, and those of float64
    against central differences with two steps that agree.  Both are no bounds: ``inconclusive``."""
    packet = packet_of(trial.target)
    if not trial.backward or session.told or not base.gradients:
        return
    if _facts.draws(base) or trial.num_elements > MAX_ELEMENTS or _facts.matches(
            trial.target, (*NOT_DERIVATIVES, *_facts.READS_MEMORY)):
        session.not_judged["gradient", packet, "draws, is no derivative, or is large"] += 1
        return
    yield from _against_float64(session, trial, base, packet)
    yield from _against_differences(session, trial, base, packet)


def _against_float64(
    session: Session, trial: Trial, base: Execution, packet: str
) -> Iterator[Divergence]:
    found = estimate(trial)
    if found is None:
        session.not_judged["gradient", packet, "no estimate in float64"] += 1
        return
    session.checked["gradient", packet] += 1
    offset = len(base.results)
    if len(found.plain) != offset + len(base.gradients):
        return
    natural = _natural(trial, found.plain[:offset])
    for place, got in enumerate(base.gradients):
        want = found.plain[offset + place]
        if got is None or want is None:
            continue
        limit = found.limit(offset + place, got)
        if limit is None:
            continue
        limit += ROOM * format_of(got.dtype.to_real()).u * natural
        with np.errstate(all="ignore"):
            error = np.abs(bits.values(bits.resolved(got.detach())) - want)
            worst = float(np.max(np.nan_to_num(error, nan=np.inf), initial=0.0))
        if worst > limit:
            yield plain("gradient", base, "inconclusive",
                        f"gradient {place} is off by {worst:.3g} from that of float64, whose own "
                        f"change under rounding of the operands is "
                        f"{found.spread(offset + place):.3g} (an estimate, no bound)",
                        ("gradient", "float64 gradient"))
            return


def _natural(trial: Trial, results: list[Any]) -> float:
    """How large terms of a gradient may be that cancel: results over the spread of an operand."""
    largest = max((float(np.max(np.abs(r), initial=0.0)) for r in results if r is not None),
                  default=0.0)
    spreads = []
    for operand in trial.operands():
        if operand.requires_grad and num_elements(operand.shape):
            made = tensor_of(operand).detach()
            spreads.append(float(np.std(bits.values(bits.resolved(made)))))
    narrow = min((s for s in spreads if s > 0), default=0.0)
    return (1 + largest) * (1 + 1 / narrow if narrow else np.inf)


def _against_differences(
    session: Session, trial: Trial, base: Execution, packet: str
) -> Iterator[Divergence]:
    seed = int(trial.digest, 16) % 2**32
    smooth = _moved(msgspec.structs.replace(widened(trial), modes=Modes()), seed, 0.0)
    run = execute(smooth, record=False)
    if run.refusal or not run.gradients:
        return
    if any(r is not None and r.requires_grad and r.dtype not in WIDE for r in run.results):
        session.not_judged["gradient", packet, "rounds to a narrower dtype: a staircase"] += 1
        return
    derivative, terms, reach = _along(smooth, run, seed)
    values = []
    for step in STEPS:
        ahead, behind = (_loss(_moved(smooth, seed + 1, s)) for s in (step, -step))
        if ahead is None or behind is None:
            return
        values.append((ahead - behind) / (2 * step))
    scale = max(abs(derivative), abs(values[0]), terms)
    if not all(np.isfinite([derivative, scale, *values])) or scale == 0:
        return
    # The loss is rounded, and so is what it is made of: far from 0 a step is lost altogether.
    noise = 2.0**-52 * (64 * max(abs(_loss(smooth) or 0.0), 1.0) + 4 * reach)
    if abs(values[0] - values[1]) > AGREE * scale or noise / STEPS[1] > AGREE * scale:
        session.not_judged["gradient", packet, "differences of two steps disagree"] += 1
        return
    is_wrong = abs(derivative - values[1]) > WRONG * scale
    if is_wrong and not _is_smooth(smooth, seed, values[1], scale, noise):
        session.not_judged["gradient", packet, "a kink or a jump is near"] += 1
        return
    session.checked["gradient", packet] += 1
    if is_wrong:
        yield replace(
            plain("gradient", base, "inconclusive",
                  f"the derivative in float64 along a random direction is {derivative:.6g}, "
                  f"central differences give {values[0]:.6g} and {values[1]:.6g}",
                  ("gradient", "central differences")), magnitude_class="gross")


def _is_smooth(trial: Trial, seed: int, slope: float, scale: float, noise: float) -> bool:
    """True where the loss lies on a line of that slope inside the smallest of ``STEPS``, and finer
    steps have the same slope.  The teeth of ``fmod`` and ``frac`` have one slope on average, the
    same at each step that is longer than they are, and it is the slope of none of them."""
    places = [_loss(trial), *(_loss(_moved(trial, seed + 1, s * STEPS[1])) for s in INSIDE)]
    if any(loss is None or not np.isfinite(loss) for loss in places):
        return False
    losses = np.array(places, dtype=np.float64)
    moved = np.array([0.0, *INSIDE]) * STEPS[1]
    misses = np.abs(losses - losses[0] - slope * moved)
    if np.max(misses) > WRONG * max(abs(slope), WRONG * scale) * STEPS[1] + 2 * noise:
        return False
    for step in FINER:
        if noise / step > AGREE * scale:
            break
        ahead, behind = (_loss(_moved(trial, seed + 1, s)) for s in (step, -step))
        if ahead is None or behind is None or not abs(
                (ahead - behind) / (2 * step) - slope) <= WRONG / 2 * scale:
            return False
    return True


def _rng(seed: int, place: int) -> np.random.Generator:
    return np.random.default_rng([seed, place])


def _moved(trial: Trial, seed: int, step: float) -> Trial:
    """Operands that require a gradient, moved along a random direction; for step 0 to a point near
    by, away from kinks that round numbers lie on."""
    def move(place: int, operand: Operand) -> Operand:
        if not operand.requires_grad or not isinstance(operand.values, Literal):
            return operand
        kind = np.complex128 if operand.dtype.startswith("complex") else np.float64
        x: NDArray[Any] = np.frombuffer(operand.values.bytes, dtype=kind)
        v = _rng(seed, place).standard_normal(x.size)
        moved = x
        if step:
            moved = x + step * v
        elif operand.free:
            moved = x * (1 + 2.0**-7 * v) + 2.0**-9 * v
        return msgspec.structs.replace(operand, values=Literal.of(
            np.ascontiguousarray(moved.astype(kind)).tobytes()))

    return trial.mapped(move)


def _loss(trial: Trial) -> float | None:
    """The sum of the results times the pattern that ``execution`` sends back."""
    run = execute(msgspec.structs.replace(trial, backward=False), record=False)
    if run.refusal:
        return None
    total = 0.0
    for result in run.results:
        if result.requires_grad and result.layout is torch.strided:
            values = bits.values(bits.resolved(result.detach())).reshape(-1)
            pattern = np.ones(values.size)
            pattern[1::2] = -0.5
            total += float((values * pattern).sum().real)
    return total


def _along(trial: Trial, run: Execution, seed: int) -> tuple[float, float, float]:
    """The derivative along the direction of :func:`_moved`, the size of its largest term, and the
    largest gradient times the largest operand."""
    gradients = iter(run.gradients)
    total = terms = steepest = farthest = 0.0
    for place, operand in enumerate(trial.operands()):
        if not operand.requires_grad:
            continue
        found: Tensor | None = next(gradients, None)
        if found is None:
            return float("nan"), float("nan"), float("nan")
        values = bits.values(bits.resolved(found.detach())).reshape(-1)
        v = _rng(seed + 1, place).standard_normal(values.size)
        total += float((values * v).sum().real)
        terms += float(np.abs(values * v).max(initial=0.0))
        x = bits.values(bits.resolved(tensor_of(operand).detach())).reshape(-1)
        steepest = max(steepest, float(np.abs(values).max(initial=0.0)))
        farthest = max(farthest, float(np.abs(x).max(initial=0.0)))
    return total, terms, steepest * farthest
