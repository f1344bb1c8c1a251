"""Reports with something for every filter, judged against a baseline."""

from __future__ import annotations

import msgspec

from sdc_guard.document.schema import Cell, Judgement, Known, Report
from sdc_guard.records import Attribution, Cause, Spread, Verdict
from sdc_guard.report.entries import entry_of
from tests import made_reports

_KINDS = (
    ("aten.sum.dim_IntList", Verdict.CORRUPTION, Cause.SOFTWARE, "guard", "new"),
    ("aten.mm.default", Verdict.CORRUPTION, Cause.PERSISTENT_HARDWARE, "sweep", "new"),
    ("aten.softmax.int", Verdict.PRECISION, Cause.SOFTWARE, "hunt", "known"),
    ("aten.index_add_.default", Verdict.NONDETERMINISM, Cause.UNKNOWN, "guard", "expired"),
    ("aten.exp.default", Verdict.INCONCLUSIVE, Cause.TRANSIENT, "guard", "known"),
)


def varied_report() -> Report:
    """Five kinds of finding, each with another verdict, cause, tool or state; many tests on many
    units; a judgement."""
    run = made_reports.made_run()
    entries = []
    for i, (op, verdict, cause, tool, _) in enumerate(_KINDS):
        finding = made_reports.made_finding(i, verdict=verdict, op=op, attribution=Attribution(
            cause=cause, place="core 5" if cause is Cause.PERSISTENT_HARDWARE else "", votes=(),
            reason="made for a test"))
        if i == 1:
            finding = msgspec.structs.replace(finding, spread=_tile())
        entries.append(entry_of(finding, tool=tool, run=run.id, root=made_reports.ROOT,
                                time_s=float(i), host=run.host))
    known = Known(id="0" * 16, verdict="precision", op="aten.log", where="a.py", torch="2.13",
                  device="cpu", reason="half-precision accumulation", expires="2027-03-31")
    judgement = Judgement(
        exit_code=1, status="2 new", reasons=("2 new corruptions",), fail_on=("new",),
        policy={"corruption": "fail", "precision": "report"}, baseline="reports/baseline/cpu.txt",
        states={entry.id: kind[4] for entry, kind in zip(entries, _KINDS, strict=True)},
        fixed=(known,), environment_changes=("torch: 2.12.0 -> 2.13.0",))
    other = made_reports.made_run(1, environment={**run.environment, "torch": "2.12.0"})
    return made_reports.made_report(0, runs=(run, other), findings=tuple(entries), cells=_cells(),
                                    judgement=judgement)


def _tile() -> Spread:
    """A block of 16 by 16 in a map that is too large to be drawn cell by cell."""
    return Spread(
        bit_flips=tuple(256 if bit in (30, 23, 4) else 0 for bit in range(32)),
        masks=(("0x40800010", 256),), ulps_log2=((26, 200), (27, 56)), map_shape=(128, 128),
        map=tuple((r, c, 1) for r in range(32, 48) for c in range(64, 80)),
        lanes={"8": (32,) * 8, "32": (0,) * 16 + (16,) * 16})


def _cells() -> tuple[Cell, ...]:
    words = ("PASS", "clean"), ("FAIL", "corruption"), ("SUSPECT", "inconclusive"), (
        "SKIP", "not tested")
    return tuple(
        Cell(unit=f"node-7/core {unit}", test=f"aten.operator_{test}.default", checks=100,
             word=words[kind][0], verdict=words[kind][1])
        for unit in range(8) for test in range(60)
        for kind in [1 if (unit, test) == (5, 3) else 2 if test == 9 and unit > 5 else
                     3 if test % 17 == 16 else 0])
