"""Names of operators: findings name the overload that was called, coverage counts its packet."""

from __future__ import annotations


def packet_of(op: str) -> str:
    """``aten.sum`` for ``aten.sum.dim_IntList``, ``aten.relu`` for ``aten.relu_.default``; a name
    that is no overload's stays as it is."""
    parts = op.split(".")
    if len(parts) != 3 or parts[0] == "torch":
        return op
    namespace, base, _ = parts
    if not base.endswith("__"):
        base = base.removesuffix("_")
    return f"{namespace}.{base}"
