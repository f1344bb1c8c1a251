"""The same values behind other strides."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import torch

from sdc_guard import bits
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.layouts import CHANGES_VALUES
from sdc_guard.hunt.materialise import tensor_of
from sdc_guard.hunt.oracles import _facts
from sdc_guard.hunt.oracles._compare import against, comparable
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import CONTIGUOUS, Alias, Layout, Literal, Operand, Trial, num_elements


@oracle("layout", share=0.3)
def layout(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """The call on contiguous copies of its operands.  Where the bits differ every operator of both
    sides is judged by its own bound: ``corruption`` and ``precision`` as that says; another shape
    or dtype is a ``semantic difference``; differences inside the bounds are none."""
    if not any(_is_laid_out(o) for o in trial.operands()):
        return
    if _facts.matches(trial.target, _facts.READS_MEMORY) or not comparable(session, "layout", base):
        return
    if any(isinstance(a, Alias) for a in (*trial.args, *trial.kwargs.values())):
        return  # an operand that is written to and read is not the same call on copies
    other = trial.mapped(lambda _, operand: contiguous(operand))
    yield from against(session, "layout", base, other, ("as laid out", "contiguous"))


def _is_laid_out(operand: Operand) -> bool:
    return (operand.layout.kind != CONTIGUOUS and bool(operand.shape)
            and num_elements(operand.shape) > 1)


def contiguous(operand: Operand) -> Operand:
    """The operand with the values that it has, contiguous."""
    if not _is_laid_out(operand):
        return operand
    if operand.layout.kind not in CHANGES_VALUES:
        return msgspec.structs.replace(operand, layout=Layout())
    with torch.no_grad():
        made = tensor_of(operand).detach()
        data = bits.raw(made).tobytes()
    return msgspec.structs.replace(operand, layout=Layout(), values=Literal.of(data))
