"""Complex calls are judged by references of their own, not by a repeat alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdc_guard
from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of, resolved
from sdc_guard.check.plan import spec_for
from sdc_guard.check.reference import compare
from sdc_guard.inject.override import KernelOverride
from sdc_guard.ops import GENERIC, Reference, lookup, lookup_complex, repeated
from sdc_guard.ops._complex import of_parts
from sdc_guard.records import Verdict
from tests.guard.training import flip, hit

aten = torch.ops.aten


def drawn(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.complex64) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=dtype)


Z, W, WAVE = drawn(9, 37), drawn(9, 37, seed=1), drawn(5, 60)
A, B = drawn(12, 30), drawn(30, 7, seed=2)
INDEX = torch.tensor([3, 0, 3])

CASES: dict[str, tuple[Any, Callable[[], Tensor]]] = {
    "add": (aten.add.Tensor, lambda: Z + W),
    "add scaled": (aten.add.Tensor, lambda: torch.add(Z, W, alpha=0.3 - 2j)),
    "sub": (aten.sub.Tensor, lambda: Z - W),
    "mul": (aten.mul.Tensor, lambda: Z * W),
    "mul scalar": (aten.mul.Tensor, lambda: Z * (0.1 + 2j)),
    "div": (aten.div.Tensor, lambda: Z / W),
    "reciprocal": (aten.reciprocal.default, lambda: Z.reciprocal()),
    "addcmul": (aten.addcmul.default, lambda: torch.addcmul(Z, W, Z)),
    "lerp": (aten.lerp.Scalar, lambda: torch.lerp(Z, W, 0.3)),
    "abs": (aten.abs.default, lambda: Z.abs()),
    "angle": (aten.angle.default, lambda: Z.angle()),
    "exp": (aten.exp.default, lambda: Z.exp()),
    "log": (aten.log.default, lambda: Z.log()),
    "sqrt": (aten.sqrt.default, lambda: Z.sqrt()),
    "tanh": (aten.tanh.default, lambda: Z.tanh()),
    "pow": (aten.pow.Tensor_Scalar, lambda: Z ** (1.5 + 0.5j)),
    "sum": (aten.sum.dim_IntList, lambda: Z.sum(1)),
    "mean": (aten.mean.dim, lambda: Z.mean(0)),
    "prod": (aten.prod.dim_int, lambda: Z.prod(1)),
    "cumsum": (aten.cumsum.default, lambda: Z.cumsum(0)),
    "norm": (aten.linalg_vector_norm.default, lambda: torch.linalg.vector_norm(Z, dim=1)),
    "var": (aten.var.correction, lambda: Z.var(1)),
    "mm": (aten.mm.default, lambda: A @ B),
    "mm of a conjugate": (aten.mm.default, lambda: A.t().contiguous().mH @ B),
    "addmm": (aten.addmm.default, lambda: torch.addmm(B[0], A, B, beta=2)),
    "dot": (aten.dot.default, lambda: torch.dot(Z[0], W[0])),
    "vdot": (aten.vdot.default, lambda: torch.vdot(Z[0], W[0])),
    "cat": (aten.cat.default, lambda: torch.cat([Z, W])),
    "flip": (aten.flip.default, lambda: Z.flip(0)),
    "index": (aten.index.Tensor, lambda: Z[INDEX]),
    "index_add": (aten.index_add.default, lambda: Z.index_add(0, INDEX, W[:3])),
    "where": (aten.where.self, lambda: torch.where(Z.real > 0, Z, W)),
    "fft": (aten._fft_c2c.default, lambda: torch.fft.fft(WAVE)),
    "fft of a prime": (aten._fft_c2c.default, lambda: torch.fft.ifft(WAVE[:, :59], norm="ortho")),
    "fft2": (aten._fft_c2c.default, lambda: torch.fft.fft2(WAVE)),
    "rfft": (aten._fft_r2c.default, lambda: torch.fft.rfft(WAVE.real.contiguous())),
    "irfft": (aten._fft_c2r.default, lambda: torch.fft.irfft(WAVE)),
}


def guarded(run: Callable[[], Any]) -> sdc_guard.Guard:
    guard = sdc_guard.Guard(budget="all")
    with guard:
        run()
    return guard


@pytest.mark.parametrize("name", CASES)
def test_a_clean_call_is_judged_by_more_than_a_repeat(name: str) -> None:
    op, run = CASES[name]
    guard = guarded(lambda: [run() for _ in range(3)])
    assert not guard.findings
    assert guard.coverage.guard_errors == 0
    counted = next(c for c in guard.coverage.ops if c.op == form_of(op).packet)
    assert counted.calls_checked == counted.calls >= 3
    assert not counted.witnesses.get("rerun")
    assert {"reference", "invariant"} & set(counted.witnesses)


def off_by_a_thousandth(info: Any, results: tuple[Tensor | None, ...]) -> None:
    """The same relative error in every element, which no replay sees."""
    for tensor in results:
        if tensor is not None:
            tensor.mul_(1.0 + 2.0**-10)


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_that_is_wrong_alike_everywhere_is_found(name: str) -> None:
    op, run = CASES[name]
    guard = sdc_guard.Guard(budget="all")
    with guard, KernelOverride(op, off_by_a_thousandth):
        run()
    found = [f for f in guard.findings if f.op == str(op)]
    assert found, [f.message for f in guard.findings]
    assert found[0].verdict in (Verdict.CORRUPTION, Verdict.PRECISION)
    assert found[0].held_is_wrong


@pytest.mark.parametrize("name", ["mul", "sum", "mm", "fft", "cat", "exp"])
def test_one_flipped_bit_is_found(name: str) -> None:
    op, run = CASES[name]
    guard = sdc_guard.Guard(budget="all")
    with guard, hit(flip(op, bit=20)):
        run()
    assert [f.verdict for f in guard.findings] == [Verdict.CORRUPTION]
    worst = guard.findings[0].worst
    assert worst is not None
    assert worst.error_ulps > 0


def test_what_is_not_finite_is_not_judged_where_evaluations_may_differ() -> None:
    odd = Z.clone()
    odd.view(-1)[:4] = torch.tensor([complex(math.inf, 1), complex(math.nan, 1),
                                     complex(1, -math.inf), complex(-math.inf, math.nan)])
    for run in (lambda: odd * W, lambda: odd / W, lambda: W / odd, lambda: odd.exp(),
                lambda: odd.sum(0), lambda: odd.mean(), lambda: odd + W, lambda: torch.fft.fft(odd),
                lambda: odd @ W.t(), lambda: odd.abs(), lambda: odd.cumsum(0)):
        guard = guarded(run)
        assert not guard.findings, guard.findings[0].message
        assert guard.coverage.guard_errors == 0


def test_parts_are_compared_by_themselves_and_a_modulus_as_a_whole() -> None:
    got = torch.tensor([3 + 4j, complex(math.nan, 1)])
    exact = [Reference(np.array(x), 0.0, 0.0, "exact") for x in ([3.0, math.nan], [4.0, 1.0])]
    assert compare(got, of_parts(*exact)) is None
    wrong = compare(got + torch.tensor([0, 1e-6j]), of_parts(*exact))
    assert wrong is not None
    assert wrong[0].tolist() == [False, True]
    whole = Reference(np.array([3 + 4j, 1 + 1j]), 1e-3, 1e-3, "")
    assert compare(torch.tensor([3 + 4.0005j, 1 + 1j]), whole) is None
    broken = compare(torch.tensor([3 + 4.002j, complex(math.nan, 1)]), whole)
    assert broken is not None
    assert broken[0].all()
    unknown = Reference(np.array([complex(math.inf, 1), 1 + 1j]), 0.0, 0.0, "")
    assert compare(torch.tensor([complex(math.nan, math.nan), 1 + 1j]), unknown) is None


def test_a_lazy_conjugate_is_read_as_the_number_that_it_is() -> None:
    for lazy in (Z.conj(), Z.conj().imag, Z[:1].expand(4, 37).conj().t(), Z.conj().imag[:, ::2]):
        assert bits.is_lazy(lazy)
        image = bits.resolved(lazy)
        assert not bits.is_lazy(image)
        assert image.stride() == lazy.stride()
        assert torch.equal(image, lazy.resolve_conj().resolve_neg())
    assert bits.resolved(Z) is Z


def test_a_call_on_a_lazy_operand_keeps_its_reference_and_loses_its_relations() -> None:
    form = form_of(aten.mm.default)
    call = BoundCall(form, (A.t().contiguous().mH, B))
    spec = lookup("aten.mm")
    assert spec is not None
    found = spec_for(spec, call, call.run(), flushes=False)
    assert [s.name for s in found.symmetries] == ["rerun"]  # type: ignore[union-attr]
    assert found.reference is not None
    assert not any(bits.is_lazy(t) for _, t in resolved(call).tensors())
    assert spec_for(spec, call, call.run(), flushes=True).family == GENERIC


def test_a_number_is_true_if_either_part_is_not_zero() -> None:
    assert not guarded(lambda: torch.tensor([1j, 0, 2]).to(torch.bool)).findings
    assert not guarded(lambda: torch.tensor([True, False]).copy_(torch.tensor([1j, 0]))).findings


def test_a_complex_call_without_a_spec_is_repeated() -> None:
    form = form_of(aten.logsumexp.default)
    call = BoundCall(form, (Z, [1], False))
    spec = lookup("aten.logsumexp")
    assert spec is not None
    assert lookup_complex("aten.logsumexp") is None
    found = spec_for(spec, call, call.run(), flushes=False)
    assert found.doc == repeated("aten.logsumexp").doc


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_factor_that_underflows_when_alpha_meets_it_is_no_fault(dtype: torch.dtype) -> None:
    for seed in range(6):
        small = drawn(5, 1, seed=seed, dtype=dtype) * 1e-39
        large = drawn(1, 8, seed=seed + 1, dtype=dtype) * 1e4
        start = drawn(8, seed=seed + 2, dtype=dtype) * 0.0

        def run(a: Tensor = small, b: Tensor = large, c: Tensor = start) -> None:
            torch.addmm(c, a, b, alpha=0.3)
            torch.addmm(c[:5], b.t(), a.t(), alpha=0.3)
            torch.addmv(c, b.t(), a[0], alpha=0.3)

        guard = guarded(run)
        assert not guard.findings, guard.findings[0].message


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_an_empty_index_may_have_another_rank(dtype: torch.dtype) -> None:
    x, index = drawn(5, dtype=dtype), torch.zeros(2, 0, dtype=torch.int64)

    def run() -> None:
        for _ in range(3):
            x.scatter_add(0, index, drawn(2, 0, dtype=dtype))

    guard = guarded(run)
    assert not guard.findings
    assert guard.coverage.guard_errors == 0
