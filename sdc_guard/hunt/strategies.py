"""Hypothesis strategies: what may be changed about a template and still be a call to make.

A draw is a few small numbers, each of which stands for a whole choice (a recipe, a layout), because
every draw costs more than a small operator does.  0 stands for the plain choice throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

import msgspec
from hypothesis import strategies as st

from sdc_guard.hunt.corners import DIMS, corner, may_be_none
from sdc_guard.hunt.fills import EDITS, KINDS
from sdc_guard.hunt.indexed import moved_to_the_end
from sdc_guard.hunt.layouts import CHANGES_VALUES
from sdc_guard.hunt.near_traces import near_trace
from sdc_guard.hunt.sizes import (
    HUGE,
    LONG,
    MAX_WORK,
    MAX_WORK_MIDDLING,
    MAX_WORK_RARE,
    RARE,
    TABLE,
    TABLES,
    broadcast,
    fits,
    substituted,
)
from sdc_guard.hunt.space import Space, Where, resized, with_arguments
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import (
    Alias,
    Argument,
    Fill,
    Layout,
    Literal,
    Modes,
    Operand,
    Scalar,
    Trial,
    Within,
)

_KINDS = tuple(KINDS)
_EDITS = tuple(EDITS)
_PLAIN = Layout()
_NOTHING = Literal(data="")
_LAYOUTS: tuple[Layout, ...] = (
    *[_PLAIN] * 9, Layout(kind="offset"), Layout(kind="stepped"), Layout(kind="permuted"),
    Layout(kind="gapped"), Layout(kind="offset", detail=2), Layout(kind="permuted", detail=1),
    Layout(kind="expanded"), Layout(kind="channels_last"), Layout(kind="gapped", detail=3),
    Layout(kind="expanded", detail=1), Layout(kind="stepped", detail=1),
    Layout(kind="overlapping"), Layout(kind="offset", detail=6), Layout(kind="permuted", detail=2),
    Layout(kind="expanded", detail=-1), Layout(kind="expanded", detail=-1),
)
_MODES: tuple[Modes, ...] = (
    *[Modes()] * 24, Modes(threads=2), Modes(inference=True), Modes(mkldnn=False),
    Modes(deterministic=True), Modes(autocast="bfloat16"), Modes(threads=4),
    Modes(autocast="float16"), Modes(threads=2, mkldnn=False),
)


@cache
def _below(count: int) -> st.SearchStrategy[int]:
    return st.integers(0, max(0, count - 1))


Pick = Callable[[int], int]
"""Draws a number from 0 up to, but not including, the one given."""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """All calls near some templates, with operands that fit into ``max_bytes`` and at most
    ``max_threads`` threads; ``huge`` adds sizes around 2**31 elements."""

    spaces: tuple[Space, ...]
    max_bytes: int
    max_threads: int
    huge: bool = False

    @classmethod
    def of(
        cls, templates: tuple[Template, ...], *, max_bytes: int = 1 << 28, max_threads: int = 2,
        huge: bool = False,
    ) -> Neighbourhood:
        return cls(tuple(Space(t) for t in templates), max_bytes, max_threads, huge)

    def strategy(self) -> st.SearchStrategy[Trial]:
        """Trials for Hypothesis."""
        return _strategy(self)

    def drawn(self, generator: Random) -> Trial:
        """A trial from a generator of random numbers, without what Hypothesis costs."""
        return _trial(generator.randrange, self)


@st.composite
def _strategy(draw: st.DrawFn, near: Neighbourhood) -> Trial:
    return _trial(lambda count: draw(_below(count)), near)


def _trial(pick: Pick, near: Neighbourhood) -> Trial:
    space = near.spaces[pick(len(near.spaces))]
    if space.template.source == "trace":
        return near_trace(pick, space.template.trial, near.max_threads)
    shapes, old, new = _shapes(pick, space, near)
    seed = pick(1 << 16)
    modes = _MODES[pick(len(_MODES))]
    if modes.threads > near.max_threads:
        modes = msgspec.structs.replace(modes, threads=near.max_threads)
    if modes.autocast and not space.takes_autocast:
        modes = _MODES[0]
    is_long_line = old == _LONG_LINE
    if is_long_line and seed % 4:
        modes = msgspec.structs.replace(_MODES[0], threads=min(2, near.max_threads))
    trial = space.template.trial
    backward = trial.backward and not modes.inference and seed % 3 != 2

    def changed(place: int, operand: Operand) -> Operand:
        shape = shapes.get(place, operand.shape)
        if place in space.outs:
            return msgspec.structs.replace(
                operand, shape=shape,
                layout=_layout(pick, space, writes=True) if space.is_public else _PLAIN,
                values=operand.values if shape == operand.shape else Fill(kind="constant"))
        if place == space.mixed and seed % 29 == 1:
            return _of_another_dtype(pick, space, operand, shape, seed)
        if not operand.free:
            return _kept(pick, space, place, operand, old, new)
        return msgspec.structs.replace(
            operand, shape=shape, values=_values(pick, space, place, operand, shape, seed),
            layout=_layout(pick, space, writes=place in space.written),
            requires_grad=operand.requires_grad and backward)

    if is_long_line:
        old = 0
    trial = msgspec.structs.replace(trial.mapped(changed), modes=modes, backward=backward)
    trial = _cornered(pick, space, trial, old, new)
    if is_long_line and seed % 2:
        trial = with_arguments(trial, dict.fromkeys(space.optional_dims, Scalar(kind="none")))
    return _aliased(space, trial, seed)


def _shapes(
    pick: Pick, space: Space, near: Neighbourhood
) -> tuple[dict[int, tuple[int, ...]], int, int]:
    """New shapes of operands, by place (none where the template's stay); and which size became
    which, 0 and 0 where they are all new."""
    how = pick(32)
    max_work, max_bytes = MAX_WORK, near.max_bytes
    table = TABLE
    if how in _MIDDLING:
        max_work = MAX_WORK_MIDDLING
    elif how == _SQUARE and space.may_be_square:
        size = table[pick(len(table))]
        found = {p: tuple(size if s in space.sizes else s for s in shape)
                 for p, shape in space.shapes.items()}
        return (found, 0, 0) if fits(found.values(), max_bytes, max_work) else ({}, 0, 0)
    elif how in _OF_TABLE and space.tables:
        return _longer_table(pick, space, near.max_bytes)
    elif how == 31:
        table, max_work = RARE + HUGE if near.huge else RARE, MAX_WORK_RARE << 6 * near.huge
    if how < 6 or (not space.sizes and not space.rule):
        return {}, 0, 0
    if space.rule and how in _MIDDLING:
        size = LONG[pick(len(LONG))]
        if fits([(size,)] * len(space.shaped), max_bytes, max_work):
            return {p: (0,) if p in space.outs and space.rule == "reduction" else (size,)
                    for p in space.shaped}, _LONG_LINE, 0
    if space.rule:
        rank = (1, 2, 1, 2, 3, 1, 2, 4)[how % 8] if how < 31 else 1
        shape: tuple[int, ...] = tuple(table[pick(len(table))] for _ in range(rank))
        while not fits([shape] * len(space.shaped), max_bytes, max_work) and len(shape) > 1:
            shape = shape[1:]
        if not fits([shape] * len(space.shaped), max_bytes, max_work):
            return {}, 0, 0
        spread = pick(64) if len(space.shaped) > 1 else 0
        spread_out: dict[int, tuple[int, ...]] = {}
        for turn, place in enumerate(space.shaped):
            if space.rule == "reduction" and place in space.outs:
                spread_out[place] = (0,)
                continue
            whole = place in space.written or place in space.outs or turn == space.whole
            spread_out[place] = shape if whole else broadcast(shape, spread >> 3 * (turn % 2))
        return spread_out, 0, 0
    old = space.sizes[pick(len(space.sizes))]
    new = table[pick(len(table))]
    found = {place: substituted(shape, old, new) for place, shape in space.shapes.items()}
    if not fits(found.values(), max_bytes, max_work):
        return {}, 0, 0
    return found, old, new


def _values(
    pick: Pick, space: Space, place: int, operand: Operand, shape: tuple[int, ...], seed: int
) -> Fill | Literal | Within:
    if place in space.domains and space.domains[place] in _SMALL_NUMBERS:
        return Fill(kind=_SMALL_KINDS[pick(len(_SMALL_KINDS))], exponent=pick(4),
                    seed=seed + 7 * place, domain=space.domains[place])
    if operand.dtype.startswith(("int", "uint")) and seed % 2:
        return Fill(kind=_INTEGER_KINDS[pick(len(_INTEGER_KINDS))], seed=seed + 7 * place,
                    domain=space.domains.get(place, ""))
    which = pick(2 * len(_KINDS) + 1)
    if not which and shape == operand.shape:
        return operand.values
    exponent = 0
    edits: tuple[tuple[int, str], ...] = ()
    if which > len(_KINDS):
        exponent = _EXPONENTS[pick(len(_EXPONENTS))]
        if exponent % 4 == 3:
            edits = ((seed % 4096, _EDITS[seed % len(_EDITS)]),)
    return Fill(kind=_KINDS[which % len(_KINDS)], exponent=exponent, seed=seed + 7 * place,
                edits=edits, domain=space.domains.get(place, ""))


_SMALL_NUMBERS = frozenset({"divisor", "count of bits", "small power"})
_SMALL_KINDS = ("integers", "normal", "24 binades", "integer edges", "constant")
_INTEGER_KINDS = ("integers", "integer edges", "24 binades", "large integers", "near max",
                  "integer edges")
_LONG_LINE = -1
"""In place of a size that was replaced: one long line, which threads share."""
_SQUARE, _OF_TABLE = 27, (26, 28)
_MIDDLING = (29, 30)
"""Of 32 draws of a shape, those that may be larger; the last one may be large."""
_EXPONENTS = (
    *(0, 1, -1, 2, -2, 3, -3) * 20, *(e * sign for e in range(4, 141) for sign in (1, -1)))
"""Powers of two by which values are scaled: small ones in half of all cases."""


def _longer_table(
    pick: Pick, space: Space, max_bytes: int
) -> tuple[dict[int, tuple[int, ...]], int, int]:
    """Shapes with more rows in what is indexed."""
    table = space.tables[0]
    if table.place not in space.shapes:
        return {}, 0, 0
    old = space.shapes[table.place][table.dim]
    new = TABLES[pick(len(TABLES))]
    if table.is_only_read:
        shape = space.shapes[table.place]
        found = {**space.shapes,
                 table.place: (*shape[:table.dim], new, *shape[table.dim + 1:])}
    elif old in space.sizes:
        found = {place: substituted(shape, old, new) for place, shape in space.shapes.items()}
    else:
        return {}, 0, 0
    if not fits(found.values(), max_bytes, MAX_WORK_MIDDLING):
        return {}, 0, 0
    return found, old, new


def _of_another_dtype(
    pick: Pick, space: Space, operand: Operand, shape: tuple[int, ...], seed: int
) -> Operand:
    """An operand that the call must promote."""
    return msgspec.structs.replace(
        operand, dtype=_MIXED[pick(len(_MIXED))], shape=shape, requires_grad=False,
        values=Fill(kind=_KINDS[pick(len(_KINDS))], seed=seed), layout=_layout(
            pick, space, writes=False))


_MIXED = ("float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool")


def _kept(
    pick: Pick, space: Space, place: int, operand: Operand, old: int, new: int
) -> Operand:
    """An operand whose values stay: it lies elsewhere, and its indices reach to the end."""
    layouts = space.fixed_layouts.get(place)
    for table in space.tables:
        size = space.shapes.get(table.place, ())
        if place == table.index and size and size[table.dim] == old and new > old:
            operand = moved_to_the_end(operand, old, new)
    if not layouts:
        return operand
    layout = _LAYOUTS[pick(len(_LAYOUTS))]
    if layout.kind not in layouts or (layout.kind in CHANGES_VALUES and place in space.written):
        return operand
    return msgspec.structs.replace(operand, layout=layout)


def _layout(pick: Pick, space: Space, *, writes: bool) -> Layout:
    layout = _LAYOUTS[pick(len(_LAYOUTS))]
    allowed = space.template.layouts
    if (writes and layout.kind in CHANGES_VALUES) or (allowed and layout.kind not in allowed):
        return _PLAIN
    return layout


def _cornered(pick: Pick, space: Space, trial: Trial, old: int, new: int) -> Trial:
    """Sizes among the arguments follow those of the operands; some others become corners."""
    changes: dict[Where, Argument] = {}
    if old:
        changes.update((where, resized(value, old, new)) for where, value in space.size_places)
    if space.corners:
        first = next(iter(trial.operands()), None)
        is_whole = first is not None and not first.dtype.startswith(_NUMBERS_WITH_PARTS)
        rank = 0 if first is None else len(first.shape)
        for turn, (where, name, value) in enumerate(space.corners):
            which = pick(256)
            if old and old in space.rows and name in DIMS:
                continue  # the indices are made for this dimension
            if turn >= space.num_given and which < 224:
                continue  # what may be left out mostly is
            if which >= 128 or space.is_dim_stale(name, value, rank):
                changes[where] = corner(name, value, which % space.num_corners, rank,
                                        is_whole)
                if which % 11 == 3 and name in DIMS and may_be_none(trial.target, name):
                    changes[where] = Scalar(kind="none")
                trial = _unsized(space, trial)
    return with_arguments(trial, changes)


_NUMBERS_WITH_PARTS = ("float", "bfloat", "complex")


def _unsized(space: Space, trial: Trial) -> Trial:
    """The results' sizes are left to the call: an ``out=`` without elements is resized.  Internal
    kernels get one that fits."""
    if not space.outs or not space.is_public:
        return trial
    return trial.mapped(lambda place, operand: operand if place not in space.outs else (
        msgspec.structs.replace(operand, shape=(0,), values=_NOTHING, layout=_PLAIN)))


def _aliased(space: Space, trial: Trial, seed: int) -> Trial:
    """Sometimes the result is written over an operand: of an elementwise call, or of one whose
    operands happen to have its shape.  Many operators refuse that, but torch finds it out of dense
    memory alone, so that others are asked for nothing else."""
    every = 4 if space.rule == "elementwise" else 3
    if len(space.outs) != 1 or seed % every or not space.is_public:
        return trial
    operands = list(trial.operands())
    out = operands[space.outs[0]]
    for place, operand in enumerate(operands):
        same = operand.shape == out.shape and operand.dtype == out.dtype
        if space.rule != "elementwise" and operand.layout.kind != "contiguous":
            continue
        if place != space.outs[0] and same and operand.layout.kind not in CHANGES_VALUES:
            kwargs = {name: Alias(of=place) if isinstance(value, Operand) else value
                      for name, value in trial.kwargs.items()}
            return msgspec.structs.replace(trial, kwargs=kwargs)
    return trial
