"""The list of findings, as much of it as fits: rows before details, details before repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from sdc_guard.document.verdicts import SEVERITY
from sdc_guard.render.page.groups import STATES, Group
from sdc_guard.render.page.templating import environment
from sdc_guard.render.page.text import MAX_CHARS, counted, shown

MAX_REPEATS = 20
MAX_VALUES = 12
_ROW_SHARE = 0.5
_RESERVE_BYTES = 4_000
_NO_DETAIL = ('<p class="soft cut">Details left out to keep this page within its size; the '
              "document has them (<code>--json</code>).</p>")
_NO_REPEATS = ('<p class="soft cut">The list of its repeats is left out to keep this page within '
               "its size; the document has it (<code>--json</code>).</p>")


def findings_html(groups: Sequence[Group], drawn: frozenset[str], *, max_bytes: int,
                  max_chars: int = MAX_CHARS) -> str:
    """The findings' heading, filters and rows in at most ``max_bytes`` bytes.

    Rows take half of it at most, in the order of the groups; the rest goes to the details of
    findings, then to the lists of their repeats, again in that order.  ``drawn`` are the anchors
    of the groups that have pictures.
    """
    parts: Any = environment(max_chars).get_template("report/findings.html.j2").make_module()
    head = str(parts.head(len(groups), sum(g.count for g in groups), _facets(groups)))
    room = max_bytes - _size(head) - _RESERVE_BYTES
    rows, num_bytes = [], 0
    for number, group in enumerate(groups):
        row = _opening(group, is_open=number == 0) + str(parts.row(group))
        size = _size(row) + len(_NO_DETAIL + _NO_REPEATS + '<div class="body"></div></details>\n')
        if num_bytes + size > room * _ROW_SHARE:
            break
        rows.append(row)
        num_bytes += size
    kept = groups[:len(rows)]
    bodies = _bodies(parts, kept, drawn, room, num_bytes)
    items = [f'{row}<div class="body">{body}</div></details>\n'
             for row, body in zip(rows, bodies, strict=True)]
    return f"{head}{''.join(items)}{_left_out(groups[len(rows):])}"


def _bodies(parts: Any, groups: Sequence[Group], drawn: frozenset[str], room: int,
            num_bytes: int) -> list[str]:
    """What each finding shows when it is opened."""
    bodies = []
    is_full = False
    for group in groups:
        # Rendering stops at the first that does not fit: the order is that of importance.
        detail = "" if is_full else str(parts.detail(group, group.anchor in drawn))
        is_full = is_full or num_bytes + _size(detail) > room
        bodies.append(_NO_DETAIL if is_full else detail)
        num_bytes += 0 if is_full else _size(detail)
    for i, group in enumerate(groups):
        if len(group.entries) < 2 or bodies[i] is _NO_DETAIL:
            continue
        repeats = "" if is_full else str(parts.repeats(group, MAX_REPEATS))
        is_full = is_full or num_bytes + _size(repeats) > room
        bodies[i] += _NO_REPEATS if is_full else repeats
        num_bytes += 0 if is_full else _size(repeats)
    return bodies


def _size(text: str) -> int:
    return len(text.encode())


def _opening(group: Group, *, is_open: bool) -> str:
    tools = sorted({e.tool for e in group.entries})
    opening = Markup('<details class="finding v-{}" id="{}" data-verdict="{}" data-cause="{}" '
                  'data-state="{}" data-tool="{}"{}>').format(
        group.verdict.replace(" ", "-"), group.anchor, _values(list(group.verdicts)),
        _values(group.causes), _values([group.state] if group.state else []),
        _values([shown(tool, 80) for tool in tools[:MAX_VALUES]]),
        Markup(" open") if is_open else "")
    return str(opening)


def _values(values: list[str]) -> str:
    """Several values in one attribute: ``|software|unknown|``."""
    return f"|{'|'.join(values)}|"


def _facets(groups: Sequence[Group]) -> dict[str, dict[str, int]]:
    """What the list can be filtered by: by facet, its values with the kinds of finding of each."""
    verdicts = Counter(v for g in groups for v in g.verdicts)
    causes = Counter(c for g in groups for c in g.causes)
    states = Counter(g.state for g in groups if g.state)
    tools = Counter(shown(t, 80) for g in groups for t in {e.tool for e in g.entries})
    return {
        "verdict": {word: verdicts[word] for word in SEVERITY if verdicts[word]},
        "cause": dict(causes.most_common()),
        "state": {word: states[word] for word in STATES if states[word]},
        "tool": dict(tools.most_common(MAX_VALUES)),
    }


def _left_out(groups: Sequence[Group]) -> str:
    """How many kinds of finding have no row, by verdict."""
    if not groups:
        return ""
    counts = Counter(g.verdict for g in groups)
    words = ", ".join(f"{counts[word]:,} {word}" for word in SEVERITY if counts[word])
    findings = counted(sum(g.count for g in groups), "finding")
    return (f'<p class="cut" id="left-out"><strong>{counted(len(groups), "more kind")} of finding '
            f"({escape(words)}; {findings}) not shown, to keep this page within its size.</strong> "
            "The least severe and latest are left out; the document has all "
            "(<code>--json</code>).</p>")
