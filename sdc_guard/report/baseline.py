"""Baselines: the divergences that are known, one line each, in a text file that people can merge.

A line is keyed by fingerprint, torch version (major.minor) and device class, and holds no line
number and no figure that changes from run to run.  Lines that start with ``#`` and one digit are
there for git: with them between the entries, two branches rarely write into the same gap.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from sdc_guard.document.divergences import divergences
from sdc_guard.document.files import write_asked
from sdc_guard.document.fingerprint import device_class
from sdc_guard.document.schema import Entry, Known, Report, Run
from sdc_guard.document.text import one_line, shortened
from sdc_guard.document.verdicts import SEVERITY
from sdc_guard.errors import UsageError
from sdc_guard.evidence.environment_diff import flattened

HEADER = (
    "# sdc-guard baseline 1: known divergences, which do not fail a report.",
    "# id | verdict | torch | device | op | where | expires | reason",
)
UNKNOWN_TORCH = "unknown"
MAX_VALUE_CHARS = 300
_ID = re.compile(r"[0-9a-f]{16}")
_TORCH = re.compile(r"\d+\.\d+")
_DIGITS = "0123456789abcdef"

Key = tuple[str, str]
"""torch's major.minor version, and the class of device."""


@dataclass(frozen=True)
class Baseline:
    """``known`` by (id, torch, device); ``environments`` by key, each field's values as met."""

    known: dict[tuple[str, str, str], Known] = field(default_factory=dict)
    environments: dict[Key, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    name: str = ""


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file.

    Raises:
        UsageError: if it cannot be read, or names every damaged line (at most ten) with its number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the baseline {path} cannot be read: {_why(error)}; name another one, or "
                         "make it with `sdc-guard baseline write`") from error
    return parse_baseline(text, str(path))


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or repr(error)) if isinstance(error, OSError) else str(error)


def parse_baseline(text: str, name: str = "the baseline") -> Baseline:
    """The baseline in ``text``; its lines may stand in any order, as a merge leaves them.

    Raises:
        UsageError: for damaged lines, and for two different lines of one key.
    """
    known: dict[tuple[str, str, str], Known] = {}
    numbers: dict[tuple[str, str, str], int] = {}
    environments: dict[Key, dict[str, tuple[str, ...]]] = {}
    faults: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [_unescaped(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)]
        try:
            if cells[0] == "environment":
                _add_environment(cells, environments)
                continue
            item = _known_of(cells)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        key = key_of(item)
        if known.setdefault(key, item) != item:
            faults.append(f"line {number}: {item.id} ({item.torch}, {item.device}) stands in line "
                          f"{numbers[key]} too, with other values; keep one of them")
        numbers.setdefault(key, number)
    if faults:
        more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise UsageError(f"{name} is damaged; nothing was changed.\n  "
                         + "\n  ".join(faults[:10]) + more)
    return Baseline(known, environments, name)


def _known_of(cells: list[str]) -> Known:
    if len(cells) != 8:
        raise ValueError(f"{len(cells)} columns, 8 are needed: {HEADER[1][2:]}")
    id, verdict, torch, device, op, where, expires, reason = cells
    if not _ID.fullmatch(id):
        raise ValueError(f"{id[:40]!r} is no fingerprint (16 hexadecimal digits)")
    if verdict not in SEVERITY:
        raise ValueError(f"verdict {verdict[:40]!r} is unknown; one of {', '.join(SEVERITY)}")
    if not (_TORCH.fullmatch(torch) or torch == UNKNOWN_TORCH):
        raise ValueError(f"torch {torch[:40]!r} is no version such as 2.13")
    if not device:
        raise ValueError("the device is missing")
    if expires:
        check_date(expires)
    return Known(id=id, verdict=verdict, torch=torch, device=device, op=op, where=where,
                 expires=expires, reason=reason)


def check_date(text: str) -> str:
    """The date as it is.

    Raises:
        UsageError: if it is no date such as 2027-03-31.
    """
    try:
        if date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise UsageError(f"{text[:40]!r} is no date such as 2027-03-31")


def _add_environment(
    cells: list[str], environments: dict[Key, dict[str, tuple[str, ...]]]
) -> None:
    if len(cells) != 5:
        raise ValueError(f"{len(cells)} columns, an environment has 5: environment | torch | "
                         "device | field | value")
    _, torch, device, name, value = cells
    fields = environments.setdefault((torch, device), {})
    fields[name] = tuple(sorted({*fields.get(name, ()), value}))


def key_of(item: Known) -> tuple[str, str, str]:
    """What tells two lines apart: fingerprint, torch version, class of device."""
    return item.id, item.torch, item.device


