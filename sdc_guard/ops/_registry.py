"""The table of checked ops: the decorators in the files of this folder, and nothing else.

A file of this folder registers one op or one tight family with :func:`checked`.  Guard, demo,
``sdc-guard ops``, conformance tests and the docs derive what they need from :func:`all_specs`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.errors import DuplicateOp, UsageError
from sdc_guard.formats import Format, format_of
from sdc_guard.ops._axes import AxesOf, spelled
from sdc_guard.ops._kernels import KernelOf
from sdc_guard.ops._symmetry import Symmetry

F64 = NDArray[np.float64]
GENERATOR = "generator"
"""Family of the ops of which nothing but the range of the draws can be said."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What one result must be, and how far it may be off.

    ``expected`` is float64 for floating results and the exact array for the others.  ``proof`` and
    ``contract`` are limits on ``|got - expected|`` per element (broadcastable), the rounding of the
    reference itself included; ``proof`` is None where only a contract is known, and both are 0
    for exact results.  ``magnitude`` is the largest intermediate that a permitted evaluation order
    can reach; where it exceeds the format's range nothing is judged.

    ``keeps_infinities`` tells that a NaN is wrong where ``expected`` is infinite.

    A complex result has a complex128 ``expected`` and limits on the modulus of its error; or
    ``parts``, references of its real and its imaginary part, which then decide.
    """

    expected: NDArray[Any]
    proof: NDArray[Any] | float | None
    contract: NDArray[Any] | float
    formula: str
    magnitude: NDArray[Any] | float = 0.0
    parts: tuple[Reference, Reference] | None = None
    keeps_infinities: bool = False


Blame = Callable[[NDArray[np.bool_], tuple[int, ...]], NDArray[np.bool_]]
"""From the broken entries of a residual to the suspected elements of a result of some shape."""


def blame_elements(broken: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The entries are elements of the result, or broadcast to it."""
    return np.broadcast_to(broken, shape)


