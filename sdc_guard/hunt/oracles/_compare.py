"""A call made in another way: where the bits differ, both sides are judged by their own bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from torch import Tensor

from sdc_guard import bits
from sdc_guard.attribute.describe import tensor_meta
from sdc_guard.document.fingerprint import layout_class
from sdc_guard.document.operators import packet_of
from sdc_guard.hunt.divergence import Divergence, dtype_class
from sdc_guard.hunt.execution import Execution, execute
from sdc_guard.hunt.judging import NO_REFERENCE, judged, verdict_of
from sdc_guard.hunt.oracles import _facts
from sdc_guard.hunt.oracles._conditioning import Estimate, estimate
from sdc_guard.hunt.oracles._registry import Session
from sdc_guard.hunt.promises import is_public
from sdc_guard.hunt.trial import Trial

Sides = tuple[str, str]


def comparable(session: Session, oracle: str, base: Execution) -> bool:
    """False for calls that no second way of making them can be compared with, and for those of
    which an oracle has said already that they are wrong."""
    if session.told:
        return False
    target = base.trial.target
    reason = ""
    if _facts.matches(target, _facts.UNINITIALISED):
        reason = "its result holds no numbers"
    elif _facts.draws(base):
        reason = "draws random numbers"
    if reason:
        session.not_judged[oracle, packet_of(target), reason] += 1
    return not reason


def against(
    session: Session, oracle: str, base: Execution, other: Trial, sides: Sides, *,
    same_types: bool = True,
) -> Iterator[Divergence]:
    """Make ``other``, which must give what ``base`` gave, and judge both where they differ.
    ``sides`` names the base, then the other; without ``same_types`` its dtypes may be others."""
    packet = packet_of(base.trial.target)
    made = execute(other)
    if made.refusal:
        session.not_judged[oracle, packet, "not taken in the other way"] += 1
        return
    session.compared(oracle, packet)
    yield from differing(session, oracle, base, made, sides, same_types=same_types)


def differing(
    session: Session, oracle: str, base: Execution, made: Execution, sides: Sides, *,
    same_types: bool = True,
) -> Iterator[Divergence]:
    """What is wrong on either side of two calls that must give the same numbers."""
    unlike = types_differ(base, made) if same_types else ""
    if unlike and not is_public(packet_of(base.trial.target)):
        return
    if unlike:
        yield plain(oracle, base, "semantic difference", f"{sides[0]} and {sides[1]}: {unlike}",
                    sides)
        return
    pairs = [(a, b) for a, b in zip(base.outcome(), made.outcome(), strict=False)
             if a is not None and b is not None]
    if same_types and all(alike(a, b) for a, b in pairs):
        return
    wrong, is_open = False, False
    for execution in (made, base):
        for observation, entry in zip(execution.observations, execution.entries, strict=True):
            for divergence in judged(session, oracle, observation, entry):
                yield replace(divergence, sides=sides)
            verdict = verdict_of(session, observation, entry)
            wrong |= bool(verdict.divergences)
            is_open |= verdict.reason == NO_REFERENCE
    if wrong or not is_open or not same_types:
        return
    if _facts.matches(base.trial.target, _facts.NOT_UNIQUE):
        return
    yield from unexplained(session, oracle, base, pairs, sides)


def unexplained(
    session: Session, oracle: str, base: Execution, pairs: list[tuple[Tensor, Tensor]],
    sides: Sides,
) -> Iterator[Divergence]:
    """Results that differ where an operator has no bound: compared with what float64 makes of
    operands that are moved within their rounding (``_conditioning``)."""
    found = estimate(base.trial)
    if found is None:
        session.not_judged[oracle, packet_of(base.trial.target), NO_REFERENCE] += 1
        return
    for place, (a, b) in enumerate(pairs):
        text = _far_apart(found, place, a, b)
        if text:
            yield plain(oracle, base, "inconclusive",
                        f"{sides[0]} and {sides[1]}: result {place} {text}", sides)
            return


def _far_apart(found: Estimate, place: int, a: Tensor, b: Tensor) -> str:
    limit = found.limit(place, a)
    if limit is None or not bits.has_numbers(a.dtype):
        return ""
    with np.errstate(all="ignore"):
        apart = np.abs(np.asarray(bits.values(bits.resolved(a)))
                       - np.asarray(bits.values(bits.resolved(b))))
        worst = float(np.max(np.nan_to_num(apart, nan=np.inf), initial=0.0))
    if worst <= limit:
        return ""
    return (f"differs by {worst:.3g}; operands moved within their rounding change the float64 "
            f"result by {found.spread(place):.3g}, which gives {limit:.3g} (an estimate, no bound)")


def types_differ(base: Execution, made: Execution) -> str:
    """How many results, and of which shape and dtype; empty where both sides agree."""
    left, right = base.outcome(), made.outcome()
    if len(left) != len(right) and not any(e.spec and e.spec.scratch for e in base.entries):
        return f"{len(left)} and {len(right)} results"
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if (a is None) != (b is None):
            return f"result {place} is there on one side only"
        if a is None or b is None:
            continue
        if a.shape != b.shape or a.dtype is not b.dtype:
            return (f"result {place} is {_type(a)} and {_type(b)}")
    return ""


def _type(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def alike(a: Tensor, b: Tensor) -> bool:
    """True for equal bits, where all NaNs are alike."""
    if a.shape != b.shape or a.dtype is not b.dtype:
        return False
    if not a.numel() or a.layout is not b.layout or str(a.layout) != "torch.strided":
        return True
    a, b = bits.resolved(a.detach()), bits.resolved(b.detach())
    if bits.bits_equal(a, b):
        return True
    if not bits.has_numbers(a.dtype):
        return False
    left, right = bits.values(a), bits.values(b)
    if left.dtype.kind not in "fc":
        return False
    wrong = bits.wrong_mask(a, b)
    return not bool((wrong & ~(np.isnan(left) & np.isnan(right))).any())


def plain(
    oracle: str, base: Execution, word: str, message: str, sides: Sides = ("", ""),
    op: str = "",
) -> Divergence:
    """A divergence of a whole call, where no operator is known to be the guilty one."""
    first = next(iter(base.trial.operands()), None)
    result = next((t for t in base.outcome() if t is not None), None)
    dtype = str(result.dtype).removeprefix("torch.") if result is not None else ""
    tensor = base.made.tensors[0] if base.made.tensors else None
    op = op or base.trial.target
    guilty = base.observations[0] if len(base.observations) == 1 else None
    return Divergence(
        oracle=oracle, op=op, word=word, message=f"{op}: {message}",
        dtype_class=dtype_class(dtype or (first.dtype if first else "")),
        layout_class="scalar" if tensor is None else layout_class(tensor_meta("", tensor)),
        magnitude_class="", sides=sides, observation=guilty)
