"""The pictures of a report: of all wrong numbers of a dtype, and of each kind of finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sdc_guard.records import Finding
from sdc_guard.render.page import patterns
from sdc_guard.render.page.groups import Group
from sdc_guard.render.page.numbers import layout_of
from sdc_guard.render.page.spreads import Total, dtype_of, total_of
from sdc_guard.render.page.text import short_op

MAX_SUMS = 6


@dataclass(frozen=True)
class Sum:
    """The bits of all findings in one dtype."""

    total: Total
    bits: Markup | None
    bit_words: str
    masks: list[patterns.MaskRow]


@dataclass(frozen=True)
class Card:
    """The pictures of one kind of finding."""

    anchor: str
    name: str
    verdict: str
    total: Total
    bits: Markup | None
    bit_words: str
    masks: list[patterns.MaskRow]
    errors: Markup | None
    error_words: str
    map: Markup | None
    map_words: str
    lanes: list[Markup]


def cards_of(groups: Sequence[Group], *, max_cards: int) -> tuple[list[Card], int]:
    """Cards of the first groups that have something to draw, and how many more there are."""
    drawable = [g for g in groups if any(e.finding.spread is not None for e in g.entries)]
    cards = [_card(g, total) for g in drawable[:max_cards] if (total := g.total) is not None]
    return cards, max(0, len(drawable) - max_cards)


def sums_of(groups: Sequence[Group]) -> list[Sum]:
    """One sum for each dtype that several kinds of finding share, the most findings first."""
    by_dtype: dict[str, list[Finding]] = {}
    kinds: dict[str, set[str]] = {}
    for group in groups:
        for entry in group.entries:
            if entry.finding.spread is not None:
                dtype = dtype_of(entry.finding)
                by_dtype.setdefault(dtype, []).append(entry.finding)
                kinds.setdefault(dtype, set()).add(group.anchor)
    shared = sorted((d for d in by_dtype if len(kinds[d]) > 1), key=lambda d: -len(by_dtype[d]))
    totals = [total_of(by_dtype[dtype]) for dtype in shared[:MAX_SUMS]]
    return [Sum(total, patterns.bit_chart(total), patterns.bit_words(total),
                patterns.mask_rows(total)) for total in totals if total is not None]


def _card(group: Group, total: Total) -> Card:
    layout = layout_of(total.dtype)
    return Card(
        anchor=group.anchor, name=f"{short_op(group.finding.op)}, "
        + (group.lead.unit if group.is_swept else group.module),
        verdict=group.verdict, total=total, bits=patterns.bit_chart(total),
        bit_words=patterns.bit_words(total), masks=patterns.mask_rows(total),
        errors=patterns.error_chart(total), error_words=patterns.error_words(total),
        map=patterns.element_map(total),
        map_words=patterns.map_words(total, layout.bits // 8 if layout else 0),
        lanes=patterns.lane_charts(total))
