"""What to do at one call site, decided once and then followed.

A site is an op with exact shapes, strides, operand alignment, dtypes, device and scalar
arguments.  Its plan holds the compiled relations with what was learned about each, and the share
of the work that a reference may look at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sdc_guard.bits import distinct, is_injective, is_lazy
from sdc_guard.calls import BoundCall
from sdc_guard.check.compiling import compile_symmetry
from sdc_guard.check.relations import Relation
from sdc_guard.ops._axes import FIXED, Axes, size_of
from sdc_guard.ops._generic import FAMILY as GENERIC
from sdc_guard.ops._generic import repeated
from sdc_guard.ops._kernels import KernelRun
from sdc_guard.ops._registry import OpSpec, lookup_complex
from sdc_guard.ops._symmetry import OUTERMOST, RERUN, Symmetry

PLACES = frozenset({"address", "core", "tile", "lane", "bits"})


@dataclass(slots=True)
class Plan:
    """The plan of one site.  ``visits`` counts checks, ``referenced`` those with a reference.

    ``replayable`` is False where a repeat would draw random numbers: for ops that always do, and
    for seeded ops (attention with dropout) whose symmetries do not apply to this call.
    ``stays_in_place``: no relation moves this call's work (a sum to one number), or not all of it,
    so a fault that is tied to a place is left to the reference, which then sees every cheap call.
    ``proven``: the op's invariant fixes every bit of this call's results.  ``kernel_runs``: what
    launches kernels that check calls of this site, by the numbers that such a call is given.
    """

    spec: OpSpec
    axes: Axes
    relations: list[Relation]
    rerun: Relation
    flops: int
    elements: int
    fits: bool = True
    replayable: bool = True
    stays_in_place: bool = False
    proven: bool = False
    operand_elements: int = 0
    visits: int = 0
    referenced: int = 0
    cost_s: float = 0.0
    refusals: list[str] = field(default_factory=list)
    kernel_runs: dict[tuple[float, ...], KernelRun | None] = field(default_factory=dict)

    def next_relation(self) -> Relation | None:
        """The relations in turn; the plain rerun where none is left; None for ops that draw
        random numbers."""
        if not self.replayable:
            return None
        alive = [r for r in self.relations if not r.refused]
        if not alive:
            return self.rerun if self.fits else None
        return alive[self.visits % len(alive)]

    @property
    def reference_work(self) -> int:
        """About the number of operations of a full reference."""
        return max(self.flops, self.elements, self.operand_elements)

    def gaps(self) -> frozenset[str]:
        """Places that no relation of this site moves."""
        moved: set[str] = set()
        for relation in self.relations:
            if not relation.refused:
                moved |= relation.symmetry.places
        return PLACES - moved if self.replayable else frozenset()

    def window(self, held: Sequence[Tensor]) -> tuple[str, int] | None:
        """The axis along which a reference may be evaluated in part, and its length."""
        for name in self.spec.window:
            if name == OUTERMOST:
                labels = [x for x in self.axes.outputs[0] if x != FIXED]
                name = labels[0] if labels else ""
            if name and (size := size_of(self.axes, tuple(held), name)) > 1:
                return name, size
        return None


def spec_for(
    spec: OpSpec, call: BoundCall, held: Sequence[Tensor | None], *, flushes: bool
) -> OpSpec:
    """What checks this call of an op; a repeat, and no more, where no bound of the op's file holds.

    A complex call needs a spec that takes it.  One with a lazy negative or conjugate among its
    operands has its reference, on images that hold the numbers, and a rerun: relations move
    memory, which holds other numbers, and an exact fact compares it.  While subnormals are flushed
    (``flushes``) everything is repeated only, and so is a call that writes to an operand whose
    elements share memory: its result depends on which of them is written last.
    """
    results = [t for t in held if t is not None]
    operands = [t for _, t in call.tensors()]
    found: OpSpec | None = spec
    if any(t.is_complex() for t in (*operands, *results)):
        found = lookup_complex(spec.packet)
    if found is not None and any(is_lazy(t) for t in operands):
        judges = found.reference is not None and found.replayable
        found = dataclasses.replace(found, symmetries=(RERUN,), invariant=None, proves=None,
                                    checksum=None) if judges else None
    written = (t for p, t in call.tensors() if p[0] in call.form.overwrites)
    if found is None or flushes or any(is_lazy(t) for t in results) or any(
            not is_injective(t) or distinct(t) is not t for t in written):
        if spec.family == GENERIC:
            return spec
        return repeated(spec.packet, replayable=spec.replayable and not call.form.seeded)
    return found


def _copied_bytes(symmetry: Symmetry, call: BoundCall, axes: Axes) -> int:
    """Bytes of operands that a relation copies, at most: those that carry a rolled axis, those that
    are negated, all of them three times over where the call is set beside copies of itself."""
    most = 0
    for move in symmetry.moves:
        copied = 0
        for path, tensor in call.tensors():
            num_bytes = tensor.numel() * tensor.element_size()
            if move.how in ("custom", "double"):
                copied += num_bytes * (3 if move.how == "double" else 1)
            elif move.how == "roll":
                labels = axes.operands.get(path, ())
                carries = move.axis in labels or (move.axis == OUTERMOST and bool(labels))
                copied += num_bytes * carries
            elif move.how == "negate":
                copied += num_bytes * (call.form.argument_names[path[0]] in move.operands)
        most = max(most, copied)
    return most


def make_plan(
    spec: OpSpec, call: BoundCall, held: tuple[Tensor, ...], memory_budget_bytes: int | None = None
) -> Plan:
    """Compile the symmetries of an op for the operands at hand.

    Relations that would copy more of the operands than the memory budget are left out.  Where the
    results do not fit into it only relations that work slice by slice are kept; a plan without any
    replays nothing (``fits`` is False).
    """
    num_bytes = sum(t.numel() * t.element_size() for t in held if t is not None)
    fits = memory_budget_bytes is None or num_bytes <= memory_budget_bytes
    num_parts = 2 if fits or not memory_budget_bytes else -(-num_bytes // memory_budget_bytes) + 1
    axes = spec.axes(call, held)
    symmetries = spec.symmetries(call, held) if callable(spec.symmetries) else spec.symmetries
    if memory_budget_bytes is not None:
        symmetries = tuple(s for s in symmetries
                           if _copied_bytes(s, call, axes) <= memory_budget_bytes)
        # Without copies of its operands, an op that nobody has looked into is not made again.
        fits = fits and (bool(symmetries) or spec.family != GENERIC)
    by_name: dict[str, Relation | None] = {}
    for symmetry in symmetries:
        if symmetry.name not in by_name:
            by_name[symmetry.name] = compile_symmetry(symmetry, call, held, axes, num_parts)
    compiled = [r for s in symmetries if (r := by_name[s.name]) is not None]
    moved = {place for r in compiled for place in r.symmetry.places}
    rerun = compile_symmetry(RERUN, call, held, axes)
    assert rerun is not None
    flops = spec.flops(call, held)
    return Plan(
        spec=spec,
        axes=axes,
        relations=compiled,
        rerun=rerun,
        flops=flops,
        elements=sum(t.numel() for t in held if t is not None),
        fits=fits,
        replayable=spec.replayable and not (call.form.seeded and not compiled),
        stays_in_place=not moved & {"tile", "core", "lane"}
        or (
            any(t is not None and t.numel() == 1 for t in held)
            and not any(m.how == "double" for r in compiled for m in r.symmetry.moves)
        ),
        proven=spec.proves is not None and spec.proves(call, held),
        operand_elements=sum(t.numel() for _, t in call.tensors()),
    )


def reference_plan(spec: OpSpec, call: BoundCall, held: tuple[Tensor, ...]) -> Plan:
    """A plan without relations, for those who only ask the reference: compiling relations costs as
    much as a small reference does."""
    axes = spec.axes(call, held)
    rerun = compile_symmetry(RERUN, call, held, axes)
    assert rerun is not None
    return Plan(
        spec=spec, axes=axes, relations=[], rerun=rerun, flops=spec.flops(call, held),
        elements=sum(t.numel() for t in held if t is not None),
        replayable=spec.replayable and not call.form.seeded,
        operand_elements=sum(t.numel() for _, t in call.tensors()))


def new_plan(
    spec: OpSpec, call: BoundCall, held: tuple[Tensor, ...], memory_budget_bytes: int, *,
    flushes: bool, on_error: Callable[[str, BaseException], None],
) -> tuple[Plan, set[str]]:
    """The plan of a site that is seen for the first time, and what it leaves open.

    A call of a form that the op's file does not expect is repeated, and no more.
    """
    gaps: set[str] = set()
    if flushes:
        gaps.add("torch.set_flush_denormal is on: calls are repeated, and no more")
    try:
        spec = spec_for(spec, call, held, flushes=flushes)
        plan = make_plan(spec, call, held, memory_budget_bytes)
    except Exception as error:
        on_error(f"while planning checks of {call.form.name}", error)
        spec = repeated(spec.packet, replayable=spec.replayable and not call.form.seeded)
        plan = make_plan(spec, call, held, memory_budget_bytes)
    return plan, gaps
