"""F8: the same cases while the other units compute heavy products, and while they rest."""

from __future__ import annotations

from sdc_guard.sweep.declared import CORE, GPU, HOST, Company, Oracle, SweepTest
from sdc_guard.sweep.families._borrowed import ALL, DTYPES, in_turn

TESTS = (
    SweepTest(
        name="stress_loaded_neighbours", family="F8", oracles=(Oracle.EXACT,), kinds=(CORE, GPU),
        blames="core or GPU", dtypes=DTYPES, dwell_s=2.0, company=Company.LOADED,
        proves="Products, memory and gathers were right to the bit while the other units computed "
        "heavy products.",
        cannot_prove="The load is the sweep's own products; other loads draw power otherwise.",
        cases=lambda place: in_turn(ALL, place)),
    SweepTest(
        name="stress_alone", family="F8", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
        blames="core or GPU", dtypes=DTYPES, dwell_s=2.0, company=Company.ALONE,
        proves="Products, memory and gathers were right to the bit while the sweep left the other "
        "units idle: one unit at its highest clock.",
        cannot_prove="Other programs on the machine are not the sweep's to stop.",
        cases=lambda place: in_turn(ALL, place)))
