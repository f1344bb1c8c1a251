"""F5: exact chains on every streaming multiprocessor (SM) of a GPU, blamed on the SM that erred.

The kernels (``sdc_guard_kernels.sm_witness`` and ``sm_units``) read the number of the SM that they
run on, and compare bits there.  A run's result is one row for each SM, number of wrong results and
the bits that were wrong, both 0 if all is right; the last row counts programs that left no report.

Under ``TRITON_INTERPRET=1`` it runs without a GPU, on SMs that are only numbers.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sdc_guard.sweep.declared import (
    GPU,
    HOST,
    Case,
    Index,
    Made,
    Oracle,
    Place,
    SweepTest,
    Unavailable,
    Unsupported,
)

if TYPE_CHECKING:
    from sdc_guard_kernels.sm_witness import Survey

WITNESS_CHAINS = ("float32", "float64", "int32", "float16", "bfloat16", "tf32")
UNIT_CHAINS = ("float8e4nv", "float8e5", "int8", "special", "exchange")
NOT_PROMISED = ("float8e4nv", "float8e5", "special")
"""Chains whose exact points a maker's manual does not promise: other bits on every SM alike are the
device's way, not a fault."""
OPS = {"int32": "multiply-add", "float32": "fma", "float64": "fma", "special": "exp2 and rsqrt",
       "exchange": "scan and reduce"}
SIMULATED_SMS = (2, 3, 0, 3, 1)
REPEATS_GPU, REPEATS_SIMULATED = 1024, 1
MAX_LAUNCHES_TO_REACH = 64


def is_interpreted() -> bool:
    """Whether triton simulates its kernels in this process."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def is_on_gpu(place: Place) -> bool:
    """Whether there are SMs to read."""
    return place.device.startswith("cuda")


def skip(place: Place) -> str:
    """Why a place has no SMs to test."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not is_on_gpu(place) and not is_interpreted():
        return "no CUDA device"
    return ""


def num_sms(place: Place) -> int:
    """SMs of the device, or simulated ones."""
    if not is_on_gpu(place):
        return len(set(SIMULATED_SMS))
    return int(torch.cuda.get_device_properties(place.device).multi_processor_count)


def surveyed(chain: str, place: Place, max_launches: int) -> Survey:
    """Run a chain on every SM of the place.

    Raises:
        Unavailable: if triton cannot compile it for the device.
    """
    from sdc_guard_kernels import sm_units, sm_witness

    survey = sm_units.survey if chain in UNIT_CHAINS else sm_witness.survey
    on_gpu = is_on_gpu(place)
    try:
        return survey(
            chain, torch.device(place.device), max_launches=max_launches,
            repeats=REPEATS_GPU if on_gpu else REPEATS_SIMULATED,
            sm_of_program=None if on_gpu else SIMULATED_SMS)
    except Exception as error:
        if type(error).__module__.startswith("triton.compiler"):
            raise Unavailable(f"triton cannot compile {chain} for this device: "
                              f"{str(error).splitlines()[0][:160]}") from error
        raise


def table_of(found: Survey, rows: int) -> NDArray[np.int64]:
    """[SMs + 1, 2]: wrong results and wrong bits by SM; in the last row programs that left no
    report, or named an SM that there is not."""
    table = np.zeros((rows + 1, 2), np.int64)
    table[rows, 0] = found.num_silent
    for result in found.results:
        if result.sm >= rows:
            table[rows, 0] += 1
            continue
        table[result.sm, 0] = result.num_wrong
        table[result.sm, 1] = (result.wrong_bits + 2**63) % 2**64 - 2**63
    return table


def subunit(rows: int, index: Index) -> str:
    """The SM of a row."""
    return f"SM {index[0]}" if index[0] < rows else "programs without a report"


def require_promise(chain: str, found: Survey) -> None:
    """Raises Unsupported if every SM gives the same other bits, for a chain of NOT_PROMISED."""
    wrong = {result.wrong_bits for result in found.results}
    if chain in NOT_PROMISED and len(found.blamed) == len(found.results) and len(wrong) == 1:
        raise Unsupported(
            f"every SM gives results of {chain} that differ in the same bits {wrong.pop():#x}: "
            "this device rounds or accumulates them in another way")


def _make(
    chain: str, must_reach: bool, random: np.random.Generator, place: Place
) -> Made:
    rows = num_sms(place)
    launches = MAX_LAUNCHES_TO_REACH if must_reach else 1
    first = surveyed(chain, place, launches)
    require_promise(chain, first)
    if must_reach and first.num_missed:
        missed = sorted(set(range(rows)) - {result.sm for result in first.results})
        raise Unavailable(
            f"{len(first.reached)} launches reached {len(first.results)} of {rows} SMs; never "
            f"reached: {', '.join(map(str, missed[:16]))}{' and more' if missed[16:] else ''}")
    checks = sum(result.num_checks for result in first.results) // len(first.reached)
    return Made(
        run=lambda: (table_of(surveyed(chain, place, launches), rows),),
        expected=(np.zeros((rows + 1, 2), np.uint64),), num_checks=checks,
        subunit=partial(subunit, rows))


def cases(place: Place) -> Sequence[Case]:
    """One launch of each chain; and as many as it takes to reach every SM, which is unsupported,
    with the SMs missed, where that cannot be had."""
    shape = (num_sms(place) + 1, 2)
    found = [Case(label=f"every SM reached by {chain}", op=OPS.get(chain, "dot"), dtype="int64",
                  shape=shape, make=partial(_make, chain, True))
             for chain in ("float32", "float16")]
    found += [Case(label=f"chain of {chain}", op=OPS.get(chain, "dot"), dtype="int64", shape=shape,
                   make=partial(_make, chain, False))
              for chain in (*WITNESS_CHAINS, *UNIT_CHAINS)]
    return found


TESTS = (SweepTest(
    name="per_sm", family="F5", oracles=(Oracle.EXACT,), kinds=(GPU, HOST),
    blames="streaming multiprocessor",
    dtypes=("float64", "float32", "tf32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
            "int32", "int8"),
    dwell_s=3.0,
    proves="On every multiprocessor that was reached, chains of multiply-adds, products on tensor "
    "cores, special functions at exact points and exchanges between lanes were right to the bit.",
    cannot_prove="Only these chains ran, at their clocks; a multiprocessor that the device gave no "
    "program to is named as not reached.",
    cases=cases, skip=skip),)
