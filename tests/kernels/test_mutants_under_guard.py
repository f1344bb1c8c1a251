"""Broken copies of our own kernels as the operators under test: a guard accuses each.

The tables of broken copies are those of the tests beside this one, which find them by themselves.
Here each is an operator that a program calls, with its definition in NumPy as the reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import sdc_guard
from sdc_guard import Verdict
from sdc_guard.ops import _registry
from sdc_guard_kernels import fingerprint, operand_sums, reductions
from tests.kernels import (
    test_fingerprint,
    test_operand_sums,
    test_reductions,
)
from tests.kernels.drawn import wide_range
from tests.kernels.variants import load_variant
from tests.kernels.words_by_definition import data_sums

numbers = itertools.count()
SLACK = 2.0**-40
"""Of sums of up to 10^4 terms in float64 by NumPy, against the sum of their absolute values."""


@dataclass(frozen=True)
class Operator:
    """How a module's kernel is called as an operator: ``run`` takes the module and an operand,
    ``reference`` and ``bound`` an array."""

    run: Callable[[ModuleType, Tensor], Tensor]
    reference: Callable[[Any], Any]
    bound: Callable[[Any], Any]
    operands: tuple[Tensor, ...]


def both_sums(x: Any, axis: Any = 1) -> Any:
    return np.stack([x.sum(axis), np.abs(x).sum(axis)])


def sums_of_three(kernels: ModuleType, x: Tensor) -> Tensor:
    """Over columns, rows and everything, as one vector."""
    accumulator = "compensated" if x.dtype is torch.float32 else "float64"
    found = [kernels.reduce_sums(x, dims, accumulator=accumulator)
             for dims in ((0, 2), (1, 2, 3), (0, 1, 2, 3))]
    return torch.cat([part.reshape(-1) for pair in found for part in pair])


def three_by_definition(x: Any) -> Any:
    return np.concatenate([np.ravel(both_sums(x, axis)) for axis in ((0, 2), (1, 2, 3), None)])


def limit_of_three(x: Any) -> Any:
    """2^-39 sum|x|: more than 10^4 additions in float64 may err by."""
    return 2 * SLACK * three_by_definition(np.abs(x))


def limit_of_three_in_fp32(x: Any) -> Any:
    """2^-39 sum|x| for compensated lanes; of sum|x| itself 2^-18, for 64 terms a lane in fp32."""
    sizes = [np.abs(x).sum(axis) for axis in ((0, 2), (1, 2, 3), None)]
    return np.concatenate([np.ravel(np.stack([2 * SLACK * s, 2.0**-18 * s])) for s in sizes])


def sums_of_operand(kernels: ModuleType, x: Tensor) -> Tensor:
    found = kernels.operand_sums(x, columns=True)
    return torch.cat([found.rows.reshape(-1), found.columns.reshape(-1)])


def operand_by_definition(x: Any) -> Any:
    return np.concatenate([np.ravel(both_sums(x, axis)) for axis in (2, 1)])


def limit_of_operand(x: Any) -> Any:
    """The largest of the plan's coefficients at small blocks, times sum|x|."""
    plan = operand_sums.sums_plan(*x.shape, torch.float32, columns=True)
    c = 4 * max(plan.row_error, plan.column_error)
    return c * operand_by_definition(np.abs(x))


def words(kernels: ModuleType, x: Tensor) -> Tensor:
    return kernels.word_sums(x).clone()


def words_by_definition(x: Any) -> Any:
    """Of int32 data, as signed 64-bit numbers."""
    found = data_sums(torch.from_numpy(np.array(x)))
    return np.array([v - 2**64 if v >= 2**63 else v for v in found], dtype=np.int64)


def nothing(x: Any) -> Any:
    """Exact."""
    return np.zeros(2)


