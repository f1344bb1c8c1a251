"""The environments of a report's runs side by side: what they share, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sdc_guard.document.schema import Run

MAX_DEPTH = 12
NOT_SET = "not set"


@dataclass(frozen=True)
class Setting:
    """A field of the environment, ``cpu.microcode``; ``values`` are (value, runs that have it),
    the most frequent first."""

    name: str
    values: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def differs(self) -> bool:
        return len(self.values) > 1

    @property
    def is_unset(self) -> bool:
        return not self.differs and self.values[0][0] == NOT_SET

    def below(self, head: str) -> str:
        """The name without its head."""
        return self.name[len(head) + 1:] if head else self.name


@dataclass(frozen=True)
class Surroundings:
    """All settings under the head of their name (head, settings, names that are not set anywhere),
    those that differ between runs again apart."""

    heads: tuple[tuple[str, tuple[Setting, ...], tuple[str, ...]], ...]
    differing: tuple[Setting, ...]
    num_settings: int
    num_more: int


def surroundings_of(runs: Sequence[Run], *, max_rows: int) -> Surroundings | None:
    """The settings of all runs; None where no run has any."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, value in _flat(run.environment, ""):
            found.setdefault(name, {}).setdefault(value, []).append(run.id)
    num_runs = sum(1 for run in runs if run.environment)
    if not found:
        return None
    settings = [_setting(name, values, num_runs) for name, values in found.items()]
    heads: dict[str, list[Setting]] = {}
    for setting in settings[:max_rows]:
        head, dot, _ = setting.name.partition(".")
        heads.setdefault(head if dot else "", []).append(setting)
    return Surroundings(
        heads=tuple((head, tuple(s for s in some if not s.is_unset),
                     tuple(s.below(head) for s in some if s.is_unset))
                    for head, some in sorted(heads.items())),
        differing=tuple(s for s in settings if s.differs)[:max_rows],
        num_settings=len(settings), num_more=max(0, len(settings) - max_rows))


def _setting(name: str, values: dict[str, list[str]], num_runs: int) -> Setting:
    missing = num_runs - sum(map(len, values.values()))
    rows = sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
    pairs = [(value, tuple(ids)) for value, ids in rows]
    if missing:
        pairs.append(("(absent)", (f"{missing} more",)))
    return Setting(name, tuple(pairs))


def _flat(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every leaf."""
    if isinstance(value, dict) and value and depth < MAX_DEPTH:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, list) and value and depth < MAX_DEPTH and any(
            isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            yield from _flat(item, f"{name}[{i}]", depth + 1)
    elif isinstance(value, list):
        yield name, ", ".join(map(_text, value)) or "none"
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    if value is None:
        return NOT_SET
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
