"""The nouns of the flow: frozen records that one stage hands to the next.

``OpCall -> Observation -> Finding -> Attribution -> Evidence``; ``Coverage`` stands beside
them.  Records that leave the process are :class:`msgspec.Struct` (they encode to JSON as they
are); the two that hold live tensors, :class:`Observation` and :class:`Suspicion`, are plain
frozen dataclasses and never leave it.

Values are carried by their bits, because JSON holds neither NaN payloads nor infinities nor
-0.0: see :class:`Value`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from torch import Tensor

    from sdc_guard.calls import BoundCall

SCHEMA_VERSION = 1


class Verdict(enum.Enum):
    """The one table of verdicts (ARCHITECTURE.md, "Verdicts"), most severe first."""

    CORRUPTION = "corruption"
    PRECISION = "precision"
    NONDETERMINISM = "nondeterminism"
    INCONCLUSIVE = "inconclusive"
    NOT_TESTED = "not tested"


class Cause(enum.Enum):
    """Who made the wrong number, decided by votes of the identical call elsewhere."""

    SOFTWARE = "software"
    PERSISTENT_HARDWARE = "persistent hardware"
    TRANSIENT = "transient"
    UNKNOWN = "unknown"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of every record that is written to disk."""


class Value(Record, frozen=True, kw_only=True):
    """One number, by its bits: ``{"dtype": "float32", "bits": "0x7fc00001", "repr": "nan"}``."""

    dtype: str
    bits: str
    repr: str


class TensorMeta(Record, frozen=True, kw_only=True):
    """What a tensor looks like without its data.  ``alignment_bytes`` is the address modulo 64."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int
    device: str
    alignment_bytes: int


class OpCall(Record, frozen=True, kw_only=True):
    """Which operation, where in the model and the user's code, and on what operands."""

    op: str
    call_index: int
    step: int
    phase: str
    module: str
    source: str
    operands: tuple[TensorMeta, ...]
    outputs: tuple[TensorMeta, ...]
    arguments: str
    flops: int
    num_threads: int


class Bound(Record, frozen=True, kw_only=True):
    """A limit on ``|got - expected|`` at one element, and the theorem that gives it."""

    kind: str
    limit: float
    formula: str


class Worst(Record, frozen=True, kw_only=True):
    """The element that is most wrong.  ``xor`` is the mask of differing bits."""

    output: int
    index: tuple[int, ...]
    got: Value
    expected: Value
    xor: str
    error: Value
    error_ulps: float
    bound: Bound | None


class Pattern(Record, frozen=True, kw_only=True):
    """Which elements are wrong: their count, their bounding box, the first few, and the
    common stride between them where they are equally spaced in storage order."""

    num_wrong: int
    num_elements: int
    first: tuple[tuple[int, ...], ...]
    box_low: tuple[int, ...]
    box_high: tuple[int, ...]
    flat_stride: int | None


class Spread(Record, frozen=True, kw_only=True):
    """What the wrong elements have in common.

    ``bit_flips`` counts, from the lowest bit up, the wrong elements in which that bit differs from
    the expected value's; ``masks`` the most frequent xor masks, with their counts; both are empty
    where no expected bits are known.  ``ulps_log2`` counts errors by ``floor(log2(ulps))``.
    ``map_shape`` is a grid of rows and columns laid over the result (leading dimensions are rows),
    ``map`` the number of wrong elements of its cells that have any, as (row, column, count).
    ``lanes`` counts wrong elements by their index in memory order modulo 2, 4, ..., 128: one tall
    bar says that they share a lane.
    """

    bit_flips: tuple[int, ...] = ()
    masks: tuple[tuple[str, int], ...] = ()
    ulps_log2: tuple[tuple[int, int], ...] = ()
    num_not_finite: int = 0
    map_shape: tuple[int, int] = (0, 0)
    map: tuple[tuple[int, int, int], ...] = ()
    lanes: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)


class Vote(Record, frozen=True, kw_only=True):
    """One recomputation.  ``result`` is ``held`` (agrees with the result in use), ``expected``
    (agrees with the outvoting value), ``other`` or ``failed``; ``identical`` tells whether it was
    the same call bit for bit, the only kind that may decide a cause."""

    place: str
    method: str
    identical: bool
    result: str


class Attribution(Record, frozen=True, kw_only=True):
    """The cause and every vote that led to it."""

    cause: Cause
    place: str
    votes: tuple[Vote, ...]
    reason: str


