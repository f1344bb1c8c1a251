"""How the file of an op has its calls checked by Triton kernels, on the device of the operands.

An op gives :class:`OpSpec` a function ``kernel``: once per call site it looks at the operands
(shapes, strides, dtypes and device stay the same there) and returns what launches the kernels, or
None where no kernel takes such a call.  A launch leaves its verdict in a record on the device
(``sdc_guard_kernels.verdict``) and returns at once; the guard reads many records together, before
the optimizer changes a parameter, and has the host's reference name what a record accuses.

The limits in a kernel are those of ``bounds/`` with the kernel's own rounding added, and belong to
the *tighter* of the two bounds; which of them is broken, the host's reference says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from sdc_guard.calls import BoundCall

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """What a record is about.

    ``witness``: ``checksum``, ``sample``, ``reference`` or ``invariant``, as on the host.
    ``output``: the result that is judged.  ``unit``: what the record's index counts, in C order of
    that result's shape: ``element``s, ``row``s (all but the last dimension), or ``column``s (all
    but the last but one).
    """

    witness: str
    formula: str
    output: int = 0
    unit: str = "element"


class Notes(Protocol):
    """What a launch gets from the guard."""

    @property
    def seed(self) -> int:
        """63 random bits of the guard's own generator, new for each launch: which elements a
        sample takes."""

    def record(self, check: KernelCheck) -> Tensor:
        """A zeroed record, int64 [2] on the device of the held results."""

    def remembered(self, operand: Tensor, name: str, compute: Callable[[], T]) -> T:
        """What was computed from this operand under this name before, if nobody has written to it
        since; else ``compute()``, remembered until the optimizer steps."""


KernelRun = Callable[[BoundCall, tuple[Tensor, ...], Notes], None]
"""Launches the checks of one call of a site: every record that it asks for gets a verdict."""
KernelOf = Callable[[BoundCall, tuple[Tensor, ...]], "KernelRun | None"]
"""Looks at a site once."""
