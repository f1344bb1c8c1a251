"""No correct kernel breaks its contract, and no contract is inflated.

Operands are the samples of each spec and adversarial versions of them: constants, sorted, one
outlier, 24 binades, cancelling signs, numbers near the smallest normal.  Over all of them and all
formats the largest error of the CPU's own kernel must stay within the contract and reach a
hundredth of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.formats import format_of, is_covered_complex, is_covered_float
from sdc_guard.ops import HostCall, OpSpec, Reference, all_specs, complex_specs
from tests.known_precision import LOW_PRECISION_SUMS
from tests.shares import is_in, slow

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
COMPLEX = {f"{s.packet} complex": s for s in complex_specs()}
REAL = {s.packet: s for s in all_specs() if not s.takes_complex}
SPECS = {name: s for name, s in (REAL | COMPLEX).items()
         if s.judged and s.samples is not None}

FREE = frozenset((
    "self", "other", "tensor1", "tensor2", "tensors1", "end", "mat1", "mat2", "batch1", "batch2",
    "bias", "grad_output", "grad_out", "grad", "query", "key", "value", "tensors", "src", "grads",
    "exp_avgs", "exp_avg_sqs", "momentum_buffer_list",
))
"""Operands that may hold any numbers; the others (a softmax's output, a mean) belong to them."""

BOUND_TO_OTHERS = {
    "aten.cholesky": {"self"},
    "aten.cholesky_inverse": {"self"},
    "aten.linalg_householder_product": {"input"},
    "aten.native_layer_norm_backward": {"input"},
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": {"query", "key", "value"},
    "aten.binary_cross_entropy": {"self"},
    "aten.binary_cross_entropy_backward": {"self"},
}
"""Operands from which another operand of the same call was computed, or that are
probabilities, or positive definite."""


def dtypes_of(name: str) -> tuple[torch.dtype, ...]:
    """The dtypes in which a spec of ``SPECS`` is tried."""
    return COMPLEX_DTYPES if name in COMPLEX else FLOATS


def is_covered(dtype: torch.dtype) -> bool:
    return is_covered_float(dtype) or is_covered_complex(dtype)


Change = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def _signs(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, -1.0, 1.0)


def _wide(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    spread = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    return _signs(x) * torch.exp2(24 * spread - 12)


def _outlier(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    y = 0.1 * torch.ones_like(x)
    y.view(-1)[:1] = 1000.0
    return y


def _sorted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x.reshape(-1).sort().values.view(x.shape)


def _cancelling(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if bool((x >= 0).all()):
        return 3.3 * torch.ones_like(x)
    signs = torch.ones_like(x)
    signs.view(-1)[::2] = -1.0
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    return signs * (1.7 + 2.0**-6 * noise)


CHANGES: dict[str, Change | None] = {
    "drawn": None,
    "constant": lambda x, generator: 0.1 * _signs(x),
    "sorted": _sorted,
    "outlier": _outlier,
    "24 binades": _wide,
    "cancelling": _cancelling,
    "near tiny": lambda x, generator: 4 * x,
}


def changed_call(call: BoundCall, kind: str, generator: torch.Generator, packet: str) -> BoundCall:
    change = CHANGES[kind]
    if change is None:
        return call
    names = call.form.argument_names
    bound: set[str] = BOUND_TO_OTHERS.get(packet, set())

    def changed(path: tuple[int, ...], t: torch.Tensor) -> torch.Tensor:
        name = names[path[0]]
        if name not in FREE or name in bound or not is_covered(t.dtype) or not t.dim():
            return t
        if any(s == 0 < n - 1 for n, s in zip(t.shape, t.stride(), strict=True)):
            return t  # broadcast: its elements share memory
        scale = format_of(t.dtype).tiny if kind == "near tiny" else 1.0
        image = bits.empty_image(t)
        if t.is_complex():
            parts = [change(x.double().contiguous(), generator) for x in (t.real, t.imag)]
            image.copy_((torch.complex(*parts) * scale).to(t.dtype))
        else:
            image.copy_((change(t.double().contiguous(), generator) * scale).to(t.dtype))
        return image

    return call.mapped(changed)


def calls_of(spec: OpSpec, dtype: torch.dtype) -> Iterator[tuple[str, BoundCall]]:
    assert spec.samples is not None
    generator = torch.Generator().manual_seed(zlib.crc32(f"{spec.packet} {dtype}".encode()))
    for op, args, kwargs in spec.samples(generator, dtype):
        form = form_of(op)
        call = BoundCall(form, form.bind(args, kwargs))
        for kind in CHANGES:
            yield kind, changed_call(call, kind, generator, spec.packet)


def judged(got: NDArray[Any], reference: Reference, dtype: torch.dtype) -> NDArray[np.bool_]:
    """Elements that the check judges by the contract (``check/reference.py``)."""
    fmt = format_of(dtype)
    limit = np.broadcast_to(reference.contract, got.shape)
    expected = np.broadcast_to(reference.expected, got.shape)
    inside = np.isfinite(limit) & np.isfinite(expected) & (limit > 0)
    inside &= np.abs(expected) + np.where(np.isfinite(limit), limit, 0) < fmt.max
    inside &= np.asarray(reference.magnitude) < fmt.max
    return np.asarray(inside)


def ratios(spec: OpSpec, dtype: torch.dtype) -> Iterator[tuple[float, str]]:
    """Largest error over contract of each call, and which call it was."""
    for kind, call in calls_of(spec, dtype):
        held = call.run_identical()
        with np.errstate(all="ignore"):
            host = HostCall(call, held)
            for residual in spec.residual(host) if spec.residual is not None else ():
                limit = np.broadcast_to(residual.contract, residual.defect.shape)
                inside = np.isfinite(limit) & (limit > 0)
                inside &= np.asarray(residual.magnitude) < format_of(held[0].dtype).max
                share = np.where(inside, residual.defect / np.where(inside, limit, 1.0), 0.0)
                yield float(np.max(share, initial=0.0)), f"{call.form.name} {dtype} {kind}"
            references = spec.reference(host) if spec.reference is not None else ()
            for i, reference in enumerate(references):
                if reference is None or not is_covered(held[i].dtype):
                    continue
                got = bits.values(held[i])
                inside = judged(got, reference, held[i].dtype)
                if not inside.any():
                    continue
                error = np.abs(got - reference.expected) / reference.contract
                place = f"{call.form.name} {dtype} {kind} output {i} {tuple(held[i].shape)}"
                yield float(np.max(np.where(inside, error, 0.0))), place


LONG = ("aten.grid_sampler_2d", "aten.grid_sampler_2d_backward")
"""Seconds each; their reference is that of ``aten._grid_sampler_2d_cpu_fallback``."""


@pytest.mark.parametrize("packet", [
    slow(p) if p in LONG or not (p in COMPLEX or is_in(p, 1, 2)) else p for p in SPECS])
def test_the_worst_legitimate_error_is_within_the_contract_and_near_it(packet: str) -> None:
    spec = SPECS[packet]
    found = [r for dtype in dtypes_of(packet) for r in ratios(spec, dtype)
             if not (packet in LOW_PRECISION_SUMS and dtype.itemsize == 2)]
    if not found:
        # Exact everywhere: the conformance test compares for equality.
        return
    worst, place = max(found)
    assert worst <= 1.0, f"{place}: error is {worst:.3g} of the contract"
    assert worst >= 0.01, f"{packet}: no error above {worst:.3g} of the contract; {place}"


# tests/power/test_error_of_four_bounds.py has the other half of the real ops among the fast tests.
@pytest.mark.parametrize("packet", [
    p if p in COMPLEX or SPECS[p].reference is None or is_in(p, 0, 2) else slow(p) for p in SPECS])
def test_an_error_of_four_bounds_is_found(packet: str) -> None:
    spec = SPECS[packet]
    if spec.reference is None:
        return  # tests/ops/test_linalg.py has the errors of residuals
    tried = 0
    for dtype in dtypes_of(packet):
        for op, args, kwargs in spec.samples(torch.Generator().manual_seed(1), dtype):  # type: ignore[misc]
            form = form_of(op)
            call = BoundCall(form, form.bind(args, kwargs))
            held = call.run_identical()
            with np.errstate(all="ignore"):
                references = spec.reference(HostCall(call, held))
            for i, reference in enumerate(references):
                if reference is None or not is_covered(held[i].dtype):
                    continue
                faulty = _with_error(held, i, reference)
                if faulty is None:
                    continue
                tried += 1
                plan = make_plan(spec, call, held)
                found = full_reference(plan, call, faulty)
                assert any(s.output == i for s in found), f"{form.name} {dtype} output {i}"
    floating = any(is_covered(t.dtype) for d in dtypes_of(packet) for _, call in calls_of(spec, d)
                   for t in call.run_identical())
    # An exact fact that fixes every bit needs no bound.
    assert tried or not floating or spec.proves is not None


def _with_error(
    held: tuple[torch.Tensor, ...], output: int, reference: Reference
) -> tuple[torch.Tensor, ...] | None:
    """The results with one element four contracts (at least an ulp) off; None where none is
    judged."""
    tensor = held[output]
    got = bits.values(tensor)
    fmt = format_of(tensor.dtype)
    limit = np.broadcast_to(reference.contract, got.shape)
    expected = np.broadcast_to(reference.expected, got.shape)
    size = np.abs(expected)
    room = 5 * np.where(np.isfinite(limit), limit, np.inf) + 4 * fmt.ulp(size)
    inside = (size + room < fmt.max) & (np.asarray(reference.magnitude) < fmt.max)
    if not inside.any():
        return None
    where = np.unravel_index(np.flatnonzero(inside)[-1], got.shape)
    step = max(4 * float(limit[where]), float(fmt.ulp(size[where])))
    shifted = tensor.clone()
    value = expected[where].item()
    shifted[where] = value + step * (1 if value.real >= 0 else -1)
    return (*held[:output], shifted, *held[output + 1 :])
