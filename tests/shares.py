"""Which cases of a long list run with the fast tests; the others are marked slow.

All of them together take longer than `make test` may, and each group of cases proves its claim by
any one of them: so a fixed share of each is fast, and `make test-slow` runs the rest.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow(case: Any) -> Any:
    """The case, marked as slow; its id stays."""
    if isinstance(case, pytest.ParameterSet):
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, pytest.mark.slow])
    return pytest.param(*case, marks=pytest.mark.slow) if isinstance(case, tuple) else pytest.param(
        case, marks=pytest.mark.slow)


def one_of_each(cases: Iterable[Any], group: Callable[[Any], str]) -> list[Any]:
    """All cases, of which one of each group stays fast: which one, the checksum of the group's
    name says, so that the choice is the same everywhere and turns from group to group."""
    listed = list(cases)
    members: dict[str, list[int]] = {}
    for i, case in enumerate(listed):
        members.setdefault(group(case), []).append(i)
    fast = {of[zlib.crc32(name.encode()) % len(of)] for name, of in members.items()}
    return [case if i in fast else slow(case) for i, case in enumerate(listed)]


def is_in(name: str, part: int, parts: int) -> bool:
    """Whether the checksum of the name puts it into this one of the parts."""
    return zlib.crc32(name.encode()) % parts == part
