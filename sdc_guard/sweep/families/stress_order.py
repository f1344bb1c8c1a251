"""F8: the same cases in either order.  Faults that depend on what ran before show under one order
and not under the other."""

from __future__ import annotations

from sdc_guard.sweep.declared import CORE, GPU, HOST, Oracle, SweepTest
from sdc_guard.sweep.families._borrowed import DTYPES, MEMORY, PRODUCTS, one_after_another

_CANNOT = ("A visit that is shorter than one round of the cases starts where the last one stopped: "
           "the order is kept, the first case is not.")

TESTS = (
    SweepTest(
        name="stress_memory_then_products", family="F8", oracles=(Oracle.EXACT,),
        kinds=(CORE, GPU, HOST), blames="core or GPU", dtypes=DTYPES, dwell_s=2.0,
        proves="Products that followed memory patterns were right to the bit.",
        cannot_prove=_CANNOT,
        cases=lambda place: one_after_another((*MEMORY, *PRODUCTS), place)),
    SweepTest(
        name="stress_products_then_memory", family="F8", oracles=(Oracle.EXACT,),
        kinds=(CORE, GPU, HOST), blames="core, GPU or address", dtypes=DTYPES, dwell_s=2.0,
        proves="Memory patterns that followed products were held to the bit.",
        cannot_prove=_CANNOT,
        cases=lambda place: one_after_another((*PRODUCTS[::-1], *MEMORY), place)))
