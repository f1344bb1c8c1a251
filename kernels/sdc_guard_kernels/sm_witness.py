"""Exact chains of arithmetic on every streaming multiprocessor (SM), blamed on the SM that erred.

Each program reads the number of the SM that it runs on (PTX ``%smid``; in the interpreter it is an
argument), repeats chains whose exact results are known, and compares bits.  All numbers are
integers that the format holds, so one result is right, on any device and in any order of addition.

* ``float32``, ``float64``: ``x <- 3 x + b``, P fused multiply-adds, ``3^P x + b (3^P - 1) / 2``
  with P = 8 (results below 2^24) and P = 20 (below 2^53); b has either sign.
* ``int32``: ``x <- (a x + b) mod 2^32``, P = 16, ``a^P x + b (a^P - 1) / (a - 1)`` modulo 2^32.
* ``float16``, ``bfloat16``, ``tf32``: D times ``C <- C + A B`` by ``tl.dot`` in tiles of 64 with
  ``A_ik = +-(p_i + q_k)``, ``B_kj = +-(s_k + t_j)``, signs by row and by column, so that

      C_ij = +-D (K p_i t_j + p_i sum s + t_j sum q + sum q s),

  never 0 and below 2^20: every partial sum is an integer below 2^24, exact also in units that
  align and cut off (:mod:`sdc_guard_kernels.accumulator_probe`).

The right bits come from these formulas in Python integers, not from torch or the device.

A program leaves five int64: its SM, checks made, checks wrong, the number of its first wrong check
(-1: none) and the exclusive or of wrong and right bits, all wrong checks ored together.  Check n of
a program is element ``n mod L`` (the lane, or place in C order of the tile) of repeat ``n div L``,
L elements in a chain.  Reports start as "wrote nothing", which is counted, never read as right.

Grid: PROGRAMS_PER_SM times the number of SMs; which SM a program gets is the device's choice, so
launches repeat until each has been reached.  Traffic: tables that stay in the cache.
"""

import struct
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES = 256
TILE = 64
SEEDS = 8
DOT_DEPTH = 8
PROGRAMS_PER_SM = 4
REPEATS = 1024
MAX_LAUNCHES = 16
MULTIPLIER = 1103515245

_FIELDS = 5
_STEPS = {"float32": 8, "float64": 20, "int32": 16}
_DOTS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "tf32": torch.float32}
CHAINS = (*_STEPS, *_DOTS)


# Annotations are not postponed here: dataclasses look postponed ones up in sys.modules, where a
# kernel file that is loaded by its path need not be.
@dataclass(frozen=True)
class SmResult:
    """What the programs on one SM found.

    Attributes:
        sm: its number, ``%smid``.
        num_checks: results compared.
        num_wrong: of these, wrong.
        first_wrong: smallest number of a wrong check in its program, None if there is none.
        wrong_bits: every bit that was ever wrong.
    """

    sm: int
    num_checks: int
    num_wrong: int
    first_wrong: int | None
    wrong_bits: int


@dataclass(frozen=True)
class Survey:
    """One kind of chain on one device.

    Attributes:
        chain: one of ``CHAINS``.
        num_sms: SMs of the device.
        results: one for each SM that was reached, by its number.
        reached: the SMs that each launch reached.
        num_silent: programs that left no report.
    """

    chain: str
    num_sms: int
    results: tuple[SmResult, ...]
    reached: tuple[frozenset[int], ...]
    num_silent: int

    @property
    def num_missed(self) -> int:
        """SMs that no launch reached."""
        return max(0, self.num_sms - len(self.results))

    @property
    def blamed(self) -> tuple[SmResult, ...]:
        """The SMs with a wrong result."""
        return tuple(r for r in self.results if r.num_wrong)


