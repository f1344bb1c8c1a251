"""Several sweeps as one: those of a fleet's hosts, or of one host on several days."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from sdc_guard.document.schema import Sweep

_Item = TypeVar("_Item")
_CANARY_ORDER = ("missed", "none", "caught")


def joined(sweeps: Sequence[Sweep]) -> Sweep | None:
    """One record of all, None of none.

    Units and tests stand once; a digest or a sample that two documents hold stands once.  Work is
    added up, a budget too.  The seed is the first one's, the cursor is empty where they differ.  A
    canary that was missed once was missed; the whole is partial where a part is.
    """
    if len(sweeps) < 2:
        return sweeps[0] if sweeps else None
    canaries: dict[str, str] = {}
    for name, word in itertools.chain(*(s.canaries.items() for s in sweeps)):
        canaries[name] = min(canaries.get(name, word), word, key=_rank)
    cursors = {s.cursor for s in sweeps}
    return Sweep(
        seed=sweeps[0].seed,
        budget_s=sum(s.budget_s for s in sweeps),
        units=_once((u for s in sweeps for u in s.units), lambda u: u.id),
        tests=_once((t for s in sweeps for t in s.tests), lambda t: t.name),
        digests=_once((d for s in sweeps for d in s.digests),
                      lambda d: (d.key, d.unit, d.digest)),
        samples=_once((x for s in sweeps for x in s.samples),
                      lambda x: (x.unit, x.time_s, tuple(sorted(x.readings.items())))),
        checks=sum(s.checks for s in sweeps),
        num_bytes=sum(s.num_bytes for s in sweeps),
        flops=sum(s.flops for s in sweeps),
        canaries=canaries,
        is_partial=any(s.is_partial for s in sweeps),
        cursor=cursors.pop() if len(cursors) == 1 else "")


def host_and_name(unit: str) -> tuple[str, str]:
    """``node-7`` and ``core 3`` of ``node-7, core 3``; no host where the id names none."""
    host, comma, name = unit.partition(", ")
    return (host, name) if comma else ("", unit)


def _rank(word: str) -> int:
    """A word of a later version counts as missed."""
    return _CANARY_ORDER.index(word) if word in _CANARY_ORDER else 0


def _once(items: Iterable[_Item], key: Callable[[_Item], Hashable]) -> tuple[_Item, ...]:
    seen: dict[Hashable, _Item] = {}
    for item in items:
        seen.setdefault(key(item), item)
    return tuple(seen.values())
