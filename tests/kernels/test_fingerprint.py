"""The kernel's sums against the definition in Python's integers, and copies that break them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc_guard import device_bits
from sdc_guard.fingerprints import fingerprint, host_sums
from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.kernels.strided_bits import DTYPES, drawn_words, laid_out, layouts
from tests.kernels.variants import load_variant
from tests.kernels.words_by_definition import M, data_sums, flipped

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import fingerprint as module
from sdc_guard_kernels.fingerprint import BLOCK, MAX_DIMS, num_merged, word_sums


def sums(tensor: Tensor, kernels: Any = module) -> tuple[int, int]:
    first, second = kernels.word_sums(tensor).tolist()
    return first % M, second % M


def of_bytes(num: int, dtype: torch.dtype = torch.uint8, *, behind: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(num)
    memory = torch.randint(0, 256, (num + behind,), dtype=torch.uint8, generator=generator)
    return memory[:num].view(dtype)


@settings(max_examples=30)
@given(st.data(), st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=4))
def test_definition_in_any_layout(
    data: st.DataObject, dtype: torch.dtype, sizes: list[int]
) -> None:
    shape = tuple(sizes)
    num = torch.Size(shape).numel()
    tensor = laid_out(drawn_words(dtype, num, num), dtype, shape, **data.draw(layouts(len(shape))))
    assert sums(tensor) == data_sums(tensor)


EDGES = [*(BLOCK + n for n in (-1, 0, 1)), *(8 * BLOCK + n for n in (-8, -1, 0, 1, 8))]


@pytest.mark.parametrize("num_bytes", EDGES)
def test_blocks_join(num_bytes: int) -> None:
    tensor = of_bytes(num_bytes)
    assert sums(tensor) == data_sums(tensor)


def test_memory_that_is_not_aligned_to_words() -> None:
    for dtype in (torch.uint8, torch.float16, torch.float32):
        memory = of_bytes(64 * dtype.itemsize, dtype)
        for start in range(8 // dtype.itemsize):
            part = memory[start : start + 16]
            assert sums(part) == data_sums(part.clone())


def test_many_blocks_for_each_program(tmp_path: Path) -> None:
    few = load_variant(module, tmp_path, ("BLOCK = 1024", "BLOCK = 16"),
                       ("MAX_PROGRAMS = 8192", "MAX_PROGRAMS = 2"))
    for tensor in (of_bytes(1000), of_bytes(1000, torch.float32).view(25, 10)[:, :9].t()):
        assert sums(tensor, few) == sums(tensor) == data_sums(tensor)


def test_addresses_are_64_bits_wide() -> None:
    # 4 GiB of address space of which two pages are touched.
    wide = torch.empty(2**31 + 64, dtype=torch.float16).as_strided((2, 8), (2**31, 1), 0)
    wide[0], wide[1] = 1.0, 3.0
    assert sums(wide) == sums(wide.contiguous())


def test_lazy_negatives_are_read_as_they_lie_in_memory() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    assert sums(z.conj()) == sums(z)


def test_the_public_function_takes_the_kernel_and_the_host_what_the_kernel_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strided = laid_out(drawn_words(torch.int16, 729, 2), torch.int16, (3,) * 6,
                       order=(5, 3, 1, 4, 0, 2), gap=1)
    assert num_merged(strided) > MAX_DIMS
    with pytest.raises(ValueError, match="6 dimensions that cannot be merged; at most 5"):
        word_sums(strided)
    tensors = [strided, of_bytes(999), of_bytes(64, torch.complex128).conj(), torch.zeros(0, 3)]
    expected = [fingerprint(t) for t in tensors]
    used = []
    monkeypatch.setattr(device_bits, "has_kernels", lambda tensor: True)
    monkeypatch.setattr(module, "word_sums", lambda x: used.append(x) or word_sums(x))
    assert [fingerprint(t) for t in tensors] == expected
    assert len(used) == 3


def test_dimensions_that_continue_each_other_are_one() -> None:
    x = torch.zeros(4, 5, 6)
    assert [num_merged(t) for t in (x, x[1:], x[:, 1:], x.transpose(0, 1), x[0])] == [1, 1, 2, 3, 1]
    assert num_merged(torch.zeros(2, 3).expand(7, 2, 3)) == 2
    assert num_merged(torch.zeros(4, dtype=torch.complex128)) == 1
    assert num_merged(torch.zeros(4, 4, dtype=torch.complex128).t()) == 3


def test_what_the_kernel_sees() -> None:
    tensor = of_bytes(400, torch.int32)
    right = sums(tensor)
    for wrong in (flipped(tensor, (0, 0)), flipped(tensor, (99, 30)), tensor.flip(0),
                  flipped(tensor, (3, 20), (70, 20)), flipped(tensor, (3, 20), (2, 20))):
        other = sums(wrong)
        assert other[0] != right[0]
        assert other[1] != right[1]


def battery() -> list[Tensor]:
    """Cases that between them use every line of the kernel.  The last one lies in the middle of
    memory that holds all that an offset of 32 bits can reach."""
    memory = torch.empty(2**32 + 64, dtype=torch.uint8)
    wide = memory.as_strided((2, 3, 2), (2**31 + 8, 4, 1), 2**31)
    wide[0], wide[1] = 1, 2
    padded = laid_out(drawn_words(torch.int16, 240, 2), torch.int16, (2, 3, 5, 8),
                      order=(1, 3, 0, 2), gap=1, behind=4000)
    return [of_bytes(8 * BLOCK + 8, behind=16), of_bytes(1003, behind=16),
            of_bytes(4000, torch.float32).view(50, 20)[:, :11], padded, wide]


BREAKS: dict[str, tuple[str, str]] = {
    "last element lost": ("exists = element < num_elements", "exists = element < num_elements - 1"),
    "a word that does not exist": ("* PACK < num_elements\n", "* PACK < num_elements + PACK\n"),
    "strides swapped": ("offset += rest * stride_1", "offset += rest * stride_0"),
    "offset of 32 bits": ("x_ptr + offset,", "x_ptr + offset.to(tl.int32),"),
    "blocks have no place": ("key * _G_1 + lane_key_1", "lane_key_1"),
    "lanes have no place": ("key * _G_2 + lane_key_2", "key * _G_2"),
    "last program not launched": (
        "triton.cdiv(num_blocks, steps),)", "triton.cdiv(num_blocks, steps) - 1,)"),
    "last program wins": ("tl.atomic_add(sums_ptr,", "tl.atomic_xchg(sums_ptr,"),
    "accumulator lost": ("sum_2 += tl.where", "sum_2 = tl.where"),
    "sign fills the word": ("{1: tl.uint8, 2: tl.uint16", "{1: tl.int8, 2: tl.int16"),
    "elements of a word in the other order": (
        "(part * ELEMENT_BITS)", "((PACK - 1 - part) * ELEMENT_BITS)"),
    "one mix for both": ("_mix_2(word", "_mix_1(word"),
    "merged too much": ("if merged and merged[-1][1] == stride * size:", "if merged:"),
}
SMALL = (("BLOCK = 1024", "BLOCK = 64"), ("MAX_PROGRAMS = 8192", "MAX_PROGRAMS = 4"))


@pytest.fixture(scope="module")
def right_sums() -> list[tuple[int, int]]:
    return [host_sums(t) for t in battery()]


def test_the_battery_is_right(tmp_path: Path, right_sums: list[tuple[int, int]]) -> None:
    small = load_variant(module, tmp_path, *SMALL)
    assert [sums(t) for t in battery()] == right_sums == [sums(t, small) for t in battery()]


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_kernel_is_seen(
    broken: str, tmp_path: Path, right_sums: list[tuple[int, int]]
) -> None:
    small = SMALL if broken == "accumulator lost" else ()
    wrong_module = load_variant(module, tmp_path, BREAKS[broken], *small)
    assert [sums(t, wrong_module) for t in battery()] != right_sums


INTEGERS = ["num_elements", *[f"size_{i}" for i in range(4)], *[f"stride_{i}" for i in range(5)]]


@pytest.mark.parametrize(("pointer", "num_dims"), [("*u64", 1), ("*u16", 5)])
@pytest.mark.slow
def test_it_compiles_to_integer_instructions(
    pointer: str, num_dims: int, tmp_path: Path
) -> None:
    assert module.__file__ is not None
    # Arguments of 1 are compiled as constants.
    constants = {"stride_0": 1, **dict.fromkeys((f"size_{i}" for i in range(4)), 1)}
    constants = constants if num_dims == 1 else {}
    element_bits = int(pointer[2:])
    ptx = ptx_of(
        Path(module.__file__), "_fingerprint_kernel", tmp_path,
        signature={"x_ptr": pointer, "sums_ptr": "*i64",
                   **{name: "i64" for name in INTEGERS if name not in constants}},
        constants={**constants, "NUM_DIMS": num_dims, "PACK": 64 // element_bits,
                   "ELEMENT_BITS": element_bits, "STEPS": 4, "BLOCK": 16 * element_bits},
    )
    assert not float_arithmetic(ptx)
    assert not re.search(r"\.f(?:16|32|64)\b", ptx)
    atomics = re.findall(r"\b(?:atom|red)\.global\.\S+", ptx)
    assert [a.split(".")[-2:] for a in atomics] == [["add", "u64"], ["add", "u64"]]
    # Words that lie behind one another need no division.
    assert bool(re.search(r"\b(?:div|rem)\.", ptx)) is (num_dims > 1)
    assert "mul.lo.s32" not in ptx


ON_DEVICE = (torch.uint8, torch.bfloat16, torch.float32, torch.float64, torch.complex128)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ON_DEVICE, ids=str)
def test_on_the_device(dtype: torch.dtype) -> None:
    words = drawn_words(dtype, 37 * 45 * 70, 8)
    for order, offset in (((0, 1, 2), 0), ((0, 1, 2), 1), ((2, 1, 0), 3), ((0, 2, 1), 0)):
        host = laid_out(words, dtype, (37, 45, 70), order=order, offset=offset)
        storage = torch.empty(0, dtype=dtype).set_(host.untyped_storage()).cuda()
        device = storage.as_strided(host.shape, host.stride(), host.storage_offset())
        assert sums(device) == host_sums(host)
        assert fingerprint(device) == fingerprint(host)


@pytest.mark.gpu
def test_a_large_tensor_on_the_device() -> None:
    tensor = torch.arange(2**26 + 3, device="cuda", dtype=torch.int32)
    right = fingerprint(tensor)
    assert right == fingerprint(tensor.cpu())
    tensor[2**26] ^= 1 << 31
    assert fingerprint(tensor) != right
