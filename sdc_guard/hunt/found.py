"""What is left of a divergence when it leaves the process that saw it: plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import msgspec

from sdc_guard.document.operators import packet_of
from sdc_guard.errors import UsageError
from sdc_guard.hunt.divergence import SEVERITY, writes_out
from sdc_guard.hunt.repetition import LOUD
from sdc_guard.hunt.trial import Trial
from sdc_guard.plain_json import loads, plain, record_of
from sdc_guard.records import Finding, Record


class FoundDivergence(Record, frozen=True, kw_only=True):
    """A divergence, made again, reduced and written up; encodes to JSON as it is.

    ``fingerprint`` is that of the *reduced* divergence (``Divergence.fingerprint``), ``seen_as``
    that of the divergence as it was drawn; ``trial`` the reduced call and ``drawn`` the first one.
    ``wrong`` of ``tried`` repetitions of ``trial`` diverged.  ``exact`` is ``confirmed``,
    ``contradicted`` or ``not available`` and ``exact_value`` what exact arithmetic gives, as text.
    ``script`` needs torch alone; ``script_shows`` is what a fresh process said of it: ``wrong``,
    ``right``, ``failed``, ``crash``, ``hang`` or ``not run``.  ``times`` counts how often the hunt
    met it.
    """

    fingerprint: str
    seen_as: str
    word: str
    oracle: str
    op: str
    target: str
    dtype_class: str
    layout_class: str
    magnitude_class: str
    message: str
    finding: Finding
    trial: Trial
    drawn: Trial
    wrong: int
    tried: int
    exact: str = "not available"
    exact_value: str = ""
    script: str = ""
    script_shows: str = "not run"
    regression_test: str = ""
    issue: str = ""
    link: str = ""
    times: int = 1

    @property
    def root(self) -> tuple[str, str, str]:
        """What findings of one root cause share: packet, family of the oracle, and the kind of the
        error.  Results in ``out=`` that are lost, in any dtype, are one kind; so are numbers that
        are wrong altogether; small errors belong to a dtype."""
        kind = "gross" if self.magnitude_class in ("gross", "not finite") else self.dtype_class
        return packet_of(self.op), family_of(self.oracle), "out=" if writes_out(self.op) else kind

    @property
    def cause(self) -> str:
        """What a baseline knows of it: packet and family of the oracle, and, where numbers are only
        worse than promised, the class of dtype; sixteen hexadecimal digits.  Layout and magnitude
        are left out, for a hunt may meet one defect in any, and reducing changes them.  What is
        wrong altogether, or ends its process, is so in any dtype."""
        is_whole = self.word in (*LOUD, "corruption", "inconclusive")
        kind = "out=" if writes_out(self.op) else "" if is_whole else self.dtype_class
        name = "\x00".join((packet_of(self.op), family_of(self.oracle), kind))
        return hashlib.sha256(name.encode()).hexdigest()[:16]

    @property
    def severity(self) -> int:
        """Place of the word in ``SEVERITY``: 0 is the most severe."""
        return SEVERITY.index(self.word) if self.word in SEVERITY else len(SEVERITY)


_FAMILIES = {
    "value": ("bound", "exact", "layout", "slices", "symmetries", "forms", "modes", "threads",
              "isa", "batch", "repeat"),
    "gradient": ("gradient",),
    "compiled": ("compiled",),
    "semantics": ("semantics",),
}


def family_of(oracle: str) -> str:
    """Oracles that would all see the same wrong number are one family."""
    return next((f for f, names in _FAMILIES.items() if oracle in names), oracle)


def distinct(found: Iterable[FoundDivergence]) -> list[FoundDivergence]:
    """One for each fingerprint: divergences that were drawn apart and reduced to the same.  The
    most severe stands for all, its ``times`` are those of all."""
    kept: dict[str, FoundDivergence] = {}
    for one in found:
        known = kept.get(one.fingerprint)
        if known is not None:
            lead = min(known, one, key=_order)
            one = msgspec.structs.replace(lead, times=known.times + one.times)
        kept[one.fingerprint] = one
    return list(kept.values())


def grouped(found: Iterable[FoundDivergence]) -> list[tuple[FoundDivergence, ...]]:
    """Findings by root cause, the most severe cause first; in a group the most severe finding
    first, then the smallest."""
    groups: dict[tuple[str, str, str], list[FoundDivergence]] = {}
    for one in distinct(found):
        groups.setdefault(one.root, []).append(one)
    for group in groups.values():
        group.sort(key=_order)
    return [tuple(g) for g in sorted(groups.values(), key=lambda g: _order(g[0]))]


def _order(one: FoundDivergence) -> tuple[int, int, int, str]:
    return one.severity, -one.wrong, one.trial.num_elements, one.fingerprint


def encode_found(found: FoundDivergence) -> str:
    """The finding as JSON, indented."""
    value = plain(found)
    for name in ("trial", "drawn"):  # with the tags that tell their arguments apart
        value[name] = msgspec.to_builtins(getattr(found, name))
    return json.dumps(value, allow_nan=False, indent=2) + "\n"


def decode_found(text: bytes | str) -> FoundDivergence:
    """The finding of a JSON text.

    Raises:
        UsageError: if the text is no finding of a hunt.
    """
    try:
        return record_of(loads(text), FoundDivergence)
    except (ValueError, KeyError, TypeError) as error:  # msgspec's are ValueErrors
        raise UsageError(f"this is no finding of a hunt: {error}") from error
