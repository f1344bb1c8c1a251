"""Ops on lists of tensors: list elements do not touch each other.

Two moves keep every bit.  ``reverse`` passes the lists in the other order.  The other cuts each
list element in two and passes all the halves, the second ones first: other addresses, other shares
per thread, other places in the list.  Ops with a scalar tail are cut at a multiple of 64 elements,
so that each element of a tensor stays in its kernel's vector body or scalar tail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, flatten
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._places import BODY_MULTIPLE, share_ends
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values, overloads_of
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, reverse


def is_list(value: Any) -> bool:
    """True for an argument that has one entry per list element (empty ones stand for none)."""
    return isinstance(value, (list, tuple)) and len(value) > 0


def list_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """No axis is shared by the elements of a list."""
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                tuple((FIXED,) * t.dim() for t in held))


def list_length(call: BoundCall) -> int:
    """Number of list elements."""
    return next((len(a) for a in call.args if is_list(a)), 0)


Cut = Callable[[int], int]


def anywhere(numel: int) -> int:
    """Where an element is cut if its op gives equal bits at every place: in the middle."""
    return numel // 2


def between_vectors(numel: int) -> int:
    """Where an element is cut if the op has a scalar tail: at a multiple of 64 near the middle; 0
    if it stays whole because some thread's share would end inside a vector."""
    cut = numel // 2 // BODY_MULTIPLE * BODY_MULTIPLE
    threads = torch.get_num_threads()
    inner = [e for n in (numel, cut, numel - cut) for e in share_ends(n, threads)[:-1]]
    return 0 if any(e % BODY_MULTIPLE for e in inner) else cut


def _pieces(value: Any, cuts: list[tuple[int, int]], cut_of: Cut) -> list[Any]:
    """A list argument taken at the pieces ``(element, part)``: part 0 is whole, 1 and 2 are halves.
    Entries that are numbers or single values serve both halves."""

    def piece(item: Any, part: int) -> Any:
        if not isinstance(item, Tensor) or part == 0:
            return item
        if item.numel() < 2:  # [1, 1] beside a half of one dimension would make it two
            return item.view(item.numel()) if item.dim() > 1 else item
        cut = cut_of(item.numel())
        start, length = (0, cut) if part == 1 else (cut, item.numel() - cut)
        return item.as_strided((length,), (1,), item.storage_offset() + start)

    return [piece(value[j], part) for j, part in cuts]


def can_halve(call: BoundCall, held: tuple[Tensor, ...], cut_of: Cut) -> bool:
    """True if the tensors of each list element are dense, of one layout (single values aside), and
    some element is long enough to be cut."""
    lists = [a for a in call.args if is_list(a)]
    if not lists or len({len(a) for a in lists}) != 1 or len(held) % len(lists[0]):
        return False
    if not call.form.overwrites and any(
        t.dtype is not r.dtype or t.shape != r.shape for t, r in zip(lists[0], held, strict=False)
    ):
        return False  # the halves of a result are put into an image of the first operand
    long_enough = False
    for j in range(len(lists[0])):
        tensors = [a[j] for a in lists if isinstance(a[j], Tensor) and a[j].numel() > 1]
        layouts = {(tuple(t.shape), t.stride()) for t in tensors}
        if len(layouts) > 1 or not all(bits.is_dense(t) for t in tensors):
            return False
        long_enough = long_enough or any(cut_of(t.numel()) for t in tensors)
    return long_enough


