"""A bound derived from a reference's own operations: nobody has to write a proof.

The NumPy reference is run on :class:`~sdc_guard.bounds.followed.Followed` arrays, which carry a
limit on the error of a kernel that evaluates the same formula, and the result is rounded to the
dtype that the kernel stores.  Premises:

- the kernel evaluates the formula that the reference writes, each sum and each matrix product in
  any order, with or without fused multiply-add, in one format (by default fp32 where every floating
  operand is in fp32 or a half format, else fp64) rounded to nearest;
- quotients, roots and elementary functions err as :mod:`sdc_guard.bounds.approximate` says, matrix
  products as :mod:`sdc_guard.bounds.following` says;
- a formula that is mathematically equal but cancels where the reference does not (a variance as
  ``mean(x^2) - mean(x)^2``) is another formula: write that one.

A formula of arithmetic alone has one limit, the proof, which is the contract too.  With an
elementary function in it the proof rests on that function's premise, and the contract is tighter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.followed import Followed, Rules, cannot_follow, followed
from sdc_guard.errors import UsageError
from sdc_guard.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, TFLOAT32, Format

Array = NDArray[Any]

Formats = Format | tuple[Format | None, ...] | None
TRUNCATED_UNIT = 4.0
"""Unit of a tensor core's accumulation, in u: see :mod:`sdc_guard.bounds.following`."""

_FORMATS = {f.name: f for f in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)}


class Limits(NamedTuple):
    """One result: its expected values, limits on the error, and where nothing is to be judged."""

    expected: Array
    proof: Array | None
    contract: Array
    unknown: NDArray[np.bool_]


def named_format(name: str) -> Format:
    """A floating-point format by its dtype's name.

    Raises:
        UsageError: no format has this name.
    """
    if name not in _FORMATS:
        raise UsageError(f"format {name!r} is not one of {', '.join(_FORMATS)}")
    return _FORMATS[name]


def rounded(x: Any, dtype: str) -> Any:
    """Say in a reference that the kernel rounds an intermediate to a narrower dtype.

    On plain arrays it does nothing, since the reference is exact; a derived bound takes one
    rounding to ``dtype`` (``"bfloat16"``, ``"float16"``) into account.
    """
    fmt = named_format(dtype)
    return x.rounded_to(fmt) if isinstance(x, Followed) else x


def rules_for(
    operands: Sequence[Format],
    *,
    device: str,
    compute: str | None,
    products: str | None,
    interpreted: bool = False,
) -> Rules:
    """What a kernel is taken to do with operands in these formats.

    Args:
        operands: formats of the floating operands.
        device: ``cpu`` or ``cuda``.
        interpreted: the kernel runs in Triton's interpreter.
        compute: name of the computing format, None for the default.
        products: ``ieee`` or ``tf32`` inputs of fp32 matrix products; None for what Triton does by
            default, TF32 on a CUDA device.
    """
    widest = max((f.precision for f in operands), default=FLOAT32.precision)
    default = FLOAT32 if widest <= FLOAT32.precision else FLOAT64
    fmt = default if compute is None else named_format(compute)
    if products not in (None, "ieee", "tf32"):
        raise UsageError(f"products={products!r} is not 'ieee' or 'tf32'")
    half = min((f for f in operands if f.precision < FLOAT32.precision),
               key=lambda f: f.precision, default=None)
    on_device = device != "cpu"
    as_tf32 = products == "tf32" or (products is None and on_device)
    return Rules(
        compute=fmt,
        operands=half,
        input_u=2 * TFLOAT32.u if fmt is FLOAT32 and half is None and as_tf32 else 0.0,
        product_u=fmt.u * (TRUNCATED_UNIT if on_device and fmt is not FLOAT64 else 1.0),
        interpreted=interpreted,
    )


def derive(
    reference: Callable[..., Any],
    arguments: Sequence[Any],
    formats: Sequence[Formats],
    results: Sequence[Format | None],
    rules: Rules,
) -> list[Limits]:
    """Follow a reference.

    Args:
        reference: computes the expected results from the arguments.
        arguments: float64 arrays for floating operands, anything else as it is.
        formats: the format of each argument's elements, None for what is no floating operand, and
            a tuple of them for a list of operands.
        results: the format that each result is stored in, None for integers and booleans.
        rules: what the kernel is taken to do.

    Raises:
        UsageError: the reference does something that cannot be followed, or returns another number
            of results.
    """
    rules.proof = rules.met_elementary = rules.wrote = False
    with np.errstate(all="ignore"):
        contracts = _run(reference, arguments, formats, results, rules)
        if rules.wrote:
            _require_equal(contracts, reference(*arguments))
        if not rules.met_elementary:
            return [_limits(c, c) for c in contracts]
        rules.proof = True
        proofs = _run(reference, arguments, formats, results, rules)
        return [_limits(p, c) for p, c in zip(proofs, contracts, strict=True)]


def _run(
    reference: Callable[..., Any],
    arguments: Sequence[Any],
    formats: Sequence[Formats],
    results: Sequence[Format | None],
    rules: Rules,
) -> list[Followed]:
    inputs = [_followed_argument(x, fmt, rules) for x, fmt in zip(arguments, formats, strict=True)]
    returned = reference(*inputs)
    found = list(returned) if isinstance(returned, (tuple, list)) else [returned]
    if len(found) != len(results):
        raise UsageError(f"the reference returns {len(found)} results, the operator {len(results)}")
    return [_stored(followed(x, rules), fmt) for x, fmt in zip(found, results, strict=True)]


def _followed_argument(x: Any, fmt: Formats, rules: Rules) -> Any:
    if isinstance(fmt, tuple):
        return [_followed_argument(part, f, rules) for part, f in zip(x, fmt, strict=True)]
    return x if fmt is None else _operand(x, fmt, rules)


def _require_equal(found: Sequence[Followed], returned: Any) -> None:
    """A view of a followed array does not see what is written to the array afterwards."""
    plain = returned if isinstance(returned, (tuple, list)) else [returned]
    for one, expected in zip(found, plain, strict=True):
        if not np.array_equal(one.value, expected, equal_nan=True):
            raise cannot_follow("writing into an array of which a view is in use")


def _operand(x: Array, fmt: Format, rules: Rules) -> Followed:
    """Exact, unless the computing format is narrower than the operand's."""
    value, own = np.array(x, dtype=np.float64), rules.compute
    narrower = own.precision < fmt.precision
    return Followed(value, own.u * np.abs(value) + own.eta if narrower else 0.0, rules)


def _stored(x: Followed, fmt: Format | None) -> Followed:
    return x if fmt is None else x.numbers().rounded_to(fmt)


def _limits(proof: Followed, contract: Followed) -> Limits:
    """A definition that is NaN is not judged: whether a maximum or a branch passes a NaN on is the
    kernel's choice.  Nor is an integer or a boolean that hangs on an unsure comparison."""
    unknown = ~np.isfinite(proof.error) | ~np.isfinite(contract.error)
    if contract.value.dtype.kind == "f":
        unknown = unknown | np.isnan(contract.value)
    return Limits(contract.value, np.asarray(proof.error), np.asarray(contract.error), unknown)
