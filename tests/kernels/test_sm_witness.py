"""Exact chains find the SM that errs, and no other; altered witnesses are found."""

from __future__ import annotations

import platform
import struct
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.kernels.compiled import ptx_of
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import sm_witness as module
from sdc_guard_kernels.sm_witness import CHAINS, LANES, SEEDS, TILE, SmResult, survey

CPU = torch.device("cpu")
SMS = (4, 7, 0, 7, 2)
KERNEL = Path(module.__file__)
IN_CHAIN = ("x = tl.load(start_ptr + place)\n",
            "x = tl.load(start_ptr + place)\n"
            "        x += tl.where((sm == 7) & (((repeat == 2) & (lane == 5)) | (repeat == 1) "
            "& (lane == 201)), 1, 0).to(x.dtype)\n")
IN_DOT = ("c = tl.zeros((TILE, TILE), dtype=tl.float32)\n",
          "c = tl.where((sm == 7) & (repeat > 0) & (element == 70), 64.0, 0.0)\n")


def bits_of(value: int) -> int:
    """Of a float32 that is this integer."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return int(bits)


@pytest.mark.parametrize("chain", CHAINS)
def test_right_chains_blame_nobody(chain: str) -> None:
    repeats = SEEDS + 1 if chain in ("float32", "float16") else 3
    found = survey(chain, CPU, repeats=repeats, sm_of_program=SMS)
    each = repeats * (LANES if chain in ("float32", "float64", "int32") else TILE * TILE)
    assert found.results == tuple(
        SmResult(sm, each * SMS.count(sm), 0, None, 0) for sm in sorted(set(SMS)))
    assert found.blamed == ()
    assert found.reached == (frozenset(SMS),)
    assert (found.num_sms, found.num_missed, found.num_silent) == (4, 0, 0)


def faulty_chain(witness: ModuleType) -> object:
    return witness.survey("float32", CPU, repeats=4, sm_of_program=SMS).results


def right_blame() -> list[tuple[int, int, int, int | None, int]]:
    """What two faults of +1 in the first value, in each program on SM 7, must leave."""
    starts, addends, right = module._chain_tables("float32")
    bits = 0
    for place in (2 * LANES + 5, LANES + 201):
        wrong = starts[place] + 1
        for _ in range(8):
            wrong = 3 * wrong + addends[place]
        bits |= bits_of(wrong) ^ (right[place] & 0xFFFFFFFF)
    clean = [(sm, 4 * LANES, 0, None, 0) for sm in (0, 2, 4)]
    return [*clean, (7, 8 * LANES, 4, LANES + 201, bits)]


def as_tuples(results: object) -> list[tuple[object, ...]]:
    assert isinstance(results, tuple)
    return [(r.sm, r.num_checks, r.num_wrong, r.first_wrong, r.wrong_bits) for r in results]


def test_a_wrong_chain_on_one_sm_is_blamed_on_that_sm_alone(tmp_path: Path) -> None:
    witness = load_variant(module, tmp_path, IN_CHAIN)
    assert as_tuples(faulty_chain(witness)) == right_blame()


@pytest.mark.parametrize("chain", ["float64", "int32"])
def test_other_formats_blame_the_same_sm(chain: str, tmp_path: Path) -> None:
    found = load_variant(module, tmp_path, IN_CHAIN).survey(
        chain, CPU, repeats=3, sm_of_program=SMS)
    (blamed,) = found.blamed
    assert (blamed.sm, blamed.num_wrong, blamed.first_wrong) == (7, 4, LANES + 201)
    # A difference of 1 grows by the factor's power, which is odd.
    assert blamed.wrong_bits


@pytest.mark.parametrize("chain", ["bfloat16", "tf32"])
def test_a_wrong_dot_on_one_sm_is_blamed_on_that_sm_alone(chain: str, tmp_path: Path) -> None:
    found = load_variant(module, tmp_path, IN_DOT).survey(chain, CPU, repeats=3, sm_of_program=SMS)
    (blamed,) = found.blamed
    assert (blamed.sm, blamed.num_wrong, blamed.first_wrong) == (7, 4, TILE * TILE + 70)
    right = [module._dot_tables()[2][seed * TILE * TILE + 70] & 0xFFFFFFFF for seed in (1, 2)]
    expected = 0
    for bits in right:
        (value,) = struct.unpack("<f", struct.pack("<I", bits))
        expected |= bits ^ bits_of(int(value) + 64)
    assert blamed.wrong_bits == expected


@pytest.mark.parametrize("chain", ["float32", "float64", "int32"])
def test_the_closed_forms_of_chains_are_what_the_steps_give(chain: str) -> None:
    starts, addends, right = module._chain_tables(chain)
    steps, factor = module._STEPS[chain], 3 if chain != "int32" else module.MULTIPLIER
    for place in range(0, SEEDS * LANES, 37):
        x = starts[place]
        for _ in range(steps):
            x = factor * x + addends[place]
            if chain == "int32":
                x = (x + 2**31) % 2**32 - 2**31
            assert abs(x) < {"float32": 2**24, "float64": 2**53, "int32": 2**32}[chain]
        expected = x if chain == "int32" else module._bits(x, chain)
        assert right[place] == expected
    assert len(set(right)) > 0.8 * len(right)


def test_the_closed_form_of_dots_is_the_sum_and_every_partial_sum_is_exact() -> None:
    left, factors, right = module._dot_tables()
    size = TILE * TILE
    for seed in range(SEEDS):
        a, b = left[seed * size :][:size], factors[seed * size :][:size]
        for i, j in ((0, 0), (1, 63), (17, 40), (63, 1 + seed)):
            terms = [a[i * TILE + k] * b[k * TILE + j] for k in range(TILE)]
            total = module.DOT_DEPTH * sum(terms)
            assert right[seed * size + i * TILE + j] == module._bits(total, "float32")
            assert 0 < module.DOT_DEPTH * sum(map(abs, terms)) < 2**20
            assert total
    # Integers of at most 8 bits are exact in every format of a dot.
    assert max(map(abs, left + factors)) < 2**8


BREAKS: dict[str, tuple[str, str]] = {
    "only the last wrong bits": ("wrong_bits |= differ", "wrong_bits = differ"),
    "wrong results not counted": ("num_wrong += (differ", "num_wrong = (differ"),
    "number of the check stands still": ("number += LANES", "number += 0"),
    "last wrong, not first": ("first = tl.min(first_wrong, axis=0)",
                              "first = tl.max(first_wrong, axis=0)"),
    "reports overwrite each other": ("report = report_ptr + program * 5",
                                     "report = report_ptr + program * 4"),
    "blames the program, not the SM": ("sm = tl.load(sm_ptr + program)", "sm = program"),
    "compares with itself": ("found ^ tl.load(right_ptr + place)", "found ^ found"),
    "upper half of the lanes not compared": ("differ = found ^ tl.load(right_ptr + place)",
                                             "differ = tl.where(lane < 128, found ^ tl.load("
                                             "right_ptr + place), 0)"),
    "last program not launched": ("_chain_kernel[(num_programs,)]",
                                  "_chain_kernel[(num_programs - 1,)]"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_an_altered_witness_is_found(broken: str, tmp_path: Path) -> None:
    witness = load_variant(module, tmp_path, IN_CHAIN, BREAKS[broken])
    assert as_tuples(faulty_chain(witness)) != right_blame()


@pytest.mark.parametrize("change", [
    ("else tl.fma(x, factor, addend)", "else tl.fma(x, factor, factor)"),
    ("tl.load(right_ptr + place)", "tl.load(right_ptr + lane)"),
    ("tl.static_range(STEPS)", "tl.static_range(STEPS - 1)"),
])
def test_a_witness_that_is_wrong_everywhere_blames_every_sm(
    change: tuple[str, str], tmp_path: Path
) -> None:
    witness = load_variant(module, tmp_path, change)
    found = witness.survey("float32", CPU, repeats=2, sm_of_program=SMS)
    assert [r.sm for r in found.blamed] == [0, 2, 4, 7]


def test_a_program_that_leaves_nothing_is_counted_and_launches_repeat(tmp_path: Path) -> None:
    change = ("_chain_kernel[(num_programs,)]", "_chain_kernel[(num_programs - 1,)]")
    witness = load_variant(module, tmp_path, change)
    found = witness.survey("float32", CPU, repeats=1, max_launches=3, sm_of_program=SMS)
    assert found.num_silent == 3
    assert found.num_missed == 1
    assert [r.sm for r in found.results] == [0, 4, 7]
    assert found.reached == (frozenset({4, 7, 0}),) * 3


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match="'float8', not one of"):
        survey("float8", CPU)
    with pytest.raises(ValueError, match="cpu has no SMs"):
        survey("float32", CPU)
    with pytest.raises(ValueError, match="repeats 0"):
        survey("float32", CPU, repeats=0, sm_of_program=(0,))


needs_compiler = pytest.mark.skipif(
    platform.system() != "Linux", reason="triton compiles for a device on Linux only")


@needs_compiler
@pytest.mark.slow
def test_the_chain_reads_the_sm_and_fuses_every_step(tmp_path: Path) -> None:
    ptx = ptx_of(
        KERNEL, "_chain_kernel", tmp_path,
        signature={**dict.fromkeys(("start_ptr", "addend_ptr", "factor_ptr"), "*fp32"),
                   **dict.fromkeys(("right_ptr", "sm_ptr", "report_ptr"), "*i64")},
        constants={"REPEATS": 64, "STEPS": 8, "LANES": 256, "SEEDS": 8, "BITS": 32,
                   "READS_SM": True})
    assert "mov.u32" in ptx
    assert "%smid" in ptx
    assert ptx.count("fma.rn.f32") == 8 * 256 // 128
    assert "or.b64" in ptx


@needs_compiler
def test_the_dot_reads_the_sm_and_uses_the_tensor_cores(tmp_path: Path) -> None:
    ptx = ptx_of(
        KERNEL, "_dot_kernel", tmp_path,
        signature={**dict.fromkeys(("a_ptr", "b_ptr"), "*fp16"), "right_ptr": "*i32",
                   **dict.fromkeys(("sm_ptr", "report_ptr"), "*i64")},
        constants={"REPEATS": 64, "DEPTH": 8, "TILE": 64, "SEEDS": 8, "PRECISION": "ieee",
                   "READS_SM": True, "WIDEN": False})
    assert "%smid" in ptx
    assert "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16" in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("chain", CHAINS)
def test_every_sm_of_the_device_is_reached_and_right(chain: str) -> None:
    found = survey(chain, torch.device("cuda"))
    properties = torch.cuda.get_device_properties(0)
    assert found.num_sms == len(found.results) == properties.multi_processor_count
    assert found.num_missed == found.num_silent == 0
    assert found.blamed == ()
    assert min(r.num_checks for r in found.results) >= module.REPEATS * LANES


@pytest.mark.gpu
@pytest.mark.parametrize("chain", ["float32", "float16"])
def test_a_fault_on_one_sm_of_the_device_is_blamed_on_it(chain: str, tmp_path: Path) -> None:
    witness = load_variant(module, tmp_path, IN_DOT if chain == "float16" else IN_CHAIN)
    (blamed,) = witness.survey(chain, torch.device("cuda"), repeats=64).blamed
    assert blamed.sm == 7
    assert blamed.first_wrong == (TILE * TILE + 70 if chain == "float16" else LANES + 201)
