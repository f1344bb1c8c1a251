"""Divergences to write up: two bugs of torch 2.13 that are really there, and planted ones."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.findings import Finder
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.search import examine
from sdc_guard.hunt.trial import Fill, Layout, Modes, Operand, Scalar, Trial
from sdc_guard.inject.override import CallInfo, KernelOverride

BOUND = chosen(("bound",))
NUMBERS = chosen(("bound", "exact"))


def operand(*shape: int, dtype: str = "float32", kind: str = "normal", layout: str = "contiguous",
            detail: int = 0, seed: int = 0) -> Operand:
    return Operand(dtype=dtype, shape=shape, values=Fill(kind=kind, seed=seed),
                   layout=Layout(kind=layout, detail=detail))


NANMEDIAN = Trial(
    target="aten.nanmedian.dim",
    args=(operand(7, 5, kind="sorted", layout="expanded", detail=2), Scalar(kind="int", text="0")),
    modes=Modes(threads=2))
"""Of an expanded dimension the kernel reads the memory behind the one element."""

GELU_OUT = Trial(
    target="aten.gelu.out", args=(operand(6, 5, seed=3),),
    kwargs={"out": operand(6, 5, kind="constant", layout="gapped", detail=2)})
"""A result with gaps is written as if it had none."""

EXP = Trial(target="aten.exp.default", args=(operand(4, 6, seed=1, layout="permuted"),),
            modes=Modes(threads=2))


def first_divergence(trial: Trial) -> Divergence:
    return next(examine(Session(), NUMBERS, trial))


def take(trial: Trial, divergence: Divergence | None = None, **options: object) -> FoundDivergence:
    settings = {"runs_scripts": False, **options}
    finder = Finder(NUMBERS, **settings)  # type: ignore[arg-type]
    return finder.take(trial, first_divergence(trial) if divergence is None else divergence)


def broken_exp(is_struck: Callable[[int], bool]) -> KernelOverride:
    """``exp`` doubles its first element in the calls, counted from 0, that are struck; the place
    does not depend on the operand's size."""
    count = iter(range(1 << 30))

    def strike(info: CallInfo, results: tuple[torch.Tensor, ...]) -> None:
        if is_struck(next(count)) and results[0].numel():
            results[0].view(-1)[:1].mul_(2) if results[0].is_contiguous() else results[0].mul_(2)

    return KernelOverride(torch.ops.aten.exp.default, strike)


def struck(trial: Trial, op: torch._ops.OpOverload) -> FoundDivergence:
    """The finding of a trial while the kernel of ``op`` turns its first element into another."""

    def strike(info: CallInfo, results: tuple[torch.Tensor, ...]) -> None:
        first = results[0].as_strided((1,), (1,), results[0].storage_offset())
        if first.dtype is torch.bool:
            first.logical_not_()
        else:
            first.copy_(first * 3 + 5)

    with KernelOverride(op, strike):
        return take(trial, max_tries=0)
