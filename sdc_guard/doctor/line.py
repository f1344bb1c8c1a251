"""One result of an examination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdc_guard.document.exits import CLEAN, DIVERGENCE, INCONCLUSIVE

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
PAGE = "docs/doctor.md"


@dataclass(frozen=True)
class Line:
    """``fix`` says what to do about a warning or a failure; ``name`` is the section of
    ``docs/doctor.md`` that explains the line."""

    level: str
    name: str
    text: str
    fix: str = ""

    @property
    def doc(self) -> str:
        return f"{PAGE}#{self.name}"


def exit_code(lines: Sequence[Line]) -> int:
    """A machine that does not repeat itself is a divergence; other failures conclude nothing."""
    failed = {line.name for line in lines if line.level == FAIL}
    if "determinism" in failed:
        return DIVERGENCE
    return INCONCLUSIVE if failed else CLEAN
