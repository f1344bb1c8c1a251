"""What is left of a finding when no user data may be stored."""

from __future__ import annotations

import msgspec

from sdc_guard.records import Finding, Value, Worst


def _blank(value: Value) -> Value:
    return Value(dtype=value.dtype, bits="", repr="withheld")


def _worst_without_values(worst: Worst) -> Worst:
    return msgspec.structs.replace(
        worst, got=_blank(worst.got), expected=_blank(worst.expected),
        error=_blank(worst.error), xor="",
    )


def without_values(finding: Finding) -> Finding:
    """The finding with every tensor element, and every text that may quote one, left out.

    Kept: verdict, cause, votes, place in model and source, shapes and metadata of the operands,
    and of the worst element its index, its error in ulps and its bound; the pattern and the spread,
    without bits.
    """
    call = msgspec.structs.replace(finding.call, arguments="")
    worst = None if finding.worst is None else _worst_without_values(finding.worst)
    message = f"{finding.verdict.value} in {finding.op}: {finding.relation} ({finding.witness})"
    spread = finding.spread
    if spread is not None:
        spread = msgspec.structs.replace(spread, bit_flips=(), masks=())
    return msgspec.structs.replace(
        finding, call=call, worst=worst, message=message, spread=spread)
