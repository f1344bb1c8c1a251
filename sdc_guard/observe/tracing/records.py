"""The lines of a trace.  Nothing here imports torch."""

from __future__ import annotations

from typing import Any

import msgspec

from sdc_guard.plain_json import loads
from sdc_guard.records import Record

SCHEMA = "1.0"
"""``major.minor``; a reader takes every minor version of its major one."""


class Statistics(Record, frozen=True, kw_only=True):
    """What an operand held, over all calls that were looked at.

    ``elements``: how many numbers were looked at (complex numbers have two), of which ``zeros``,
    ``nans``, ``pos_infs`` and ``neg_infs`` were that.  ``low`` and ``high`` are the finite ones'
    least and largest, None where there was none; ``smallest`` and ``largest`` the magnitudes of
    those that are not 0 (0 where there was none).  ``whole``: all finite ones are integers.
    For integer dtypes: ``negatives`` were below 0, ``least_index`` is the least of the others;
    ``is_sorted``: never falling; ``is_distinct``: no two alike.
    """

    elements: int = 0
    zeros: int = 0
    nans: int = 0
    pos_infs: int = 0
    neg_infs: int = 0
    low: int | float | None = None
    high: int | float | None = None
    smallest: int | float = 0
    largest: int | float = 0
    whole: bool = True
    negatives: int = 0
    least_index: int | None = None
    is_sorted: bool = False
    is_distinct: bool = False


class TracedTensor(Record, frozen=True, kw_only=True, tag="tensor"):
    """An operand.  ``offset`` in elements from the start of its storage; ``alignment`` is its
    address modulo 64, in bytes; ``same_as`` the position among the call's tensors of an earlier
    operand that is the very same memory, else -1; ``data`` its bits in C order, base64, only where
    asked for."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    alignment: int
    device: str
    requires_grad: bool = False
    same_as: int = -1
    seen: Statistics | None = None
    data: str | None = None


class Plain(Record, frozen=True, kw_only=True, tag="plain"):
    """None, a truth value, an integer or a text."""

    value: bool | int | str | None


class Real(Record, frozen=True, kw_only=True, tag="real"):
    """A Python float as ``float.hex`` gives it: of the first call, and the range over all calls
    (empty where it was NaN)."""

    value: str
    low: str = ""
    high: str = ""


class Named(Record, frozen=True, kw_only=True, tag="named"):
    """A dtype, device, layout or memory format by its name, a complex number by its parts."""

    of: str
    name: str


class Opaque(Record, frozen=True, kw_only=True, tag="opaque"):
    """What a trace cannot hold (a generator, a sparse tensor), in words."""

    what: str


class Listed(Record, frozen=True, kw_only=True, tag="list"):
    """A list, or a tuple, of arguments."""

    items: tuple[TracedTensor | Plain | Real | Named | Opaque, ...]


Argument = TracedTensor | Plain | Real | Named | Opaque | Listed


class Header(Record, frozen=True, kw_only=True, tag_field="kind", tag="header"):
    """Begins a trace, and a later one in the same file."""

    schema: str
    torch: str
    threads: int
    deterministic: bool = False
    mkldnn: bool = True
    matmul_precision: str = ""
    rank: int = 0
    pid: int = 0
    script: str = ""
    start_utc: str = ""


class Call(Record, frozen=True, kw_only=True, tag_field="kind", tag="call"):
    """A distinct call, when it was seen first.  ``args``: all arguments in the order of the
    operator's schema.  ``phase``: forward or backward; ``grad``: autograd keeps it for backward."""

    id: int
    op: str
    args: tuple[Argument, ...]
    phase: str = "forward"
    grad: bool = False
    count: int = 1


class Seen(Record, frozen=True, kw_only=True, tag_field="kind", tag="seen"):
    """A call once more: its count so far; statistics over all of its calls that were looked at, of
    each tensor in order; ranges (low, high) of each :class:`Real` in order."""

    id: int
    count: int
    tensors: tuple[Statistics | None, ...]
    reals: tuple[tuple[str, str], ...] = ()


class Left(Record, frozen=True, kw_only=True, tag_field="kind", tag="left"):
    """How many calls are not in the trace, by reason; the last such line counts."""

    out: dict[str, int]


Line = Header | Call | Seen | Left


def encode_line(line: Line) -> bytes:
    """One line of JSON, with its end."""
    return msgspec.json.encode(line) + b"\n"


def decode_line(text: bytes | str) -> Line:
    """The line of a trace.

    Raises:
        ValueError: if it is none (``msgspec.ValidationError`` is one).
    """
    value: Any = loads(text)
    return msgspec.convert(value, Line)  # type: ignore[no-any-return]