@triton.jit  # type: ignore[untyped-decorator]
def _sm_id(sm_ptr, program, READS_SM: tl.constexpr):  # type: ignore[no-untyped-def]
    if READS_SM:
        sm = tl.inline_asm_elementwise(
            "mov.u32 $0, %smid;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        ).to(tl.int64)
    else:
        sm = tl.load(sm_ptr + program)
    return sm


@triton.jit
def _leave(  # type: ignore[no-untyped-def]
    report_ptr, program, sm, num_checks, num_wrong, first_wrong, wrong_bits
):
    """Write a program's report from vectors over its lanes."""
    report = report_ptr + program * 5
    first = tl.min(first_wrong, axis=0)
    tl.store(report, sm)
    tl.store(report + 1, num_checks)
    tl.store(report + 2, tl.sum(num_wrong, axis=0))
    tl.store(report + 3, tl.where(first == 0x7FFFFFFFFFFFFFFF, -1, first))
    # The host left 0 there; only lanes that were wrong take part.
    tl.atomic_or(report + 4 + wrong_bits * 0, wrong_bits, mask=wrong_bits != 0, sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator]
def _chain_kernel(  # type: ignore[no-untyped-def]
    start_ptr,
    addend_ptr,
    right_ptr,
    sm_ptr,
    report_ptr,
    factor_ptr,
    REPEATS: tl.constexpr,
    STEPS: tl.constexpr,
    LANES: tl.constexpr,
    SEEDS: tl.constexpr,
    BITS: tl.constexpr,
    READS_SM: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sm = _sm_id(sm_ptr, program, READS_SM)
    lane = tl.arange(0, LANES).to(tl.int64)
    num_wrong = tl.zeros((LANES,), dtype=tl.int64)
    wrong_bits = tl.zeros((LANES,), dtype=tl.int64)
    first_wrong = tl.full((LANES,), 0x7FFFFFFFFFFFFFFF, dtype=tl.int64)
    factor = tl.load(factor_ptr + lane)
    number = lane
    for repeat in range(REPEATS):
        place = (repeat % SEEDS) * LANES + lane
        x = tl.load(start_ptr + place)
        addend = tl.load(addend_ptr + place)
        for _ in tl.static_range(STEPS):
            x = x * factor + addend if BITS == 0 else tl.fma(x, factor, addend)
        if BITS == 0:
            found = x.to(tl.int64)
        elif BITS == 32:
            found = x.to(tl.int32, bitcast=True).to(tl.int64)
        else:
            found = x.to(tl.int64, bitcast=True)
        differ = found ^ tl.load(right_ptr + place)
        num_wrong += (differ != 0).to(tl.int64)
        wrong_bits |= differ
        first_wrong = tl.minimum(first_wrong, tl.where(differ != 0, number, 0x7FFFFFFFFFFFFFFF))
        number += LANES
    num_checks = tl.sum(lane * 0 + 1, axis=0) * REPEATS
    _leave(report_ptr, program, sm, num_checks, num_wrong, first_wrong, wrong_bits)


@triton.jit  # type: ignore[untyped-decorator]
def _dot_kernel(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    right_ptr,
    sm_ptr,
    report_ptr,
    REPEATS: tl.constexpr,
    DEPTH: tl.constexpr,
    TILE: tl.constexpr,
    SEEDS: tl.constexpr,
    PRECISION: tl.constexpr,
    READS_SM: tl.constexpr,
    WIDEN: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sm = _sm_id(sm_ptr, program, READS_SM)
    row = tl.arange(0, TILE).to(tl.int64)
    element = row[:, None] * TILE + row[None, :]
    num_wrong = tl.zeros((TILE, TILE), dtype=tl.int32)
    wrong_bits = tl.zeros((TILE, TILE), dtype=tl.int32)
    first_wrong = tl.full((TILE, TILE), 0x7FFFFFFF, dtype=tl.int32)
    for repeat in range(REPEATS):
        place = (repeat % SEEDS) * TILE * TILE + element
        a = tl.load(a_ptr + place)
        b = tl.load(b_ptr + place)
        if WIDEN:
            # The interpreter keeps bfloat16 as integers, and its dot would multiply those.
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        c = tl.zeros((TILE, TILE), dtype=tl.float32)
        for _ in tl.static_range(DEPTH):
            c = tl.dot(a, b, acc=c, input_precision=PRECISION)
        differ = c.to(tl.int32, bitcast=True) ^ tl.load(right_ptr + place)
        num_wrong += (differ != 0).to(tl.int32)
        wrong_bits |= differ
        first_wrong = tl.minimum(first_wrong, tl.where(differ != 0, repeat, 0x7FFFFFFF))
    # Repeats are 32 bits wide in the loop; a check's number is not.
    seen = tl.where(
        num_wrong > 0, first_wrong.to(tl.int64) * TILE * TILE + element, 0x7FFFFFFFFFFFFFFF
    )
    num_checks = tl.sum(tl.ravel(element * 0 + 1), axis=0) * REPEATS
    _leave(
        report_ptr,
        program,
        sm,
        num_checks,
        tl.ravel(num_wrong.to(tl.int64)),
        tl.ravel(seen),
        tl.ravel(wrong_bits.to(tl.int64) & 0xFFFFFFFF),
    )


def survey(
    chain: str,
    device: torch.device,
    *,
    repeats: int = REPEATS,
    max_launches: int = MAX_LAUNCHES,
    sm_of_program: Sequence[int] | None = None,
) -> Survey:
    """Run a chain on every SM of a device; waits for each launch.

    Args:
        chain: one of ``CHAINS``.
        device: an NVIDIA device; or any, with ``sm_of_program``.
        repeats: chains for each lane of a program, below 2^31.  Long launches fill the device;
            1024 take about a millisecond.
        max_launches: launches at most, fewer if every SM was reached before.
        sm_of_program: the SM of each program of a launch, where the kernel cannot read it (in the
            interpreter).  The device then has as many SMs as this names.

    Raises:
        ValueError: an unknown chain, a number that is not positive, or a CPU without
            ``sm_of_program``.
    """
    if chain not in CHAINS:
        raise ValueError(f"chain is {chain!r}, not one of {CHAINS}")
    return surveyed(
        chain, _dot_launch if chain in _DOTS else _chain_launch, device, repeats=repeats,
        max_launches=max_launches, sm_of_program=sm_of_program)


def surveyed(
    chain: str,
    prepare: "Callable[[str, torch.device], Launch]",
    device: torch.device,
    *,
    repeats: int,
    max_launches: int,
    sm_of_program: Sequence[int] | None,
) -> Survey:
    """:func:`survey` by the kernel that ``prepare`` makes ready, whatever its chain."""
    if not 0 < repeats < 2**31 or max_launches < 1:
        raise ValueError(f"repeats {repeats} and max_launches {max_launches} must be positive, and "
                         "repeats below 2^31")
    if sm_of_program is None and device.type != "cuda":
        raise ValueError(f"{device} has no SMs; sm_of_program names one for each program")
    reads_sm = sm_of_program is None
    if sm_of_program is None:
        num_sms = torch.cuda.get_device_properties(device).multi_processor_count
        sms = torch.zeros(1, dtype=torch.int64, device=device)
        num_programs = num_sms * PROGRAMS_PER_SM
    else:
        num_sms, num_programs = len(set(sm_of_program)), len(sm_of_program)
        sms = torch.tensor(sm_of_program, dtype=torch.int64, device=device)
    launch = prepare(chain, device)
    rows: list[list[int]] = []
    reached: list[frozenset[int]] = []
    while len(reached) < max_launches and len(frozenset().union(*reached)) < num_sms:
        reports = torch.tensor(
            [[-1, 0, 0, -1, 0]], dtype=torch.int64, device=device
        ).repeat(num_programs, 1)
        # Triton launches on the current device, whatever its tensors are on.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            launch(num_programs, sms, reports, repeats, reads_sm)
        new: list[list[int]] = reports.tolist()
        rows += new
        reached.append(frozenset(row[0] for row in new if row[0] >= 0))
    spoken = [row for row in rows if row[0] >= 0]
    results = tuple(_joined(sm, [row for row in spoken if row[0] == sm])
                    for sm in sorted({row[0] for row in spoken}))
    return Survey(chain, num_sms, results, tuple(reached), len(rows) - len(spoken))


def _joined(sm: int, rows: list[list[int]]) -> SmResult:
    """All programs of one SM."""
    bits = 0
    for row in rows:
        bits |= row[4] & 0xFFFFFFFFFFFFFFFF
    first = [row[3] for row in rows if row[3] >= 0]
    return SmResult(sm, sum(row[1] for row in rows), sum(row[2] for row in rows),
                    min(first) if first else None, bits)


Launch = Callable[[int, Tensor, Tensor, int, bool], None]


def _chain_launch(chain: str, device: torch.device) -> Launch:
    start, addend, right = _chain_tables(chain)
    dtype: torch.dtype = getattr(torch, chain)
    factor = MULTIPLIER if chain == "int32" else 3
    tensors = [torch.tensor(x, dtype=dtype, device=device)
               for x in (start, addend, [factor] * LANES)]
    bits = torch.tensor(right, dtype=torch.int64, device=device)

    def launch(
        num_programs: int, sms: Tensor, reports: Tensor, repeats: int, reads_sm: bool
    ) -> None:
        _chain_kernel[(num_programs,)](
            tensors[0], tensors[1], bits, sms, reports, tensors[2],
            REPEATS=repeats, STEPS=_STEPS[chain], LANES=LANES, SEEDS=SEEDS,
            BITS={"float32": 32, "float64": 64, "int32": 0}[chain], READS_SM=reads_sm)

    return launch


def _dot_launch(chain: str, device: torch.device) -> Launch:
    left, factors, right = _dot_tables()
    a, b = (torch.tensor(x, dtype=_DOTS[chain], device=device) for x in (left, factors))
    bits = torch.tensor(right, dtype=torch.int32, device=device)

    def launch(
        num_programs: int, sms: Tensor, reports: Tensor, repeats: int, reads_sm: bool
    ) -> None:
        _dot_kernel[(num_programs,)](
            a, b, bits, sms, reports, REPEATS=repeats, DEPTH=DOT_DEPTH, TILE=TILE, SEEDS=SEEDS,
            PRECISION="tf32" if chain == "tf32" else "ieee", READS_SM=reads_sm,
            WIDEN=device.type == "cpu")

    return launch


@lru_cache(maxsize=8)
def _chain_tables(chain: str) -> tuple[list[int], list[int], list[int]]:
    """First values, addends and right bits, SEEDS x LANES each."""
    steps = _STEPS[chain]
    bound = {"float32": 2**10, "float64": 2**20, "int32": 2**31}[chain]
    start, addend, right = [], [], []
    for i in range(SEEDS * LANES):
        x, b = (7919 * i + 577) * 104729 % bound, (15485863 * i + 3) * 7 % bound
        b = -b if i % 3 == 0 else b
        start.append(x)
        addend.append(b)
        if chain == "int32":
            power = MULTIPLIER**steps
            exact = power * x + b * ((power - 1) // (MULTIPLIER - 1))
            right.append((exact + 2**31) % 2**32 - 2**31)
        else:
            exact = 3**steps * x + b * ((3**steps - 1) // 2)
            right.append(_bits(exact, chain))
    return start, addend, right


def _bits(value: int, chain: str) -> int:
    """The bits of a float that is this integer, as a signed integer."""
    as_float, as_int = {"float32": ("<f", "<i"), "float64": ("<d", "<q")}[chain]
    (bits,) = struct.unpack(as_int, struct.pack(as_float, value))
    return int(bits)


@lru_cache(maxsize=1)
def _dot_tables() -> tuple[list[Any], list[Any], list[int]]:
    """A, B and the right bits, SEEDS x TILE x TILE each."""
    left, factors, right = [], [], []
    for seed in range(SEEDS):
        p, q, s, t = ([(step * i + seed * (step + 2)) % 8 + first for i in range(TILE)]
                      for step, first in ((3, 1), (5, 0), (7, 1), (1, 0)))
        up = [-1 if (i * (seed + 1)) % 3 == 1 else 1 for i in range(TILE)]
        down = [-1 if (j + seed) % 2 else 1 for j in range(TILE)]
        sum_q, sum_s = sum(q), sum(s)
        sum_qs = sum(x * y for x, y in zip(q, s, strict=True))
        for i in range(TILE):
            left += [up[i] * (p[i] + q[k]) for k in range(TILE)]
            factors += [down[j] * (s[i] + t[j]) for j in range(TILE)]
            right += [_bits(DOT_DEPTH * up[i] * down[j] * (
                TILE * p[i] * t[j] + p[i] * sum_s + t[j] * sum_q + sum_qs), "float32")
                for j in range(TILE)]
    return left, factors, right
