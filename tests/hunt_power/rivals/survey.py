"""Rival: ``ulpwise survey`` (PyPI), its own grid and its own reference; its row for the function is
compared with the row that the right kernel gets, so that any figure that moves counts."""

from __future__ import annotations

import dataclasses
import importlib
import time
from typing import Any

from tests.hunt_power.mutant import Mutant, planted
from tests.hunt_power.outcome import Outcome

DTYPES = ("f32", "f64", "f16", "bf16")


def search(mutant: Mutant, seconds: float, seed: int) -> Outcome:
    """One survey of the mutant's function; ``seconds`` and ``seed`` are of no use."""
    if not mutant.survey:
        return Outcome(reason="no function of the survey")
    try:
        survey = importlib.import_module("ulpwise.survey")
    except ImportError as error:
        return Outcome(reason=f"ulpwise is not installed: {error}")
    started_s = time.monotonic()

    def rows() -> list[dict[str, Any]]:
        found = survey.survey(backends=("torch",), dtypes=DTYPES, functions=[mutant.survey])
        return [{k: repr(v) for k, v in dataclasses.asdict(r).items() if k != "seconds"}
                for r in found]

    with planted(mutant) as state:
        wrong = rows()
        num_wrong = state.num_wrong
        with state.off():
            right = rows()
    moved = [f"{w['dtype']} {k}: {w[k]}, right {r[k]}"
             for w, r in zip(wrong, right, strict=True) for k in w if w[k] != r[k]]
    elapsed_s = time.monotonic() - started_s
    return Outcome(is_found=bool(moved), found_s=elapsed_s if moved else None,
                   elapsed_s=elapsed_s, calls=len(wrong), wrong_calls=num_wrong,
                   message="; ".join(moved)[:300])
