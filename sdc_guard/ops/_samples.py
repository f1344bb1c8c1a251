"""Small representative calls of elementwise ops, made from their schemas.

For each overload of a packet, its in-place and ``out=`` forms included, the tensor arguments take
several layouts: contiguous with an odd number of elements, transposed, a slice with a gap and an
offset, a broadcast column, a single element.  Scalars are ``0.7``, which no format holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sdc_guard.calls import form_of
from sdc_guard.formats import part_dtype

SampleList = list[tuple[Any, tuple[Any, ...], dict[str, Any]]]

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.bool)

Layout = Callable[[Callable[..., Tensor]], Tensor]

LAYOUTS: tuple[Layout, ...] = (
    lambda draw: draw(211),
    lambda draw: draw(9, 37).t(),
    lambda draw: draw(8, 70)[1:7, 3:67],
    lambda draw: draw(),
)

BROADCAST: Layout = lambda draw: draw(6, 1)  # noqa: E731 - one of the layouts above


def draw_values(
    generator: torch.Generator, dtype: torch.dtype, domain: str
) -> Callable[..., Tensor]:
    """A function of sizes that draws operands.

    ``domain``: ``any`` normal numbers of size 2; ``positive`` their absolute values and a little;
    ``unit`` numbers in (-1, 1) or, where ``domain`` is ``share``, in (0, 1); ``mixed`` numbers over
    20 binades; integers are small, for ``exponent`` from 0 to 3; either part of complex numbers is
    drawn by itself.
    """
    if dtype.is_complex:
        part = draw_values(generator, part_dtype(dtype), domain)
        return lambda *sizes: torch.complex(part(*sizes), part(*sizes))

    def draw(*sizes: int) -> Tensor:
        if not dtype.is_floating_point:
            if dtype is torch.bool:
                return torch.randint(0, 2, sizes, generator=generator).bool()
            low, high = (0, 4) if domain == "exponent" else (-9, 10)
            return torch.randint(low, high, sizes, generator=generator).to(dtype)
        x = torch.randn(sizes, generator=generator, dtype=torch.float64)
        if domain == "positive":
            x = x.abs() + 0.01
        elif domain == "unit":
            x = x.tanh()
        elif domain == "share":
            x = x.sigmoid()
        elif domain == "mixed":
            x = x * torch.exp2(10 * torch.randn(sizes, generator=generator, dtype=torch.float64))
            x = x.clamp(-30000.0, 30000.0)
        else:
            x = 2 * x
        return x.to(dtype)

    return draw


def overloads_of(packet: Any, first: str = "Tensor") -> Iterator[Any]:
    """Overloads of the packet and of its in-place form: for ``Tensor`` those that return one tensor
    and take some, for ``List[Tensor]`` those whose first argument is a list of tensors."""
    namespace, _, base = str(packet).partition(".")
    for name in (base, base + "_"):
        found = getattr(getattr(torch.ops, namespace), name, None)
        for overload in found.overloads() if found is not None else ():
            op = getattr(found, overload)
            kinds = [str(a.type) for a in op._schema.arguments]
            returned = [str(r.type) for r in op._schema.returns]
            if first == "Tensor":
                some = {"Tensor", "Optional[Tensor]"} & set(kinds)
                takes = returned == ["Tensor"] and bool(some)
            else:
                takes = kinds[0] == first
            if takes and not any(k in ("t", "List[t]") or k.startswith("Dict") for k in kinds):
                yield op


def pointwise_samples(
    packet: Any,
    domain: str = "any",
    dtypes: tuple[torch.dtype, ...] = FLOATS,
    scalars: dict[str, Any] | None = None,
    domains: dict[str, str] | None = None,
    zero_dim: tuple[str, ...] = (),
    in_place: bool = True,
) -> Callable[[torch.Generator, torch.dtype], SampleList]:
    """Samples of an elementwise packet.

    ``scalars`` gives values for arguments that are not tensors, ``domains`` other domains for
    single arguments (``bool`` draws booleans), ``zero_dim`` names operands without dimensions.
    """

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in dtypes:
            return []
        return [
            sample
            for op in overloads_of(packet)
            if in_place or not form_of(op).overwrites or form_of(op).is_out
            for layout in LAYOUTS
            if (sample := _call(op, layout, generator, dtype)) is not None
        ]

    def _call(
        op: Any, layout: Layout, generator: torch.Generator, dtype: torch.dtype
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
        form = form_of(op)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for i, argument in enumerate(op._schema.arguments):
            kind = str(argument.type)
            name = argument.name
            if kind in ("Tensor", "Optional[Tensor]"):
                where = (domains or {}).get(name, domain)
                drawn = torch.bool if where == "bool" else dtype
                draw = draw_values(generator, drawn, where)
                shape = layout
                backward = name != "grad_output" and "grad_output" in form.argument_names
                wide = not backward and str(op._schema.arguments[0].type) == "Tensor"
                if i and i not in form.overwrites and wide and layout is LAYOUTS[2]:
                    shape = BROADCAST
                if name in zero_dim:
                    shape = LAYOUTS[3]
                value: Any = layout(draw) if form.is_out and i in form.overwrites else shape(draw)
            elif scalars and name in scalars:
                value = scalars[name]
            elif argument.has_default_value():
                continue
            elif kind == "number":
                value = 0.7 if dtype.is_floating_point else (True if dtype is torch.bool else 3)
                if dtype.is_complex:
                    value = 0.75 - 0.3j
            elif kind == "bool":
                value = False
            else:
                return None
            if argument.kwarg_only:
                kwargs[name] = value
            else:
                args.append(value)
        return op, tuple(args), kwargs

    return samples
