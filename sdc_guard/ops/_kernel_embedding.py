"""How the gradients of embedding tables reach the kernels that judge them on their device."""

from __future__ import annotations

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.formats import accumulator_of, format_of
from sdc_guard.ops._kernel_rows import readable
from sdc_guard.ops._kernels import KernelCheck, KernelRun, Notes

CHECKS = (
    KernelCheck("checksum", "columns of the result and of the gradient: the sum of the elements' "
                "limits", 0, "column"),
    KernelCheck("invariant", "rows that no index names are zero"),
    KernelCheck("sample", "(n - 1) u sum|g| in fp32, rounding to the storage format"),
)


def gradient_kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    """Every column and every unused row, and the rows of some indices.  Rows that are scaled by
    their frequency are left to the host."""
    gradient, index, result = call["grad_output"], call["indices"], held[0]
    if not readable(gradient, result) or call["scale_grad_by_freq"]:
        return None
    if (index.dtype not in (torch.int32, torch.int64) or result.dim() != 2
            or gradient.shape != (*index.shape, result.shape[1])):
        return None
    from sdc_guard_kernels.embedding_gradient_rows import embedding_gradient_rows, plan
    from sdc_guard_kernels.rows import rows_of

    rows = rows_of(gradient.shape, (gradient.dim() - 1,),
                   [gradient.stride(), (*index.stride(), 0)])
    if rows is None:
        return None
    out, acc = format_of(result.dtype), accumulator_of(result.dtype)
    narrower = out.precision < acc.precision
    site = plan(rows, int(result.shape[0]), int(call["padding_idx"]), result.device, u=acc.u,
                result_u=out.u if narrower else 0.0, result_eta=out.eta if narrower else 0.0,
                result_max=out.max)

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        column, unused, sample = (notes.record(check) for check in CHECKS)
        embedding_gradient_rows(call["grad_output"], call["indices"], held[0],
                                (column, unused, sample), site, notes.seed)

    return run
