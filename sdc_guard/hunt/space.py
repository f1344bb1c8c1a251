"""What of a template may vary: found once for each, so that a draw is a few look-ups."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sdc_guard.calls import form_of
from sdc_guard.document.operators import packet_of
from sdc_guard.hunt.corners import (
    DIMS,
    FROM_THE_BACK,
    fits_form,
    has_corners,
    left_out,
    may_be_none,
    names_of,
)
from sdc_guard.hunt.indexed import indexed_tables
from sdc_guard.hunt.promises import (
    DIMS_KEPT,
    are_bound,
    is_public,
    kept_layouts,
    promised_domains,
)
from sdc_guard.hunt.targets import is_overload, resolve
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import Argument, Items, Operand, Scalar, Trial, scalar

SIZE_NAMES = frozenset({"size", "shape", "normalized_shape", "sizes", "input_sizes", "self_size",
                        "input_shape", "length", "split_size", "output_size", "n", "N", "C"})
"""Arguments that repeat a size of an operand."""

Where = int | str
"""A place among the arguments: the position, or the keyword."""


def _tensors(argument: Argument) -> int:
    if isinstance(argument, Operand):
        return 1
    return sum(map(_tensors, argument.items)) if isinstance(argument, Items) else 0


class Space:
    """``outs`` and ``written`` are the operands, by place, that the call writes its results to, and
    those that it changes; ``shapes`` those that may take another shape; ``sizes`` sizes that may
    be replaced; ``rule`` what besides that may change: ``elementwise`` (all shapes that broadcast
    together), ``reduction`` (one operand of any shape); ``shaped`` the operands that this means;
    ``corners`` arguments that :mod:`~sdc_guard.hunt.corners` knows, ``num_corners`` how many
    numbers of theirs there are; ``main`` the first operand."""

    main = 0

    def __init__(self, template: Template) -> None:
        self.template = template
        trial = template.trial
        named = list(_named(trial))
        self.operands = list(trial.operands())
        places: list[str] = [name for _, name, a in named for _ in range(_tensors(a))]
        written, is_out = _written(trial)
        self.outs = tuple(p for p, n in enumerate(places) if is_out and n in written)
        self.written = frozenset(
            p for p, n in enumerate(places) if not is_out and n in written)
        if _is_in_place(trial.target):
            self.written = frozenset({0})
        self.shapes = {
            p: o.shape for p, o in enumerate(self.operands)
            if (o.free and o.resizable) or p in self.outs}
        fixed = {s for p, o in enumerate(self.operands) if p not in self.shapes for s in o.shape}
        self.sizes = sorted({s for shape in self.shapes.values() for s in shape if s > 1} - fixed)
        self.shaped = tuple(p for p, o in enumerate(self.operands) if o.shape or p in self.outs)
        self.whole = 0
        self.rule = self._rule()
        self.size_places = [(where, a) for where, name, a in named
                            if name in SIZE_NAMES and isinstance(a, (Scalar, Items))]
        given = {name for _, name, _ in named}
        self.corners: list[tuple[Where, str, Scalar | Items]] = [
            (where, name, a) for where, name, a in named
            if isinstance(a, (Scalar, Items)) and has_corners(name, a)
            and fits_form(name, trial.target) and packet_of(trial.target) not in DIMS_KEPT]
        self.is_public = is_public(trial.target)
        if are_bound(trial.target, [o for p, o in enumerate(self.operands) if p not in self.outs]):
            self.corners = []
        # Public callers hand dimensions on counted from the front.
        self.num_corners = 2 * FROM_THE_BACK if self.is_public else FROM_THE_BACK
        self.num_given = len(self.corners)
        if "" not in given and self.is_public:  # "": a number might be given twice
            self.corners += [(name, name, value) for name, value in left_out(trial.target)
                             if name not in given]
        self.fixed_layouts = kept_layouts(trial.target, places, self.operands, self.shapes)
        self.domains = {**promised_domains(trial.target, self.operands), **template.domains}
        self.tables = indexed_tables(trial, places, self.operands)
        self.rows = frozenset(self.shapes[t.place][t.dim] for t in self.tables
                              if t.place in self.shapes)
        self.optional_dims = tuple(where for where, name, _ in self.corners
                                   if name in DIMS and may_be_none(trial.target, name))
        self.may_be_square = (
            len(self.outs) == 1 and len(self.sizes) > 1 and not self.size_places
            and not self.tables)
        self.mixed = self._mixed()
        self.takes_autocast = not (self.outs or self.written) and any(
            o.dtype.startswith(("float", "bfloat")) for o in self.operands)

    def _mixed(self) -> int:
        """The operand that may be of another dtype than the first; -1 for none."""
        inputs = [p for p in range(len(self.operands)) if p not in self.outs]
        if self.rule != "elementwise" or len(inputs) != 2 or not self.is_public:
            return -1
        second = self.operands[inputs[1]]
        return inputs[1] if second.free and inputs[1] not in self.written \
            and inputs[1] not in self.domains else -1

    def _rule(self) -> str:
        rule = self.template.rule
        inputs = [p for p in self.shaped if p not in self.outs]
        if not inputs or any(p not in self.shapes for p in self.shaped):
            return ""
        if rule == "reduction" and (len(inputs) != 1 or len(self.operands) - len(self.outs) != 1):
            return ""
        if rule == "reduction" and self.outs and not is_public(self.template.trial.target):
            return ""  # an ``out=`` has the shape that the caller has worked out
        return rule

    def is_dim_stale(self, name: str, value: Scalar | Items, rank: int) -> bool:
        """True if a dimension lies outside a tensor of ``rank`` dimensions."""
        if name not in DIMS:
            return False
        dims = [value] if isinstance(value, Scalar) else list(value.items)
        limit = max(1, rank)
        return any(isinstance(d, Scalar) and not -limit <= int(d.text) < limit for d in dims)


def _named(trial: Trial) -> Iterator[tuple[Where, str, Argument]]:
    names = names_of(trial.target)
    for i, argument in enumerate(trial.args):
        yield i, names[i] if i < len(names) else "", argument
    for name, argument in trial.kwargs.items():
        yield name, name, argument


def _written(trial: Trial) -> tuple[frozenset[str], bool]:
    """Names of the arguments that a call writes to, and whether they are its ``out=``."""
    if is_overload(trial.target):
        form = form_of(resolve(trial.target))
        return frozenset(form.argument_names[i] for i in form.overwrites), form.is_out
    if "out" in trial.kwargs:
        return frozenset({"out"}), True
    return frozenset(), False


def _is_in_place(target: str) -> bool:
    base = target.rpartition(".")[2]
    return base.endswith("_") and not base.endswith("__") and not is_overload(target)


def resized(value: Scalar | Items, old: int, new: int) -> Scalar | Items:
    """A size, or a list of sizes, with one of them replaced."""
    if isinstance(value, Items):
        return Items(items=tuple(resized(i, old, new) if isinstance(i, (Scalar, Items)) else i
                                 for i in value.items), is_tuple=value.is_tuple)
    return scalar(new) if value.kind == "int" and int(value.text) == old else value


def with_arguments(trial: Trial, changes: dict[Where, Argument]) -> Trial:
    """The trial with arguments replaced, told by position or keyword; keywords may be new."""
    if not changes:
        return trial
    new = {n: a for n, a in changes.items() if isinstance(n, str) and n not in trial.kwargs}
    return msgspec.structs.replace(
        trial, args=tuple(changes.get(i, a) for i, a in enumerate(trial.args)),
        kwargs={**{n: changes.get(n, a) for n, a in trial.kwargs.items()}, **new})
