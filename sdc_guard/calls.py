"""A call of a torch operator as a value: its operands by name, and how to make it again.

``OpForm`` is what one overload looks like (made once, from its schema); ``BoundCall`` is one call
of it with operands.  ``BoundCall.run`` returns the *flat* results: every tensor that the op
overwrites, then every tensor that it returns, in schema order.  In-place and ``out=`` forms are
repeated through their functional counterpart where torch has one that gives the same dtype,
and on fresh images of the overwritten operands where not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bits import address_range, snapshot_together

Path = tuple[int, ...]
"""Where a tensor sits among the arguments: (argument,) or (argument, position in its list)."""


@dataclass(frozen=True, slots=True)
class OpForm:
    """One operator overload, read off its schema.

    ``op`` is the callable, ``packet`` the name that all its overloads share without the in-place
    mark (``aten.add`` for ``aten::add_.Tensor``), ``overwrites`` the positions of the arguments
    that it writes to, ``functional`` the overload that computes the same without writing.
    """

    op: Any
    name: str
    packet: str
    argument_names: tuple[str, ...]
    defaults: tuple[Any, ...]
    num_positional: int
    overwrites: tuple[int, ...]
    is_out: bool
    functional: Any
    functional_positions: tuple[int, ...]
    all_positions: tuple[int, ...]
    seeded: bool

    def position(self, argument: str) -> int:
        return self.argument_names.index(argument)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in schema order, defaults filled in."""
        missing = len(self.argument_names) - len(args)
        if missing == 0:
            return args
        rest = zip(self.argument_names[len(args) :], self.defaults[len(args) :], strict=True)
        if not kwargs:
            return args + self.defaults[len(args) :]
        return args + tuple(kwargs.get(name, default) for name, default in rest)

    def call(self, args: tuple[Any, ...]) -> Any:
        """Call the overload with arguments in schema order."""
        n = self.num_positional
        if n == len(args):
            return self.op(*args)
        return self.op(*args[:n], **dict(zip(self.argument_names[n:], args[n:], strict=True)))


WRITES_UNNAMED = frozenset({
    "aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm",
    "aten::batch_norm_gather_stats", "aten::batch_norm_gather_stats_with_counts",
})
"""Operators that update ``running_mean`` and ``running_var``, which their schemas do not say."""


OTHER_BITS_THAN_FUNCTIONAL = frozenset({
    "aten::mul_.Scalar", "aten::_foreach_mul_.Scalar", "aten::_foreach_mul_.ScalarList",
})
"""In half formats these round the number to the format first; their functional overloads do not
(seen in torch 2.13 on a CPU: the single value is the first operand here, the second there)."""


