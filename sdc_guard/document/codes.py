"""The code of every rule that a finding can break: ``SDC102``, and what it means.

The first digit is the verdict, the other two are the witness, so a code never changes its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdc_guard.document.verdicts import MEANINGS, SEVERITY

WITNESSES: dict[str, tuple[int, str]] = {
    "replay": (1, "the same call on inputs moved by a bit-exact symmetry gave other bits"),
    "reference": (2, "a float64 (or exact) computation by an independent path disagrees"),
    "residual": (3, "the equation that defines the result is missed by more than its bound"),
    "checksum": (4, "C w = A (B w) is missed by more than its bound"),
    "sample": (5, "elements recomputed from their inputs disagree"),
    "invariant": (6, "an exact fact about the operator does not hold"),
    "kernel": (7, "a Triton kernel that shares nothing with the operator disagrees"),
    "repeat": (8, "the identical call gave other bits"),
    "exact": (9, "an answer known exactly beforehand was not given"),
    "golden": (10, "a digest recorded on sound hardware was not met"),
    "peer": (11, "other devices that made the same call agree on another answer"),
    "semantics": (12, "the documented shape, dtype or special value was not given"),
    "process": (13, "the operator ended or stopped its process"),
}
OTHER = 99
"""The number of a witness that this version does not know."""

_DOES = {
    "corruption": "Do not use this step's results. Replay the bundle on another core or machine "
    "(`sdc-guard replay`): what goes wrong there too is a software bug to report upstream; what "
    "does not points at this device, which `sdc-guard doctor` examines.",
    "precision": "Compare with the backend's documentation: half-precision accumulation is the "
    "usual reason. Where it is known and accepted, put it into a baseline.",
    "nondeterminism": "Ask torch for deterministic algorithms, or accept the operator into a "
    "baseline with the reason.",
    "inconclusive": "Read the votes in the finding; run again with budget \"all\", or replay the "
    "bundle on another machine.",
    "not tested": "Read the reason in coverage; `sdc-guard ops` lists what can be checked.",
}


@dataclass(frozen=True)
class Rule:
    """``code`` such as ``SDC102``; ``name`` such as ``corruption-by-reference``."""

    code: str
    name: str
    verdict: str
    witness: str
    summary: str
    help: str


def code_of(verdict: str, witness: str) -> str:
    """``SDC102`` for ``corruption`` seen by ``reference``.  A kernel's witness may name what it
    stands for (``kernel: sums``)."""
    number = WITNESSES.get(_base(witness), (OTHER, ""))[0]
    return f"SDC{SEVERITY.index(verdict) + 1}{number:02d}"


def _base(witness: str) -> str:
    return witness.partition(":")[0].partition(" ")[0]


def _rule(verdict: str, witness: str, number: int, seen: str) -> Rule:
    return Rule(
        code=f"SDC{SEVERITY.index(verdict) + 1}{number:02d}",
        name=f"{verdict}-by-{witness}".replace(" ", "-"),
        verdict=verdict,
        witness=witness,
        summary=f"{verdict}: {seen}",
        help=f"{MEANINGS[verdict]} {_DOES[verdict]}",
    )


RULES: dict[str, Rule] = {
    rule.code: rule
    for verdict in SEVERITY
    for rule in (
        *(_rule(verdict, name, number, seen) for name, (number, seen) in WITNESSES.items()),
        _rule(verdict, "another witness", OTHER, "seen by a witness of a later version"),
    )
}
