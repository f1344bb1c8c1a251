"""The gradient of the negative log likelihood."""

from __future__ import annotations

from fractions import Fraction

from sdc_guard.calls import BoundCall
from sdc_guard.hunt.exact_lines import product
from sdc_guard.hunt.exact_numbers import Number, Reader

Index = tuple[int, ...]
_NONE, _MEAN = 0, 1


def lost(call: BoundCall, output: int, index: Index) -> Number | None:
    """The exact element ``index`` of ``nll_loss_backward`` or ``nll_loss2d_backward``: ``-w g`` in
    the class of the target, over the total weight for a mean, else 0; None for other operators."""
    if call.form.packet not in ("aten.nll_loss_backward", "aten.nll_loss2d_backward"):
        return None
    x, weight, reduction = call["self"], call["weight"], call["reduction"]
    dim = 0 if x.dim() == 1 else 1
    case = (*index[:dim], *index[dim + 1:])
    target = Reader(call["target"]).broadcast(case)
    if target != index[dim] or target == call["ignore_index"]:
        return Fraction(0)
    grad = Reader(call["grad_output"])[case if reduction == _NONE and x.dim() > 1 else
                                       (0,) * call["grad_output"].dim()]
    scale: Number = Fraction(1) if weight is None else Reader(weight)[(index[dim],)]
    value = product((Fraction(-1), scale, grad))
    if reduction != _MEAN:
        return value
    whole = Reader(call["total_weight"])[(0,) * call["total_weight"].dim()]
    if not isinstance(whole, Fraction) or not whole:
        return None
    return value / whole if isinstance(value, Fraction) else None