def baseline_text(baseline: Baseline) -> str:
    """The file's text: environments, then entries, each sorted; equal for equal baselines."""
    lines = [*HEADER]
    for (torch, device), fields in sorted(baseline.environments.items()):
        lines += [_line("environment", torch, device, name, value)
                  for name, values in sorted(fields.items()) for value in values]
    items = sorted(baseline.known.values(), key=key_of)
    for digit in _DIGITS:
        lines.append(f"# {digit}")
        lines += [_line(k.id, k.verdict, k.torch, k.device, k.op, k.where, k.expires, k.reason)
                  for k in items if k.id.startswith(digit)]
    return "\n".join(lines) + "\n"


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write the file in whole or not at all.

    Raises:
        UsageError: if it cannot be written.
    """
    write_asked(path, baseline_text(baseline))


def _line(*cells: str) -> str:
    return " | ".join(_escaped(cell) for cell in cells).rstrip()


def _escaped(text: str) -> str:
    return re.sub(r"([\\|])", r"\\\1", shortened(one_line(text), MAX_VALUE_CHARS))


def _unescaped(text: str) -> str:
    return re.sub(r"\\([\\|])", r"\1", text)


def torch_of(run: Run) -> str:
    """``2.13`` for ``2.13.0+cpu``."""
    found = _TORCH.match(str(run.environment.get("torch", "")))
    return found.group() if found else UNKNOWN_TORCH


def devices_of(run: Run) -> frozenset[str]:
    """The class of device that a run's operators are taken to have run on: ``cuda`` where CUDA was
    in use, for coverage does not say it call by call."""
    cuda = run.environment.get("cuda")
    devices = cuda.get("devices") if isinstance(cuda, dict) else None
    return frozenset({"cuda" if isinstance(devices, list) and devices else "cpu"})


def known_of(report: Report) -> dict[tuple[str, str, str], Known]:
    """What the report found, as a baseline's lines, the most severe verdict of each key."""
    found: dict[tuple[str, str, str], Known] = {}
    for _, item in lines_of(report):
        found.setdefault(key_of(item), item)
    return found


def lines_of(report: Report) -> Iterator[tuple[Entry, Known]]:
    """Each entry with the line that would know it, the most severe first."""
    torch_by_run = {run.id: torch_of(run) for run in report.runs}
    for divergence in divergences(report):
        for entry in divergence.entries:
            if entry.verdict.value != "not tested":
                yield entry, Known(
                    id=entry.cause or entry.id, verdict=entry.verdict.value, op=entry.finding.op,
                    where=_where(entry), torch=torch_by_run.get(entry.run, UNKNOWN_TORCH),
                    device=one_line(device_class(entry.finding.device)) or "unknown")


def _where(entry: Entry) -> str:
    """File, layer with its numbers left out, and test: what the fingerprint is made of."""
    file = entry.location.file if entry.location is not None else ""
    layer = re.sub(r"\d+", "*", entry.finding.module)
    return one_line(" ".join(part for part in (file, layer, entry.test) if part))


def environments_of(report: Report) -> dict[Key, dict[str, tuple[str, ...]]]:
    """The environments of the report's runs by key."""
    found: dict[Key, dict[str, tuple[str, ...]]] = {}
    for run in report.runs:
        for device in devices_of(run):
            fields = found.setdefault((torch_of(run), device), {})
            for name, value in flattened(run.environment).items():
                value = _as_read(value)
                fields[_as_read(name)] = tuple(sorted({*fields.get(_as_read(name), ()), value}))
    return found


def _as_read(text: str) -> str:
    """The text as it comes back from a baseline's file.  A long one ends in its digest, so that a
    change behind the cut is seen."""
    text = one_line(text)
    if len(text) <= MAX_VALUE_CHARS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{text[:MAX_VALUE_CHARS - 40].rstrip()} ... sha256 {digest}"


def updated(
    baseline: Baseline, report: Report, *, reason: str = "", expires: str = "",
    today: date | None = None,
) -> tuple[Baseline, int, int]:
    """The baseline with the report's findings added, and how many are new and renewed.

    A line that is there keeps its reason and expiry, and the more severe verdict; one that has
    expired and is found again is renewed if ``expires`` is given.  All other lines stay.

    Raises:
        UsageError: if ``expires`` is no date, or a finding has no fingerprint.
    """
    day = (today or date.today()).isoformat()
    if expires:
        check_date(expires)
    known = dict(baseline.known)
    num_new = num_renewed = 0
    for key, item in known_of(report).items():
        if not _ID.fullmatch(item.id):
            raise UsageError(f"a finding has the id {item.id[:40]!r}, which is no fingerprint (16 "
                             "hexadecimal digits); nothing was written")
        old = known.get(key)
        if old is None:
            num_new += 1
            known[key] = _replaced(item, reason=reason, expires=expires)
            continue
        verdict = min(old.verdict, item.verdict, key=SEVERITY.index)
        known[key] = _replaced(old, verdict=verdict)
        if expires and old.expires and old.expires < day:
            num_renewed += 1
            known[key] = _replaced(known[key], expires=expires, reason=reason or old.reason)
    environments = {**baseline.environments, **environments_of(report)}
    return replace(baseline, known=known, environments=environments), num_new, num_renewed


def _replaced(item: Known, **fields: str) -> Known:
    values = {name: getattr(item, name) for name in item.__struct_fields__}
    return Known(**{**values, **fields})


def without(baseline: Baseline, gone: Iterable[Known]) -> Baseline:
    """The baseline without these lines, and without environments that no line needs."""
    keys = {key_of(item) for item in gone}
    known = {key: item for key, item in baseline.known.items() if key not in keys}
    used = {(item.torch, item.device) for item in known.values()}
    environments = {key: value for key, value in baseline.environments.items() if key in used}
    return replace(baseline, known=known, environments=environments)
