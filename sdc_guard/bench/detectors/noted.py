"""What a guard has counted at one moment, to tell later why it did not find a fault."""

from __future__ import annotations

from sdc_guard.guard import Guard

NOTHING = "no witness disagreed"

class Noted:
    """Refused relations, the guard's own errors, and calls that were not tested, per operator."""

    def __init__(self, guard: Guard) -> None:
        coverage = guard.coverage
        self.refused = frozenset(coverage.refused_relations)
        self.guard_errors = coverage.guard_errors
        self.not_tested = {op.op: dict(op.not_tested) for op in coverage.ops}

    def reasons(self, guard: Guard, packet: str) -> list[str]:
        """What was noted since then that may explain why nothing was said of ``packet``
        (``aten.mm``)."""
        after = Noted(guard)
        reasons = [f"refused: {name}" for name in sorted(after.refused - self.refused)]
        if after.guard_errors > self.guard_errors:
            reasons.append(f"{after.guard_errors - self.guard_errors} guard errors")
        for reason, count in after.not_tested.get(packet, {}).items():
            if count > self.not_tested.get(packet, {}).get(reason, 0):
                reasons.append(f"{packet} not tested: {reason}")
        if packet and packet not in after.not_tested:
            reasons.append(f"{packet} is not watched")
        return reasons or [NOTHING]
