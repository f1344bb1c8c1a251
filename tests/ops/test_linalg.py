"""Solvers and factorizations: wrong results miss their equations, hard problems do not."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdc_guard
from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference, sampled_reference
from sdc_guard.ops import all_specs, lookup

aten = torch.ops.aten
SPECS = {s.packet: s for s in all_specs() if s.residual is not None}
FORMATS = (torch.float32, torch.float64)
HARD = {
    "hilbert": lambda n, g: 1.0 / (1 + torch.arange(n)[:, None] + torch.arange(n)),
    "rank 1": lambda n, g: torch.outer(_normal(g, n), _normal(g, n)),
    "zero": lambda n, g: torch.zeros(n, n),
    "constant": lambda n, g: torch.full((n, n), 0.1),
    "identity": lambda n, g: torch.eye(n),
    "wilkinson": lambda n, g: _wilkinson(n),
    "graded": lambda n, g: _normal(g, n, n) * 0.5 ** torch.arange(n)[:, None],
    "range": lambda n, g: _normal(g, n, n) * torch.exp2(50 * torch.rand(n, n, generator=g) - 25),
    "subnormal": lambda n, g: _normal(g, n, n) * 1e-40,
    "near the end": lambda n, g: _normal(g, n, n) * 1e38,
    "nan": lambda n, g: torch.where(torch.rand(n, n, generator=g) < 0.1, torch.nan,
                                    _normal(g, n, n)),
    "infinite": lambda n, g: torch.where(torch.rand(n, n, generator=g) < 0.1, torch.inf,
                                         _normal(g, n, n)),
}


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def _wilkinson(n: int) -> Tensor:
    x = torch.eye(n) - torch.ones(n, n).tril(-1)
    x[:, -1] = 1.0
    return x


def bind(op: Any, *args: Any, **kwargs: Any) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def judged(call: BoundCall, held: tuple[Tensor, ...]) -> list[Any]:
    spec = lookup(call.form.packet)
    assert spec is not None
    found: list[Any] = list(full_reference(make_plan(spec, call, held), call, held))
    broken = spec.invariant(call, held) if spec.invariant is not None else None
    return found + ([broken] if broken is not None else [])


def calls_with(a: Tensor, b: Tensor) -> list[BoundCall]:
    definite = (a.double() @ a.double().mT + a.shape[-1] * torch.eye(a.shape[-1])).to(a.dtype)
    packed, pivots, _ = aten.linalg_lu_factor_ex(a)
    factor, _ = aten.linalg_cholesky_ex(definite)
    reflectors, tau = torch.geqrf(a)
    return [
        bind(aten.linalg_solve_triangular.default, a, b, upper=True),
        bind(aten.linalg_solve_triangular.default, a.mT, b.mT, upper=True, left=False),
        bind(aten._linalg_solve_ex.default, a, b),
        bind(aten._linalg_solve_ex.default, a.mT, b[..., 0].contiguous()),
        bind(aten.linalg_inv_ex.default, a),
        bind(aten.linalg_lu_factor_ex.default, a),
        bind(aten.linalg_lu.default, a.mT),
        bind(aten.linalg_lu_solve.default, packed, pivots, b, adjoint=True),
        bind(aten._linalg_det.default, a),
        bind(aten._linalg_slogdet.default, a),
        bind(aten.linalg_cholesky_ex.default, definite),
        bind(aten.cholesky_solve.default, b, factor),
        bind(aten.linalg_qr.default, a),
        bind(aten.linalg_qr.default, a, mode="r"),
        bind(aten.geqrf.default, a),
        bind(aten.linalg_householder_product.default, reflectors, tau),
        bind(aten.ormqr.default, reflectors, tau, b),
        bind(aten._linalg_eigh.default, definite),
        bind(aten._linalg_svd.default, a),
    ]


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("threads", [1, 2])
def test_hard_problems_raise_no_alarm(kind: str, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for dtype in FORMATS:
            for n in (1, 3, 8, 17, 40):
                a = HARD[kind](n, generator).to(dtype)
                for call in calls_with(a, _normal(generator, n, 5).to(dtype)):
                    if kind in ("nan", "infinite") and call.form.packet == "aten._linalg_svd":
                        continue  # raises
                    try:
                        held = call.run_identical()
                    except torch._C._LinAlgError:
                        continue
                    found = judged(call, held)
                    assert not found, f"{call.form.name} {dtype} {n}: {found[0]}"
    finally:
        torch.set_num_threads(before)


def _faulty(held: tuple[Tensor, ...], output: int, error: float) -> tuple[Tensor, ...]:
    """The results with one element (in the upper triangle) off by ``error`` of the largest."""
    wrong = bits.snapshot(held[output])
    place = (0,) * (wrong.dim() - 1) + (wrong.shape[-1] - 1,) if wrong.dim() else ()
    wrong[place] += error * float(held[output].abs().max())
    return (*held[:output], wrong, *held[output + 1 :])


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_wrong_element_misses_the_equation(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a = (_normal(generator, 9, 9) + 6 * torch.eye(9)).to(dtype)
    error = 2.0**-9 if dtype is torch.float32 else 2.0**-38
    for call in calls_with(a, _normal(generator, 9, 4).to(dtype)):
        held = call.run_identical()
        assert not judged(call, held)
        for output, tensor in enumerate(held):
            if tensor.is_floating_point() and tensor.numel():
                found = judged(call, _faulty(held, output, error))
                assert found, f"{call.form.name} output {output}"
                found = judged(call, _faulty(held, output, torch.nan))
                assert found, f"{call.form.name} output {output} NaN"


def test_inverted_blocks_break_the_contract_and_not_the_proof() -> None:
    """A solver that multiplies by the rounded inverse of an ill-conditioned triangle."""
    n = 24
    t = (torch.eye(n) - 0.9 * torch.ones(n, n).triu(1)).float()
    b = _normal(torch.Generator().manual_seed(0), n, 3)
    rows = 6
    x = torch.zeros(n, 3)
    for start in reversed(range(0, n, rows)):
        block = slice(start, start + rows)
        x[block] = torch.linalg.inv(t[block, block]) @ (
            b[block] - t[block, start + rows :] @ x[start + rows :])
    found = judged(bind(aten.linalg_solve_triangular.default, t, b, upper=True), (x,))
    assert all(s.exceeds == "contract" for s in found)


def test_a_window_of_a_batch_is_judged_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    call = bind(aten._linalg_solve_ex.default, _normal(generator, 40, 6, 6),
                _normal(generator, 40, 6, 2))
    held = call.run_identical()
    wrong = (bits.snapshot(held[0]) * 1.5, *held[1:])
    spec = lookup("aten._linalg_solve_ex")
    assert spec is not None
    plan = make_plan(spec, call, held)
    name, found = sampled_reference(plan, call, held, np.random.default_rng(0), 200)
    assert (name, found) == ("sample", [])
    _, found = sampled_reference(plan, call, wrong, np.random.default_rng(0), 200)
    assert found[0].witness == "residual"
    matrices = found[0].wrong.any((-2, -1))
    assert 0 < matrices.sum() < 40


@pytest.mark.parametrize("name", ["linalg_cholesky_ex", "_linalg_solve_ex", "linalg_qr",
                                  "_linalg_eigh", "linalg_solve_triangular"])
def test_a_persistently_wrong_kernel_is_a_finding(name: str) -> None:
    """The witness shares no kernel with the op: a broken one cannot agree with itself."""
    op = getattr(aten, name).default
    a = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)) + 6 * torch.eye(6)
    a = a @ a.mT
    several = {"_linalg_solve_ex": (a, a[:, :2].contiguous()), "linalg_solve_triangular": (a, a)}
    args = several.get(name, (a,))
    kwargs = {"upper": True} if name == "linalg_solve_triangular" else {}
    right = op(*args, **kwargs)
    right = right if isinstance(right, tuple) else (right,)
    index = 1 if name == "_linalg_eigh" else 0

    def broken(*_: Any, **__: Any) -> Any:
        results = [t.clone() for t in right]
        results[index][0, 0] *= 1.01
        return tuple(results) if len(results) > 1 else results[0]

    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl(name, broken, "CPU")
    guard = sdc_guard.Guard(budget="all")
    try:
        with guard:
            op(*args, **kwargs)
    finally:
        library._destroy()
    assert len(guard.findings) == 1
    assert guard.findings[0].held_is_wrong
    assert "exceeds" in guard.findings[0].message
    assert "expected nan" not in guard.findings[0].message
    assert guard.coverage.guard_errors == 0
