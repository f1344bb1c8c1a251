"""A hunt's ledger without a hunt."""

from __future__ import annotations

import torch

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.finding_record import finding_of
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.ledger import Ledger
from sdc_guard.hunt.messages import Done
from sdc_guard.hunt.repetition import Repeats
from sdc_guard.hunt.templates import literal_of
from sdc_guard.hunt.trial import Trial

SUM = "aten.sum.default"


def made_trial(target: str = SUM, value: float = 1.0) -> Trial:
    """A call on three numbers."""
    operand = literal_of(torch.full((3,), value), free=True, resizable=True)
    return Trial(target=target, args=(operand,))


def made_found(
    word: str = "corruption", oracle: str = "bound", target: str = SUM, *, wrong: int = 5,
    link: str = "", seen_as: str = "",
) -> FoundDivergence:
    """A divergence as a worker tells it."""
    trial = made_trial(target)
    divergence = Divergence(
        oracle=oracle, op=target, word=word, message="3 is 4", dtype_class="float32",
        layout_class="contiguous", magnitude_class="gross", link=link)
    return FoundDivergence(
        fingerprint=divergence.fingerprint, seen_as=seen_as or divergence.fingerprint, word=word,
        oracle=oracle, op=target, target=target, dtype_class="float32",
        layout_class="contiguous", magnitude_class="gross", message="3 is 4",
        finding=finding_of(trial, divergence, word, Repeats(wrong, 5, None), "as made"),
        trial=trial, drawn=trial, wrong=wrong, tried=5, link=link)


def made_ledger(*found: FoundDivergence) -> Ledger:
    """Two operators were judged, one was refused; these were found, each met twice."""
    ledger = Ledger(start_utc="2026-11-23T10:00:00+00:00", elapsed_s=12.0)
    ledger.add(SUM, 0, Done(trials=10, refused=1, elapsed_s=1.0,
                            checked=(("bound", "aten.sum", 9), ("layout", "aten.sum", 4))))
    ledger.add("aten.mm.default", 0, Done(
        trials=10, checked=(("bound", "aten.mm", 7),),
        not_judged=(("bound", "aten.mm", "no reference", 3),)))
    ledger.add("aten.odd.default", 0, Done(trials=10, refused=10))
    for one in found:
        ledger.found[one.seen_as] = one
        ledger.met[one.seen_as] = 2
    return ledger
