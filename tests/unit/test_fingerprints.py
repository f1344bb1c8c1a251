"""A fingerprint stays what it is, follows its definition, and sees what other sums do not."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.bits import raw
from sdc_guard.fingerprints import BLOCK_WORDS, fingerprint, host_sums
from tests.kernels.strided_bits import DTYPES, drawn_words, laid_out, layouts
from tests.kernels.words_by_definition import (
    M,
    data_sums,
    fingerprint_by_definition,
    flipped,
    mix_1,
    mix_2,
)

GOLDEN: dict[str, tuple[Tensor, int]] = {
    "nothing": (torch.zeros(0), 0x6CC9DFDFB653C0D883EA7B7EC3FA32DD),
    "one number": (torch.tensor(1.5), 0x14C5EE661FC429889560016596972A29),
    "zeros": (torch.tensor([0.0, -0.0]), 0xEE3B777DCDBA5434EA123E5FB11BBDD5),
    "integers": (torch.arange(10), 0xD46B8823473B84D9B5C7F19B66071E22),
    "bfloat16": (torch.arange(1.0, 7.0).view(2, 3).bfloat16(), 0x06EA4AD8CF2E831F860CA866E4A4DBA4),
    "bytes": (torch.arange(11, dtype=torch.uint8), 0x52769DB065D4E188E8B706F0B0CC0B82),
    "complex": (torch.tensor([1 + 2j, -3.5j], dtype=torch.complex128),
                0x388460054313B0A6DE0ECFF42E95809E),
    "booleans": (torch.tensor([True, False, True]), 0x8F8F770D68709CC3EF1A86AA623C4465),
    "blocks": (torch.arange(70_000) * 0x9E3779B1, 0x1149A062F7FF1B0ADDDD76DAD2675878),
}


def _draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4)).to(dtype)


@pytest.mark.parametrize("name", GOLDEN)
def test_it_never_changes(name: str) -> None:
    tensor, expected = GOLDEN[name]
    assert fingerprint(tensor) == expected == fingerprint_by_definition(tensor)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=4))
def test_definition_in_any_layout(
    data: st.DataObject, dtype: torch.dtype, sizes: list[int]
) -> None:
    shape = tuple(sizes)
    num = torch.Size(shape).numel()
    tensor = laid_out(drawn_words(dtype, num, num), dtype, shape, **data.draw(layouts(len(shape))))
    assert fingerprint(tensor) == fingerprint_by_definition(tensor)


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64], ids=str)
def test_blocks_of_the_host_join(dtype: torch.dtype, over: int) -> None:
    tensor = _draw(BLOCK_WORDS * 8 // dtype.itemsize + over, dtype=dtype)
    assert host_sums(tensor) == data_sums(tensor)
    wide = torch.stack([tensor, tensor], 1)[:, 0]
    assert host_sums(wide) == host_sums(tensor)


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float32, torch.complex128],
                         ids=str)
def test_each_change_of_one_element_changes_both_halves(dtype: torch.dtype) -> None:
    tensor = laid_out(drawn_words(dtype, 13, 1), dtype, (13,), order=(0,))
    right = fingerprint(tensor)
    memory = tensor.view(torch.uint8) if dtype is not torch.complex128 else (
        torch.view_as_real(tensor).view(torch.uint8))
    flat = raw(memory).reshape(-1)
    for i, b in itertools.product(range(len(flat)), range(8)):
        flat[i] ^= 1 << b
        wrong = fingerprint(tensor)
        flat[i] ^= 1 << b
        assert wrong >> 64 != right >> 64
        assert wrong % M != right % M


def test_the_mixes_can_be_undone() -> None:
    """Which proves that a change within one word is always seen."""

    def unshifted(x: int, shift: int) -> int:
        found = x
        for _ in range(64 // shift + 1):
            found = x ^ found >> shift
        return found

    draws = random.Random(6)
    for mix, rounds, last in (
        (mix_1, ((27, 0x94D049BB133111EB), (30, 0xBF58476D1CE4E5B9)), 31),
        (mix_2, ((33, 0xC4CEB9FE1A85EC53), (33, 0xFF51AFD7ED558CCD)), 33),
    ):
        for x in [0, 1, M - 1, 1 << 63, *[draws.randrange(M) for _ in range(200)]]:
            back = unshifted(mix(x), last)
            for shift, factor in rounds:
                back = unshifted(back * pow(factor, -1, M) % M, shift)
            assert back == x


@pytest.mark.parametrize("fill", [0, -1, 0x3FF0 << 48])
def test_no_two_flips_cancel(fill: int) -> None:
    """All pairs of single flips in 32 words, 8 million of them: not even one half misses one."""
    tensor = torch.full((32,), fill)
    right = host_sums(tensor)
    changes: list[dict[int, int]] = [{}, {}]
    for i, b in itertools.product(range(32), range(64)):
        wrong = host_sums(flipped(tensor, (i, b)))
        for half in range(2):
            changes[half][(wrong[half] - right[half]) % M] = i
    for half in changes:
        assert len(half) == 32 * 64
        assert not any((M - change) % M in half for change in half)


def test_every_order_of_the_elements_has_its_own() -> None:
    for dtype in (torch.float32, torch.float64):
        tensor = _draw(5, dtype=dtype)
        seen = {fingerprint(tensor[list(p)]) for p in itertools.permutations(range(5))}
        assert len(seen) == 120
    tensor = _draw(64, dtype=torch.float64)
    right = fingerprint(tensor)
    for i, j in itertools.combinations(range(64), 2):
        order = list(range(64))
        order[i], order[j] = j, i
        assert fingerprint(tensor[order]) != right


@pytest.mark.skipif(not hasattr(torch, "hash_tensor"), reason="this torch has no hash_tensor")
def test_it_sees_what_hash_tensor_does_not() -> None:
    tensor = _draw(100)
    exchanged = tensor.clone()
    exchanged[3], exchanged[70] = tensor[70], tensor[3]
    twice = flipped(tensor, (3, 20), (70, 20))
    for wrong in (exchanged, twice, tensor.flip(0)):
        assert torch.hash_tensor(wrong) == torch.hash_tensor(tensor)
        assert fingerprint(wrong) != fingerprint(tensor)
    once = flipped(tensor, (3, 20))
    assert torch.hash_tensor(once) != torch.hash_tensor(tensor)


def test_signs_zeros_and_payloads_count() -> None:
    nan = torch.tensor([torch.nan, 1.0, 0.0])
    distinct = [nan, flipped(nan, (0, 0)), flipped(nan, (0, 31)), flipped(nan, (1, 31)),
                flipped(nan, (2, 31)), flipped(nan, (0, 31), (1, 31))]
    assert len({fingerprint(t) for t in distinct}) == len(distinct)


def test_shape_and_dtype_count_and_layout_does_not() -> None:
    shapes = [(), (0,), (0, 0), (1,), (6,), (7,), (2, 3), (3, 2), (1, 6), (23,), (2, 33)]
    zeros = [torch.zeros(shape, dtype=dtype) for shape in shapes
             for dtype in (torch.float32, torch.int32, torch.uint8)]
    assert len({fingerprint(t) for t in zeros}) == len(zeros)
    tensor = _draw(6, 5, 4)
    same = [tensor, tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0),
            torch.cat([tensor, tensor], 2)[:, :, :4], tensor.clone().requires_grad_()]
    assert {fingerprint(t) for t in same} == {fingerprint(tensor)}
    row = tensor[0, 0]
    assert fingerprint(row.expand(3, 4)) == fingerprint(torch.stack([row] * 3))


def test_lazy_numbers_count_as_what_they_are() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    assert fingerprint(z.conj()) == fingerprint(z.conj().resolve_conj()) != fingerprint(z)
    assert fingerprint(z.conj().imag) == fingerprint(torch.tensor([-2.0, 4.0]))


def test_memory_is_bounded() -> None:
    tensor = torch.zeros(1500, 2000)
    for view in (tensor, tensor.t()):
        fingerprint(view)
        tracemalloc.start()
        fingerprint(view)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2e6 < tensor.numel() * 4 / 5


def test_no_aten_kernel_runs_on_the_host() -> None:
    class Called(TorchDispatchMode):
        names: set[str] = set()  # noqa: RUF012

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            self.names.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    tensor = _draw(30, 4).t()
    with Called() as called:
        fingerprint(tensor)
    assert called.names <= {"detach"}
