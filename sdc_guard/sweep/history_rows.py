"""A unit's record in the history: its sweeps, its words by test, and what was wrong with it."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

from sdc_guard.records import Record

EARLIER = "earlier sweeps"
"""Stands for all sweeps before the latest ones."""
MAX_SWEEPS = 50
MAX_FAILURES = 50


class PastSweep(Record, frozen=True, kw_only=True):
    """One sweep of a unit: when it ended, and its tests by word ("" while none was decided)."""

    id: str
    last_utc: str
    seconds: float
    checks: int
    words: dict[str, int]


class PastFailure(Record, frozen=True, kw_only=True):
    """A finding on a unit.  ``wrong`` of ``tried`` repetitions were wrong, where counted."""

    time_utc: str
    sweep: str
    test: str
    word: str
    op: str
    detail: str
    xor: str
    wrong: int | None
    tried: int | None
    replay: str


class UnitRecord(Record, frozen=True, kw_only=True):
    """All that is known of a unit; ``words`` counts sweeps by word for each test, ``sweeps`` and
    ``failures`` are the latest first, and the latest alone where there are many."""

    host: str
    unit: str
    num_sweeps: int
    seconds: float
    checks: int
    first_utc: str
    last_utc: str
    words: dict[str, dict[str, int]]
    sweeps: tuple[PastSweep, ...]
    failures: tuple[PastFailure, ...]


def rows_of(
    database: sqlite3.Connection, *, unit: str | None, host: str | None, since: datetime | None
) -> list[UnitRecord]:
    """One for each unit that fits, by host and name."""
    given = {"unit": unit, "host": host,
             "since": None if since is None else since.astimezone(UTC).isoformat(
                 timespec="microseconds")}
    where = ("(:unit IS NULL OR unit = :unit) AND (:host IS NULL OR host = :host) "
             "AND (:since IS NULL OR {time} >= :since)")
    sweeps: dict[tuple[str, str], dict[str, PastSweep]] = {}
    words: dict[tuple[str, str], dict[str, dict[str, int]]] = {}
    firsts: dict[tuple[str, str], str] = {}
    for a_host, a_unit, sweep, test, seconds, checks, word, last in database.execute(
            "SELECT host, unit, sweep, test, seconds, checks, word, last_utc FROM visits WHERE "
            f"{where.format(time='last_utc')} ORDER BY host, unit, last_utc, rowid", given):
        place = (a_host, a_unit)
        firsts.setdefault(place, last)
        was = sweeps.setdefault(place, {}).get(sweep)
        told = dict(was.words) if was is not None else {}
        if word:
            told[word] = told.get(word, 0) + 1
            by_word = words.setdefault(place, {}).setdefault(test, {})
            by_word[word] = by_word.get(word, 0) + 1
        sweeps[place][sweep] = PastSweep(
            id=sweep, last_utc=last, seconds=seconds + (was.seconds if was else 0.0),
            checks=checks + (was.checks if was else 0), words=told)
    failures: dict[tuple[str, str], list[PastFailure]] = {}
    for a_host, a_unit, *rest in database.execute(
            "SELECT host, unit, time_utc, sweep, test, word, op, detail, xor, wrong, tried, replay "
            f"FROM findings WHERE {where.format(time='time_utc')} "
            "ORDER BY time_utc DESC, rowid DESC", given):
        failures.setdefault((a_host, a_unit), []).append(PastFailure(
            **dict(zip(PastFailure.__struct_fields__, rest, strict=True))))
    return [_record(place, sweeps.get(place, {}), words.get(place, {}), firsts.get(place, ""),
                    failures.get(place, [])) for place in sorted({*sweeps, *failures})]


def _record(
    place: tuple[str, str], sweeps: dict[str, PastSweep], words: dict[str, dict[str, int]],
    first: str, failures: list[PastFailure],
) -> UnitRecord:
    # Of two within one tick of the clock the one added later is the later one.
    latest = sorted(reversed(sweeps.values()), key=lambda s: (s.id != EARLIER, s.last_utc),
                    reverse=True)
    return UnitRecord(
        host=place[0], unit=place[1], num_sweeps=len(latest),
        seconds=sum(s.seconds for s in latest), checks=sum(s.checks for s in latest),
        first_utc=first, last_utc=latest[0].last_utc if latest else failures[0].time_utc,
        words=words, sweeps=tuple(latest[:MAX_SWEEPS]), failures=tuple(failures[:MAX_FAILURES]))