def _is_write(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


@cache
def form_of(op: Any) -> OpForm:
    """The form of a ``torch._ops.OpOverload``."""
    schema = op._schema
    names = tuple(a.name for a in schema.arguments)
    unnamed = ("running_mean", "running_var") if schema.name in WRITES_UNNAMED else ()
    overwrites = tuple(
        i for i, a in enumerate(schema.arguments) if _is_write(a) or a.name in unnamed
    )
    num_positional = sum(not a.kwarg_only for a in schema.arguments)
    is_out = bool(overwrites) and all(schema.arguments[i].is_out for i in overwrites)
    functional, positions = op, tuple(range(len(names)))
    if overwrites and op.name() in OTHER_BITS_THAN_FUNCTIONAL:
        functional, positions = None, ()
    elif overwrites:
        keep = tuple(i for i in positions if not (is_out and i in overwrites))
        functional = _functional(op, tuple(_name_and_type(schema.arguments[i]) for i in keep))
        positions = keep if functional is not None else ()
    namespace, _, base = schema.name.partition("::")
    base = base.removesuffix("_") if overwrites and not base.endswith("__") else base
    return OpForm(
        op=op,
        name=str(op),
        packet=f"{namespace}.{base}",
        argument_names=names,
        defaults=tuple(
            a.default_value if a.has_default_value() else None for a in schema.arguments
        ),
        num_positional=num_positional,
        overwrites=overwrites,
        is_out=is_out,
        functional=functional,
        functional_positions=positions,
        all_positions=tuple(range(len(names))),
        seeded=torch.Tag.nondeterministic_seeded in op.tags,
    )


def _name_and_type(argument: Any) -> tuple[str, str]:
    return argument.name, str(argument.type)


def _functional(op: Any, kept: tuple[tuple[str, str], ...]) -> Any:
    """The overload that takes the kept arguments, by name and type, and writes to none of them;
    ``pow_.Scalar`` has it in ``pow.Tensor_Scalar``, not in ``pow.Scalar``."""
    namespace, _, base = op._schema.name.partition("::")
    if not any(a.is_out for a in op._schema.arguments):
        if not base.endswith("_") or base.endswith("__"):
            return None
        base = base[:-1]
    packet = getattr(getattr(torch.ops, namespace), base, None)
    for overload in () if packet is None else packet.overloads():
        candidate = getattr(packet, overload)
        arguments = candidate._schema.arguments
        if tuple(map(_name_and_type, arguments)) == kept and not any(map(_is_write, arguments)):
            return candidate
    return None


def flatten(value: Any) -> list[Any]:
    """The tensors of an operator's result, in order; None keeps the place of a result that was
    masked out (``output_mask``)."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in ([None] if item is None else flatten(item))]
    return []


def resolved(call: BoundCall) -> BoundCall:
    """The call on images that hold the numbers of its lazy negatives and conjugates; itself where
    it has none."""
    if not any(bits.is_lazy(t) for _, t in call.tensors()):
        return call
    return call.mapped(lambda _, t: bits.resolved(t))


def without(results: tuple[Any, ...], dropped: tuple[int, ...]) -> tuple[Any, ...]:
    """The results with None in the place of some, as if they were masked out."""
    return tuple(None if i in dropped else t for i, t in enumerate(results))


@dataclass(slots=True, eq=False)
class BoundCall:
    """One call: a form and all its arguments in schema order.  Nobody changes one; it is not frozen
    because several are made per checked call, and freezing triples what each costs."""

    form: OpForm
    args: tuple[Any, ...]

    def __getitem__(self, argument: str) -> Any:
        """The argument of that name.

        Raises:
            ValueError: if the overload has no such argument; use :meth:`get` for optional ones.
        """
        return self.args[self.form.argument_names.index(argument)]

    def get(self, argument: str, default: Any = None) -> Any:
        names = self.form.argument_names
        return self.args[names.index(argument)] if argument in names else default

    def tensors(self) -> Iterator[tuple[Path, Tensor]]:
        """Every tensor operand with its path; list arguments element by element."""
        for i, value in enumerate(self.args):
            if isinstance(value, Tensor):
                yield (i,), value
            elif isinstance(value, (list, tuple)):
                for j, item in enumerate(value):
                    if isinstance(item, Tensor):
                        yield (i, j), item

    def mapped(self, change: Callable[[Path, Tensor], Tensor]) -> BoundCall:
        """The same call with each tensor operand replaced."""
        args = list(self.args)
        for i, value in enumerate(args):
            if isinstance(value, Tensor):
                args[i] = change((i,), value)
            elif isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
                args[i] = [
                    change((i, j), v) if isinstance(v, Tensor) else v for j, v in enumerate(value)
                ]
        return BoundCall(self.form, tuple(args))

    def replaced(self, /, **arguments: Any) -> BoundCall:
        """The same call with the named arguments replaced."""
        args = list(self.args)
        for name, value in arguments.items():
            args[self.form.position(name)] = value
        return BoundCall(self.form, tuple(args))

    def run(self) -> tuple[Tensor, ...]:
        """Make the call on these operands without changing them; returns the flat results."""
        form, args = self.form, self.args
        if not form.overwrites:
            returned = form.call(args)
            return (returned,) if isinstance(returned, Tensor) else tuple(flatten(returned))
        if form.functional is not None:
            target = form_of(form.functional)
            returned = target.call(
                args
                if form.functional_positions == form.all_positions
                else tuple(args[i] for i in form.functional_positions)
            )
            if isinstance(returned, Tensor):
                written = args[form.overwrites[0]]
                if isinstance(written, Tensor) and returned.dtype is written.dtype:
                    return (returned,)
            else:
                results = flatten(returned)
                if all(
                    r.dtype is w.dtype for r, w in zip(results, self._written(args), strict=False)
                ):
                    return tuple(results)
        if form.is_out:
            fresh = {
                form.argument_names[i]: torch.empty_like(self.args[i][:0])
                if self.args[i].dim()
                else torch.empty_like(self.args[i])
                for i in form.overwrites
            }
            return self.replaced(**fresh).run_identical()
        return self.run_identical()

    def run_identical(self) -> tuple[Tensor, ...]:
        """The very same overload; operands that it overwrites are private images."""
        args = self.with_private_images().args
        return self.results(args, self.form.call(args))

    def with_private_images(self) -> BoundCall:
        """The same call on images of what it overwrites and of every operand that shares memory
        with that; sharing among the images is as among the originals."""
        overwrites = set(self.form.overwrites)
        if not overwrites:
            return self
        tensors = dict(self.tensors())
        ranges = [address_range(t) for p, t in tensors.items() if p[0] in overwrites]

        def is_touched(path: Path, tensor: Tensor) -> bool:
            if path[0] in overwrites:
                return True
            low, high = address_range(tensor)
            return any(low < stop and high > start for start, stop in ranges)

        touched = [p for p, t in tensors.items() if is_touched(p, t)]
        images = dict(zip(touched, snapshot_together([tensors[p] for p in touched]), strict=True))
        return self.mapped(lambda path, tensor: images.get(path, tensor))

    def _written(self, args: tuple[Any, ...]) -> list[Tensor]:
        return [t for i in self.form.overwrites for t in flatten(args[i])]

    def results(self, args: tuple[Any, ...], returned: Any) -> tuple[Tensor, ...]:
        """Flat results of a call made with ``args``: overwritten operands, then new tensors."""
        overwrites = self.form.overwrites
        if isinstance(returned, Tensor) and (
            not overwrites or (len(overwrites) == 1 and args[overwrites[0]] is returned)
        ):
            return (returned,)
        written = self._written(args)
        seen = {id(t) for t in written}
        return (*written, *(t for t in flatten(returned) if id(t) not in seen))
