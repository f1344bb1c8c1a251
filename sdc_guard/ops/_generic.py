"""Ops without a file of their own: repeated, and nothing more.

A repeat of the call must give the same bits.  It is made on copies of the operands: every address
is another, and a kernel that writes to an operand without saying so does no harm.  That finds what
strikes once; what comes back with every call is found only by an op's own file.  Coverage counts
such calls as ``rerun``.

Only operators of ATen and of torchvision are repeated.  A custom operator may do more than its
schema says, or wait for another process, which a repeat on one rank alone would hang: it is
repeated once somebody registers it (:func:`sdc_guard.checked`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._determinism import NOT_DETERMINISTIC_ON_CUDA, RACING
from sdc_guard.ops._registry import OpSpec
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry

FAMILY = "generic"
NAMESPACES = frozenset({"aten", "torchvision"})
RANDOM = "draws random numbers"
CUSTOM = "custom operator without a registration"

NOT_REPEATED = {
    "aten.linalg_lstsq": "equal calls give other bits (seen in torch 2.13, CPU, all formats)",
}
"""Operators of which a repeat proves nothing, and why."""

SCRATCH: dict[str, tuple[int, ...]] = {
    "aten.mkldnn_rnn_layer": (3,),
    "aten._ctc_loss": (1,),
    "aten._embedding_bag": (1, 2, 3),
    "aten._embedding_bag_forward_only": (1, 2, 3),
}
"""Results that are workspace: memory that the kernel leaves as it found it, or fills only where its
own backward reads it."""

def _is_lazy(call: BoundCall) -> bool:
    return any(bits.is_lazy(t) for _, t in call.tensors())


def copied(call: BoundCall) -> BoundCall:
    """The call on copies of its operands, which share memory where the originals do; itself where
    an operand is a lazy negative or conjugate, of which a copy of the bits is another number."""
    if _is_lazy(call):
        return call
    own = {id(t): t for _, t in call.tensors()}
    copies = dict(zip(own, bits.snapshot_together(list(own.values())), strict=True))
    return call.mapped(lambda _, t: copies[id(t)])


def _on_copies(call: BoundCall, visit: int) -> tuple[Tensor | None, ...]:
    return copied(call).run()


RERUN_ON_COPIES = Symmetry("rerun on copies", (Move("custom", function=_on_copies),),
                           frozenset({"address"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (RERUN,) if _is_lazy(call) else (RERUN_ON_COPIES,)


def _no_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                tuple((FIXED,) * t.dim() if t is not None else () for t in held))


def _elements(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    return sum(t.numel() for t in held if t is not None)


def generic_spec(op: Any) -> OpSpec | str:
    """The spec of an operator without a file, or the reason why it is not repeated."""
    if op.namespace not in NAMESPACES:
        return CUSTOM
    if torch.Tag.nondeterministic_seeded in op.tags or any(
        a.name == "generator" for a in op._schema.arguments
    ):
        return RANDOM
    packet = form_of(op).packet
    if packet in NOT_REPEATED:
        return NOT_REPEATED[packet]
    return repeated(packet)


def repeated(packet: str, *, replayable: bool = True) -> OpSpec:
    """The spec that repeats a packet, also for calls that its own file does not take."""
    return OpSpec(
        packet=packet,
        family=FAMILY,
        axes=_no_axes,
        symmetries=_symmetries,
        flops=_elements,
        deterministic=packet not in NOT_DETERMINISTIC_ON_CUDA | RACING,
        replayable=replayable,
        scratch=SCRATCH.get(packet, ()),
        doc="Repeated; no file of its own.",
    )