def blame_columns(broken: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """All of the column in which an entry is broken."""
    return np.broadcast_to(broken.any(-2, keepdims=True), shape)


def blame_rows(broken: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """All of the row in which an entry is broken."""
    return np.broadcast_to(broken.any(-1, keepdims=True), shape)


def blame_matrices(broken: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """All that the result holds of the matrix of the batch in which an entry is broken."""
    found = broken.any((-2, -1))
    return np.broadcast_to(found.reshape(found.shape + (1,) * (len(shape) - found.ndim)), shape)


@dataclass(frozen=True, slots=True)
class Residual:
    """An equation that results satisfy together with the operands, and by how much they miss it.

    For results that have no value to compare with: a factorization is not unique, and the error of
    a solution grows with the condition of the matrix, the residual does not.

    ``defect`` is the size of the residual in float64, such as ``|A X - B|``; ``proof`` and
    ``contract`` are limits on it (broadcastable), the rounding of its own evaluation included;
    ``proof`` is None where only a contract is known.  Nothing is judged where the limit is not
    finite, nor where ``magnitude``, the largest intermediate of a permitted evaluation, exceeds the
    range of the format; elsewhere a defect that is NaN or infinite is broken.  ``blame`` says which
    elements of result ``output`` a broken entry accuses.
    """

    output: int
    defect: F64
    proof: NDArray[Any] | float | None
    contract: NDArray[Any] | float
    formula: str
    magnitude: NDArray[Any] | float = 0.0
    blame: Blame = blame_elements


class HostCall:
    """A call as a reference sees it: operands as fresh NumPy arrays, widened without rounding."""

    def __init__(self, call: BoundCall, held: Sequence[Tensor]) -> None:
        self.call = call
        self.held = held

    def __getitem__(self, argument: str) -> Any:
        return self.call[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        return self.call.get(argument, default)

    def array(self, argument: str) -> NDArray[Any]:
        """The operand's values, float64 for floating dtypes, complex128 for complex ones."""
        return bits.values(self.call[argument])

    def number(self, argument: str, default: float = 1.0) -> NDArray[Any]:
        """A tensor or scalar operand as an array (0-dim for scalars)."""
        value = self.call.get(argument)
        if value is None:
            return np.asarray(default)
        if isinstance(value, Tensor):
            return bits.values(value)
        return np.asarray(value)

    def format(self, argument: str) -> Format:
        return format_of(self.call[argument].dtype)

    def out_format(self, output: int = 0) -> Format:
        return format_of(self.held[output].dtype)


ReferenceFn = Callable[[HostCall], tuple[Reference | None, ...]]
Judge = TypeVar("Judge", bound=Callable[..., Any])
ResidualFn = Callable[[HostCall], tuple[Residual, ...]]
InvariantFn = Callable[[BoundCall, tuple[Tensor, ...]], "tuple[int, NDArray[np.bool_], str] | None"]
ProvesFn = Callable[[BoundCall, tuple[Tensor, ...]], bool]
SymmetriesOf = Callable[[BoundCall, tuple[Tensor, ...]], tuple[Symmetry, ...]]
FlopsOf = Callable[[BoundCall, tuple[Tensor, ...]], int]
ChecksumFn = Callable[[HostCall], tuple[F64, F64, F64, str] | None]
SamplesFn = Callable[[torch.Generator, torch.dtype], list[tuple[Any, tuple[Any, ...], dict[str,
Any]]]]
"""Representative calls ``(overload, args, kwargs)`` for a dtype; empty where the op has none."""
VariantsFn = Callable[[], "Sequence[tuple[str, Callable[[], AbstractContextManager[None]]]]"]
"""Names of the implementations that the op may choose between, each with what makes it take one."""


def elementwise_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """One operation per element of the results."""
    return sum(t.numel() for t in held)


@dataclass(frozen=True, slots=True)
class OpSpec:
    """How one op packet is checked.

    ``axes``: named axes of operands and results.  ``symmetries``: bit-exact relations for replay, a
    tuple or a function of the call.  ``reference``: float64 by an independent path.
    ``residual``: how far the results miss their defining equations.  ``checksum``: for products,
    see ``check/reference.py``.  ``kernel``: checks on the device of the operands, see
    ``ops/_kernels.py``.  ``invariant``: an exact fact, returns (output, mask of elements
    that break it, text) or None; ``proves`` tells of a call whether that fact fixes every bit of
    every result, so that no other witness can add to it.  ``deterministic``: the op is documented
    to give equal bits for equal calls on every device it is used on.  ``replayable`` is
    False for ops that consume random numbers.  ``reduction`` ops are cheap and rarely looked at, so
    they come first when a budget is short.  ``window`` names axes along which a reference may be
    evaluated in part; ``streams`` says that the reference takes little memory however large the
    operands are.  ``scratch`` names results that hold no numbers.  ``samples`` makes calls for the
    conformance, bound and power tests, hunts and sweeps.  ``variants``: the configurations of an
    autotuned kernel, see ``check/variants.py``.  ``takes_complex``: calls with complex
    operands or results are checked by this spec too; without it they need one of their own
    (:func:`register_complex`), or are repeated and no more.
    """

    packet: str
    family: str
    axes: AxesOf
    symmetries: tuple[Symmetry, ...] | SymmetriesOf
    reference: ReferenceFn | None = None
    residual: ResidualFn | None = None
    checksum: ChecksumFn | None = None
    kernel: KernelOf | None = None
    invariant: InvariantFn | None = None
    proves: ProvesFn | None = None
    flops: FlopsOf = elementwise_flops
    deterministic: bool = True
    replayable: bool = True
    reduction: bool = False
    window: tuple[str, ...] = ()
    streams: bool = False
    scratch: tuple[int, ...] = ()
    samples: SamplesFn | None = None
    variants: VariantsFn | None = None
    doc: str = ""
    takes_complex: bool = False

    @property
    def judged(self) -> bool:
        """True if bounds say something about the results."""
        return self.reference is not None or self.residual is not None

    @property
    def witnesses(self) -> tuple[str, ...]:
        names = ("replay" if self.replayable else "", "reference" if self.reference else "",
                 "residual" if self.residual else "",
                 "sample" if (self.reference or self.residual) and self.window else "",
                 "checksum" if self.checksum else "", "invariant" if self.invariant else "",
                 "kernel" if self.kernel else "")
        return tuple(n for n in names if n)


_SPECS: dict[str, OpSpec] = {}
_OWNERS: dict[str, str] = {}
_COMPLEX: dict[str, OpSpec] = {}
_DERIVED: dict[str, Callable[[OpSpec], OpSpec]] = {}


def packet_name(target: Any) -> str:
    """``aten.mm`` for ``torch.ops.aten.mm``, one of its overloads, or a custom op.

    Raises:
        UsageError: if ``target`` is not an operator.
    """
    if isinstance(target, torch._ops.OpOverload):
        target = target.overloadpacket
    if isinstance(target, torch._ops.OpOverloadPacket):
        return str(target)
    name = getattr(target, "_qualname", None)
    if isinstance(name, str) and "::" in name:
        return name.replace("::", ".")
    if isinstance(target, str) and "." in target:
        return target
    raise UsageError(f"not an operator: {target!r}; give torch.ops.<namespace>.<name> or a "
                     "torch.library.custom_op")


def register(spec: OpSpec, owner: str) -> None:
    """Put a spec into the table.

    Raises:
        DuplicateOp: if another file has registered the packet.
    """
    if spec.packet in _SPECS:
        raise DuplicateOp(f"{spec.packet} is already checked by {_OWNERS[spec.packet]}; "
                          f"{owner} registers it again")
    _SPECS[spec.packet] = spec
    _OWNERS[spec.packet] = owner


def register_complex(spec: OpSpec, owner: str) -> None:
    """Put a spec into the table for the calls of its packet that are complex.

    Raises:
        DuplicateOp: if another file has registered the packet for them.
    """
    if spec.packet in _COMPLEX or spec.packet in _DERIVED:
        raise DuplicateOp(f"complex calls of {spec.packet} are already checked; {owner} registers "
                          "them again")
    _COMPLEX[spec.packet] = dataclasses.replace(spec, takes_complex=True)


def register_derived(packet: str, derive: Callable[[OpSpec], OpSpec]) -> None:
    """Complex calls of a packet are checked by what ``derive`` makes of its real spec.

    Raises:
        DuplicateOp: if complex calls of the packet are registered already.
    """
    if packet in _COMPLEX or packet in _DERIVED:
        raise DuplicateOp(f"complex calls of {packet} are already checked")
    _DERIVED[packet] = derive


def checked(
    *targets: Any,
    family: str,
    symmetries: tuple[Symmetry, ...] | SymmetriesOf,
    axes: AxesOf | None = None,
    operands: tuple[str, ...] = (),
    outputs: tuple[str, ...] = (),
    only_complex: bool = False,
    by: str = "reference",
    **properties: Any,
) -> Callable[[Judge], Judge]:
    """Register the decorated function for one or more op packets.

    Args:
        targets: packets such as ``torch.ops.aten.mm``; their in-place and ``out=`` overloads are
            covered with them.
        operands, outputs: named axes as strings, see :func:`sdc_guard.ops._axes.spelled`; or
            ``axes``, a function of the call.
        only_complex: for complex calls alone; another spec, or none, has the real ones.
        by: the field of :class:`OpSpec` that the function is: ``reference`` or ``residual``.
        properties: further fields of :class:`OpSpec`.
    """

    def decorate(function: Judge) -> Judge:
        for target in targets:
            name = packet_name(target)
            (register_complex if only_complex else register)(
                OpSpec(
                    packet=name,
                    family=family,
                    axes=axes or spelled(operands, outputs),
                    symmetries=symmetries,
                    doc=(function.__doc__ or "").strip(),
                    **{by: function, **properties},
                ),
                function.__module__,
            )
        return function

    return decorate


_discovered = "no"


def discover() -> None:
    """Import every op file of this folder (modules without a leading underscore), once.

    Raises whatever an op file raises, each time until it does no more: a table that lacks ops would
    call them not tested, and say nothing.
    """
    global _discovered
    if _discovered != "no":
        return
    _discovered = "under way"
    try:
        package = importlib.import_module("sdc_guard.ops")
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"sdc_guard.ops.{module.name}")
        _discovered = "yes"
    finally:
        if _discovered != "yes":
            _discovered = "no"


def lookup(packet: str) -> OpSpec | None:
    """The spec of a packet name such as ``aten.mm``, or None."""
    discover()
    return _SPECS.get(packet)


def lookup_complex(packet: str) -> OpSpec | None:
    """The spec for the complex calls of a packet, or None."""
    discover()
    found = _COMPLEX.get(packet)
    if found is None:
        real, derive = _SPECS.get(packet), _DERIVED.get(packet)
        if real is None or not (real.takes_complex or derive):
            return None
        found = _COMPLEX[packet] = real if derive is None else derive(real)
    return found


def complex_specs() -> tuple[OpSpec, ...]:
    """Every spec that takes complex calls, sorted by packet name."""
    discover()
    found = (lookup_complex(name) for name in sorted({*_SPECS, *_COMPLEX}))
    return tuple(spec for spec in found if spec is not None)


def all_specs() -> tuple[OpSpec, ...]:
    """Every registered spec, sorted by packet name."""
    discover()
    return tuple(_SPECS[name] for name in sorted(_SPECS))
