"""What a sweep and its workers say to each other: JSON in both directions, nothing is unpickled."""

from __future__ import annotations

from typing import Any

import msgspec

from sdc_guard.document.schema import WrongElement
from sdc_guard.plain_json import dumps, loads, record_of
from sdc_guard.records import Pattern, Record, Spread, Worst


class Visit(Record, frozen=True, kw_only=True):
    """Run a test for ``limit_s``, from case ``first_case`` on; ``case`` narrows it to one label.
    ``seed`` and the labels decide all operands.  ``is_load``: it runs to keep a unit busy beside
    another's test."""

    test: str
    seed: int
    limit_s: float
    first_case: int = 0
    case: str = ""
    is_load: bool = False


class Confirm(Record, frozen=True, kw_only=True):
    """Make one case again here and run it ``times`` times."""

    test: str
    case: str
    seed: int
    times: int


class Stop(Record, frozen=True, kw_only=True):
    """End."""


class Hello(Record, frozen=True, kw_only=True):
    """A worker is ready: the cores that it may run on, and the one it was on, as read back;
    ``software`` is what golden digests depend on; ``environment`` where it was asked for;
    ``problem`` why it cannot work, or empty."""

    pid: int
    affinity: tuple[int, ...]
    ran_on: int
    software: dict[str, str] = msgspec.field(default_factory=dict)
    environment: dict[str, Any] = msgspec.field(default_factory=dict)
    problem: str = ""


class Beat(Record, frozen=True, kw_only=True):
    """Still at work: totals of the visit so far."""

    case: str
    checks: int
    mismatches: int


class Miscompare(Record, frozen=True, kw_only=True):
    """A result that is not what it must be, looked at again on the same unit.

    ``oracle`` says what it was compared with.  ``output`` is the number of the result.
    ``num_reread`` elements of the stored result were still wrong when it was read again.  Of
    ``tried`` repetitions ``wrong`` were wrong, ``wrong_alike`` of them with the very same bits.
    ``expected_digest`` stands for the expected bits as this unit made them, ``got_digest`` for the
    result's.  ``subunits`` are the parts of the unit behind the first wrong elements.
    ``isolated`` is the unit that alone explains it, where parts were asked again, and ``isolation``
    what they answered.
    """

    test: str
    case: str
    op: str
    dtype: str
    shape: tuple[int, ...]
    seed: int
    oracle: str
    output: int
    worst: Worst | None
    pattern: Pattern | None
    spread: Spread | None
    elements: tuple[WrongElement, ...]
    num_reread: int
    wrong: int
    tried: int
    wrong_alike: int
    expected_digest: str
    got_digest: str
    subunits: tuple[str, ...] = ()
    isolated: str = ""
    isolation: str = ""
    core: int = -1
    sensors: dict[str, float] = msgspec.field(default_factory=dict)
    run_number: int = 0


class CaseDone(Record, frozen=True, kw_only=True):
    """A case in one visit.  ``digest`` stands for its first results, for peers and golden digests,
    empty where there is an exact answer.  ``mismatches`` are runs with a wrong result;
    ``unsupported`` is why it could not be made, ``is_unavailable`` whether for want of memory or
    the like; ``golden`` is ``equal``, ``differs``, or why there is no verdict by a golden
    digest."""

    case: str
    op: str
    runs: int = 0
    checks: int = 0
    flops: int = 0
    num_bytes: int = 0
    elapsed_s: float = 0.0
    mismatches: int = 0
    digest: str = ""
    golden_key: str = ""
    golden: str = ""
    unsupported: str = ""
    is_unavailable: bool = False


class Done(Record, frozen=True, kw_only=True):
    """The end of a visit.  ``canary`` is ``caught``, ``missed``, or ``none`` where no case could be
    made; ``error`` a failure of the test itself, with its place; ``core`` where it ran last."""

    test: str
    cases: tuple[CaseDone, ...]
    canary: str
    elapsed_s: float
    error: str = ""
    skip: str = ""
    next_case: int = 0
    core: int = -1
    sensors: dict[str, float] = msgspec.field(default_factory=dict)


class Confirmed(Record, frozen=True, kw_only=True):
    """A :class:`Confirm` done here: of ``tried`` runs ``wrong`` were wrong; ``expected_digest``
    stands for the expected bits as made here, ``digest`` for the results of the first run together,
    ``run_digests`` for those of each run; ``unsupported`` is why the case cannot be made here,
    ``is_unavailable`` whether for want of memory or the like."""

    test: str
    case: str
    seed: int
    wrong: int
    tried: int
    expected_digest: str = ""
    digest: str = ""
    run_digests: tuple[str, ...] = ()
    unsupported: str = ""
    is_unavailable: bool = False
    error: str = ""


Task = Visit | Confirm | Stop
Message = Hello | Beat | Miscompare | Done | Confirmed

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Visit, Confirm, Stop, Hello, Beat, Miscompare, Done, Confirmed)}


def packed(message: Task | Message) -> bytes:
    """One JSON document."""
    return dumps({"kind": type(message).__name__, "body": message})


def unpacked(data: bytes) -> Any:
    """The message.

    Raises:
        ValueError: for bytes that are none.
    """
    found = loads(data)
    if not isinstance(found, dict) or found.get("kind") not in _KINDS:
        raise ValueError(f"no message of a sweep: {data[:80]!r}")
    try:
        return record_of(found["body"], _KINDS[found["kind"]])
    except (KeyError, msgspec.ValidationError) as error:
        raise ValueError(f"a damaged message of a sweep: {error}") from error