def _halved(call: BoundCall, cut_of: Cut) -> tuple[Tensor, ...]:
    """The call on the halves of its list elements, put together again."""
    form = call.form
    lists = [i for i, a in enumerate(call.args) if is_list(a)]
    sizes = [max((int(a[j].numel()) for i in lists if isinstance((a := call.args[i])[j], Tensor)),
                 default=0) for j in range(list_length(call))]
    cuts = [(j, 2 if cut_of(n) else 0) for j, n in enumerate(sizes)]
    cuts += [(j, 1) for j, n in enumerate(sizes) if cut_of(n)]
    args = list(call.args)
    images: dict[int, list[Tensor]] = {}
    for i in lists:
        if i in form.overwrites:
            images[i] = [bits.snapshot(t) for t in args[i]]
        args[i] = _pieces(images.get(i, args[i]), cuts, cut_of)
    if form.overwrites:
        form.call(tuple(args))
        return tuple(t for i in form.overwrites for t in images.get(i, []))
    parts = flatten(form.call(tuple(args)))
    made = {j: got for (j, _), got in zip(cuts, parts, strict=True)}
    results = [_empty_result(t, made[j]) for j, t in enumerate(call.args[lists[0]])]
    for (j, part), got in zip(cuts, parts, strict=True):
        _pieces([results[j]], [(0, part)], cut_of)[0].copy_(got)
    return tuple(results)


def _empty_result(operand: Tensor, made: Tensor) -> Tensor:
    """Memory of the operand's layout for results like ``made``; ``abs`` of complex ones is real."""
    if made.dtype is operand.dtype:
        return bits.empty_image(operand)
    return torch.empty_strided(operand.shape, operand.stride(), dtype=made.dtype,
                               device=operand.device)


def halved_anywhere(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """Halves cut in the middle."""
    return _halved(call, anywhere)


def halved_between_vectors(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """Halves cut at multiples of 64."""
    return _halved(call, between_vectors)


HALVED = Symmetry("halve list elements", (Move("custom", function=halved_anywhere),),
                  frozenset({"address", "core", "tile", "lane"}), True)
HALVED_BETWEEN_VECTORS = Symmetry(
    "halve list elements", (Move("custom", function=halved_between_vectors),),
    frozenset({"address", "core", "tile"}), True)


def list_symmetries(
    call: BoundCall,
    held: tuple[Tensor, ...],
    odd: tuple[str, ...] = (),
    tail_sensitive: bool = True,
) -> tuple[Symmetry, ...]:
    """Halves where the layouts allow them, the reversed lists, negation of the ``odd`` lists; else
    a plain rerun.  A tensor that holds one scalar per element allows no other order."""
    lists = {len(a) for a in call.args if is_list(a)}
    found = []
    if not isinstance(call.get("scalars"), Tensor):
        if can_halve(call, held, between_vectors if tail_sensitive else anywhere):
            found += [HALVED_BETWEEN_VECTORS if tail_sensitive else HALVED] * 2
        if len(lists) == 1 and max(lists) > 1 and len(held) % max(lists) == 0:
            found.append(reverse())
    signed = [call.get(name) for name in odd]
    if odd and all(is_list(a) and all(t.is_floating_point() for t in a) for a in signed):
        found.append(negate(*odd))
    return tuple(found) or (RERUN,)


def list_samples(packet: Any) -> Any:
    """Calls of every overload of a list packet, in-place forms included: list elements of several
    layouts, one single value; and lists of one element."""

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        calls = [_list_call(op, generator, dtype, length)
                 for op in overloads_of(packet, "List[Tensor]") for length in (4, 1)]
        return [c for c in calls if c is not None]

    return samples


def _list_call(op: Any, generator: torch.Generator, dtype: torch.dtype, length: int) -> Any:
    draw = draw_values(generator, dtype, "positive")
    sizes: tuple[tuple[int, ...], ...] = ((9, 40), (40, 13), (), (700,))
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in op._schema.arguments:
        kind = str(argument.type)
        if kind == "List[Tensor]":
            value: Any = [draw(*s).t() if s == (40, 13) else draw(*s) for s in sizes[:length]]
        elif kind == "List[number]":
            value = [0.5 + 0.3 * j for j in range(length)]
        elif kind == "Tensor":
            value = draw(length).float().cpu() if argument.name == "scalars" else draw()
        elif argument.has_default_value():
            continue
        elif kind == "number":
            value = 0.7
        else:
            return None
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return op, tuple(args), kwargs
