"""``hunt verify``: a finding's script under other interpreters: other versions of torch."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from sdc_guard.errors import UsageError
from sdc_guard.hunt.script_runs import CRASH, FAILED, HANG, RIGHT, WRONG, outcome_of
from sdc_guard.records import Record

WORDS = (WRONG, RIGHT, CRASH, HANG, FAILED)
_ASK = "import sys, torch; print(torch.__version__, sys.version.split()[0])"


class Verification(Record, frozen=True, kw_only=True):
    """One interpreter: ``word`` is one of :data:`WORDS`, ``said`` the last line of its output;
    ``torch`` is empty where torch could not be imported, which is ``failed``."""

    python: str
    torch: str
    python_version: str
    word: str
    said: str


def verify(
    script: Path, pythons: Sequence[str], *, timeout_s: float = 300.0
) -> tuple[Verification, ...]:
    """Run a script under each interpreter.

    Raises:
        UsageError: if there is no such script, or no interpreter is given.
    """
    if not script.is_file():
        raise UsageError(f"there is no script {script}; give one that a hunt wrote")
    if not pythons:
        raise UsageError("no interpreter is given; name one or more with --python")
    if timeout_s <= 0:
        raise UsageError(f"a limit of {timeout_s} s leaves no time; give more than 0")
    return tuple(_one(script.resolve(), python, timeout_s) for python in pythons)


def _one(script: Path, python: str, timeout_s: float) -> Verification:
    torch, version, problem = _versions(python, timeout_s)
    if problem:
        return Verification(python=python, torch=torch, python_version=version, word=FAILED,
                            said=problem)
    word, said = outcome_of(script, python, timeout_s)
    return Verification(python=python, torch=torch, python_version=version, word=word, said=said)


def _versions(python: str, timeout_s: float) -> tuple[str, str, str]:
    """Of torch and Python, and why they are not known."""
    try:
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True,
                              errors="replace", timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return "", "", f"importing torch took more than {timeout_s:g} s"
    except OSError as error:
        return "", "", f"cannot run it: {error}"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return "", "", last[:300]
    lines = done.stdout.strip().splitlines()
    if not lines:
        return "", "", "it ends without a word: it is no Python"
    torch, _, version = lines[-1].partition(" ")
    return torch, version, ""


def table(verifications: Sequence[Verification]) -> str:
    """Aligned text: torch version, Python version, word, interpreter."""
    rows = [("torch", "python", "result", "interpreter"),
            *((v.torch or "none", v.python_version or "?", v.word, v.python)
              for v in verifications)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]).rstrip()
             for row in rows]
    notes = [f"{v.python}: {v.said}" for v in verifications if v.word == FAILED]
    return "\n".join([*lines, *notes])
