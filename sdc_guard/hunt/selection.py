"""Which templates ``--ops`` means: overloads, packets, catalogue names, Python paths, globs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from sdc_guard.hunt.templates import Template


def names_of(template: Template) -> frozenset[str]:
    """What a user may call a template: ``aten.sum.dim_IntList``, ``aten.sum``, ``sum``;
    ``torch.nn.functional.gelu``, ``nn.functional.gelu``, ``gelu``; ``torch.Tensor.add_``, ``add_``,
    ``add``."""
    parts = template.trial.target.split(".")
    names = {template.trial.target, template.name, template.name.split(".")[-1]}
    if parts[0] == "torch":
        names |= {".".join(parts[1:]), parts[-1]}
    elif len(parts) == 3:
        names |= {".".join(parts[:2]), parts[1]}
    if parts[0] == "torch" and parts[-1].endswith("_"):
        names.add(parts[-1].rstrip("_"))
    return frozenset(n for n in names if n)


def chosen(templates: Iterable[Template], patterns: tuple[str, ...]) -> tuple[Template, ...]:
    """The templates that one of the patterns means; all of them without patterns."""
    if not patterns:
        return tuple(templates)
    return tuple(t for t in templates if matches(t, patterns))


def matches(template: Template, patterns: tuple[str, ...]) -> bool:
    """True if one of the patterns names the template."""
    names = names_of(template)
    return any(fnmatchcase(n, p) for p in patterns for n in names)


def may_match(packet: str, patterns: tuple[str, ...]) -> bool:
    """True if a template of the packet could be meant: whatever follows the packet's name in a
    pattern is an overload."""
    base = packet.split(".", 1)[1]
    whole = (packet, f"{packet}_", base, f"{base}_")
    return not patterns or any(
        fnmatchcase(name, pattern) or fnmatchcase(name, ".".join(pattern.split(".")[:2]))
        or _may_match_overload(name, pattern)
        for pattern in patterns for name in whole)


def _may_match_overload(packet: str, glob: str) -> bool:
    """True if what stands before the first wildcard is the beginning of an overload's name."""
    fixed = re.split(r"[*?[]", glob, maxsplit=1)[0]
    begun = f"{packet}."
    return fixed != glob and "." in fixed and (begun.startswith(fixed) or fixed.startswith(begun))
