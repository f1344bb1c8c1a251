"""A fleet for a terminal: who is missing, which units are outliers, who fails how often."""

from __future__ import annotations

from collections.abc import Sequence

from sdc_guard.document.schema import Fleet, FleetShare
from sdc_guard.document.text import counted, one_line, shortened

MAX_OUTLIERS = 10
MAX_SHARES = 6
MAX_NAMES = 12
MAX_TEXT_CHARS = 300


def fleet_lines(fleet: Fleet) -> list[str]:
    """The lines, each with its name before it."""
    lines = [f"{counted(len(fleet.hosts), 'host')}: {_named(fleet.hosts)}"] if fleet.hosts else []
    lines.append(f"hosts voted on {counted(fleet.votes, 'case')} without an exact answer")
    if fleet.missing:
        lines.append(f"missing: {_named(fleet.missing)}")
    lines += [f"damaged: {name}: {why}" for name, why in fleet.damaged.items()]
    lines += fleet.notes
    found = [_line("fleet", line) for line in lines]
    for number, outlier in enumerate(fleet.outliers[:MAX_OUTLIERS], 1):
        votes = f", outvoted in {counted(outlier.outvoted, 'case')}" if outlier.outvoted else ""
        found.append(_line("outlier", f"{number}. {outlier.unit} ({outlier.model}): "
                           f"{outlier.failing} FAIL, {outlier.open} open of "
                           f"{counted(outlier.tested, 'test')}{votes}; {outlier.reason}"))
    if len(fleet.outliers) > MAX_OUTLIERS:
        found.append(_line("outlier", f"and {len(fleet.outliers) - MAX_OUTLIERS} more"))
    for by in dict.fromkeys(share.by for share in fleet.shares):
        found += _shares([s for s in fleet.shares if s.by == by])
    return found


def share_text(share: FleetShare) -> str:
    """``host node-7: 1 of 3 units FAIL, 33.3 % (0.84 % to 90.6 %)``."""
    rate = share.failing / share.tested if share.tested else 0.0
    return (f"{share.by} {share.name}: {share.failing} of {share.tested} {share.of} FAIL, "
            f"{100 * rate:.3g} % ({100 * share.low:.3g} % to {100 * share.high:.3g} % with "
            f"{100 * share.confidence:g} % confidence)")


def _shares(shares: Sequence[FleetShare]) -> list[str]:
    """The most failing of a kind, and how many have failed in nothing."""
    failing = [s for s in shares if s.failing] if len(shares) > MAX_SHARES else list(shares)
    lines = [_line("rate", share_text(s)) for s in failing[:MAX_SHARES]]
    if len(shares) > len(lines):
        lines.append(_line("rate", f"and {len(shares) - len(lines)} more by {shares[0].by}, of "
                                   f"which {max(0, len(failing) - MAX_SHARES)} have a FAIL"))
    return lines


def _named(names: Sequence[str]) -> str:
    text = ", ".join(names[:MAX_NAMES])
    return text + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def _line(head: str, text: str) -> str:
    return f"{head:<12}{shortened(one_line(text), MAX_TEXT_CHARS)}"
