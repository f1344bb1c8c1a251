"""Ops without a file of their own: repeated, counted as such, and never harmed by it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdc_guard
from sdc_guard.ops import is_deterministic, lookup, lookup_complex
from sdc_guard.records import Verdict
from tests.guard.training import flip, hit

aten = torch.ops.aten


def numbers(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=dtype)


SQUARE, WAVE = numbers(5, 5), numbers(4, 16)
COMPLEX, WIDE = numbers(3, 4, dtype=torch.complex64), numbers(7, dtype=torch.complex128)
LOG_SUM = torch.ops.aten.logsumexp.default

GENERIC: dict[str, tuple[Any, Callable[[], Any]]] = {
    "exponential": (aten.linalg_matrix_exp.default, lambda: torch.linalg.matrix_exp(SQUARE)),
    "renorm": (aten.renorm.default, lambda: torch.renorm(WAVE, 2, 0, 1.0)),
    "complex log-sum-exp": (LOG_SUM, lambda: COMPLEX.logsumexp(1)),
    "complex128 log-sum-exp": (LOG_SUM, lambda: WIDE.logsumexp(0)),
}


def guarded(run: Callable[[], Any]) -> sdc_guard.Guard:
    guard = sdc_guard.Guard(budget="all")
    with guard:
        run()
    return guard


@pytest.mark.parametrize("name", GENERIC)
def test_a_transient_fault_is_found_and_a_clean_call_is_counted_as_a_rerun(name: str) -> None:
    op, run = GENERIC[name]
    clean = guarded(run)
    packet = op._schema.name.replace("::", ".")
    counted = next(c for c in clean.coverage.ops if c.op == packet)
    assert counted.calls_checked == counted.calls >= 1
    assert counted.witnesses.get("rerun") == counted.calls
    assert not clean.findings
    assert clean.coverage.guard_errors == 0
    faulty = sdc_guard.Guard(budget="all")
    with faulty, hit(flip(op, bit=20)):
        run()
    assert [f.verdict for f in faulty.findings] == [Verdict.CORRUPTION]
    assert faulty.findings[0].op == str(op)
    worst = faulty.findings[0].worst
    assert worst is not None
    assert bin(int(worst.xor, 16)).count("1") == 1


def test_none_of_these_has_a_file_that_would_take_the_call() -> None:
    assert lookup("aten.linalg_matrix_exp") is None
    assert lookup("aten.renorm") is None
    assert lookup_complex("aten.logsumexp") is None


def test_an_operator_that_updates_what_its_schema_does_not_name_is_not_updated_twice() -> None:
    """``native_batch_norm`` writes running statistics."""
    plain, watched = (nn.BatchNorm1d(6) for _ in range(2))
    x = numbers(8, 6)
    plain(x)
    guard = guarded(lambda: watched(x))
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, watched.get_buffer(name)), name
    assert not guard.findings


@pytest.fixture
def library() -> Any:
    found = torch.library.Library("sdc_guard_test", "FRAGMENT")
    yield found
    found._destroy()


def test_a_custom_operator_is_not_repeated(library: Any) -> None:
    calls: list[int] = []

    def twice(x: Tensor) -> Tensor:
        calls.append(1)
        return x * 2

    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", twice, "CPU")
    guard = guarded(lambda: torch.ops.sdc_guard_test.twice(numbers(3)))
    assert len(calls) == 1
    counted = next(c for c in guard.coverage.ops if "twice" in c.op)
    assert counted.calls_checked == 0
    assert dict(counted.not_tested) == {"custom operator without a registration": 1}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_random_draws_are_not_repeated(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    expected = torch.randn(5, dtype=dtype), torch.randn(3)
    torch.manual_seed(3)
    drawn: list[Tensor] = []
    guard = guarded(lambda: drawn.extend((torch.randn(5, dtype=dtype), torch.randn(3))))
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    assert not guard.findings


def test_random_draws_without_a_file_are_not_repeated() -> None:
    torch.manual_seed(3)
    expected = torch._standard_gamma(torch.ones(50))
    torch.manual_seed(3)
    drawn: list[Tensor] = []
    guard = guarded(lambda: drawn.append(torch._standard_gamma(torch.ones(50))))
    assert torch.equal(drawn[0], expected)
    counted = next(c for c in guard.coverage.ops if c.op == "aten._standard_gamma")
    assert dict(counted.not_tested) == {"draws random numbers": 1}


def test_what_is_not_deterministic_on_cuda_alone_is_on_a_cpu() -> None:
    adds, writes = lookup("aten.index_add"), lookup("aten.index_put")
    assert adds is not None
    assert writes is not None
    assert not is_deterministic(adds, "cuda", 1)
    assert is_deterministic(adds, "cpu", 2)
    assert is_deterministic(writes, "cpu", 1)
    assert not is_deterministic(writes, "cpu", 2)  # repeated indices: threads race


def test_a_flip_inside_the_bound_of_such_an_op_is_corruption_on_a_cpu() -> None:
    base, index, values = numbers(6, 4), torch.tensor([0, 2, 0]), numbers(3, 4, seed=1)
    guard = sdc_guard.Guard(budget="all")
    with guard, hit(flip(aten.index_add.default, bit=0)):
        torch.index_add(base, 0, index, values)
    assert [f.verdict for f in guard.findings] == [Verdict.CORRUPTION]


def test_what_gives_other_bits_each_time_is_not_repeated() -> None:
    guard = guarded(lambda: torch.linalg.lstsq(numbers(9, 5), numbers(9, 2, seed=1)))
    counted = next(c for c in guard.coverage.ops if c.op == "aten.linalg_lstsq")
    assert counted.calls_checked == 0
    assert "equal calls give other bits" in next(iter(counted.not_tested))


def test_operands_that_the_memory_budget_does_not_hold_are_not_copied() -> None:
    """A small result of a large operand: the copies are what takes memory."""
    large = numbers(512, 64)
    for memory_budget, checked in ((64 << 20, 1), (64 << 10, 0)):
        guard = sdc_guard.Guard(budget="all", memory_budget=memory_budget)
        with guard:
            aten._histogramdd_from_bin_cts(large.view(-1, 1), [4])
        counted = next(c for c in guard.coverage.ops if c.op == "aten._histogramdd_from_bin_cts")
        assert counted.calls_checked == checked
        assert dict(counted.not_tested) == ({} if checked else {"memory budget": 1})


def test_arbitration_leaves_alone_what_no_schema_names() -> None:
    """An operator that also writes to its operand, and goes wrong once."""
    touched: list[int] = []

    def counting(x: Tensor) -> Tensor:
        touched.append(x.data_ptr())
        return torch.full_like(x, float(len(touched) > 1))

    x = numbers(5)
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            library.impl("special_airy_ai", counting, "CPU")
        guard = guarded(lambda: torch.special.airy_ai(x))
    finally:
        library._destroy()
    assert [f.verdict for f in guard.findings] == [Verdict.CORRUPTION]
    assert touched[0] == x.data_ptr()
    assert len(touched) > 3
    assert x.data_ptr() not in touched[1:]
