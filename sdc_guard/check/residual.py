"""Residual: the results satisfy their defining equation, within a derived bound.

A factorization is judged by its product, a solution by what it leaves over: there is no expected
value, only a defect and a limit on it.  What a broken entry accuses is the op's to say
(:class:`sdc_guard.ops._registry.Residual`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.formats import format_of
from sdc_guard.ops._axes import Axes, Labels
from sdc_guard.ops._registry import Residual
from sdc_guard.records import Suspicion

Window = tuple[str, int, int] | None
Broken = tuple[NDArray[np.bool_], str, float, float]


def part(shape: tuple[int, ...], labels: Labels, window: Window) -> tuple[slice, ...]:
    """Where the window of an axis lies in a result of that shape."""
    if window is None or window[0] not in labels:
        return (slice(None),) * len(shape)
    name, start, length = window
    return tuple(
        slice(start, start + length) if d == labels.index(name) else slice(None)
        for d in range(len(shape))
    )


def broken_entries(residual: Residual, largest: float) -> Broken | None:
    """Entries outside the proof bound, or outside the contract where none is; the word for it, and
    defect and limit of the worst of them.  ``largest``: the largest finite number of the format."""
    defect = residual.defect
    for bound, exceeds in ((residual.proof, "proof"), (residual.contract, "contract")):
        if bound is None:
            continue
        limit = np.broadcast_to(np.asarray(bound, dtype=np.float64), defect.shape)
        judged = np.isfinite(limit) & (np.asarray(residual.magnitude) < largest)
        wrong = judged & ~(defect <= limit)
        if wrong.any():
            share = np.where(wrong, np.nan_to_num(defect / limit, nan=np.inf), -1.0)
            worst = int(np.argmax(share))
            return wrong, exceeds, float(defect.flat[worst]), float(limit.flat[worst])
    return None


def broken_residuals(
    residuals: Iterable[Residual],
    axes: Axes,
    part_held: tuple[Tensor, ...],
    held: tuple[Tensor, ...],
    window: Window,
) -> Iterator[Suspicion]:
    """A suspicion for each equation that the results miss.

    Args:
        part_held: the results that were judged: those of a window of ``held``, or all.
    """
    for residual in residuals:
        output = residual.output
        got = part_held[output]
        if not residual.defect.size or not got.numel():
            continue
        found = broken_entries(residual, format_of(got.dtype.to_real()).max)
        if found is None:
            continue
        entries, exceeds, defect, limit = found
        wrong = np.zeros(tuple(held[output].shape), dtype=bool)
        where = part(wrong.shape, axes.outputs[output], window)
        wrong[where] = residual.blame(entries, tuple(got.shape))
        yield Suspicion(
            witness="residual",
            relation="",
            output=output,
            wrong=wrong,
            expected=None,
            limit=np.full(wrong.shape, limit),
            exceeds=exceeds,
            formula=f"{residual.formula}: {defect:.3g} exceeds {limit:.3g}",
        )
