"""A family of metrics in the exposition format, and what several families need."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sdc_guard.document.text import printable, sound

Labels = tuple[tuple[str, str], ...]


class Metric:
    """One family: samples with equal labels are added up, for a series may occur only once."""

    def __init__(self, name: str, kind: str, help_text: str) -> None:
        self.name = name
        self._kind = kind
        self._help = help_text
        self._samples: dict[Labels, float] = {}

    def add(self, value: float, labels: Labels = ()) -> None:
        """One more sample; equal labels are added up."""
        self._samples[labels] = self._samples.get(labels, 0) + value

    def lines(self) -> Iterator[str]:
        """The family's help, type and samples."""
        yield f"# HELP {self.name} {self._help}"
        yield f"# TYPE {self.name} {self._kind}"
        for labels, value in sorted(self._samples.items()):
            inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
            yield f"{self.name}{{{inside}}} {value:.17g}" if inside else f"{self.name} {value:.17g}"


def seconds_of(moment: str) -> float | None:
    """Seconds since the epoch, None for a text that is no moment."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _escaped(text: str) -> str:
    return (printable(sound(text)).replace("\\", "\\\\").replace('"', '\\"')
            .replace("\n", "\\n"))
