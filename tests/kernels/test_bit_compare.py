"""The index-mapped comparison against indexing in NumPy, and altered copies that break it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc_guard.bits import raw
from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.kernels.strided_bits import (
    COMPLEX,
    DTYPES,
    FLOATS,
    drawn_words,
    laid_out,
    layouts,
    words_of,
    wrong_by_definition,
)
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import bit_compare as module
from sdc_guard_kernels.bit_compare import TILE, Difference, Undo, difference, difference_mask
from sdc_guard_kernels.verdict import NO_INDEX, new_records, read
from tests.kernels import noting

CPU = torch.device("cpu")


def expected(wrong: np.ndarray) -> Difference:
    places = np.flatnonzero(wrong)
    return Difference(len(places), int(places[0]) if len(places) else 0)


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Two tensors, most elements of which agree, and the undo of a symmetry between them."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=4)))
    undo: dict[str, Any] = {}
    whole = list(shape)
    if shape and draw(st.booleans()):
        dim, start, rest = draw(st.tuples(
            st.integers(0, len(shape) - 1), st.integers(0, 3), st.integers(0, 3)))
        undo["where"] = (dim, start, shape[dim])
        whole[dim] += start + rest
    if shape and draw(st.booleans()):
        undo["roll"] = draw(st.tuples(st.integers(0, len(shape) - 1), st.integers(-7, 7)))
    if dtype in FLOATS + COMPLEX:
        undo |= {name: draw(st.booleans()) for name in ("negated", "nans_alike", "zeros_alike")}
    seed = draw(st.integers(0, 2**32))
    words = drawn_words(dtype, int(np.prod(whole, dtype=int)), seed)
    held = laid_out(words, dtype, tuple(whole), **draw(layouts(len(shape))), fill=0x5A)
    place = np.arange(held.numel()).reshape(whole)
    if "where" in undo:
        dim, start, length = undo["where"]
        place = np.take(place, range(start, start + length), axis=dim)
    if "roll" in undo:
        place = np.roll(place, -undo["roll"][1], axis=undo["roll"][0])
    right = words_of(held)[place.reshape(-1)]
    if undo.get("negated"):
        right = right ^ right.dtype.type(1 << (8 * right.itemsize - 1))
    other = drawn_words(dtype, len(right), seed + 1)
    share = draw(st.sampled_from([0.0, 0.1, 1.0]))
    other = np.where(np.random.default_rng(seed).random((len(right), 1)) < share, other, right)
    return laid_out(other, dtype, shape, **draw(layouts(len(shape)))), held, undo


@settings(max_examples=30)
@given(comparisons())
def test_any_layout_and_undo(case: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
    got, held, undo = case
    wrong = wrong_by_definition(got, held, **undo)
    assert difference(got, held, Undo(**undo)) == expected(wrong)
    assert difference_mask(got, held, Undo(**undo)).tolist() == wrong.astype(int).tolist()


@pytest.mark.parametrize("size", [TILE - 1, TILE, TILE + 1, 3 * TILE + 5])
def test_each_place_around_the_edge_of_a_tile(size: int) -> None:
    held = torch.arange(size, dtype=torch.int32)
    for at in sorted({0, 1, TILE - 2, TILE - 1, TILE, TILE + 1, size - 2, size - 1}):
        if at < size:
            got = held.clone()
            got[at] ^= 1 << 30
            assert difference(got, held) == Difference(1, at)
            rolled = Undo(roll=(0, -3))
            assert difference(got.roll(3), held, rolled) == Difference(1, (at + 3) % size)


@pytest.mark.parametrize("layout", ["rows", "crossed", "all but one"])
def test_tiles_of_rows_and_columns(layout: str) -> None:
    held = torch.arange(70 * 65, dtype=torch.int16).view(70, 65)
    got = {"rows": held[:, :65].clone(), "crossed": held.t().contiguous().t(),
           "all but one": torch.cat([held, held], 1)[:, :65]}[layout]
    assert difference(got, held) == Difference(0, 0)
    got[69, 64] ^= 1
    got[31, 33] ^= 1
    assert difference(got, held) == Difference(2, 31 * 65 + 33)
    assert difference(got[1:], held[1:]) == Difference(2, 30 * 65 + 33)


def test_every_half_precision_pattern_against_every_kind_of_value(tmp_path: Path) -> None:
    # The interpreter's time is that of its programs.
    wide = load_variant(module, tmp_path, ("TILE = 2048", "TILE = 65536"))
    held = torch.arange(-2**15, 2**15, dtype=torch.int16).view(torch.float16)[:, None].expand(-1, 5)
    got = torch.tensor([0, -2**15, 0x7E00, 0x7C00, 1], dtype=torch.int16).view(torch.float16)
    got = got.expand(2**16, -1)
    for negated in (False, True):
        undo = {"negated": negated, "nans_alike": True, "zeros_alike": negated}
        wrong = wrong_by_definition(got, held, **undo)
        assert wide.difference(got, held, Undo(**undo)) == expected(wrong)


def test_many_tiles_for_each_program(tmp_path: Path) -> None:
    small = load_variant(module, tmp_path, ("TILE = 2048", "TILE = 16"),
                         ("MAX_PROGRAMS = 8192", "MAX_PROGRAMS = 2"))
    held = torch.arange(11 * 37, dtype=torch.int64).view(11, 37)[:, 1:]
    got = held.clone()
    assert small.difference(got, held) == (0, 0)
    got[10, 35] ^= 1
    assert small.difference(got, held) == (1, 395)
    got[3] ^= 1
    assert small.difference(got, held) == (37, 3 * 36)


def test_more_dimensions_than_a_kernel_takes() -> None:
    shape = (2, 3, 2, 3, 2, 3, 2)
    words = drawn_words(torch.float32, 432, 5)
    held = laid_out(words, torch.float32, shape, order=(3, 1, 5, 0, 2, 6, 4), gap=1)
    for dim, at in ((0, 5), (3, 431), (5, 217)):
        got = laid_out(words, torch.float32, shape, order=(6, 5, 4, 3, 2, 1, 0), gap=1)
        raw(got)[np.unravel_index(at, shape)] ^= 1
        undo = {"roll": (dim, 1)}
        assert difference(got, held) == Difference(1, at)
        wrong = wrong_by_definition(got, held, **undo)
        assert difference(got, held, Undo(**undo)) == expected(wrong)


def test_addresses_are_64_bits_wide() -> None:
    # 4 GiB of address space of which two pages are touched.
    held = torch.empty(2**31 + 64, dtype=torch.float16).as_strided((2, 8), (2**31, 1), 0)
    held[0], held[1] = 1.0, 3.0
    got = held.contiguous()
    assert difference(got, held) == difference(held, got) == Difference(0, 0)
    got[1, 5] = 1.0
    assert difference(got, held) == difference(held, got) == Difference(1, 13)


def test_the_record_is_the_one_that_note_leaves() -> None:
    records = new_records(2, CPU)
    held = torch.arange(9.0)
    for got in (held.clone(), held + (held == 4), torch.full((9,), torch.nan)):
        records.zero_()
        module.compare_bits(got, held, records[0])
        defects = (got != held).double().tolist()
        noting.launch(noting, defects, [0.5] * 9, records[1], block=4, base=0)
        assert records[0].tolist() == records[1].tolist()


def test_records_add_up() -> None:
    (record,) = new_records(1, CPU)
    module.compare_bits(torch.ones(4), torch.zeros(4), record)
    module.compare_bits(torch.ones(3), torch.zeros(3), record)
    assert read(record[None]) == [(2.0, 0, 7)]


def test_an_index_beyond_32_bits_is_no_index(tmp_path: Path) -> None:
    change = ("            bases[2],\n", "            bases[2] + 2**32 - 3,\n")
    beyond = load_variant(module, tmp_path, change)
    got = torch.zeros(9)
    got[8] = 1.0
    assert beyond.difference(got, torch.zeros(9)) == (1, NO_INDEX)
    got[1] = 1.0
    assert beyond.difference(got, torch.zeros(9)) == (2, 2**32 - 2)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_complex_numbers_of_two_halves() -> None:
    held = torch.tensor([0, 0x7E00, 0x3C00, 1], dtype=torch.int16).view(torch.complex32)
    got = torch.tensor([-2**15, 0x7E01, 0x3C00, 1], dtype=torch.int16).view(torch.complex32)
    assert difference(got, held) == Difference(1, 0)
    assert difference(got, held, Undo(nans_alike=True)) == Difference(1, 0)
    assert difference(got, held, Undo(nans_alike=True, zeros_alike=True)) == Difference(0, 0)
    assert difference(got, held, Undo(negated=True, zeros_alike=True)) == Difference(2, 0)


def test_nothing_passes_for_equal_without_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compare_bits", lambda *args, **kwargs: None)
    with pytest.raises(RuntimeError, match="left no verdict"):
        difference(torch.ones(3), torch.ones(3))
    assert set(difference_mask(torch.ones(3), torch.ones(3)).tolist()) == {module.UNWRITTEN}


def test_empty_tensors_are_equal() -> None:
    assert difference(torch.ones(3, 0), torch.ones(3, 0)) == Difference(0, 0)
    assert difference(torch.ones(0), torch.ones(5), Undo(where=(0, 2, 0))) == Difference(0, 0)


def test_lazy_negatives_are_compared_as_they_lie_in_memory() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    assert difference(z.conj(), z) == Difference(0, 0)
    assert difference(z.conj().resolve_conj(), z) == Difference(2, 0)


@pytest.mark.parametrize(("got", "held", "undo", "message"), [
    (torch.ones(2), torch.ones(2).double(), Undo(), "give tensors of one dtype"),
    (torch.ones(2), torch.ones(3), Undo(), r"shapes \[2\] and \[3\]"),
    (torch.ones(2), torch.ones(3), Undo(where=(0, 2, 2)), r"part \(0, 2, 2\)"),
    (torch.ones(2), torch.ones(3), Undo(where=(1, 0, 2)), r"part \(1, 0, 2\)"),
    (torch.ones(2), torch.ones(2), Undo(roll=(1, 1)), r"roll \(1, 1\)"),
    (torch.ones(2).int(), torch.ones(2).int(), Undo(negated=True), r"NaNs of torch\.int32"),
])
def test_errors_name_the_value(got: Tensor, held: Tensor, undo: Undo, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        difference(got, held, undo)


def test_a_mask_that_does_not_fit_is_refused() -> None:
    (record,) = new_records(1, CPU)
    with pytest.raises(ValueError, match=r"give contiguous uint8\[4\]"):
        module.compare_bits(torch.ones(4), torch.ones(4), record, mask=torch.zeros(4))


def battery(kernels: Any) -> list[Any]:
    """What a comparison says in cases that between them use every line of the kernel."""
    held = laid_out(drawn_words(torch.float32, 2310, 3), torch.float32, (7, 11, 5, 6),
                    order=(3, 0, 2, 1), gap=1, behind=9000)
    found = []
    for undo in ({}, {"roll": (3, 2)}, {"roll": (1, 4)}, {"negated": True, "nans_alike": True},
                 {"nans_alike": True, "zeros_alike": True}):
        got = laid_out(words_of(held), torch.float32, (7, 11, 5, 6), order=(0, 1, 2, 3), offset=1)
        raw(got)[6, 10, 4, 5] ^= 1
        raw(got)[4, 0, 0, 0] ^= 1 << 31
        mask = torch.full(got.shape, module.UNWRITTEN, dtype=torch.uint8)
        (record,) = new_records(1, CPU)
        kernels.compare_bits(got, held, record, kernels.Undo(**undo), mask=mask)
        found += [record.tolist(), mask.tolist()]
    inf, nan, tiny = float("inf"), float("nan"), 1e-45
    one, other = torch.tensor([inf, nan, 0.0, tiny]), torch.tensor([nan, inf, tiny, -0.0])
    alike = kernels.Undo(nans_alike=True, zeros_alike=True)
    found.append(kernels.difference_mask(one, other, alike).tolist())
    z = torch.ones(2100, dtype=torch.complex128)
    w = z.clone()
    w[2099] += 1j
    found.append(tuple(kernels.difference(z, w)))
    # All that a wrong offset of 32 bits can reach is memory of the same tensor.
    memory = torch.empty(2**32 + 64, dtype=torch.uint8)
    wide, tight = (memory.as_strided((2, 3), (stride, 1), 2**31) for stride in (2**31 + 8, 4))
    for view in (wide, tight):
        view[0], view[1] = 1, 2
    found += [tuple(kernels.difference(wide, tight)), tuple(kernels.difference(tight, wide))]
    return found


def answers_or_refusal(kernels: Any) -> list[Any] | str:
    try:
        return battery(kernels)
    except RuntimeError as error:
        return str(error)


BREAKS: dict[str, tuple[str, str]] = {
    "last column lost": ("(col < num_cols)[None, :]", "(col < num_cols - 1)[None, :]"),
    "last row lost": ("(row < num_rows)[:, None]", "(row < num_rows - 1)[:, None]"),
    "strides swapped": ("held_at * held_stride", "held_at * got_stride"),
    "offset of 32 bits": ("at * got_stride,", "(at * got_stride).to(tl.int32),"),
    "roll not wrapped": ("tl.where(moved < size, moved, moved - size)", "moved"),
    "roll the other way": ("moved = col + shift", "moved = col + num_cols - shift"),
    "last program not launched": (
        "triton.cdiv(num_tiles, steps),)", "triton.cdiv(num_tiles, steps) - 1,)"),
    "second word not read": ("tl.load(held_at + 1,", "tl.load(got_at + 1,"),
    "infinities are NaNs": ("(got & MAGNITUDE) <= INFINITY)", "(got & MAGNITUDE) < INFINITY)"),
    "sign ignored": ("got = got ^ SIGN", "got = got & MAGNITUDE"),
    "subnormals are zeros": ("((got | held) & MAGNITUDE) != 0", "((got | held) & MAGNITUDE) > 1"),
    "count lost": ("num_here += differs", "num_here = differs"),
    "last place instead of first": (
        "first_here = tl.minimum(first_here, ", "first_here = tl.maximum(first_here * 0, "),
    "what a mask leaves out counts": ("differs = differs & exists", "differs = differs | ~exists"),
}
NEEDS_STEPS = ("count lost", "last place instead of first")
SMALL = (("TILE = 2048", "TILE = 256"), ("MAX_PROGRAMS = 8192", "MAX_PROGRAMS = 1"))


@pytest.fixture(scope="module")
def right_answers() -> list[Any]:
    return battery(module)


def test_the_battery_is_right_and_tiles_do_not_matter(
    tmp_path: Path, right_answers: list[Any]
) -> None:
    assert battery(load_variant(module, tmp_path, *SMALL)) == right_answers


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_kernel_is_seen(broken: str, tmp_path: Path, right_answers: list[Any]) -> None:
    small = SMALL if broken in NEEDS_STEPS else ()
    wrong_module = load_variant(module, tmp_path, BREAKS[broken], *small)
    assert answers_or_refusal(wrong_module) != right_answers


STRIDES = [f"{of}_stride_{i}" for of in ("got", "held", "place") for i in range(5)]
INTEGERS = ["got_base", "held_base", "place_base", "num_rows", "num_cols", "shift",
            *[f"size_{i}" for i in range(1, 5)], *STRIDES]


@pytest.mark.parametrize(("word", "num_dims"), [("*i64", 5), ("*i16", 1)])
@pytest.mark.slow
def test_it_compiles_to_integer_instructions(word: str, num_dims: int, tmp_path: Path) -> None:
    assert module.__file__ is not None
    bits_of_word = int(word[2:])
    # An argument of 1, such as the stride of a contiguous tensor, is compiled as a constant.
    ones = {"got_stride_0": 1, "held_stride_0": 1, "place_stride_0": 1, "size_4": 1}
    constants = {} if num_dims == 5 else ones
    ptx = ptx_of(
        Path(module.__file__), "_compare_kernel", tmp_path,
        signature={"got_ptr": word, "held_ptr": word, "record_ptr": "*i64", "mask_ptr": "*u8",
                   **{name: "i64" for name in INTEGERS if name not in constants}},
        constants={
            **constants, "NUM_DIMS": num_dims, "ROLLED_DIM": 1 if num_dims > 1 else 0,
            "WORDS": 2 if num_dims > 1 else 1, "SIGN": -(1 << (bits_of_word - 1)),
            "MAGNITUDE": (1 << (bits_of_word - 1)) - 1,
            "INFINITY": 0x7FF0 << 48 if bits_of_word == 64 else 0x7F80, "NEGATED": True,
            "NANS_ALIKE": True, "ZEROS_ALIKE": True, "WITH_MASK": num_dims > 1, "STEPS": 4,
            "ROWS": 32, "COLS": 64,
        },
    )
    assert not float_arithmetic(ptx)
    assert ".f16" not in ptx
    assert ".f32" not in ptx
    assert ".f64" not in ptx
    atomics = [line for line in ptx.splitlines() if "atom.global" in line or "red.global" in line]
    assert [a.split(".max.")[1][:3] for a in atomics if ".max." in a] == ["s64"]
    assert [a.split(".add.")[1][:3] for a in atomics if ".add." in a] == ["u64"]
    assert len(atomics) == 2
    # An address is 64 bits wide from the first multiplication on.
    assert ("mul.lo.s64" in ptx) or ("mad.lo.s64" in ptx)
    assert "mul.lo.s32" not in ptx


ON_DEVICE = (torch.uint8, torch.bfloat16, torch.float32, torch.float64, torch.complex128)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ON_DEVICE, ids=str)
def test_on_the_device(dtype: torch.dtype) -> None:
    shape = (37, 45, 70)
    words = drawn_words(dtype, 37 * 45 * 70, 8)
    held = laid_out(words, dtype, shape, order=(0, 2, 1), gap=2)
    signs = {"negated": True, "nans_alike": True, "zeros_alike": True}
    cases: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((0, 1, 2), {}), ((2, 1, 0), {"roll": (1, 7)}), ((0, 2, 1), {"roll": (2, 1)}),
        ((0, 2, 1), signs if dtype in FLOATS + COMPLEX else {"roll": (0, 5)})]
    for order, undo in cases:
        got = laid_out(words, dtype, shape, order=order, gap=2, offset=1)
        raw(got)[36, 44, 69] = raw(got)[0, 1, 2]
        wrong = wrong_by_definition(got, held, **undo)
        memory = [torch.empty(0, dtype=dtype).set_(t.untyped_storage()).cuda().as_strided(
            t.shape, t.stride(), t.storage_offset()) for t in (got, held)]
        assert difference(*memory, Undo(**undo)) == expected(wrong)
        assert np.array_equal(difference_mask(*memory, Undo(**undo)).cpu().numpy(), wrong)


@pytest.mark.gpu
def test_a_large_tensor_on_the_device() -> None:
    held = torch.arange(2**26 + 3, dtype=torch.int32, device="cuda")
    got = held.roll(-5)
    assert difference(got, held, Undo(roll=(0, 5))) == Difference(0, 0)
    got[2**26 - 2] ^= 1
    assert difference(got, held, Undo(roll=(0, 5))) == Difference(1, 2**26 - 2)
