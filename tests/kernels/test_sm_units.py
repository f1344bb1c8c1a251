"""8-bit products, special functions and exchanges find the SM that errs, and no other."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from tests.kernels.compiled import ptx_of
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import sm_units as module
from sdc_guard_kernels.sm_units import CHAINS, survey
from sdc_guard_kernels.sm_witness import LANES, SEEDS, TILE, SmResult

CPU = torch.device("cpu")
SMS = (4, 7, 0, 7, 2)
KERNEL = Path(module.__file__)
IN_DOT = ("differ = found ^ tl.load(right_ptr + place)\n        num_wrong += (differ != 0)"
          ".to(tl.int32)",
          "found ^= tl.where((sm == 7) & (repeat == 1) & (element == 70), 64, 0)\n"
          "        differ = found ^ tl.load(right_ptr + place)\n        num_wrong += (differ != 0)"
          ".to(tl.int32)")
IN_SPECIAL = ("inverse = tl.exp2(-k)\n",
              "inverse = tl.exp2(-k)\n"
              "            inverse = tl.where((sm == 7) & (repeat == 1) & (lane == 9), "
              "inverse * 1.0000001, inverse)\n")
IN_EXCHANGE = ("x = tl.load(start_ptr + place)\n",
               "x = tl.load(start_ptr + place)\n"
               "        x += tl.where((sm == 7) & (repeat == 1) & (lane == 9), 1, 0)\n")
FAULTS = {"float8e4nv": IN_DOT, "float8e5": IN_DOT, "int8": IN_DOT, "special": IN_SPECIAL,
          "exchange": IN_EXCHANGE}
SIZES = {"special": LANES, "exchange": LANES}


@pytest.mark.parametrize("chain", CHAINS)
def test_right_chains_blame_nobody(chain: str) -> None:
    repeats = SEEDS + 1 if chain == "exchange" else 2
    found = survey(chain, CPU, repeats=repeats, sm_of_program=SMS)
    each = repeats * SIZES.get(chain, TILE * TILE)
    assert found.results == tuple(
        SmResult(sm, each * SMS.count(sm), 0, None, 0) for sm in sorted(set(SMS)))
    assert (found.chain, found.num_missed, found.num_silent) == (chain, 0, 0)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_fault_stuck_on_one_sm_is_blamed_on_that_sm_alone(chain: str, tmp_path: Path) -> None:
    found = load_variant(module, tmp_path, FAULTS[chain]).survey(
        chain, CPU, repeats=3, sm_of_program=SMS)
    (blamed,) = found.blamed
    assert blamed.sm == 7
    first = {"special": LANES + 9, "exchange": LANES}.get(chain, TILE * TILE + 70)
    assert blamed.first_wrong == first
    # An exchange carries one lane's error to all of them, by the sum.
    assert blamed.num_wrong == 2 * (LANES if chain == "exchange" else 1)
    if chain in ("float8e4nv", "float8e5", "int8"):
        assert blamed.wrong_bits == 64


@pytest.mark.parametrize("change", [
    ("tl.cumsum(x, 0).to(tl.int64) * 0x100000001", "tl.cumsum(x, 0).to(tl.int64)"),
    ("tl.max(x, 0)", "tl.min(x, 0)"),
    ("tl.xor_sum(x, 0)", "tl.sum(x, 0)"),
])
def test_an_exchange_that_is_wrong_everywhere_blames_every_sm(
    change: tuple[str, str], tmp_path: Path
) -> None:
    found = load_variant(module, tmp_path, change).survey(
        "exchange", CPU, repeats=1, sm_of_program=SMS)
    assert [r.sm for r in found.blamed] == [0, 2, 4, 7]


@pytest.mark.parametrize(("chain", "largest", "limit"), [
    ("float8e4nv", 7, 2**13), ("float8e5", 7, 2**13), ("int8", 127, 2**31)])
def test_the_closed_form_of_dots_is_the_sum_and_every_partial_sum_is_exact(
    chain: str, largest: int, limit: int
) -> None:
    left, factors, right = module._eight_bit_tables(chain)
    size, depth = TILE * TILE, module._DEPTHS[chain]
    for seed in range(SEEDS):
        a, b = left[seed * size:][:size], factors[seed * size:][:size]
        for i, j in ((0, 0), (1, 63), (17, 40), (63, 1 + seed)):
            terms = [a[i * TILE + k] * b[k * TILE + j] for k in range(TILE)]
            total = depth * sum(terms)
            expected = total if chain == "int8" else module._float32_bits(total)
            assert right[seed * size + i * TILE + j] == expected
            assert 0 < depth * sum(map(abs, terms)) < limit
    # Three significant bits hold 1 to 7, seven those of int8.
    assert 0 < min(map(abs, left + factors)) <= max(map(abs, left + factors)) <= largest


def test_bits_of_integers_in_float32() -> None:
    assert [module._float32_bits(v) & 0xFFFFFFFF for v in (0, 1, -1, 6272, 2**24 - 1)] == [
        0, 0x3F800000, 0xBF800000, 0x45C40000, 0x4B7FFFFF]


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match="'float32', not one of"):
        survey("float32", CPU)
    with pytest.raises(ValueError, match="cpu has no SMs"):
        survey("int8", CPU)


needs_compiler = pytest.mark.skipif(
    platform.system() != "Linux", reason="triton compiles for a device on Linux only")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "instruction"), [
    ("fp8e4nv", ".e4m3.e4m3"), ("fp8e5", ".e5m2.e5m2"), ("i8", ".s8.s8")])
def test_eight_bit_dots_use_the_tensor_cores(
    dtype: str, instruction: str, tmp_path: Path
) -> None:
    ptx = ptx_of(
        KERNEL, "_eight_bit_kernel", tmp_path,
        signature={**dict.fromkeys(("a_ptr", "b_ptr"), f"*{dtype}"), "right_ptr": "*i32",
                   **dict.fromkeys(("sm_ptr", "report_ptr"), "*i64")},
        constants={"REPEATS": 64, "DEPTH": 2, "TILE": 64, "SEEDS": 8, "IS_INTEGER": dtype == "i8",
                   "READS_SM": True})
    assert "%smid" in ptx
    assert instruction in ptx


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("is_special", [True, False])
def test_lanes_use_the_special_unit_and_shuffles(is_special: bool, tmp_path: Path) -> None:
    ptx = ptx_of(
        KERNEL, "_lane_kernel", tmp_path,
        signature={"start_ptr": "*i32", **dict.fromkeys(
            ("right_ptr", "sm_ptr", "report_ptr"), "*i64")},
        constants={"REPEATS": 64, "LANES": 256, "SEEDS": 8, "IS_SPECIAL": is_special,
                   "READS_SM": True})
    wanted = ("ex2.approx", "rsqrt.approx") if is_special else ("shfl.sync", "bar.sync")
    assert all(word in ptx for word in wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("chain", CHAINS)
def test_every_sm_of_the_device_is_reached_and_right(chain: str) -> None:
    found = survey(chain, torch.device("cuda"))
    assert found.num_missed == found.num_silent == 0
    assert found.blamed == ()
