"""What a finding does: the policy of a guard, and what it has still to say or to raise."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NoReturn

from sdc_guard.errors import CorruptionDetected, SdcGuardWarning, UsageError
from sdc_guard.limits import parse_verdicts
from sdc_guard.records import Finding

log = logging.getLogger("sdc_guard")

POLICIES = ("record", "warn", "raise", "skip")
OnFinding = str | Callable[[Finding], object]


def parse_on_finding(on_finding: OnFinding) -> OnFinding:
    """One of :data:`POLICIES`, or a callable.

    Raises:
        UsageError: for anything else.
    """
    if not callable(on_finding) and on_finding not in POLICIES:
        raise UsageError(f"on_finding={on_finding!r}: choose one of {', '.join(POLICIES)}, "
                         "or give a callable")
    return on_finding


class Policy:
    """``corrupt`` lists the findings that count against the step at hand.

    Raises:
        UsageError: for an unknown ``on_finding`` or verdict.
    """

    def __init__(self, on_finding: OnFinding, act_on: tuple[str, ...]) -> None:
        self.on_finding = parse_on_finding(on_finding)
        self.corrupt: list[Finding] = []
        self._act_on = parse_verdicts(act_on)
        self._prepared: list[Finding] = []
        self._untold: list[Finding] = []
        self._held: BaseException | None = None
        self._met: Counter[tuple[object, ...]] = Counter()

    @property
    def protects(self) -> bool:
        """True if a corrupt step is to be kept out of the training state."""
        return self.on_finding in ("raise", "skip")

    def take(self, findings: Iterable[Finding], *, prepares: bool = False) -> bool:
        """Take in new findings; returns whether one of them counts against the step.  With
        ``prepares`` they count against the next one too: they came between two steps, in work that
        may be on its batch."""
        counts = False
        for finding in findings:
            self._log(finding)
            if finding.verdict in self._act_on and finding.held_is_wrong:
                self.corrupt.append(finding)
                if prepares:
                    self._prepared.append(finding)
                counts = True
            self._untold.append(finding)
        return counts

    def _log(self, finding: Finding) -> None:
        """The first finding of a kind, the 10th, the 100th: a kernel that is wrong in every step
        must not bury what the user's program prints."""
        kind = (finding.verdict, finding.op, finding.module, finding.source)
        self._met[kind] += 1
        number = self._met[kind]
        if number == 1:
            log.warning("%s", finding.message)
        elif str(number).strip("0") == "1":
            log.warning("%s (finding %d of this kind)", finding.message, number)

    def begin_step(self) -> None:
        """What counts against a step that begins is what prepared it."""
        self.corrupt, self._prepared = self._prepared, []

    def forget(self) -> None:
        """Nothing found so far counts against any step."""
        self.corrupt, self._prepared = [], []

    def tell(self, *, hold: bool) -> None:
        """Hand new findings to a callable, or warn.

        What either raises leaves at once, or with ``hold`` at the next call without it: inside an
        optimizer step an exception would leave the step half applied.
        """
        while self._untold:
            finding = self._untold.pop(0)
            try:
                if callable(self.on_finding):
                    self.on_finding(finding)
                elif self.on_finding == "warn":
                    warnings.warn(finding.message, SdcGuardWarning, stacklevel=4)
            except BaseException as error:
                if not hold:
                    raise
                self._held = self._held or error
        if self._held is not None and not hold:
            held, self._held = self._held, None
            raise held

    def raise_corrupt(self) -> NoReturn:
        """Raise what the step has against it, which is then settled.

        Raises:
            CorruptionDetected: always.
        """
        found = tuple(self.corrupt)
        self.forget()
        text = found[0].message if found else "another rank found a corrupt result in this step"
        raise CorruptionDetected(text, found)
