"""What a hunt and its workers say to each other: JSON in both directions, nothing is unpickled."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.plain_json import dumps, loads, record_of
from sdc_guard.records import Record


class Options(Record, frozen=True, kw_only=True):
    """What a worker is started with.

    ``imports`` are modules to import first (they may register operators); ``typed`` names of
    functions that the user gave, so that they may be called; ``is_huge`` adds operands
    of 2^31 elements; ``memory_bytes`` is what it may allocate beyond its start, 0 for no limit;
    ``slot`` and ``log`` are its files; ``bundles`` the folder for bundles, empty for none;
    ``parent`` the process that it ends with.
    """

    oracles: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    typed: tuple[str, ...] = ()
    max_bytes: int = 1 << 28
    max_threads: int = 2
    is_huge: bool = False
    memory_bytes: int = 0
    slot: str = ""
    log: str = ""
    bundles: str = ""
    parent: int = 0


class Round(Record, frozen=True, kw_only=True):
    """Search one target: ``examples`` calls drawn with a seed that is made of ``seed``, the target
    and ``number`` alone.  ``templates`` is a file; ``skip`` are digests of trials that ended or
    failed a worker before; ``known`` kinds of divergence that are only counted; ``database`` a
    folder of calls that came near to a bound in earlier hunts, made first, or empty."""

    target: str
    templates: str
    number: int
    seed: int
    examples: int
    limit_s: float | None = None
    skip: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    database: str = ""


class Again(Record, frozen=True, kw_only=True):
    """Make one trial ``times`` times and say how often a divergence of ``kind`` came of it;
    with ``is_fresh`` in a process that has made no other."""

    trial: str
    kind: str
    times: int = 1
    is_fresh: bool = False


class Reduce(Record, frozen=True, kw_only=True):
    """Make a trial that gave a divergence of ``kind`` under ``oracle`` smaller, for ``limit_s``
    seconds, and write it up.

    With ``drawn`` it is as small as it gets, and only written up: it comes from the divergence
    that was drawn as ``drawn`` and seen as ``seen_as``.
    """

    trial: str
    kind: str
    oracle: str
    drawn: str = ""
    seen_as: str = ""
    limit_s: float = 15.0


class Found(Record, frozen=True, kw_only=True):
    """A divergence: as it was drawn, or later, with the same ``seen_as``, reduced."""

    found: FoundDivergence
    is_reduced: bool = False


class Done(Record, frozen=True, kw_only=True):
    """A round has ended.  ``checked`` counts judged calls by (oracle, packet), ``not_judged`` by
    (oracle, packet, reason), ``met`` divergences by kind, ``errors`` failures of ours by text,
    ``remarks`` why an oracle cannot work here, by oracle.
    ``is_whole`` is false where time ran out before the last example; ``is_hurt`` true where this
    process may be damaged (``Divergence.may_hurt``) and should make no more."""

    trials: int = 0
    refused: int = 0
    elapsed_s: float = 0.0
    checked: tuple[tuple[str, str, int], ...] = ()
    not_judged: tuple[tuple[str, str, str, int], ...] = ()
    met: dict[str, int] = msgspec.field(default_factory=dict)
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    remarks: dict[str, str] = msgspec.field(default_factory=dict)
    is_whole: bool = True
    is_hurt: bool = False


class MadeAgain(Record, frozen=True, kw_only=True):
    """The answer to :class:`Again`; ``error`` is what kept the trial from being made, ``is_hurt``
    as in :class:`Done`."""

    wrong: int
    tried: int
    error: str = ""
    is_hurt: bool = False


class Failed(Record, frozen=True, kw_only=True):
    """An exception of ours ended a round, at the trial with this digest (empty: at none);
    ``is_hurt`` as in :class:`Done`."""

    error: str
    digest: str = ""
    is_hurt: bool = False


class Died(Record, frozen=True, kw_only=True):
    """Said by the crew, of a worker that was lost: ``how`` is ``SIGSEGV``, ``exit code 1`` or
    ``hang``; ``trial`` what it was making, as JSON, or empty; ``tail`` the end of its log;
    ``trials`` how many it had begun of its task."""

    how: str
    trial: str = ""
    tail: str = ""
    trials: int = 0


Task = Round | Again | Reduce
Answer = Done | MadeAgain | Failed
Message = Found | Answer | Died

_KINDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (Options, Round, Again, Reduce, Found, Done, MadeAgain, Failed)}
_R = TypeVar("_R", bound=Record)


def packed(message: Record) -> bytes:
    """A message as bytes, its type's name in front."""
    return type(message).__name__.encode() + b"\n" + dumps(msgspec.to_builtins(message))


def unpacked(data: bytes) -> Record:
    """The message.

    Raises:
        ValueError: for bytes that are none.
    """
    name, _, body = data.partition(b"\n")
    kind = _KINDS.get(name.decode("ascii", "replace"))
    if kind is None:
        raise ValueError(f"a message of an unknown kind {name[:40]!r}")
    try:
        return record_of(loads(body), kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
