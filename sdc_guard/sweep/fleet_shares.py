"""Who fails how often in a fleet: by host, device model, unit and test, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from sdc_guard.document.schema import Cell, FleetShare, Outlier, SweptUnit
from sdc_guard.document.text import counted
from sdc_guard.intervals import proportion
from sdc_guard.sweep.words import AMBIGUOUS, FAIL, SUSPECT

MAX_OUTLIERS = 100
MAX_SHARES = 100
"""Of each kind: those that fail most; the others have failed in nothing or in less."""


def outliers(
    cells: Sequence[Cell], units: Mapping[str, SweptUnit], outvoted: Mapping[str, int]
) -> tuple[Outlier, ...]:
    """Units with a test that does not pass, the worst first."""
    found = []
    for unit_id, own in _grouped(cells, lambda cell: cell.unit).items():
        failing = [c for c in own if c.word == FAIL]
        open_ = [c for c in own if c.word in (SUSPECT, AMBIGUOUS)]
        if not failing and not open_:
            continue
        unit = units.get(unit_id)
        found.append(Outlier(
            unit=unit_id, host=_host(unit), model=model_of(unit), failing=len(failing),
            open=len(open_), tested=sum(map(_is_tested, own)), outvoted=outvoted.get(unit_id, 0),
            reason=f"{(failing or open_)[0].test}: {(failing or open_)[0].reason}"))
    found.sort(key=lambda o: (-o.failing, -o.outvoted, -o.open, o.unit))
    return tuple(found[:MAX_OUTLIERS])


def shares_of(
    cells: Sequence[Cell], units: Mapping[str, SweptUnit]
) -> tuple[FleetShare, ...]:
    """Of the fleet, of each host, model and test: units that fail; of each unit that fails: its
    tests.  What was not tested counts in neither number."""
    tested = [c for c in cells if _is_tested(c)]
    shares = [_share("fleet", "hosts", "hosts", _failing_of(
        tested, lambda c: _host(units.get(c.unit)))),
        _share("fleet", "units", "units", _failing_of(tested, lambda c: c.unit))]
    for by, name_of in (
        ("host", lambda c: _host(units.get(c.unit))),
        ("model", lambda c: model_of(units.get(c.unit))),
        ("test", lambda c: c.test),
    ):
        shares += _most([_share(by, name, "units", _failing_of(own, lambda c: c.unit))
                         for name, own in _grouped(tested, name_of).items()])
    shares += [share for share in _most([
        _share("unit", name, "tests", _failing_of(own, lambda c: c.test))
        for name, own in _grouped(tested, lambda c: c.unit).items()]) if share.failing]
    return tuple(share for share in shares if share.tested)


def notes_of(cells: Sequence[Cell], units: Mapping[str, SweptUnit]) -> list[str]:
    """Tests that fail on every host that ran them."""
    notes = []
    for test, own in _grouped(filter(_is_tested, cells), lambda cell: cell.test).items():
        by_host = _failing_of(own, lambda c: _host(units.get(c.unit)))
        if len(by_host) > 1 and all(by_host.values()):
            notes.append(f"{test} fails on all {counted(len(by_host), 'host')} that ran it: "
                         "software or toolchain likely")
    return notes


def model_of(unit: SweptUnit | None) -> str:
    """``core AMD EPYC 7763, stepping 1``: what units of one make have in common."""
    if unit is None:
        return "unknown"
    stepping = unit.facts.get("stepping")
    return (f"{unit.kind} {unit.facts.get('model', 'of unknown model')}"
            + (f", stepping {stepping}" if stepping else ""))


def _host(unit: SweptUnit | None) -> str:
    return unit.facts.get("host", "unknown") if unit is not None else "unknown"


def _is_tested(cell: Cell) -> bool:
    return bool(cell.checks) or cell.word in (FAIL, SUSPECT, AMBIGUOUS)


def _grouped(cells: Iterable[Cell], name_of: Callable[[Cell], str]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(name_of(cell), []).append(cell)
    return found


def _failing_of(cells: Iterable[Cell], name_of: Callable[[Cell], str]) -> dict[str, bool]:
    """Whether each of those that are named has a FAIL."""
    return {name: any(c.word == FAIL for c in own)
            for name, own in _grouped(cells, name_of).items()}


def _share(by: str, name: str, of: str, failing: Mapping[str, bool]) -> FleetShare:
    num = len(failing)
    if not num:
        return FleetShare(by=by, name=name, of=of, failing=0, tested=0, low=0.0, high=1.0,
                          confidence=0.0)
    rate = proportion(sum(failing.values()), num)
    return FleetShare(by=by, name=name, of=of, failing=sum(failing.values()), tested=num,
                      low=rate.low, high=rate.high, confidence=rate.confidence)


def _most(shares: list[FleetShare]) -> list[FleetShare]:
    """The most failing first."""
    shares.sort(key=lambda s: (-(s.failing / s.tested if s.tested else 0), -s.failing, s.name))
    return shares[:MAX_SHARES]
