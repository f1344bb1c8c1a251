"""Calls to attack: the samples of a spec with other values, in other layouts.

Operands that may hold any numbers get adversarial ones.  Others belong to the call (a saved mean, a
grid, probabilities, a positive definite matrix) and stay as the spec drew them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, Path, form_of
from sdc_guard.formats import format_of, is_covered_complex, is_covered_float, part_dtype
from sdc_guard.hunt import promises
from sdc_guard.ops import OpSpec
from tests.soundness.values import KEPT, Fill, filled

LAYOUTS = ("sampled", "contiguous", "transposed", "gapped", "offset", "expanded")

_PROMISED = {"contiguous": ("sampled", "contiguous"), "offset": ("offset",)}
ONLY: dict[str, tuple[str, ...]] = {
    **{packet: tuple(name for layout in sorted(layouts) for name in (
        _PROMISED[layout] if len(layouts) > 1 else ("sampled",)))
       for packet, layouts in promises.LAYOUTS.items()},
    "aten.median": LAYOUTS[:-1],
    "aten.nanmedian": LAYOUTS[:-1],
}
"""Layouts in which the kernel is right.  Others it reads as if they were these, without an error:
internal ops whose callers see to it (``hunt.promises.LAYOUTS``), and two bugs of torch 2.13:
``median`` of an expanded vector reads past its element, and ``gelu`` with ``out=`` writes past the
rows of a result with gaps."""
DENSE_OUT = frozenset({"aten.gelu"})
NORMAL = frozenset({"aten.log1p"})
"""Complex operands have no subnormal parts: torch 2.13 gives NaN for 1e-12 + 1e-40i."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One correct evaluation: which sample, its operands' values and layouts (by turns), how many
    elements a line of an elementwise call has (0: as many as the sample), threads, whether
    subnormals are flushed, and the seed of the orders of evaluation."""

    sample: int
    fills: tuple[Fill | None, ...]
    layouts: tuple[str, ...]
    size: int = 0
    threads: int = 1
    flush: bool = False
    seed: int = 0

    def told(self) -> str:
        """Kinds of values, and what else is special."""
        kinds = [KEPT if f is None else " with ".join(
            [f"{f.kind} 2^{f.exponent}", *(edit for _, edit in f.edits)]) for f in self.fills]
        more = [x for x, true in (("2 threads", self.threads > 1), ("flush", self.flush)) if true]
        return ", ".join([*dict.fromkeys(kinds), *dict.fromkeys(self.layouts), *more])


class Samples:
    """The sample calls of a spec in a dtype, and how to change them."""

    def __init__(self, spec: OpSpec, dtype: torch.dtype, seed: int) -> None:
        self.spec, self.dtype = spec, dtype
        generator = torch.Generator().manual_seed(
            zlib.crc32(f"{spec.packet} {dtype} {seed}".encode()))
        drawn = [] if spec.samples is None else spec.samples(generator, dtype)
        self.calls = [BoundCall(f, f.bind(a, k)) for op, a, k in drawn for f in (form_of(op),)]
        self.lines = [self._line(call) for call in self.calls]

    def _line(self, call: BoundCall) -> int:
        """The number of elements of an elementwise call whose operands are lines of one length."""
        if self.spec.family not in ("pointwise", "foreach", "loss", "optimizer"):
            return 0
        shapes = {tuple(t.shape) for _, t in call.tensors() if t.dim()}
        shape = shapes.pop() if len(shapes) == 1 else ()
        return int(shape[0]) if len(shape) == 1 and call.get("total_weight") is None else 0

    def call(self, attack: Attack) -> BoundCall:
        """The call of an attack."""
        place = attack.sample % len(self.calls)
        call, line = self.calls[place], self.lines[place]
        size = attack.size if line else 0
        names, overwrites = call.form.argument_names, call.form.overwrites
        turn = 0

        def changed(path: Path, t: Tensor) -> Tensor:
            nonlocal turn
            name, written = names[path[0]], path[0] in overwrites
            if call.form.is_out and written:
                made = t.new_empty(size) if size and t.dim() else t
                return made.contiguous() if self.spec.packet in DENSE_OUT else made
            if size and t.dim():
                t = t.repeat(size // line + 1)[:size]
            if not (is_covered_float(t.dtype) or is_covered_complex(t.dtype)):
                return t
            fill = attack.fills[turn % len(attack.fills)] if attack.fills else None
            layout = attack.layouts[turn % len(attack.layouts)] if attack.layouts else "sampled"
            turn += 1
            if not promises.is_free(self.spec.packet, name) or fill is None:
                return t
            if any(s == 0 < n - 1 for n, s in zip(t.shape, t.stride(), strict=True)):
                return t  # broadcast: its elements share memory
            if layout not in ONLY.get(self.spec.packet, LAYOUTS):
                layout = "sampled"
            if layout == "expanded" and written:
                layout = "sampled"
            return _image(t, fill, layout, name in promises.POSITIVE, self.spec.packet in NORMAL)

        return call.mapped(changed)


def _values(t: Tensor, fill: Fill, positive: bool, normal: bool) -> Tensor:
    fmt = format_of(t.dtype)

    def part(fill: Fill) -> Tensor:
        x = torch.from_numpy(filled(fill, t.numel(), fmt)).reshape(tuple(t.shape))
        return (x.abs() if positive else x).to(part_dtype(t.dtype))

    if t.is_complex():
        parts = (part(fill), part(Fill(
            kind=fill.kind, exponent=fill.exponent, seed=fill.seed + 1)))
        if normal:
            parts = (torch.where(x.abs() < fmt.tiny, 0.0, x) for x in parts)
        return torch.complex(*parts)
    return part(fill)


def _image(t: Tensor, fill: Fill, layout: str, positive: bool, normal: bool) -> Tensor:
    values = _values(t, fill, positive, normal)
    if not t.dim() or not t.numel():
        return values
    return _LAYOUT[layout](t, values)


def _transposed(t: Tensor, values: Tensor) -> Tensor:
    return values.permute(*reversed(range(values.dim()))).contiguous().permute(
        *reversed(range(values.dim())))


def _gapped(t: Tensor, values: Tensor) -> Tensor:
    wide = torch.empty((*values.shape[:-1], 2 * values.shape[-1]), dtype=values.dtype)
    image = wide[..., ::2]
    return image.copy_(values)


def _offset(t: Tensor, values: Tensor) -> Tensor:
    image = torch.empty(values.numel() + 1, dtype=values.dtype)[1:].view(values.shape)
    return image.copy_(values)


_LAYOUT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sampled": lambda t, values: bits.empty_image(t).copy_(values),
    "contiguous": lambda t, values: values.contiguous(),
    "transposed": _transposed,
    "gapped": _gapped,
    "offset": _offset,
    "expanded": lambda t, values: values[:1].expand(values.shape),
}
