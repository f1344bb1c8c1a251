"""A kernel that is wrong everywhere, for rare data or for one layout, is found and is `software`.

Each replay runs on the same broken kernel, and so does the identical call on every other core:
what sees the fault is a moved replay or the reference, and what names its cause is that the call is
wrong wherever it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdc_guard.bench.workload import intra_op_threads
from sdc_guard.guard import Guard
from sdc_guard.inject.faults import Fault
from sdc_guard.inject.kernel_bugs import WrongAtOffset, WrongLayout, WrongOffset
from sdc_guard.inject.predicates import is_transposed, one_in
from sdc_guard.records import Cause, Finding, Verdict

aten = torch.ops.aten
NUM_CALLS = 24
"""Calls on fresh data; the rare faults below hold for about one content in six."""


def _data(number: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number))


def _embedding_backward(number: int) -> None:
    table = torch.zeros(40, 16, requires_grad=True)
    tokens = torch.randint(0, 40, (8, 12), generator=torch.Generator().manual_seed(number))
    F.embedding(tokens, table).backward(_data(number, 8, 12, 16))


@dataclass(frozen=True)
class Case:
    """A computation with one call of ``op``, and the operand that a wrong offset misreads."""

    name: str
    op: Any
    run: Callable[[int], object]
    operand: str


CASES = [
    Case("sum", aten.sum.dim_IntList, lambda n: _data(n, 24, 40).sum(dim=-1), "self"),
    Case("sum of all", aten.sum.default, lambda n: _data(n, 24, 40).sum(), "self"),
    Case("mean", aten.mean.dim, lambda n: _data(n, 24, 40).mean(dim=0), "self"),
    Case("mean of all", aten.mean.default, lambda n: _data(n, 24, 40).mean(), "self"),
    Case("mm", aten.mm.default, lambda n: _data(n, 24, 16) @ _data(n + 1, 16, 20), "self"),
    Case("addmm", aten.addmm.default,
         lambda n: F.linear(_data(n, 24, 16), _data(1, 20, 16), _data(2, 20)), "mat1"),
    Case("layer_norm", aten.native_layer_norm.default,
         lambda n: F.layer_norm(_data(n, 12, 32), (32,), _data(1, 32), _data(2, 32)), "input"),
    Case("softmax", aten._softmax.default, lambda n: _data(n, 12, 32).softmax(-1), "self"),
    Case("embedding backward", aten.embedding_dense_backward.default, _embedding_backward,
         "grad_output"),
]


def _transposed(number: int, rows: int, columns: int) -> Tensor:
    return _data(number, columns, rows).t()


def _transposed_embedding_backward(number: int) -> None:
    table = torch.zeros(40, 16, requires_grad=True)
    tokens = torch.randint(0, 40, (12,), generator=torch.Generator().manual_seed(number))
    F.embedding(tokens, table).backward(_transposed(number, 12, 16))


LAYOUT_CASES = [
    Case("sum", aten.sum.dim_IntList, lambda n: _transposed(n, 24, 40).sum(dim=-1), "self"),
    Case("mean", aten.mean.dim, lambda n: _transposed(n, 24, 40).mean(dim=0), "self"),
    Case("mm", aten.mm.default, lambda n: _transposed(n, 24, 16) @ _data(n + 1, 16, 20), "self"),
    Case("addmm", aten.addmm.default,
         lambda n: torch.addmm(_data(2, 20), _transposed(n, 24, 16), _data(1, 16, 20)), "mat1"),
    Case("layer_norm", aten.native_layer_norm.default,
         lambda n: F.layer_norm(_transposed(n, 12, 32), (32,), _data(1, 32), _data(2, 32)),
         "input"),
    Case("softmax", aten._softmax.default, lambda n: _transposed(n, 12, 32).softmax(-1), "self"),
    Case("embedding backward", aten.embedding_dense_backward.default,
         _transposed_embedding_backward, "grad_output"),
]


def guarded(case: Case, fault: Fault | None, num_calls: int = NUM_CALLS) -> list[Finding]:
    """Findings of ``num_calls`` calls; a fault begins after the first third, when relations have
    been admitted."""
    told: list[Finding] = []
    guard = Guard(budget="all", on_finding=told.append, evidence="none")
    with intra_op_threads(1):
        for number in range(num_calls):
            broken = fault if fault is not None and number >= num_calls // 3 else nullcontext()
            with guard, broken:
                case.run(number)
    coverage = guard.coverage
    assert coverage.guard_errors == 0, coverage
    (seen,) = [op for op in coverage.ops if op.op == str(case.op).rpartition(".")[0]]
    assert seen.calls_checked == seen.calls >= num_calls
    return told


def is_caught_as_software(findings: list[Finding], case: Case) -> None:
    told = [f"{f.verdict.value}, {f.cause.value}: {f.message}; {f.attribution.reason}"
            for f in findings]
    named = [f for f in findings if f.op == str(case.op) and f.verdict is Verdict.CORRUPTION]
    assert named, told or "no finding"
    assert {f.op for f in findings} == {str(case.op)}, told
    causes = {f.cause for f in named}
    assert Cause.PERSISTENT_HARDWARE not in causes, told
    assert Cause.TRANSIENT not in causes, told
    assert Cause.SOFTWARE in causes, told


@pytest.mark.parametrize("case", CASES + LAYOUT_CASES, ids=lambda c: f"{c.name}")
def test_correct_kernels_are_not_reported(case: Case) -> None:
    assert not guarded(case, None)


# A wrapped read of all elements is a permutation of them: the sum of all stays right.
WHOLE = [c for c in CASES if c.name.endswith("of all")]
IN_PART = [c for c in CASES if c not in WHOLE]


@pytest.mark.parametrize("case", IN_PART, ids=lambda c: c.name)
def test_a_wrong_offset_on_rare_data_is_software(case: Case) -> None:
    fault = WrongOffset(case.op, one_in(6, case.operand), operand=case.operand)
    findings = guarded(case, fault)
    assert fault.injected
    is_caught_as_software(findings, case)


@pytest.mark.parametrize("case", WHOLE, ids=lambda c: c.name)
def test_a_wrong_total_on_rare_data_is_software(case: Case) -> None:
    fault = WrongAtOffset(case.op, 0, bit=24, when=one_in(6, case.operand))
    findings = guarded(case, fault)
    assert fault.injected
    is_caught_as_software(findings, case)


@pytest.mark.parametrize("case", IN_PART, ids=lambda c: c.name)
def test_a_wrong_number_at_one_offset_is_software(case: Case) -> None:
    fault = WrongAtOffset(case.op, 11, when=one_in(6, case.operand))
    findings = guarded(case, fault)
    assert fault.injected
    is_caught_as_software(findings, case)


@pytest.mark.parametrize("case", LAYOUT_CASES, ids=lambda c: c.name)
def test_strides_that_are_ignored_are_software(case: Case) -> None:
    fault = WrongLayout(case.op, is_transposed, operand=case.operand)
    findings = guarded(case, fault, num_calls=6)
    assert fault.injected
    is_caught_as_software(findings, case)
