"""The named axes of a user's operands, and calls drawn from them.

``"m n"`` names two axes, ``"m .: int64"`` one axis, one dimension without a name, and a dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall, Path, form_of
from sdc_guard.errors import UsageError
from sdc_guard.ops._axes import FIXED, Axes, AxesOf, Labels

SIZES = (1, 2, 3, 7, 16, 17, 31, 33, 64, 65)
"""Lengths of drawn axes: one, small ones, and around the edges of blocks."""
LARGEST = {3: 33, 4: 17, 5: 7}
"""Largest length where there are so many axes, or more; fewer may have any."""
NUM_DRAWN = 4
FLOATS = (torch.float32, torch.bfloat16)
SampleList = list[tuple[Any, tuple[Any, ...], dict[str, Any]]]


class Operand(NamedTuple):
    """Labels per dimension, and a dtype where the string names one."""

    labels: Labels
    dtype: torch.dtype | None
    text: str


def parsed(texts: Sequence[str]) -> tuple[Operand, ...]:
    """Strings such as ``"m k"`` or ``"n: int64"``.

    Raises:
        UsageError: not a sequence of strings, an axis twice in one string, or no such dtype.
    """
    if isinstance(texts, str):
        raise UsageError(f"axes are a tuple of strings, one for each tensor: ({texts!r},)")
    return tuple(_parsed(text) for text in texts)


def _parsed(text: str) -> Operand:
    axes, _, name = text.partition(":")
    labels = tuple(axes.split())
    named = [x for x in labels if x != FIXED]
    if len(set(named)) < len(named):
        raise UsageError(f"{text!r} names an axis twice")
    dtype = getattr(torch, name.strip(), None) if name.strip() else None
    if name.strip() and not isinstance(dtype, torch.dtype):
        raise UsageError(f"{text!r}: torch has no dtype {name.strip()!r}")
    return Operand(labels, dtype, text)


def tensor_positions(op: Any) -> list[int]:
    """Which arguments of an overload are tensors, or lists of them."""
    return [i for i, a in enumerate(op._schema.arguments) if "Tensor" in str(a.type)]


def axes_of(operands: tuple[Operand, ...], outputs: tuple[Operand, ...], name: str) -> AxesOf:
    """The axes of a call.  A dimension of size 1 against a longer axis of its name is a broadcast;
    dimensions of operands and results without a string may not be moved."""

    def axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
        found = tuple(
            _fitting(outputs[i], t, f"result {i}", name) if i < len(outputs) else
            (FIXED,) * (0 if t is None else t.dim())
            for i, t in enumerate(held))
        sizes: dict[str, int] = {}
        for labels, tensor in zip(found, held, strict=True):
            if tensor is not None:
                sizes.update(zip(labels, tensor.shape, strict=True))
        strings = dict(zip(tensor_positions(call.form.op), operands, strict=False))
        named: dict[Path, Labels] = {}
        for path, tensor in call.tensors():
            operand = strings.get(path[0])
            labels = (FIXED,) * tensor.dim() if operand is None else _fitting(
                operand, tensor, call.form.argument_names[path[0]], name)
            named[path] = tuple(
                FIXED if tensor.shape[i] == 1 != sizes.get(x, 1) else x
                for i, x in enumerate(labels))
        return Axes(named, found)

    return axes


def _fitting(operand: Operand, tensor: Tensor | None, what: str, name: str) -> Labels:
    if tensor is not None and len(operand.labels) != tensor.dim():
        raise UsageError(
            f"{name}: {operand.text!r} names {len(operand.labels)} axes, {what} has "
            f"{tensor.dim()} dimensions: shape {tuple(tensor.shape)}")
    return operand.labels


def movable(operands: tuple[Operand, ...], outputs: tuple[Operand, ...]) -> tuple[str, ...]:
    """Axes that the results share with an operand, in order: along them work may be moved."""
    carried = {x for operand in operands for x in operand.labels}
    named = (x for output in outputs for x in output.labels)
    return tuple(dict.fromkeys(x for x in named if x != FIXED and x in carried))


def work(axes: Axes, held: tuple[Tensor, ...], call: BoundCall) -> int:
    """About the number of operations: the product of the lengths of all named axes."""
    sizes: dict[str, int] = {}
    for path, tensor in call.tensors():
        sizes.update(zip(axes.operands[path], tensor.shape, strict=True))
    total = 1
    for label, size in sizes.items():
        total *= size if label != FIXED else 1
    return max(total, sum(t.numel() for t in held if t is not None))


def drawn_calls(
    op: Any, operands: tuple[Operand, ...], dtypes: tuple[torch.dtype, ...],
    generator: torch.Generator, dtype: torch.dtype, sizes: tuple[int, ...] = SIZES,
) -> SampleList:
    """Calls of an overload with operands of drawn sizes: normal numbers of size 1, integers 0 and
    1; other arguments have their default, else 0.5, 1 or False by their type.

    Empty for a dtype that is not among ``dtypes``, and where an argument cannot be made.
    """
    if dtype not in dtypes:
        return []
    calls = (_drawn(op, operands, generator, dtype, sizes) for _ in range(NUM_DRAWN))
    return [(op, args, {}) for args in calls if args is not None]


def _drawn(
    op: Any, operands: tuple[Operand, ...], generator: torch.Generator, dtype: torch.dtype,
    choices: tuple[int, ...],
) -> tuple[Any, ...] | None:
    labels = dict.fromkeys(x for operand in operands for x in operand.labels)
    largest = LARGEST.get(min(len(labels), max(LARGEST)), max(choices))
    choices = tuple(size for size in choices if size <= largest)
    chosen = torch.randint(len(choices), (len(labels),), generator=generator).tolist()
    sizes = {label: choices[i] for label, i in zip(labels, chosen, strict=True)}
    strings = dict(zip(tensor_positions(op), operands, strict=False))
    form = form_of(op)
    args: list[Any] = []
    for i, argument in enumerate(op._schema.arguments):
        kind = str(argument.type)
        if i in strings and kind in ("Tensor", "Optional[Tensor]"):
            args.append(_tensor(strings[i], sizes, generator, dtype))
        elif argument.has_default_value():
            args.append(form.defaults[i])
        elif kind in ("float", "int", "bool"):
            args.append({"float": 0.5, "int": 1, "bool": False}[kind])
        else:
            return None
    return tuple(args)


def _tensor(
    operand: Operand, sizes: dict[str, int], generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    shape, own = [sizes[x] for x in operand.labels], operand.dtype or dtype
    if own.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(own)
    return torch.randint(0, 2, shape, generator=generator).to(own)
