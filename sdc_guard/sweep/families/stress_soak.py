"""F8: work without a pause, on all units at once: the hottest that these cases get a chip."""

from __future__ import annotations

from sdc_guard.sweep.declared import CORE, GPU, HOST, Oracle, Pace, SweepTest
from sdc_guard.sweep.families._borrowed import DTYPES, PRODUCTS, in_turn

TESTS = (SweepTest(
    name="stress_soak", family="F8", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU", dtypes=DTYPES, dwell_s=60.0,
    proves="Products came out right to the bit while every unit computed without a pause.",
    cannot_prove="Temperatures are those that these products reach with this cooling; faults that "
    "need hours of heat need a soak of hours.",
    cases=lambda place: in_turn(PRODUCTS, place, 12), pace=Pace(busy_s=1.0)),)
