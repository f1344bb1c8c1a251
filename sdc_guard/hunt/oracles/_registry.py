"""The table of oracles: one file of this folder for each, and nothing else to touch.

An oracle is a generator: it looks at a trial that was made once (``base``), makes it again in
whatever other way it compares with, counts each call that it judged, and yields what diverges.
"""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sdc_guard.errors import UsageError
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.trial import Trial


@dataclass(slots=True)
class Session:
    """What oracles share while one worker hunts.

    ``checked`` counts judged calls by (oracle, operator packet), ``not_judged`` calls by (oracle,
    packet, reason).  ``scores`` holds, for the trial at hand, log2 of error over bound by oracle:
    what the search climbs.  ``max_bytes`` is the largest working set of a trial.  ``verdicts``
    keeps, for the trial at hand, what the bounds said of each operator that ran
    (``judging.verdict_of``), ``told`` the wrong ones that an oracle has reported already.
    ``remarks`` says which oracles cannot work here, and why.  ``refused`` counts calls that were
    not taken, by target, ``again`` what was made another time to be compared, by oracle.
    """

    max_bytes: int = 1 << 28
    max_threads: int = 2
    checked: Counter[tuple[str, str]] = field(default_factory=Counter)
    not_judged: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    scores: dict[str, float] = field(default_factory=dict)
    verdicts: dict[int, Any] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)
    remarks: dict[str, str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """Forget the trial before."""
        self.scores.clear()
        self.verdicts.clear()
        self.told.clear()

    def compared(self, oracle: str, packet: str, times: int = 1) -> None:
        """Count a call as judged by an oracle that has made it, or an operator of it, ``times``
        more, and compared what came of it."""
        self.checked[oracle, packet] += 1
        self.again[oracle] += times

    def score(self, oracle: str, log2_ratio: float) -> None:
        """Offer how near a call came to its bound; the largest of a trial counts."""
        known = self.scores.get(oracle)
        if known is None or log2_ratio > known:
            self.scores[oracle] = log2_ratio


Check = Callable[[Session, Trial, Execution], Iterator[Divergence]]


@dataclass(frozen=True, slots=True)
class Oracle:
    """``share`` of the trials that it looks at, because of its cost; ``doc`` says what it tests and
    by which words."""

    name: str
    check: Check
    share: float
    doc: str

    def is_due(self, digest: str) -> bool:
        """Decided by the trial's digest alone, so that it is judged alike wherever it is made."""
        if self.share >= 1:
            return True
        return zlib.crc32(f"{self.name} {digest}".encode()) < self.share * 2**32


_ORACLES: dict[str, Oracle] = {}
FIRST = ("bound", "exact")


def oracle(name: str, *, share: float = 1.0) -> Callable[[Check], Check]:
    """Register the decorated generator under a name that users give to ``--oracles``.

    Raises:
        UsageError: if two files take the same name.
    """

    def decorate(check: Check) -> Check:
        if name in _ORACLES:
            raise UsageError(f"two oracles are called {name!r}")
        _ORACLES[name] = Oracle(name, check, share, (check.__doc__ or "").strip())
        return check

    return decorate


def all_oracles() -> tuple[Oracle, ...]:
    """Every oracle, sorted by name behind those that look at the call itself: what two would report
    is reported by the first."""
    package = importlib.import_module("sdc_guard.hunt.oracles")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"sdc_guard.hunt.oracles.{module.name}")
    return tuple(sorted(_ORACLES.values(), key=lambda o: (o.name not in FIRST, o.name)))


def chosen(names: tuple[str, ...]) -> tuple[Oracle, ...]:
    """The oracles of these names; all of them for none.

    Raises:
        UsageError: for an unknown name.
    """
    table = {o.name: o for o in all_oracles()}
    unknown = [n for n in names if n not in table]
    if unknown:
        raise UsageError(f"oracle {unknown[0]!r} is unknown; choose of {', '.join(table)}")
    return tuple(o for n, o in table.items() if not names or n in names)
