"""What the files of softmax, norms and losses need to have their rows judged by kernels.

A kernel's limits are those of the *contract* of an op's host reference, the tighter of its two
bounds, with the same premises: depth of the sums, errors of exp and log, what is kept in the
storage format.  The kernels add their own roundings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, Format, accumulator_of, format_of, is_covered_float

if TYPE_CHECKING:
    from sdc_guard_kernels.rows import Rows
    from sdc_guard_kernels.softmax_rows import RowLimits


def readable(*tensors: Any) -> bool:
    """True if every tensor is a real floating one whose memory holds its values, and not empty."""
    return all(isinstance(t, Tensor) and is_covered_float(t.dtype) and t.numel() > 0
               and not t.is_neg() for t in tensors)


def rows_along(dim: int, *tensors: Tensor) -> Rows | None:
    """Rows along a dimension of tensors of one shape, and of the numbering of their elements."""
    from sdc_guard_kernels.rows import c_order, rows_of

    if not tensors[0].dim():
        return rows_of((1,), (0,), [(1,)] * (len(tensors) + 1))
    shape = tensors[0].shape
    return rows_of(shape, (dim,), [*(t.stride() for t in tensors), c_order(shape)])


def row_limits(
    result: Tensor, *, depth: float, phi: float = 0.0, storage_u: float = 0.0, term_u: float = 0.0,
    flush: float = 0.0, num_eta: float = 0.0,
) -> RowLimits:
    """Coefficients of a bound for a result: its format, and the one that its op accumulates in.

    ``num_eta``: subnormal roundings, in units of the accumulator's smallest number.
    """
    from sdc_guard_kernels.softmax_rows import RowLimits

    out, acc = format_of(result.dtype), accumulator_of(result.dtype)
    narrower = out.precision < acc.precision
    return RowLimits(
        u=acc.u, depth=depth, phi=phi, storage_u=storage_u, term_u=term_u, flush=flush,
        result_u=out.u if narrower else 0.0, result_eta=out.eta if narrower else 0.0,
        floor=num_eta * acc.eta, largest=out.max)


def storage_roundoff(source: Format) -> float:
    """Roundoff of what ATen keeps in the operand's format between two steps: 0 for none."""
    return source.u if source.precision < FLOAT32.precision else 0.0


def same_shape(call: BoundCall, result: Tensor, *names: str) -> bool:
    """True if the operands are readable and of the shape of the result."""
    operands = [call[name] for name in names]
    return readable(result, *operands) and all(t.shape == result.shape for t in operands)
