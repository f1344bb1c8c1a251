"""Faults inside torch's operators, of the kind that hardware makes, are found by F12."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard.errors import UsageError
from sdc_guard.sweep.declared import CORE, Case, Place, SweepTest, Unsupported
from sdc_guard.sweep.families import (
    _exact_case,
    copies,
    exact_casts,
    exact_gather,
    exact_integers,
    exact_sort,
    random_streams,
)
from sdc_guard.sweep.families._exact_case import exact, index_code
from sdc_guard.sweep.messages import Message, Miscompare, Visit
from sdc_guard.sweep.visit import Visitor, generator

PLACE = Place(kind=CORE, name="core 0", device="cpu")


def case_of(tests: Sequence[SweepTest], label: str) -> tuple[SweepTest, Case]:
    (test,) = tests
    return test, next(c for c in test.cases(PLACE) if c.label.startswith(label))


def told(tests: Sequence[SweepTest], label: str) -> Miscompare:
    """The miscompare of a case that a visit finds."""
    test, case = case_of(tests, label)
    sent: list[Message] = []
    visitor = Visitor(PLACE, {test.name: test}, sent.append)
    done = visitor.visit(Visit(test=test.name, seed=3, limit_s=0.001, case=case.label))
    assert not done.error
    (found,) = [m for m in sent if isinstance(m, Miscompare)]
    assert found.oracle == "exact"
    assert found.wrong == found.tried
    return found


def faulty(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Tensor], None]) -> None:
    """An operator of torch that changes its result."""
    real = getattr(torch, name)

    def wrong(*arguments: Any, **options: Any) -> Tensor:
        result: Tensor = real(*arguments, **options)
        change(result)
        return result

    monkeypatch.setattr(torch, name, wrong)


def test_a_load_from_the_next_offset_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.index_select

    def shifted(source: Tensor, dim: int, index: Tensor) -> Tensor:
        wrong = index.clone()
        wrong[5] = (wrong[5] + 1) % source.shape[dim]
        return real(source, dim, wrong)

    monkeypatch.setattr(torch, "index_select", shifted)
    found = told(exact_gather.TESTS, "index_select of rows float32")
    assert found.pattern is not None
    assert {e.index[0] for e in found.elements} == {5}


def test_a_store_that_is_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "scatter", lambda r: r[7, 3:5].zero_())
    found = told(exact_gather.TESTS, "scatter bfloat16")
    assert [e.index for e in found.elements] == [(7, 3), (7, 4)]
    assert found.elements[0].got == "0x0000"


def test_a_sum_that_misses_one_addition_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "index_add", lambda r: r[0, :1].sub_(1))
    assert told(exact_gather.TESTS, "index_add int32").elements[0].index == (0, 0)


def test_a_cast_that_rounds_ties_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Tensor.to

    def to(self: Tensor, kind: Any, *rest: Any, **options: Any) -> Tensor:
        if kind is not torch.bfloat16 or self.dtype is not torch.float32:
            return real(self, kind, *rest, **options)
        bits = self.view(torch.int32)
        return ((bits + 0x8000) >> 16).to(torch.int16).view(torch.bfloat16)

    monkeypatch.setattr(Tensor, "to", to)
    found = told(exact_casts.TESTS, "float32 at every exponent to bfloat16")
    assert {e.xor for e in found.elements} >= {"0x0001"}


def test_flushing_subnormals_is_found() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        found = told(exact_casts.TESTS, "float32 at every exponent to float64")
    finally:
        torch.set_flush_denormal(False)
    assert found.elements[0].got_hexfloat == "0x0.0p+0"


def test_two_exchanged_elements_of_a_sort_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Tensor.sort

    def sort(self: Tensor, *arguments: Any, **options: Any) -> Any:
        values, order = real(self, *arguments, **options)
        values[[10, 11]] = values[[11, 10]]
        return values, order

    monkeypatch.setattr(Tensor, "sort", sort)
    found = told(exact_sort.TESTS, "sort float32")
    assert [e.index for e in found.elements] == [(10,), (11,)]


def test_one_wrong_carry_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Tensor.cumsum

    def cumsum(self: Tensor, dim: int) -> Tensor:
        result = real(self, dim)
        result[3, 100:] += 1 << 33
        return result

    monkeypatch.setattr(Tensor, "cumsum", cumsum)
    found = told(exact_integers.TESTS, "cumsum of rows int64")
    assert found.elements[0].index == (3, 100)


def test_a_wrong_word_of_the_generator_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    test, case = case_of(random_streams.TESTS, "uniform float32")
    case.make(generator(test.name, case.label, 1), PLACE)  # the probe has passed
    faulty(monkeypatch, "rand", lambda r: r[-1:].add_(2.0**-24))
    assert told(random_streams.TESTS, "uniform float32").elements[0].index == (16383,)


def test_a_torch_that_draws_in_another_way_is_unsupported_not_wrong(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    random_streams._PROBED.clear()
    monkeypatch.setattr(torch, "rand", lambda n, **o: torch.zeros(n) + 0.3)
    test, case = case_of(random_streams.TESTS, "uniform float32")
    with pytest.raises(Unsupported, match="makes uniform float32 from its generator in another"):
        case.make(generator(test.name, case.label, 1), PLACE)
    monkeypatch.undo()
    assert case.make(generator(test.name, case.label, 1), PLACE), "it is asked again"


def test_philox_numbers_are_words_of_their_own_counters() -> None:
    # Random123's known answer for counter 0 and key 0, and other words for other numbers.
    got = random_streams.philox_integers(0, 1000, 2**27)
    assert int(got[0]) == 0x6627E8D5 % 2**27
    assert len(set(got.tolist())) > 990


def test_a_misplaced_piece_of_a_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Tensor.flip

    def flip(self: Tensor, *dims: int) -> Tensor:
        result = real(self, *dims)
        result[0, :128] = result[0, :128].roll(64)
        return result

    monkeypatch.setattr(Tensor, "flip", flip)
    found = told(copies.TESTS, "flipped float32")
    assert found.elements[0].index == (0, 0)
    assert found.pattern is not None


def test_a_wrong_checksum_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = copies.zlib.crc32
    monkeypatch.setattr(copies.zlib, "crc32", lambda data: real(data) ^ 4)
    assert told(copies.TESTS, "crc32").elements[0].popcount == 1


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "int16", "int64"])
def test_codes_of_indices_differ_and_are_finite(dtype: str) -> None:
    codes = index_code(1 << 15, dtype, salt=99)
    assert len(np.unique(codes)) == 1 << 15
    assert np.array_equal(index_code(10, dtype, salt=109), codes[10:20])
    if dtype.startswith(("float", "bfloat")):
        held = torch.from_numpy(codes.view(f"i{codes.itemsize}")).view(getattr(torch, dtype))
        assert bool(torch.isfinite(held).all())


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="'posit8' is unknown"):
        index_code(4, "posit8")


def test_an_operator_that_torch_lacks_is_unsupported_and_a_failure_is_not() -> None:
    def lacks() -> tuple[Tensor]:
        raise RuntimeError('"addmm_cuda" not implemented for \'Long\'')

    def fails() -> tuple[Tensor]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(Unsupported, match="addmm_cuda"):
        exact(lacks, ())
    with pytest.raises(RuntimeError, match="illegal"):
        exact(fails, ())
    assert _exact_case.exact(lambda: (), ()).num_bytes == 0