def integers(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(-2**31, 2**31 - 1, shape, dtype=torch.int32, generator=generator)


SUMS = Operator(sums_of_three, three_by_definition, limit_of_three,
                (wide_range(20, 6, 5, 9)[:, 1:],))
FP32_SUMS = Operator(sums_of_three, three_by_definition, limit_of_three_in_fp32,
                     (wide_range(20, 6, 5, 9, dtype=torch.float32)[:, 1:],))
OPERANDS = Operator(sums_of_operand, operand_by_definition, limit_of_operand,
                    (wide_range(2, 39, 43, dtype=torch.float32)[:, 2:, 3:],))
WORDS = Operator(words, words_by_definition, nothing,
                 (integers(1, 3, 700), integers(1, 60, 40)[:, :, 1:37],
                  integers(4, 6, 9).transpose(0, 2)))


def guarded(kernels: ModuleType, operator: Operator) -> sdc_guard.Guard:
    """Calls of an operator that runs these kernels, under a guard that knows its definition."""

    @sdc_guard.checked(
        reference=operator.reference, bound=operator.bound, symmetries=(), samples=lambda *_: [],
        operands=(" ".join("." * operator.operands[0].dim()),),
        name=f"sdc_guard_mutants::op{next(numbers)}")
    def run(x: Tensor) -> Tensor:
        return operator.run(kernels, x)

    with sdc_guard.Guard(budget="all") as guard:
        for x in operator.operands:
            run(x)
    return guard


CASES: dict[str, tuple[Operator, Callable[[Path], ModuleType]]] = {}
for name, change in test_reductions.BREAKS.items():
    CASES[f"reductions: {name}"] = (
        FP32_SUMS if name == "compensation lost" else SUMS,
        lambda folder, change=change: test_reductions.variant(
            folder, change, strided_changes=test_reductions.SMALL))
for name in ("merged across a gap", "wrong divisor"):
    CASES[f"reductions: {name}"] = (
        SUMS, lambda folder, name=name: test_reductions.variant(
            folder, strided_changes=(test_reductions.PLAN_BREAKS[name],)))
for name, change in test_operand_sums.BREAKS.items():
    CASES[f"operand_sums: {name}"] = (
        OPERANDS, lambda folder, change=change: load_variant(
            operand_sums, folder, *test_operand_sums.SMALL, change))
OUT_OF_REACH = {"a word that does not exist", "offset of 32 bits", "sign fills the word",
                "elements of a word in the other order", "accumulator lost"}
"""Of the fingerprint: these need other dtypes, 4 GiB of addresses or many blocks."""
for name, change in test_fingerprint.BREAKS.items():
    if name not in OUT_OF_REACH:
        CASES[f"fingerprint: {name}"] = (
            WORDS, lambda folder, change=change: load_variant(fingerprint, folder, change))


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone afterwards."""
    _registry.discover()
    for name in ("_SPECS", "_OWNERS"):
        monkeypatch.setattr(_registry, name, dict(getattr(_registry, name)))


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 15


@pytest.mark.parametrize(
    ("operator", "kernels"),
    [(SUMS, reductions), (FP32_SUMS, reductions), (OPERANDS, operand_sums),
     (WORDS, fingerprint)],
    ids=["reductions", "compensated reductions", "operand_sums", "fingerprint"])
def test_the_right_kernel_is_not_accused(operator: Operator, kernels: ModuleType) -> None:
    guard = guarded(kernels, operator)
    assert not guard.findings
    assert guard.coverage.guard_errors == 0
    assert guard.coverage.calls_checked == guard.coverage.calls > 0


QUICK_EVERY = 3
"""Of the cases every third runs with the fast tests, the others with the slow ones; of the
reductions, which take the longest, one alone."""
FAST = [case for i, case in enumerate(CASES) if i % QUICK_EVERY == 1
        and (not case.startswith("reductions: ") or case == "reductions: last block dropped")]


@pytest.mark.parametrize("case", [
    case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES])
def test_a_broken_kernel_is_accused(case: str, tmp_path: Path) -> None:
    operator, broken = CASES[case]
    guard = guarded(broken(tmp_path), operator)
    assert guard.coverage.guard_errors == 0
    assert guard.findings
    assert {f.verdict for f in guard.findings} == {Verdict.CORRUPTION}
    assert all(f.op.startswith("sdc_guard_mutants.op") for f in guard.findings)
