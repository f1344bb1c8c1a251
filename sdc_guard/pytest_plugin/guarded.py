"""One test's guard, beside the guards of models that the tests themselves wrapped."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from sdc_guard.guard import Guard
    from sdc_guard.records import Finding

WRAPPED_BEFORE = (
    "a model that was wrapped before the test, and still is, has a guard of its own, which the "
    "test joins: what was checked in it is in model.sdc_guard.coverage")


class Wide:
    """Guards that began in fixtures of a wider scope: they outlive a test."""

    def __init__(self) -> None:
        self._guards: WeakSet[Guard] = WeakSet()

    def __contains__(self, guard: Guard) -> bool:
        return guard in self._guards

    def note(self) -> None:
        """Called after such a fixture."""
        guard = _active_guard()
        if guard is not None:
            self._guards.add(guard)


class Guarded:
    """A test under guard, and how many findings of which guard are on a report already."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self._num_taken: dict[Guard, int] = {guard: 0}
        self._begun: list[Guard] = []

    def joins_another(self) -> bool:
        """True where a wrapped model's guard watches already: what that one finds from now on is
        the test's."""
        other = _active_guard()
        if other is None or other is self.guard:
            return False
        self._num_taken.setdefault(other, len(other.findings))
        self.guard._pipeline.gaps.add(WRAPPED_BEFORE)
        return True

    def note_begun(self) -> None:
        """Called where the guard's watch ends: a model may have been wrapped under it."""
        other = _active_guard()
        if other is not None and other is not self.guard:
            self._begun.append(other)

    def end_begun(self, wide: Wide) -> None:
        """At the test's end, end the guards that began in it; else a model that nobody unwraps
        would watch all later tests in place of their own guards."""
        for guard in self._begun:
            if guard not in wide:
                guard.detach()

    def take(self) -> tuple[list[Finding], list[Finding]]:
        """The findings since the last call: of the test's own guard, of others."""
        new: dict[Guard, list[Finding]] = {}
        for guard, num_taken in self._num_taken.items():
            findings = guard.findings
            new[guard] = findings[num_taken:]
            self._num_taken[guard] = len(findings)
        own = new.pop(self.guard)
        return own, [finding for found in new.values() for finding in found]


def _active_guard() -> Guard | None:
    """Imports nothing: where no guard was made, none is active."""
    module = sys.modules.get("sdc_guard.guard")
    return module.active_guard() if module is not None else None
