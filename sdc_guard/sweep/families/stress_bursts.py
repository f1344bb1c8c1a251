"""F8: bursts of work after idleness, as google/cpu-check paces its checks: 50 ms on, 50 ms off, and
after 5 s of rest.  Voltage and frequency change at the edges."""

from __future__ import annotations

from sdc_guard.sweep.declared import CORE, GPU, HOST, Oracle, Pace, SweepTest
from sdc_guard.sweep.families._borrowed import ALL, DTYPES, in_turn

BURST_S, REST_S = 0.05, 5.0

TESTS = (
    SweepTest(
        name="stress_bursts", family="F8", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
        blames="core or GPU", dtypes=DTYPES, dwell_s=5.0,
        proves="Products, memory and gathers were right to the bit in bursts of 50 ms between "
        "pauses of 50 ms.",
        cannot_prove="The clocks and voltages that the pauses lead to are the system's choice; a "
        "governor that holds the clock still leaves nothing to see.",
        cases=lambda place: in_turn(ALL, place),
        pace=Pace(busy_s=BURST_S, idle_s=BURST_S, does_alternate=True)),
    SweepTest(
        name="stress_after_rest", family="F8", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
        blames="core or GPU", dtypes=DTYPES, dwell_s=30.0,
        proves="Products, memory and gathers were right to the bit in the first 50 ms after 5 s of "
        "rest, or after as much as a short visit leaves.",
        cannot_prove="A burst after rest is rare by its nature: in minutes there are few, and "
        "other units' work can keep the chip warm.",
        cases=lambda place: in_turn(ALL, place),
        pace=Pace(busy_s=BURST_S, idle_s=REST_S, does_alternate=True)))
