"""One sweep by the command line, in a process of its own with a faulty core or without, and how
what it said is scored."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.sweep_power.plan import GROUPS, Fault

LAUNCHER = Path(__file__).parent / "launcher"
REPOSITORY = Path(__file__).parents[2]
PER_OP = struct.Struct("qq")
SLACK_S = 120.0
"""What a sweep may take beyond its budget: a busy machine, retests of a wrong number."""

FOUND, ALL_CORES, NOBODY = "found and blamed", "found, the host blamed", "found, nobody blamed"
WRONG_BLAME, SUSPECTED = "another core blamed", "suspected only"
MISSED, IDLE, BROKEN = "missed", "too little was verified", "the sweep failed"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep said.  ``calls`` and ``struck`` count, by group, the calls of overridden kernels
    on the faulty core and those whose result was changed, in all processes of the sweep;
    ``own_calls`` those by that core's own worker alone.  ``blamed`` are the places of all
    corruption, ``suspected`` of what is inconclusive; ``word`` is the score."""

    exit_code: int
    word: str
    blamed: tuple[str, ...]
    suspected: tuple[str, ...]
    tests: tuple[str, ...]
    elapsed_s: float
    checks: int
    calls: dict[str, int] = msgspec.field(default_factory=dict)
    own_calls: dict[str, int] = msgspec.field(default_factory=dict)
    struck: dict[str, int] = msgspec.field(default_factory=dict)
    tail: str = ""


def environment(
    fault: Mapping[str, Any] | None, variables: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Variables of a process on a machine with this fault, as ``launcher/faulty_core.py`` reads it,
    and with ``variables`` of the launcher; with None of both it is a sound machine."""
    found = {**os.environ, **(variables or {}), "PYTHONPATH": os.pathsep.join(
        [*([str(LAUNCHER)] if fault or variables else []), str(REPOSITORY),
         str(REPOSITORY / "kernels")])}
    if fault:
        found["SWEEP_POWER_FAULT"] = json.dumps(fault)
    return found


def sweep(
    fault: Fault | None, seconds: float, *, counted: int | None = None,
    arguments: Sequence[str] = (),
) -> Outcome:
    """Run ``sdc-guard sweep`` as a user does.  ``counted``: no fault, but all calls on that core
    are counted."""
    with tempfile.TemporaryDirectory(prefix="sweep-power-") as name:
        folder = Path(name)
        counts = folder / "counts"
        counts.mkdir()
        planted: dict[str, Any] | None = None
        if fault is not None:
            planted = {"core": fault.core, "ops": GROUPS[fault.group], "kind": fault.kind,
                       "rate": fault.rate, "seed": fault.seed, "counts": str(counts)}
        elif counted is not None:
            planted = {"core": counted, "ops": [op for ops in GROUPS.values() for op in ops],
                       "kind": "low bit", "rate": 0.0, "seed": 0, "counts": str(counts)}
        command = [sys.executable, "-m", "sdc_guard", "sweep", "--seconds", f"{seconds:g}",
                   "--fresh", "--out", str(folder / "out"), "--state", str(folder / "state"),
                   "--quiet", *arguments]
        started_s = time.monotonic()
        try:
            done = subprocess.run(command, env=environment(planted), capture_output=True, text=True,
                                  timeout=seconds + SLACK_S, check=False)
            code, tail = done.returncode, ended_with(done.stderr)
        except subprocess.TimeoutExpired:
            code, tail = -1, "it did not end"
        elapsed_s = time.monotonic() - started_s
        path = folder / "out" / "sweep.json"
        document = json.loads(path.read_bytes()) if path.exists() else {}
        calls = read_counts(counts, planted["ops"], planted["core"]) if planted else Counts()
        return scored(fault.core if fault else None, code, document, elapsed_s, tail, calls)


def ended_with(text: str) -> str:
    """The exit code and what follows it, without the folder of this run."""
    return text[max(0, text.rfind("exit code")):].partition("wrote ")[0].strip()[:400]


class Counts(msgspec.Struct):
    """By group: calls, those by the core's own worker, those whose result was changed."""

    calls: Counter[str] = msgspec.field(default_factory=Counter)
    own_calls: Counter[str] = msgspec.field(default_factory=Counter)
    struck: Counter[str] = msgspec.field(default_factory=Counter)


def read_counts(folder: Path, ops: Sequence[str], core: int) -> Counts:
    """Over all processes that left a file in the folder."""
    group_of = {op: group for group, names in GROUPS.items() for op in names}
    found = Counts()
    for path in folder.iterdir():
        for op, (called, changed) in zip(ops, PER_OP.iter_unpack(path.read_bytes()), strict=True):
            found.calls[group_of[op]] += called
            found.struck[group_of[op]] += changed
            if path.name.endswith(f"core {core}"):
                found.own_calls[group_of[op]] += called
    return found


def scored(
    core: int | None, code: int, document: Mapping[str, Any], elapsed_s: float, tail: str,
    counts: Counts,
) -> Outcome:
    """The word for a report; ``core`` is the faulty one."""
    entries = document.get("findings", [])
    blamed = tuple(sorted({place_of(e) for e in entries if e["verdict"] == "corruption"}))
    suspected = tuple(sorted({place_of(e) for e in entries if e["verdict"] == "inconclusive"}))
    return Outcome(
        exit_code=code, word=_word(core, code, blamed, suspected), blamed=blamed,
        suspected=suspected,
        tests=tuple(sorted({e["test"] for e in entries})), elapsed_s=elapsed_s,
        checks=(document.get("sweep") or {}).get("checks", 0), calls=dict(counts.calls),
        own_calls=dict(counts.own_calls), struck=dict(counts.struck),
        tail="" if code in (0, 1) else tail)


def place_of(entry: Mapping[str, Any]) -> str:
    """Whom an entry blames: ``core 1``, ``all cores``, or nobody.  In a report that is the place
    on the host, and the part of it (a page of memory) may follow."""
    place = str((entry["finding"].get("attribution") or {}).get("place", ""))
    parts = place.split(", ")[1:]
    cores = [part for part in parts if part.startswith("core ")]
    return ", ".join(cores or parts[:1])


def _word(
    core: int | None, code: int, blamed: Sequence[str], suspected: Sequence[str]
) -> str:
    if code not in (0, 1, 3):
        return BROKEN
    if any(place.startswith("core ") and place != f"core {core}" for place in blamed):
        return WRONG_BLAME
    if code == 0:
        return MISSED
    if code == 3:
        return SUSPECTED if suspected else IDLE
    if f"core {core}" in blamed:
        return FOUND
    return ALL_CORES if any(blamed) else NOBODY
