"""Which calls a figure of "all matrix product and reduction calls" is about."""

from __future__ import annotations

from sdc_guard.ops import OpSpec, lookup

FAMILIES = frozenset({"product", "attention", "convolution", "reduction", "norm", "softmax"})


def is_asked(spec: OpSpec | None) -> bool:
    """Products and what is made of them, and ops whose results sum or compare over a dimension."""
    return spec is not None and (spec.family in FAMILIES or spec.reduction)


def is_asked_name(overload: str) -> bool:
    """The same of ``aten.mm.default``."""
    namespace, _, rest = overload.partition(".")
    base = rest.partition(".")[0]
    name = base.removesuffix("_") if not base.endswith("__") else base
    return is_asked(lookup(f"{namespace}.{name}") or lookup(f"{namespace}.{base}"))
