"""What an oracle says of a call that diverges, and what makes two divergences the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sdc_guard.calls import form_of
from sdc_guard.document.operators import packet_of
from sdc_guard.errors import UsageError
from sdc_guard.hunt.targets import is_overload, resolve
from sdc_guard.records import Observation, Worst

LOST = "lost process"
"""The word of a trial that ended its process once, and in fresh ones does not."""
SEVERITY = ("corruption", "crash", "hang", "semantic difference", "nondeterminism", "precision",
            "inconclusive", LOST, "documented")
"""The words of a hunt's findings, most severe first; ``document.verdicts`` maps them."""
OUTSIDE = "writes outside of the elements of out="
"""The formula of a divergence that is about memory beside the results."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """One disagreement.

    ``op`` is the operator that is wrong where that is known (``aten.sum.dim_IntList``), else the
    trial's target; ``word`` one of :data:`SEVERITY`; ``dtype_class`` as :func:`dtype_class` gives
    it, ``layout_class`` that of the operand that matters, or of the first; ``magnitude_class`` as
    :func:`magnitude_class` does.  ``observation`` holds the guilty call, live, where one was
    recorded, and ``expected`` what its result ``worst.output`` should be (float64 or exact
    array).  ``sides`` names what was compared: ``("4 threads", "1 thread")``.
    """

    oracle: str
    op: str
    word: str
    message: str
    dtype_class: str
    layout_class: str
    magnitude_class: str
    worst: Worst | None = None
    formula: str = ""
    sides: tuple[str, str] = ("", "")
    link: str = ""
    observation: Observation | None = field(default=None, compare=False)
    expected: Any = field(default=None, compare=False)

    @property
    def kind(self) -> tuple[str, ...]:
        """What a fingerprint is made of.  A kernel that takes ``out=`` for something that it is not
        does so in each dtype and layout, beside the elements and in them: that is one defect."""
        if self.word == "corruption" and writes_out(self.op):
            return packet_of(self.op), "out="
        return (packet_of(self.op), self.oracle, self.dtype_class, self.layout_class,
                self.magnitude_class)

    @property
    def may_hurt(self) -> bool:
        """True where memory was written that belongs to something else, or may have been: what runs
        in this process afterwards may fail for it."""
        return self.formula == OUTSIDE or (self.word == "corruption" and writes_out(self.op))

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits, equal for the same divergence in another hunt."""
        return hashlib.sha256("\x00".join(self.kind).encode()).hexdigest()[:16]


@cache
def writes_out(op: str) -> bool:
    """True for the name of an overload that writes its results into ``out=``."""
    try:
        return is_overload(op) and form_of(resolve(op)).is_out
    except (UsageError, RuntimeError):
        return False  # of another torch, or of a library that is not loaded


def dtype_class(dtype: str) -> str:
    """``half`` for float16 and bfloat16, ``complex``, ``integer``, ``bool``, else the dtype."""
    if dtype in ("float16", "bfloat16"):
        return "half"
    if dtype.startswith("complex"):
        return "complex"
    if dtype.startswith(("int", "uint")):
        return "integer"
    return dtype


def magnitude_class(ulps: float, precision: int) -> str:
    """``few ulps`` up to 64, ``gross`` where at least half of the ``precision`` bits of the
    significand are wrong, ``many ulps`` between, ``not finite`` where the error is none."""
    if not ulps < float("inf"):
        return "not finite"
    if ulps >= 2.0 ** (precision / 2):
        return "gross"
    return "few ulps" if ulps <= 64 else "many ulps"
