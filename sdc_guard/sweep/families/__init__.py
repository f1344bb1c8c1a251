"""The tests, one file each: a file's ``TESTS`` is all that there is to register."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache

from sdc_guard.errors import UsageError
from sdc_guard.sweep.declared import SweepTest


@cache
def all_tests() -> dict[str, SweepTest]:
    """Every test by its name, in the order of families and names."""
    found: dict[str, SweepTest] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        for test in importlib.import_module(f"{__name__}.{module.name}").TESTS:
            assert test.name not in found, f"two tests are called {test.name}"
            found[test.name] = test
    return dict(sorted(found.items(), key=lambda item: (int(item[1].family[1:]), item[0])))


def chosen(names: Iterable[str]) -> dict[str, SweepTest]:
    """The tests that are named, by name or family (``F3``); all for no name.

    Raises:
        UsageError: for a name that is none.
    """
    tests, wanted = all_tests(), list(names)
    if not wanted:
        return tests
    families = {test.family for test in tests.values()}
    unknown = [name for name in wanted if name not in tests and name.upper() not in families]
    if unknown:
        raise UsageError(f"no test is called {', '.join(unknown)}; tests: {', '.join(tests)}; or "
                         f"name a family: {', '.join(sorted(families))}")
    return {name: test for name, test in tests.items()
            if name in wanted or any(test.family == w.upper() for w in wanted)}
