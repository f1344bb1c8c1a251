"""Reads traces: one file, or all below a folder; calls that are alike become one.  What is damaged
costs its line.  Nothing here imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sdc_guard.errors import UsageError
from sdc_guard.observe.tracing.records import (
    SCHEMA,
    Argument,
    Call,
    Header,
    Left,
    Listed,
    Real,
    Seen,
    Statistics,
    TracedTensor,
    decode_line,
    encode_line,
)

MAX_FILE_BYTES = 1 << 30
MAX_LINE_BYTES = 16 << 20
SUFFIX = ".jsonl"


@dataclass(slots=True)
class Trace:
    """``calls``: distinct ones in order of their first appearance, counts and figures of all files
    together; ``header`` of the first process; ``left_out`` by reason; ``damaged`` lines."""

    header: Header
    calls: list[Call] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    processes: int = 0


def read_trace(path: Path) -> Trace:
    """The trace in a file, or in all files of a folder.

    Raises:
        UsageError: if there is none, or it was written by a later major version.
    """
    files = _files(path)
    found: Trace | None = None
    known: dict[bytes, int] = {}
    for file in files:
        for part in _parts(file):
            if found is None:
                found = Trace(part.header)
            _add(found, part, known)
    if found is None:
        raise UsageError(f"{path} holds no trace: no line of it is a header; give what `sdc-guard "
                         "trace` or Guard(trace=...) has written")
    return found


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        whole = path / f"trace{SUFFIX}"
        files = [whole] if whole.is_file() else sorted(path.rglob(f"*trace*{SUFFIX}"))
        if not files:
            raise UsageError(f"the folder {path} holds no trace{SUFFIX}; give a file that "
                             "`sdc-guard trace` has written")
        return files
    if not path.is_file():
        raise UsageError(f"there is no trace {path}; `sdc-guard trace -- python train.py` writes "
                         "one")
    return [path]


def _parts(file: Path) -> Iterator[Trace]:
    """One trace for each header; numbers of calls hold up to the next."""
    part: Trace | None = None
    by_id: dict[int, int] = {}
    damaged = 0
    for text in _lines(file):
        try:
            line = decode_line(text)
        except ValueError:
            damaged += 1
            continue
        if isinstance(line, Header):
            if part is not None:
                yield part
            _require_known(file, line)
            part, by_id = Trace(line, processes=1, damaged=damaged), {}
            damaged = 0
        elif part is None:
            damaged += 1
        elif isinstance(line, Call):
            by_id[line.id] = len(part.calls)
            part.calls.append(line)
        elif isinstance(line, Seen):
            place = by_id.get(line.id)
            if place is None:
                damaged += 1
            else:
                part.calls[place] = _seen_again(part.calls[place], line)
        else:
            part.left_out = Counter(line.out)
    if part is not None:
        part.damaged += damaged
        yield part


def _lines(file: Path) -> Iterator[bytes]:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UsageError(f"the trace {file} has {size} bytes, limit {MAX_FILE_BYTES}")
        with file.open("rb") as lines:
            while text := lines.readline(MAX_LINE_BYTES):
                if text.strip():
                    yield text
    except OSError as error:
        raise UsageError(f"the trace {file} cannot be read: {error.strerror}") from error


def _require_known(file: Path, header: Header) -> None:
    major = SCHEMA.partition(".")[0]
    if header.schema.partition(".")[0] != major:
        raise UsageError(f"the trace {file} has schema {header.schema!r}, this version reads "
                         f"{major}.x; use the version of sdc-guard that has written it")


def _add(found: Trace, part: Trace, known: dict[bytes, int]) -> None:
    found.left_out += part.left_out
    found.damaged += part.damaged
    found.processes += part.processes
    for call in part.calls:
        key = _identity(call)
        place = known.setdefault(key, len(found.calls))
        if place == len(found.calls):
            found.calls.append(msgspec.structs.replace(call, id=place))
            continue
        old = found.calls[place]
        count = old.count + call.count
        found.calls[place] = _seen_again(old, Seen(
            id=place, count=count, reals=tuple(
                map(_wider, reals_of(old), reals_of(call))),
            tensors=tuple(merged(a.seen, b.seen) for a, b in
                          zip(tensors_of(old), tensors_of(call), strict=True))))


def _identity(call: Call) -> bytes:
    """The call without what differs from process to process."""

    def bare(argument: Argument) -> Argument:
        if isinstance(argument, TracedTensor):
            return msgspec.structs.replace(
                argument, seen=None, data=None, offset=min(argument.offset, 1))
        if isinstance(argument, Real):
            number = float.fromhex(argument.value)
            return Real(value=argument.value if number in (0.0, 1.0) else "nan")
        if isinstance(argument, Listed):
            return Listed(items=tuple(bare(i) for i in argument.items))  # type: ignore[misc]
        return argument

    try:
        args = tuple(map(bare, call.args))
    except (ValueError, OverflowError):  # a number that is none: alike only to its like
        args = call.args
    return encode_line(msgspec.structs.replace(call, id=0, count=0, args=args))


def tensors_of(call: Call) -> list[TracedTensor]:
    """The operands in order."""
    return [a for a in _flat(call) if isinstance(a, TracedTensor)]


def reals_of(call: Call) -> list[Real]:
    """The floats among the arguments, in order."""
    return [a for a in _flat(call) if isinstance(a, Real)]


def _wider(a: Real, b: Real) -> tuple[str, str]:
    edges = [float.fromhex(edge) for edge in (a.low, a.high, b.low, b.high) if edge]
    return (min(edges).hex(), max(edges).hex()) if edges else ("", "")


def _flat(call: Call) -> Iterator[Argument]:
    for argument in call.args:
        if isinstance(argument, Listed):
            yield from argument.items
        else:
            yield argument


def _seen_again(call: Call, seen: Seen) -> Call:
    """The call with a later line's count, figures and ranges; of a line that does not fit, the
    count alone."""
    call = msgspec.structs.replace(call, count=max(call.count, seen.count))
    fits = (len(seen.tensors) == len(tensors_of(call)) and len(seen.reals) == len(reals_of(call)))
    if not fits:
        return call
    figures, ranges = iter(seen.tensors), iter(seen.reals)

    def updated(argument: Argument) -> Argument:
        if isinstance(argument, TracedTensor):
            return msgspec.structs.replace(argument, seen=next(figures))
        if isinstance(argument, Real):
            low, high = next(ranges)
            return msgspec.structs.replace(argument, low=low, high=high)
        if isinstance(argument, Listed):
            return Listed(items=tuple(updated(i) for i in argument.items))  # type: ignore[misc]
        return argument

    return msgspec.structs.replace(call, args=tuple(map(updated, call.args)))


def write_trace(trace: Trace, path: Path) -> None:
    """A trace as one file, complete or not at all.

    Raises:
        UsageError: if it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(encode_line(trace.header))
            file.writelines(map(encode_line, trace.calls))
            if trace.left_out:
                file.write(encode_line(Left(out=dict(trace.left_out))))
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"the trace {path} cannot be written: {error.strerror}") from error


def merged(a: Statistics | None, b: Statistics | None) -> Statistics | None:
    """The figures of both together; what holds for each of the calls holds for all."""
    if a is None or b is None or not a.elements or not b.elements:
        return b if a is None or not a.elements else a
    lows = [v.low for v in (a, b) if v.low is not None]
    highs = [v.high for v in (a, b) if v.high is not None]
    indices = [v.least_index for v in (a, b) if v.least_index is not None]
    return Statistics(
        elements=a.elements + b.elements, zeros=a.zeros + b.zeros, nans=a.nans + b.nans,
        pos_infs=a.pos_infs + b.pos_infs, neg_infs=a.neg_infs + b.neg_infs,
        low=min(lows, default=None), high=max(highs, default=None),
        smallest=min((v.smallest for v in (a, b) if v.smallest), default=0),
        largest=max(a.largest, b.largest), whole=a.whole and b.whole,
        negatives=a.negatives + b.negatives, least_index=min(indices, default=None),
        is_sorted=a.is_sorted and b.is_sorted, is_distinct=a.is_distinct and b.is_distinct)