class Evidence(Record, frozen=True, kw_only=True):
    """Where the proof lies.  ``bundle`` is empty when nothing was stored; ``note`` says why."""

    bundle: str
    replay_command: str
    note: str


class Finding(Record, frozen=True, kw_only=True):
    """A divergence, confirmed on the live inputs and attributed."""

    verdict: Verdict
    call: OpCall
    witness: str
    relation: str
    worst: Worst | None
    pattern: Pattern | None
    attribution: Attribution
    evidence: Evidence
    held_is_wrong: bool
    message: str
    rank: int = 0
    repeats: int = 1
    spread: Spread | None = None

    @property
    def op(self) -> str:
        return self.call.op

    @property
    def module(self) -> str:
        return self.call.module

    @property
    def source(self) -> str:
        return self.call.source

    @property
    def step(self) -> int:
        return self.call.step

    @property
    def cause(self) -> Cause:
        return self.attribution.cause

    @property
    def device(self) -> str:
        return self.call.outputs[0].device if self.call.outputs else "unknown"

    @property
    def bound(self) -> Bound | None:
        return self.worst.bound if self.worst is not None else None

    @property
    def bits(self) -> str:
        return self.worst.xor if self.worst is not None else ""

    @property
    def bundle(self) -> str:
        return self.evidence.bundle


class OpCoverage(Record, frozen=True, kw_only=True):
    """Calls, elements and FLOPs of one op, seen and checked.  ``witnesses`` counts checks by
    witness; ``not_tested`` counts calls by the reason why no witness applied."""

    op: str
    calls: int
    calls_checked: int
    elements: int
    elements_checked: int
    flops: int
    flops_checked: int
    witnesses: dict[str, int]
    not_tested: dict[str, int]


class Coverage(Record, frozen=True, kw_only=True):
    """What was checked and what was not.  Only calls that compute numbers are counted."""

    ops: tuple[OpCoverage, ...]
    gaps: tuple[str, ...]
    dead_witnesses: tuple[str, ...]
    refused_relations: tuple[str, ...]
    overhead_s: float
    elapsed_s: float
    steps: int
    steps_skipped: int
    guard_errors: int
    steps_unwatched: int = 0

    def _sum(self, field: str) -> int:
        return sum(getattr(op, field) for op in self.ops)

    @property
    def calls(self) -> int:
        return self._sum("calls")

    @property
    def calls_checked(self) -> int:
        return self._sum("calls_checked")

    @property
    def elements(self) -> int:
        return self._sum("elements")

    @property
    def elements_checked(self) -> int:
        return self._sum("elements_checked")

    @property
    def flops(self) -> int:
        return self._sum("flops")

    @property
    def flops_checked(self) -> int:
        return self._sum("flops_checked")

    @property
    def call_share(self) -> float:
        return self.calls_checked / self.calls if self.calls else 0.0

    @property
    def flop_share(self) -> float:
        return self.flops_checked / self.flops if self.flops else 0.0

    @property
    def watched_share(self) -> float:
        """Share of the steps that were watched at all; the calls of the others are counted
        nowhere."""
        return max(0.0, 1 - self.steps_unwatched / self.steps) if self.steps > 0 else 1.0

    @property
    def overhead_share(self) -> float:
        """Time spent in the guard over the time the user's code took without it."""
        own_s = self.elapsed_s - self.overhead_s
        return self.overhead_s / own_s if own_s > 0 else 0.0


@dataclass(slots=True, eq=False)
class Observation:
    """One op call, live: the operands as they were *before* the call and the result in use.

    ``call`` holds pre-call images in place of operands that the op overwrote, and ``held``
    lists every tensor that the op produced or overwrote, in schema order.
    """

    call: BoundCall
    held: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A witness disagrees with the held result; nothing is concluded yet.

    ``expected`` is what the witness computed for output ``output`` (same shape; None where the
    witness has no value, as for a broken invariant); ``wrong`` is a boolean NumPy array.
    ``exceeds`` is ``proof``, ``contract`` or ``bits``.  ``frame`` is the part of a large call that
    the arrays are about (:class:`sdc_guard.check.frames.Frame`), None where it is all of it.
    """

    witness: str
    relation: str
    output: int
    wrong: Any
    expected: Any
    limit: Any
    exceeds: str
    formula: str
    frame: Any = None
