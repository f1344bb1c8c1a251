"""What can be called: templates of calls that are known to be taken, before anything is changed."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, Path, form_of
from sdc_guard.errors import UsageError
from sdc_guard.hunt.promises import INTEGER_DATA, POSITIVE, is_free, layouts_of, may_resize
from sdc_guard.hunt.trial import Argument, Items, Layout, Literal, Operand, Trial, scalar
from sdc_guard.ops import OpSpec
from sdc_guard.records import Record


class Template(Record, frozen=True, kw_only=True):
    """A call that the target takes, as a :class:`Trial`.

    ``name`` is what ``--ops`` matches besides the target (``sum`` of torch's catalogue,
    ``aten.sum`` of the op table); ``source`` tells where it comes from: ``op table``,
    ``catalogue``, ``built-in``, ``trace`` or ``guess``.  ``domains`` names, for operands by
    position, the ``fills.DOMAINS`` that their values must stay in; ``layouts`` those that the
    operands may have (any if empty); ``rule`` which shapes besides its own the call takes
    (``elementwise``, ``reduction``), see :class:`~sdc_guard.hunt.space.Space`.
    """

    name: str
    trial: Trial
    source: str
    domains: dict[int, str] = msgspec.field(default_factory=dict)
    layouts: tuple[str, ...] = ()
    rule: str = ""


def literal_of(tensor: Tensor, *, free: bool, resizable: bool) -> Operand:
    """An operand with the tensor's own bits, dense."""
    dense = tensor.detach().contiguous()
    return Operand(
        dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape),
        values=Literal.of(bits.raw(dense).tobytes()), layout=Layout(), free=free,
        resizable=resizable, requires_grad=tensor.requires_grad)


Judge = Callable[[Path, Tensor], bool]
"""Tells of an operand, by its place among the arguments, whether it may be changed."""


def argument_of(
    value: Any, *, free: bool = True, resizable: bool = True,
    is_free: Judge | None = None, path: Path = (),
) -> Argument:
    """Any argument of a call as part of a trial; ``is_free`` decides for each tensor where given.

    Raises:
        UsageError: for a value that a trial cannot hold.
    """
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            raise UsageError(f"a tensor in layout {value.layout} cannot be part of a trial")
        may = free if is_free is None else is_free(path, value)
        return literal_of(value, free=may, resizable=resizable and may)
    if isinstance(value, (list, tuple)):
        items = tuple(argument_of(v, free=free, resizable=resizable, is_free=is_free,
                                  path=(*path, i)) for i, v in enumerate(value))
        return Items(items=items, is_tuple=isinstance(value, tuple))
    return scalar(value)


DTYPES = ("float32", "bfloat16", "float16", "float64", "complex64", "int64", "int32", "uint8",
          "bool")
MASKS = frozenset({"mask", "condition", "attn_mask"})
"""Boolean operands that are no index."""


def of_spec(spec: OpSpec, seed: int = 0, dtypes: tuple[str, ...] = DTYPES) -> Iterator[Template]:
    """The sample calls of an op file, in each dtype that it has some for.

    An integer operand is free where the samples in float32 hold floating numbers in its place: it
    is data then, and no index.
    """
    data = {place for op, args, kwargs in _samples(spec, seed, "float32")
            for place in _floating_places(op, args, kwargs)}
    for dtype in dtypes:
        for op, args, kwargs in _samples(spec, seed, dtype):
            try:
                yield _template(spec, op, args, kwargs, data)
            except UsageError:
                continue  # sparse or quantized operands, which a trial cannot hold


Sample = tuple[Any, tuple[Any, ...], dict[str, Any]]


def _samples(spec: OpSpec, seed: int, dtype: str) -> list[Sample]:
    if spec.samples is None:
        return []
    drawn = zlib.crc32(f"{spec.packet} {dtype} {seed}".encode())
    generator = torch.Generator().manual_seed(drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # samples of joins cast complex numbers to real ones
        try:
            return spec.samples(generator, getattr(torch, dtype))
        except (RuntimeError, NotImplementedError):
            return []  # what draws them does not exist in this dtype


def _floating_places(
    op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    form = form_of(op)
    for path, tensor in BoundCall(form, form.bind(args, kwargs)).tensors():
        if tensor.is_floating_point():
            yield form.name, form.argument_names[path[0]]


def _template(
    spec: OpSpec, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
    data: set[tuple[str, str]],
) -> Template:
    form = form_of(op)
    domains: dict[int, str] = {}
    count = 0

    def judge(name: str) -> Judge:
        def decide(path: Path, tensor: Tensor) -> bool:
            nonlocal count
            if name in POSITIVE:
                domains[count] = "not negative"
            count += 1
            if tensor.dtype is torch.bool and name in MASKS:
                return True
            is_number = tensor.is_floating_point() or tensor.is_complex()
            is_number |= spec.packet.partition(".")[2] in INTEGER_DATA  # without floating samples
            return is_free(spec.packet, name) and (is_number or (form.name, name) in data)
        return decide

    names = form.argument_names
    resizable = may_resize(spec.packet, spec.family)
    trial = Trial(
        target=form.name,
        args=tuple(argument_of(a, is_free=judge(names[i]), resizable=resizable)
                   for i, a in enumerate(args)),
        kwargs={k: argument_of(v, is_free=judge(k), resizable=resizable)
                for k, v in kwargs.items()})
    layouts = layouts_of(spec.packet)
    return Template(name=spec.packet, source="op table", trial=trial, domains=domains,
                    layouts=tuple(sorted(layouts)) if layouts is not None else (),
                    rule=_rule(spec))


def _rule(spec: OpSpec) -> str:
    if spec.family == "pointwise":
        return "elementwise"
    return "reduction" if spec.family in ("reduction", "scan", "softmax", "selection") else ""
