"""What a hunt has done and found so far: all that its report is made of, and that it resumes by."""

from __future__ import annotations

import msgspec
from msgspec import field

from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.messages import Done


class TargetLedger(msgspec.Struct, kw_only=True):
    """One target.  ``rounds`` are done without a gap, ``ahead`` are done beyond one; ``losses``
    counts workers that it has cost, ``skip`` the digests of trials that are left out for that;
    ``given_up`` says why no more rounds are made, or is empty."""

    rounds: int = 0
    ahead: list[int] = field(default_factory=list)
    cut: int = 0
    trials: int = 0
    refused: int = 0
    elapsed_s: float = 0.0
    losses: int = 0
    skip: list[str] = field(default_factory=list)
    given_up: str = ""

    def is_done(self, number: int) -> bool:
        """True if the round of that number was made."""
        return number < self.rounds or number in self.ahead

    def leave_out(self, digest: str) -> None:
        """Make that trial no more; an empty digest is none."""
        if digest and digest not in self.skip:
            self.skip.append(digest)

    def add_round(self, number: int) -> None:
        """Note that a round was made."""
        self.ahead.append(number)
        while self.rounds in self.ahead:
            self.ahead.remove(self.rounds)
            self.rounds += 1


class Ledger(msgspec.Struct, kw_only=True):
    """The whole hunt.  ``checked`` counts judged calls: packet, oracle; ``not_judged``: packet,
    oracle, reason.  ``found`` are divergences by the kind that they were met as, ``met`` how often
    each kind was; ``gone`` those of earlier hunts that did not come again, ``still_there`` kinds
    that did.  ``errors`` are failures of our own, by text, ``remarks`` what an oracle lacks
    here, by oracle."""

    start_utc: str = ""
    elapsed_s: float = 0.0
    targets: dict[str, TargetLedger] = field(default_factory=dict)
    checked: dict[str, dict[str, int]] = field(default_factory=dict)
    not_judged: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    found: dict[str, FoundDivergence] = field(default_factory=dict)
    met: dict[str, int] = field(default_factory=dict)
    still_there: list[str] = field(default_factory=list)
    gone: dict[str, FoundDivergence] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    @property
    def trials(self) -> int:
        return sum(t.trials for t in self.targets.values())

    @property
    def num_checked(self) -> int:
        """Judgements of all oracles."""
        return sum(n for counts in self.checked.values() for n in counts.values())

    @property
    def targets_tried(self) -> int:
        return sum(t.trials > 0 for t in self.targets.values())

    def of(self, target: str) -> TargetLedger:
        """The target's page, made where there is none."""
        return self.targets.setdefault(target, TargetLedger())

    def add(self, target: str, number: int, done: Done) -> None:
        """Enter a round."""
        page = self.of(target)
        if done.is_whole:
            page.add_round(number)
        else:
            page.cut += 1
        page.trials += done.trials
        page.refused += done.refused
        page.elapsed_s += done.elapsed_s
        for oracle, packet, count in done.checked:
            counts = self.checked.setdefault(packet, {})
            counts[oracle] = counts.get(oracle, 0) + count
        for oracle, packet, reason, count in done.not_judged:
            reasons = self.not_judged.setdefault(packet, {}).setdefault(oracle, {})
            reasons[reason] = reasons.get(reason, 0) + count
        for kind, count in done.met.items():
            self.met[kind] = self.met.get(kind, 0) + count
        self.remarks.update(done.remarks)
        for text, count in done.errors.items():
            self.errors[text] = self.errors.get(text, 0) + count
