"""Chains for the parts of a streaming multiprocessor (SM) that ``sm_witness`` leaves out: 8-bit
tensor cores, the special function unit, and exchanges between lanes.

Reports, blame and launches are those of :mod:`sdc_guard_kernels.sm_witness`.

* ``float8e4nv``, ``float8e5``: D = 2 times ``C <- C + A B`` by ``tl.dot`` in tiles of 64, operands
  ``A_ik = +-(p_i + q_k)``, ``B_kj = +-(s_k + t_j)`` as there, of 1 to 7: three significant bits.
  Sums stay below 2^13, so that they are exact also where an 8-bit product is accumulated with 14
  bits (Hopper).
* ``int8``: the same with operands up to 126 and D = 8, accumulated in int32.
* ``special``: ``exp2(2 k)``, ``rsqrt`` of that, and ``exp2`` of a negative integer: powers of two,
  which a correct unit represents.  PTX bounds the errors of ``ex2.approx`` and ``rsqrt.approx`` and
  promises no exact point; a device on which every SM gives the same other bits is not faulty.
* ``exchange``: running sum, sum, largest and exclusive or over a block's int32 lanes, which move
  through shuffles and shared memory.

The right bits are Python integers from these formulas.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.sm_witness import (
    LANES,
    MAX_LAUNCHES,
    REPEATS,
    SEEDS,
    TILE,
    Launch,
    Survey,
    _leave,
    _sm_id,
    surveyed,
)

_DOTS = {"float8e4nv": torch.float8_e4m3fn, "float8e5": torch.float8_e5m2, "int8": torch.int8}
_DEPTHS = {"float8e4nv": 2, "float8e5": 2, "int8": 8}
_MODULI = {"float8e4nv": 4, "float8e5": 4, "int8": 63}
CHAINS = (*_DOTS, "special", "exchange")


@triton.jit  # type: ignore[untyped-decorator]
def _eight_bit_kernel(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    right_ptr,
    sm_ptr,
    report_ptr,
    REPEATS: tl.constexpr,
    DEPTH: tl.constexpr,
    TILE: tl.constexpr,
    SEEDS: tl.constexpr,
    IS_INTEGER: tl.constexpr,
    READS_SM: tl.constexpr,
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
        if IS_INTEGER:
            c = tl.zeros((TILE, TILE), dtype=tl.int32)
            for _ in tl.static_range(DEPTH):
                c = tl.dot(a, b, acc=c, out_dtype=tl.int32)
            found = c
        else:
            f = tl.zeros((TILE, TILE), dtype=tl.float32)
            for _ in tl.static_range(DEPTH):
                f = tl.dot(a, b, acc=f)
            found = f.to(tl.int32, bitcast=True)
        differ = found ^ tl.load(right_ptr + place)
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


@triton.jit  # type: ignore[untyped-decorator]
def _lane_kernel(  # type: ignore[no-untyped-def]
    start_ptr,
    right_ptr,
    sm_ptr,
    report_ptr,
    REPEATS: tl.constexpr,
    LANES: tl.constexpr,
    SEEDS: tl.constexpr,
    IS_SPECIAL: tl.constexpr,
    READS_SM: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sm = _sm_id(sm_ptr, program, READS_SM)
    lane = tl.arange(0, LANES).to(tl.int64)
    num_wrong = tl.zeros((LANES,), dtype=tl.int64)
    wrong_bits = tl.zeros((LANES,), dtype=tl.int64)
    first_wrong = tl.full((LANES,), 0x7FFFFFFFFFFFFFFF, dtype=tl.int64)
    number = lane
    for repeat in range(REPEATS):
        place = (repeat % SEEDS) * LANES + lane
        x = tl.load(start_ptr + place)
        if IS_SPECIAL:
            k = x.to(tl.float32)
            square = tl.exp2(k + k)
            root = tl.rsqrt(square)
            inverse = tl.exp2(-k)
            # One word of all three: a wrong one changes it, whichever it is.
            found = (
                square.to(tl.int32, bitcast=True).to(tl.int64)
                + root.to(tl.int32, bitcast=True).to(tl.int64) * 0x100000001
                + inverse.to(tl.int32, bitcast=True).to(tl.int64) * 0x10001
            )
        else:
            found = tl.cumsum(x, 0).to(tl.int64) * 0x100000001
            found += tl.sum(x, 0).to(tl.int64) * 0x10001
            found += tl.max(x, 0).to(tl.int64) * 0x101
            found ^= tl.xor_sum(x, 0).to(tl.int64)
        differ = found ^ tl.load(right_ptr + place)
        num_wrong += (differ != 0).to(tl.int64)
        wrong_bits |= differ
        first_wrong = tl.minimum(first_wrong, tl.where(differ != 0, number, 0x7FFFFFFFFFFFFFFF))
        number += LANES
    num_checks = tl.sum(lane * 0 + 1, axis=0) * REPEATS
    _leave(report_ptr, program, sm, num_checks, num_wrong, first_wrong, wrong_bits)


def survey(
    chain: str,
    device: torch.device,
    *,
    repeats: int = REPEATS,
    max_launches: int = MAX_LAUNCHES,
    sm_of_program: Sequence[int] | None = None,
) -> Survey:
    """Run a chain on every SM of a device, as :func:`sdc_guard_kernels.sm_witness.survey` does.

    Raises:
        ValueError: an unknown chain, and as there.
    """
    if chain not in CHAINS:
        raise ValueError(f"chain is {chain!r}, not one of {CHAINS}")
    return surveyed(
        chain, _eight_bit_launch if chain in _DOTS else _lane_launch, device, repeats=repeats,
        max_launches=max_launches, sm_of_program=sm_of_program)


def _eight_bit_launch(chain: str, device: torch.device) -> Launch:
    left, factors, right = _eight_bit_tables(chain)
    a, b = (torch.tensor(x, dtype=torch.float32).to(_DOTS[chain]).to(device)
            for x in (left, factors))
    bits = torch.tensor(right, dtype=torch.int32, device=device)

    def launch(
        num_programs: int, sms: Tensor, reports: Tensor, repeats: int, reads_sm: bool
    ) -> None:
        _eight_bit_kernel[(num_programs,)](
            a, b, bits, sms, reports, REPEATS=repeats, DEPTH=_DEPTHS[chain], TILE=TILE,
            SEEDS=SEEDS, IS_INTEGER=chain == "int8", READS_SM=reads_sm)

    return launch


def _lane_launch(chain: str, device: torch.device) -> Launch:
    start, right = _lane_tables(chain)
    x = torch.tensor(start, dtype=torch.int32, device=device)
    bits = torch.tensor(right, dtype=torch.int64, device=device)

    def launch(
        num_programs: int, sms: Tensor, reports: Tensor, repeats: int, reads_sm: bool
    ) -> None:
        _lane_kernel[(num_programs,)](
            x, bits, sms, reports, REPEATS=repeats, LANES=LANES, SEEDS=SEEDS,
            IS_SPECIAL=chain == "special", READS_SM=reads_sm)

    return launch


@lru_cache(maxsize=3)
def _eight_bit_tables(chain: str) -> tuple[list[Any], list[Any], list[int]]:
    """A, B and the right bits, SEEDS x TILE x TILE each."""
    modulus, depth = _MODULI[chain], _DEPTHS[chain]
    left, factors, right = [], [], []
    for seed in range(SEEDS):
        p, q, s, t = ([(step * i + seed * (step + 2)) % modulus + first for i in range(TILE)]
                      for step, first in ((3, 1), (5, 0), (7, 1), (1, 0)))
        up = [-1 if (i * (seed + 1)) % 3 == 1 else 1 for i in range(TILE)]
        down = [-1 if (j + seed) % 2 else 1 for j in range(TILE)]
        sum_q, sum_s = sum(q), sum(s)
        sum_qs = sum(x * y for x, y in zip(q, s, strict=True))
        for i in range(TILE):
            left += [up[i] * (p[i] + q[k]) for k in range(TILE)]
            factors += [down[j] * (s[i] + t[j]) for j in range(TILE)]
            totals = [depth * up[i] * down[j] * (
                TILE * p[i] * t[j] + p[i] * sum_s + t[j] * sum_q + sum_qs) for j in range(TILE)]
            right += totals if chain == "int8" else [_float32_bits(total) for total in totals]
    return left, factors, right


def _float32_bits(value: int) -> int:
    """The bits of a float32 that is this integer, below 2^24 in size, as a signed integer."""
    size = abs(value)
    if not size:
        return 0
    exponent = size.bit_length() - 1
    bits = ((exponent + 127) << 23) | ((size << 23 >> exponent) & 0x7FFFFF)
    return bits - (1 << 31) if value < 0 else bits


@lru_cache(maxsize=2)
def _lane_tables(chain: str) -> tuple[list[int], list[int]]:
    """First values and right words, SEEDS x LANES each."""
    start, right = [], []
    for seed in range(SEEDS):
        if chain == "special":
            row = [(37 * i + 11 * seed) % 121 - 60 for i in range(LANES)]
            words = [((2 * k + 127) << 23) + ((-k + 127) << 23) * 0x100000001
                     + ((-k + 127) << 23) * 0x10001 for k in row]
        else:
            row = [(7919 * i + 577 * seed) * 104729 % 2**22 - 2**20 for i in range(LANES)]
            folded = 0
            for value in row:
                folded ^= value
            words = [(sum(row[:i + 1]) * 0x100000001 + sum(row) * 0x10001 + max(row) * 0x101)
                     ^ folded for i in range(LANES)]
        start += row
        right += [(word + 2**63) % 2**64 - 2**63 for word in words]
    return start, right
