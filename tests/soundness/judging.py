"""How far a correct evaluation comes to its bounds, by the product's own rules.

An element counts where the check judges it (``check/reference.py``, ``check/residual.py``): the
expected value and the limit are finite, no intermediate can overflow.  Whether a bound is broken is
the product's comparison to say; the ratio of error to limit says how near it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.check.reference import compare
from sdc_guard.check.residual import broken_entries
from sdc_guard.formats import format_of, is_covered_complex, is_covered_float
from sdc_guard.ops import HostCall, OpSpec, Reference
from sdc_guard.ops._registry import Residual


@dataclass(frozen=True, slots=True)
class Score:
    """Of one result: elements judged, how many of them have a limit above 0, the largest ratios of
    error to contract and to proof (above 1, or infinite: broken; proof is 0 where there is none),
    and the word of the bound that the product calls broken, if any."""

    output: int
    judged: int
    bounded: int
    contract: float
    proof: float
    broken: str = ""


def is_floating(dtype: torch.dtype) -> bool:
    """True for the dtypes whose results have an error."""
    return is_covered_float(dtype) or is_covered_complex(dtype)


def _ratio(error: NDArray[Any], limit: Any, inside: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Elements judged and bounded, and the largest error in units of its limit."""
    limit = np.broadcast_to(np.asarray(limit, dtype=np.float64), error.shape)
    bounded = inside & (limit > 0)
    share = np.where(bounded, error / np.where(bounded, limit, 1.0), 0.0)
    share = np.where(inside & ~bounded & (error != 0), np.inf, share)
    worst = float(np.nan_to_num(np.max(share, initial=0.0), nan=np.inf))
    return int(inside.sum()), int(bounded.sum()), worst


def _reach(values: NDArray[Any], fmt_max: float, reference: Reference,
           limit: Any) -> NDArray[np.bool_]:
    """Where the product judges by this limit."""
    expected = np.broadcast_to(reference.expected, values.shape)
    inside = np.isfinite(expected) & np.isfinite(limit)
    inside &= np.abs(expected) + np.nan_to_num(limit, nan=0.0, posinf=0.0) < fmt_max
    return np.asarray(inside & (np.asarray(reference.magnitude) < fmt_max))


def score(got: Tensor, output: int, reference: Reference) -> Score:
    """One result against its reference."""
    values = bits.values(got)
    with np.errstate(all="ignore"):
        found = compare(got, reference)
        if not is_floating(got.dtype):
            return Score(output, values.size, 0, 0.0 if found is None else np.inf, 0.0,
                         "" if found is None else found[1])
        pairs = ((values, reference),) if reference.parts is None else tuple(
            zip((values.real, values.imag), reference.parts, strict=True))
        fmt_max = format_of(got.dtype).max
        judged = bounded = 0
        contract = proof = 0.0
        for part, own in pairs:
            error = np.abs(part - own.expected)
            counts = _ratio(error, own.contract, _reach(part, fmt_max, own, own.contract))
            judged, bounded = judged + counts[0], bounded + counts[1]
            contract = max(contract, counts[2])
            if own.proof is not None:
                inside = _reach(part, fmt_max, own, own.proof)
                proof = max(proof, _ratio(error, own.proof, inside)[2])
    broken = "" if found is None else found[1]
    contract = np.inf if broken and contract <= 1 else contract
    proof = np.inf if broken == "proof" and proof <= 1 else proof
    return Score(output, judged, bounded, contract, proof, broken)


def score_residual(residual: Residual, fmt_max: float) -> Score:
    """The defect of an equation against its limits."""
    defect = np.asarray(residual.defect)
    with np.errstate(all="ignore"):
        broken = broken_entries(residual, fmt_max)
        inside = np.isfinite(residual.contract) & (np.asarray(residual.magnitude) < fmt_max)
        inside = np.broadcast_to(inside, defect.shape)
        judged, bounded, contract = _ratio(defect, residual.contract, inside)
        proof = 0.0
        if residual.proof is not None:
            within = np.isfinite(residual.proof) & (np.asarray(residual.magnitude) < fmt_max)
            proof = _ratio(defect, residual.proof, np.broadcast_to(within, defect.shape))[2]
    return Score(residual.output, judged, bounded, contract, proof,
                 "" if broken is None else broken[1])


def references_of(
    spec: OpSpec, call: BoundCall, held: tuple[Tensor, ...]
) -> tuple[Reference | None, ...]:
    """What each result must be; empty for ops that only have a residual."""
    if spec.reference is None:
        return ()
    with np.errstate(all="ignore"):
        return spec.reference(HostCall(call, held))


def scores(
    spec: OpSpec, call: BoundCall, held: tuple[Tensor, ...],
    references: tuple[Reference | None, ...],
) -> Iterator[Score]:
    """Every result of a call against its reference, and its equations."""
    for i, reference in enumerate(references):
        if reference is not None and held[i] is not None and held[i].numel():
            yield score(held[i], i, reference)
    if spec.residual is None:
        return
    with np.errstate(all="ignore"):
        found = spec.residual(HostCall(call, held))
    for residual in found:
        if residual.defect.size and held[residual.output].numel():
            yield score_residual(residual, format_of(held[residual.output].dtype.to_real()).max)
