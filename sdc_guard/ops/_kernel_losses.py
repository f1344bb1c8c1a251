"""How calls of the negative log-likelihood reach the kernels that judge them on their device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of
from sdc_guard.ops._kernel_rows import readable
from sdc_guard.ops._kernels import KernelCheck, KernelOf, KernelRun, Notes

NONE = 0
DepthOf = Callable[[int], int]


def _class_dim(x: Tensor) -> int:
    """Classes stand first in one row, second in a batch."""
    return 0 if x.dim() == 1 else 1


def _beside(tensor: Tensor, x: Tensor) -> tuple[int, ...]:
    """Strides of a tensor of rows over the shape of x: 0 along the classes, and everywhere where it
    is one number for all rows."""
    if tensor.dim() != x.dim() - 1:
        return (0,) * x.dim()
    return _inserted(tensor.stride(), x)


def _inserted(strides: Sequence[int], x: Tensor) -> tuple[int, ...]:
    dim = _class_dim(x)
    return (*strides[:dim], 0, *strides[dim:])


def _fits(call: BoundCall, *tensors: Tensor) -> bool:
    x, weight, target = call["self"], call["weight"], call["target"]
    floats = tensors if weight is None else (*tensors, weight)
    return readable(x, *floats) and target.dtype in (torch.int64, torch.uint8)


def forward_kernel(formulas: Sequence[str], depth_of: DepthOf) -> KernelOf:
    """Losses one by one, or their sum or mean and the total weight; ``formulas`` of a single loss,
    a sum, and a total weight."""

    def of_site(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        x, target, loss = call["self"], call["target"], held[0]
        if not _fits(call, *held):
            return None
        from sdc_guard_kernels.cross_entropy_rows import loss_rows, loss_sums, plan
        from sdc_guard_kernels.rows import c_order, rows_of

        alone = call["reduction"] == NONE and x.dim() > 1
        strides = [x.stride(), _beside(target, x)]
        if alone:
            strides += [_beside(loss, x), _inserted(c_order(loss.shape), x)]
        rows = rows_of(x.shape, (_class_dim(x),), strides)
        if rows is None:
            return None
        out, n = format_of(loss.dtype), rows.num_rows
        site = plan(rows, loss.device, reduction=int(call["reduction"]),
                    ignore_index=int(call["ignore_index"]), depth=depth_of(n),
                    counted=call["weight"] is None, u=out.u, eta=out.eta, largest=out.max)

        def run_alone(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            record = notes.record(KernelCheck("reference", formulas[0]))
            loss_rows(call["self"], call["target"], call["weight"], held[0], record, site)

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            records = (notes.record(KernelCheck("reference", formulas[1])),
                       notes.record(KernelCheck("reference", formulas[2], 1)))
            loss_sums(call["self"], call["target"], call["weight"], held[0], held[1], records,
                      site)

        return run_alone if alone else run

    return of_site


def backward_kernel(formula: str) -> KernelOf:
    """Every element of the gradient: one value at each target and exact zeros elsewhere."""

    def of_site(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        x, target, grad, result = call["self"], call["target"], call["grad_output"], held[0]
        if not _fits(call, grad, call["total_weight"], result) or result.shape != x.shape:
            return None
        from sdc_guard_kernels.cross_entropy_rows import loss_gradient_rows, plan
        from sdc_guard_kernels.rows import c_order, rows_of

        rows = rows_of(x.shape, (_class_dim(x),), [
            result.stride(), c_order(x.shape), _beside(target, x), _beside(grad, x)])
        if rows is None:
            return None
        out = format_of(result.dtype)
        site = plan(rows, result.device, reduction=int(call["reduction"]),
                    ignore_index=int(call["ignore_index"]), depth=0, counted=False, u=out.u,
                    eta=out.eta, largest=out.max)

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            record = notes.record(KernelCheck("reference", formula))
            loss_gradient_rows(call["grad_output"], call["target"], call["weight"],
                               call["total_weight"], held[0], record, site)

        return run

    return of_site
