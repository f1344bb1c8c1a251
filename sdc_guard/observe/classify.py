"""Which operators compute numbers, and which of those we can look at.

Views, metadata and pure allocation produce no number and are not counted.  A composite operator
arrives whole only inside inference mode; it is decomposed, which runs the kernels that would have
run.  An operator with a kernel of its own beside the composite one (``mish_backward``) runs that.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import torch

from sdc_guard.calls import OpForm, form_of
from sdc_guard.ops import OpSpec, generic_spec, lookup


class Kind(enum.Enum):
    """What to do with an operator."""

    NO_NUMBERS = "no numbers"
    COMPOSITE = "composite"
    CHECKED = "checked"
    UNKNOWN = "unknown"


_ALLOCATES_OR_NAMES = frozenset(
    {
        "aten.empty",
        "aten.empty_like",
        "aten.empty_strided",
        "aten.empty_permuted",
        "aten._efficientzerotensor",
        "aten.new_empty",
        "aten.new_empty_strided",
        "aten._local_scalar_dense",
        "aten._unsafe_view",
        "aten.lift_fresh",
        "aten.resize",
        "aten.set",
        "aten.is_same_size",
        "aten.item",
        "aten.equal",
        "aten._reshape_alias",
        "aten.record_stream",
        "aten.is_pinned",
        "aten._assert_async",
        "aten.is_nonzero",
        "aten.data",
        "aten.detach",
        "aten.requires_grad",
    }
)
_PAIRS = frozenset({"aten.max.other", "aten.max.out", "aten.min.other", "aten.min.out"})
"""Two tensors element by element under the name of a reduction: ``maximum`` and ``minimum``, which
they decompose to.  They arrive as such in inference mode."""
_NUMERIC_NAMESPACES_WITHOUT_NUMBERS = frozenset({"profiler", "prim", "prims", "inductor"})


@dataclass(slots=True)
class Entry:
    """An operator overload as the mode knows it.  ``writes``: it may change memory that existed
    before the call; ``says_all``: its schema names all that it writes to, as ATen's do."""

    op: Any
    kind: Kind
    form: OpForm | None = None
    spec: OpSpec | None = None
    reason: str = ""
    writes: bool = False
    says_all: bool = True


def classify(op: Any) -> Entry:
    """Sort an operator that arrives at the mode for the first time."""
    entry = _sorted(op)
    namespaces = ("aten", *_NUMERIC_NAMESPACES_WITHOUT_NUMBERS)
    entry.says_all = entry.form is not None and op.namespace in namespaces
    entry.writes = not entry.says_all or bool(entry.form is not None and entry.form.overwrites)
    return entry


def _sorted(op: Any) -> Entry:
    if not isinstance(op, torch._ops.OpOverload):
        return Entry(op, Kind.UNKNOWN, reason="higher-order operator: its body is not seen")
    form = form_of(op)
    spec = None if str(op) in _PAIRS else lookup(form.packet)
    if spec is not None:
        return Entry(op, Kind.CHECKED, form, spec)
    renames = op.is_view or torch.Tag.inplace_view in op.tags
    if renames or form.packet in _ALLOCATES_OR_NAMES or not _returns_tensor(op):
        return Entry(op, Kind.NO_NUMBERS, form)
    if op.namespace in _NUMERIC_NAMESPACES_WITHOUT_NUMBERS:
        return Entry(op, Kind.NO_NUMBERS, form)
    if op._can_decompose() and _has_kernel(op, "CompositeImplicitAutograd") and not (
        _has_kernel(op, "CPU") or _has_kernel(op, "CUDA")
    ):
        return Entry(op, Kind.COMPOSITE, form)
    if op.namespace in ("c10d", "_c10d_functional"):
        return Entry(op, Kind.UNKNOWN, form, reason="collective: its payload is not checked")
    generic = generic_spec(op)
    if isinstance(generic, str):
        return Entry(op, Kind.UNKNOWN, form, reason=generic)
    return Entry(op, Kind.CHECKED, form, generic)


def _has_kernel(op: Any, key: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key))


def _returns_tensor(op: Any) -> bool:
    if any(a.alias_info is not None and a.alias_info.is_write for a in op._schema.arguments):
        return True
    return any("Tensor" in str(r.type) for r in op._schema.returns)
