"""All templates of a hunt: of the op table, of torch's catalogue or the built-in one, of traces."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sdc_guard.errors import UsageError
from sdc_guard.hunt.builtin_catalogue import builtin_templates
from sdc_guard.hunt.catalogue import read_catalogue
from sdc_guard.hunt.guesses import guesses
from sdc_guard.hunt.selection import chosen, matches, may_match
from sdc_guard.hunt.targets import allow, resolve
from sdc_guard.hunt.templates import Template, of_spec
from sdc_guard.ops import all_specs


@dataclass(frozen=True, slots=True)
class Templates:
    """``by_target``: target names, sorted, to their templates.  ``catalogue`` tells which catalogue
    was read (``torch's op_db, 702 entries``, ``built-in``); ``skipped`` why entries of it are left
    out, by name."""

    by_target: dict[str, tuple[Template, ...]]
    catalogue: str
    skipped: dict[str, str] = field(default_factory=dict)

    def reasons(self) -> Counter[str]:
        """How many entries were skipped for each reason."""
        return Counter(self.skipped.values())


def load_templates(
    cache: Path, *, ops: tuple[str, ...] = (), traces: tuple[Path, ...] = ()
) -> Templates:
    """What a hunt may call.

    Args:
        cache: a folder for what was read of torch's catalogue; made if missing.
        ops: overloads (``aten.sum.dim_IntList``), packets (``aten.sum``, ``sum``), names of the
            catalogue (``nn.functional.gelu``), Python paths, or globs of these.
        traces: files of ``sdc-guard trace``; with any, nothing but their calls is hunted.

    Raises:
        UsageError: for a pattern that means nothing here, or a trace that cannot be read.
    """
    if traces:
        reader = importlib.import_module("sdc_guard.hunt.traces")
        read = [reader.read_templates(path) for path in traces]
        found = [t for part in read for t in part.templates]
        skipped = {why: why.partition(": ")[2] for part in read for why in part.skipped}
        for pattern in ops:
            if not any(matches(t, (pattern,)) for t in found):
                raise UsageError(f"--ops {pattern!r} means none of the {len(found)} calls of "
                                 f"{', '.join(map(str, traces))}")
        return Templates(_by_target(chosen(found, ops)), "traces", skipped)
    entries, told, skipped = _catalogue(cache)
    found = [t for spec in all_specs() if may_match(spec.packet, ops) for t in of_spec(spec)]
    found += entries
    paths = tuple(p for p in ops if not any(matches(t, (p,)) for t in found))
    found += [t for path in paths for t in _guessed(path)]
    return Templates(_by_target(chosen(found, ops)), told, skipped)


def _catalogue(cache: Path) -> tuple[list[Template], str, dict[str, str]]:
    """Templates, what they were read from, and what was skipped."""
    read, reason = read_catalogue(cache)
    if read is None:
        return list(builtin_templates()), f"built-in ({reason})", {}
    here = frozenset(t.trial.target for t in read.templates)
    return ([*read.templates, *builtin_templates(here)],
            f"torch's op_db, {read.num_entries} entries", read.skipped)


def _guessed(path: str) -> list[Template]:
    """Calls of a function that no table knows.

    Raises:
        UsageError: if there is no such function, or it takes none of the guessed calls.
    """
    if "." not in path or any(c in path for c in "*?[]"):
        raise UsageError(
            f"--ops {path!r} means no call that is known; give an overload (aten.sum.dim_IntList), "
            "a packet (sum), a name of torch's catalogue (nn.functional.gelu), the Python path of "
            "a function of your own, or a glob (*norm*)")
    allow(path)  # it was typed, whole
    resolve(path)
    found = list(guesses(path))
    if not found:
        raise UsageError(
            f"--ops {path!r}: it takes none of the calls that can be guessed (one to three "
            "floating tensors); record its calls with `sdc-guard trace` and hunt with --trace")
    return found


def _by_target(templates: Iterable[Template]) -> dict[str, tuple[Template, ...]]:
    by_target: dict[str, list[Template]] = {}
    for template in templates:
        by_target.setdefault(template.trial.target, []).append(template)
    return {name: tuple(by_target[name]) for name in sorted(by_target)}
