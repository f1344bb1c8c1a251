"""The programs that are set beside each other: how each is run on all cores, and what it says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

CLEAN, CAUGHT, SUSPECTED, CRASHED, BROKEN = (
    "clean", "caught", "suspected", "crashed", "could not be run")


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """``word``; the cores that it ``named`` as wrong; what it counted, per second of its run."""

    word: str
    named: tuple[int, ...] = ()
    rates: dict[str, float] = {}
    tail: str = ""


@dataclass(frozen=True)
class Tool:
    """``command`` for seconds and an empty folder; ``read`` for exit code, what was printed, the
    folder and seconds.  ``compares`` says with what, ``counts`` what it says of its work."""

    name: str
    compares: str
    counts: str
    command: Callable[[float, Path], Sequence[str]]
    read: Callable[[int, str, Path, float], Said]


def _ours(seconds: float, folder: Path) -> Sequence[str]:
    return (sys.executable, "-m", "sdc_guard", "sweep", "--seconds", f"{seconds:g}", "--fresh",
            "--quiet", "--out", str(folder), "--state", str(folder / "state"))


def read_ours(code: int, text: str, folder: Path, seconds: float) -> Said:
    """Exit codes of docs/sweep.md; places of what is corruption."""
    path = folder / "sweep.json"
    document = json.loads(path.read_bytes()) if path.exists() else {}
    sweep = document.get("sweep") or {}
    places = " ".join(str((e["finding"].get("attribution") or {}).get("place", ""))
                      for e in document.get("findings", []) if e["verdict"] == "corruption")
    lost = any(e["finding"]["witness"] == "process" for e in document.get("findings", []))
    word = {0: CLEAN, 1: CRASHED if lost else CAUGHT, 3: SUSPECTED, 4: CRASHED}.get(code, BROKEN)
    return Said(
        word=word, named=tuple(sorted({int(n) for n in re.findall(r"\bcore (\d+)", places)})),
        rates={"results": sweep.get("checks", 0) / seconds,
               "bytes": sweep.get("num_bytes", 0) / seconds,
               "FLOP": sweep.get("flops", 0) / seconds}, tail="" if word == CLEAN else text[-300:])


def _stress_ng(seconds: float, folder: Path) -> Sequence[str]:
    return ("stress-ng", "--cpu", "0", "--cpu-method", "all", "--matrix", "0", "--vm", "1",
            "--vm-bytes", "32m", "--verify", "--metrics", "--timeout", f"{seconds:g}s",
            "--temp-path", str(folder))


def read_stress_ng(code: int, text: str, folder: Path, seconds: float) -> Said:
    """Exit codes of its manual: 0 good, 2 a stressor failed."""
    rates = {f"bogo operations ({name})": int(ops) / seconds for name, ops in re.findall(
        r"^stress-ng: metrc: \[\d+\] (cpu|matrix|vm) +(\d+) ", text, re.MULTILINE)}
    if re.search(r"terminated (on|by) signal|SIGSEGV|SIGBUS|SIGILL|SIGFPE", text):
        word = CRASHED
    elif code == 2 or re.search(r"^stress-ng: fail:", text, re.MULTILINE):
        word = CAUGHT
    else:
        word = CLEAN if code == 0 else BROKEN
    return Said(word=word, rates=rates, tail="" if word == CLEAN else text[-300:])


def read_open_dcdiag(code: int, text: str, folder: Path, seconds: float) -> Said:
    """Its log has ``result: pass`` (``fail``, ``crash``) for each test, and of a failure the
    threads with their CPUs."""
    path = folder / "log.yaml"
    log = path.read_text(errors="replace") if path.exists() else ""
    results = re.findall(r"^ +result: ([a-z ]+)$", log, re.MULTILINE)
    if "fail" in results:
        word = CAUGHT
    elif {"crash", "timed out"}.intersection(results):
        word = CRASHED
    else:
        word = CLEAN if code == 0 and "pass" in results else BROKEN
    failed = re.findall(r"^ +id: \{[^\n]*?logical: (\d+)[^\n]*\n +state: failed", log, re.MULTILINE)
    return Said(word=word, named=tuple(sorted({int(n) for n in failed})),
                rates={"tests passed": results.count("pass") / seconds},
                tail="" if word == CLEAN else (text + log)[-300:])


def open_dcdiag(program: Path) -> Tool:
    """Built from its source."""
    def command(seconds: float, folder: Path) -> Sequence[str]:
        return (str(program), "-T", f"{seconds:g}s", "--strict-runtime", "-t", "300ms", "-q",
                "-o", str(folder / "log.yaml"))
    return Tool("OpenDCDiag", "what the same machine computed a moment before (Eigen's products "
                "and SVD), and the round trip of compression", "neither bytes nor FLOP", command,
                read_open_dcdiag)


OURS = Tool("sdc-guard sweep", "answers known beforehand; peers, golden digests, itself",
            "results, bytes and FLOP", _ours, read_ours)
STRESS_NG = Tool("stress-ng --verify",
                 "sums and constants in its source, patterns of memory, itself",
                 "bogo operations, neither bytes nor FLOP", _stress_ng, read_stress_ng)
