"""The decorator itself."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch

from sdc_guard.calls import BoundCall, flatten, form_of
from sdc_guard.errors import DuplicateOp, UsageError
from sdc_guard.observe.launches import note_checked
from sdc_guard.ops import HostCall, OpSpec, packet_name
from sdc_guard.ops._registry import SamplesFn, register
from sdc_guard.ops._symmetry import RERUN, Symmetry, split
from sdc_guard.public_ops.operands import (
    FLOATS,
    Operand,
    axes_of,
    drawn_calls,
    movable,
    parsed,
    tensor_positions,
    work,
)
from sdc_guard.public_ops.references import NumpyFunction, adapted

USER_NAMESPACE = "sdc_guard_user"


def checked(
    *,
    reference: NumpyFunction,
    operands: Sequence[str],
    bound: Any = None,
    outputs: Sequence[str] = (),
    symmetries: tuple[Symmetry, ...] | None = None,
    name: str = "",
    mutates_args: Sequence[str] = (),
    deterministic: bool = True,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
    samples: SamplesFn | None = None,
) -> Callable[[Any], Any]:
    """Decorate a function that launches a kernel, a ``torch.library.custom_op``, or an operator, so
    that the guard checks its calls.  ``docs/your_triton_kernel.md`` is a worked example.

    Args:
        reference: what the operator must compute, in NumPy: takes the operator's arguments,
            floating tensors as float64 arrays, and returns the result, or a tuple of them.  Results
            are what the operator writes to (``mutates_args``, in order), then what it returns.
        operands: the axes of each tensor argument by name, such as ``("m n", "n")``; ``.`` stands
            for a dimension without a name, and ``"n: int64"`` gives a dtype to draw cases in.
        bound: the limit on ``|got - expected|`` for each element:

            - left out, it is derived from the reference's own operations, in the format that the
              kernel accumulates in (see :func:`sdc_guard.bounds.from_reference`, which has
              options);
            - put together from the blocks in :mod:`sdc_guard.bounds`;
            - ``sdc_guard.bounds.ulps(n)``, a declared limit: what breaks it is ``precision``,
              never ``corruption``;
            - a function of the reference's arguments, with its derivation in the docstring; or of
              several results a tuple.
        outputs: the axes of each result.  An axis that is named in an operand too says: this slice
            of the result comes from that slice of the operand and of nothing else.  So leave out,
            with ``.``, the dimensions that the kernel works across.
        symmetries: bit-exact relations; by default ``split`` along each such axis.
        name: ``namespace::name`` of the operator that a plain function becomes; by default
            ``sdc_guard_user::<function>``.
        mutates_args: arguments that a plain function writes to.
        deterministic: False where equal calls may differ in their bits, as with float atomics.
        dtypes, samples: what cases are drawn in, or a function that makes them.

    A plain function must annotate its parameters and its result as :func:`torch.library.custom_op`
    asks, and comes back as what that returns: ``register_autograd`` gives it a gradient and
    ``register_fake`` lets it through ``torch.compile``.  Of a Triton kernel under
    ``triton.autotune`` every configuration is judged.

    Raises:
        UsageError: the target is no operator and cannot become one; the axes do not fit it; or no
            bound can be derived from the reference (the message names the function in the way).
        DuplicateOp: the operator is checked already.
    """
    taken, given = parsed(operands), parsed(outputs)
    evaluate = adapted(reference, bound)

    def decorate(target: Any) -> Any:
        operator = target
        try:
            packet = packet_name(target)
        except UsageError:
            operator = _as_operator(target, name, mutates_args)
            packet = packet_name(operator)
        overload = _overload(packet)
        _require_fitting(packet, overload, taken)
        axes = axes_of(taken, given, packet)
        shared = movable(taken, given)
        launcher = getattr(operator, "_init_fn", target)
        spec = OpSpec(
            packet=packet,
            family="user",
            axes=axes,
            symmetries=symmetries if symmetries is not None else (
                *(split(x, known=False) for x in shared), RERUN),
            reference=evaluate,
            flops=lambda call, held: work(axes(call, held), held, call),
            window=shared,
            deterministic=deterministic,
            samples=samples or partial(drawn_calls, overload, taken, tuple(dtypes)),
            variants=partial(_configurations, launcher),
            doc=(reference.__doc__ or "").strip(),
        )
        _try_reference(spec, overload, taken, tuple(dtypes))
        register(spec, getattr(launcher, "__module__", "user code"))
        note_checked(launcher)
        return operator

    return decorate


def _as_operator(function: Any, name: str, mutates_args: Sequence[str]) -> Any:
    if not inspect.isfunction(function):
        raise UsageError(
            "checked() decorates an operator or the Python function that launches a kernel, "
            f"kernel[grid](...), not {function!r}")
    full_name = name or f"{USER_NAMESPACE}::{function.__name__}"
    namespace, _, base = full_name.partition("::")
    if hasattr(getattr(torch.ops, namespace), base):
        raise DuplicateOp(f"there is an operator {full_name} already; give checked() another name=")
    try:
        return torch.library.custom_op(full_name, function, mutates_args=tuple(mutates_args))
    except (ValueError, RuntimeError, TypeError) as error:
        raise UsageError(f"{full_name} cannot become an operator: {error}") from error


def _overload(packet: str) -> Any:
    namespace, _, base = packet.partition(".")
    found = getattr(getattr(torch.ops, namespace), base)
    return getattr(found, found.overloads()[0])


def _require_fitting(packet: str, overload: Any, operands: tuple[Operand, ...]) -> None:
    names = [overload._schema.arguments[i].name for i in tensor_positions(overload)]
    if len(operands) != len(names):
        raise UsageError(
            f"{packet}: operands has {len(operands)} strings, the function takes {len(names)} "
            f"tensors ({', '.join(names)})")


def _try_reference(
    spec: OpSpec, overload: Any, operands: tuple[Operand, ...], dtypes: tuple[torch.dtype, ...]
) -> None:
    """Evaluate the reference on one drawn call without launching anything, so that what it cannot
    do is said where it is written.  The results are taken to be of the first operand's dtype; what
    else goes wrong on drawn numbers says nothing."""
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 3, 4)
    calls = drawn_calls(overload, operands, dtypes, generator, dtypes[0], sizes) if dtypes else []
    if not calls or spec.reference is None:
        return
    call = BoundCall(form_of(overload), calls[-1][1])
    written = [t for i in call.form.overwrites for t in flatten(call.args[i])]
    returned = len([r for r in overload._schema.returns if "Tensor" in str(r.type)])
    held = (*written, *(torch.empty(0, dtype=dtypes[0]) for _ in range(returned)))
    try:
        with np.errstate(all="ignore"):
            spec.reference(HostCall(call, held))
    except UsageError as error:
        raise UsageError(f"{spec.packet}: {error}") from error
    except Exception:  # the drawn numbers, or their sizes, do not suit the reference
        return


def _configurations(
    launcher: Any,
) -> Sequence[tuple[str, Callable[[], AbstractContextManager[None]]]]:
    """Of the autotuned kernels that it names; none where Triton was never imported."""
    if "triton" not in sys.modules:
        return ()
    from sdc_guard_kernels.autotuned import variants

    return variants(launcher)

