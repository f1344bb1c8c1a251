"""Every registered op does what its spec says, on the calls that the spec itself names."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import torch

from sdc_guard.calls import BoundCall, form_of, without
from sdc_guard.check.compiling import compile_symmetry
from sdc_guard.check.plan import Plan, make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.ops import OpSpec, all_specs, complex_specs
from tests.known_precision import LOW_PRECISION_SUMS
from tests.shares import is_in, slow

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
COMPLEX = {f"{spec.packet} complex": spec for spec in complex_specs()}
SPECS = {spec.packet: spec for spec in all_specs() if not spec.takes_complex} | COMPLEX

NOT_ON_A_CPU = frozenset(
    f"aten._scaled_dot_product_{name}_attention{suffix}"
    for name in ("cudnn", "efficient", "flash", "fused")
    for suffix in ("", "_backward", "_overrideable", "_overrideable_backward")
) | {
    "aten.cudnn_grid_sampler", "aten.cudnn_grid_sampler_backward", "aten._thnn_fused_lstm_cell",
    "aten._thnn_fused_lstm_cell_backward_impl", "aten._thnn_fused_gru_cell",
    "aten._thnn_fused_gru_cell_backward", "aten._fused_rms_norm_backward",
}
"""Ops that only a CUDA device has; the tests that need one call them."""

def dtypes_of(name: str) -> tuple[torch.dtype, ...]:
    """The dtypes in which a spec of ``SPECS`` is tried."""
    return COMPLEX_DTYPES if name in COMPLEX else DTYPES


Sample = tuple[BoundCall, tuple[torch.Tensor, ...]]


def generator_for(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def bound_call(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def held_results(call: BoundCall) -> tuple[torch.Tensor, ...]:
    """The results as the user's own call makes them: the very overload, in place and all."""
    if any(argument.name == "generator" for argument in call.form.op._schema.arguments):
        torch.manual_seed(0)
    return call.run_identical()


def samples_of(spec: OpSpec, dtype: torch.dtype) -> list[Sample]:
    if spec.samples is None:
        return []
    drawn = spec.samples(generator_for(f"{spec.packet} {dtype}"), dtype)
    calls = [bound_call(op, args, kwargs) for op, args, kwargs in drawn]
    return [(call, without(held_results(call), spec.scratch)) for call in calls]


def place(call: BoundCall, held: tuple[torch.Tensor, ...]) -> str:
    shapes = [(tuple(t.shape), t.stride(), str(t.dtype)) for _, t in call.tensors()]
    rest = [a for a in call.args if not isinstance(a, (torch.Tensor, list, tuple))]
    results = [None if t is None else tuple(t.shape) for t in held]
    return f"{call.form.name} {shapes} {rest} -> {results}"


def broken_relations(plan: Plan, call: BoundCall, held: tuple[torch.Tensor, ...]) -> list[str]:
    """Names of the relations that are declared as known and do not hold on this call."""
    return [
        f"{relation.name} (visit {visit})"
        for relation in plan.relations
        if relation.symmetry.known
        for visit in range(3)
        if not all(piece.agrees() for piece in relation.run(call, held, visit))
    ]


@pytest.mark.parametrize("packet", SPECS)
def test_a_spec_has_samples(packet: str) -> None:
    spec = SPECS[packet]
    if packet in NOT_ON_A_CPU:
        assert not any(samples_of(spec, dtype) for dtype in dtypes_of(packet))
        return
    assert spec.samples is not None, f"{packet} declares no samples"
    drawn = [samples_of(spec, dtype) for dtype in dtypes_of(packet)]
    assert any(drawn), f"{packet} has no sample in any dtype"


@pytest.mark.parametrize("packet", SPECS)
def test_results_lie_within_the_contract_of_the_reference(packet: str) -> None:
    spec = SPECS[packet]
    for dtype in dtypes_of(packet):
        for call, held in samples_of(spec, dtype):
            plan = make_plan(spec, call, held)
            found = full_reference(plan, call, held)
            if packet in LOW_PRECISION_SUMS and dtype.itemsize == 2:
                found = [f for f in found if f.exceeds == "proof"]
            assert not found, (
                f"{place(call, held)}: output {found[0].output} breaks the {found[0].exceeds}, "
                f"{found[0].wrong.sum()} elements"
            )
            if spec.invariant is not None:
                broken = spec.invariant(call, held)
                assert broken is None, f"{place(call, held)}: {broken}"


TWO_THREADS_EVERY = 6
"""Of the ops one in six runs with the fast tests on two threads: where each core has a process of
its own, their threads wait for each other."""


@pytest.mark.parametrize(("threads", "packet"), [
    (threads, p) if threads == 1 or is_in(p, 0, TWO_THREADS_EVERY) else slow((threads, p))
    for threads in (1, 2) for p, s in SPECS.items() if s.replayable])
def test_known_symmetries_keep_every_bit(threads: int, packet: str) -> None:
    spec = SPECS[packet]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for dtype in dtypes_of(packet):
            for call, held in samples_of(spec, dtype):
                broken = broken_relations(make_plan(spec, call, held), call, held)
                assert not broken, f"{place(call, held)}: {broken}"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("packet", [p for p, s in SPECS.items() if s.replayable])
def test_some_relation_covers_every_result(packet: str) -> None:
    spec = SPECS[packet]
    for dtype in dtypes_of(packet):
        for call, held in samples_of(spec, dtype):
            plan = make_plan(spec, call, held)
            covered = frozenset().union(*(r.covers for r in plan.relations or [plan.rerun]))
            present = {i for i, t in enumerate(held) if t is not None}
            assert covered >= present, f"{place(call, held)}: covers {set(covered)}"


@pytest.mark.parametrize("packet", SPECS)
def test_symmetries_compile_on_some_sample(packet: str) -> None:
    spec = SPECS[packet]
    if not spec.replayable or packet in NOT_ON_A_CPU:
        assert spec.invariant is not None or spec.reference is not None
        return
    for dtype in dtypes_of(packet):
        for call, held in samples_of(spec, dtype):
            axes = spec.axes(call, held)
            declared = spec.symmetries(call, held) if callable(spec.symmetries) else spec.symmetries
            if any(compile_symmetry(s, call, held, axes) is not None for s in declared):
                return
    pytest.fail(f"no symmetry of {packet} applies to any of its samples")


@pytest.mark.parametrize("packet", [
    p if is_in(p, 0, 2) else slow(p) for p, s in SPECS.items()
    if s.family not in ("random", "generator")])
def test_a_wrong_element_is_outside_the_reference_or_breaks_the_invariant(packet: str) -> None:
    """The highest exponent bit of one element: no bound of ours may hide it everywhere."""
    spec = SPECS[packet]
    seen = tried = 0
    for dtype in dtypes_of(packet):
        for call, held in samples_of(spec, dtype):
            for output, tensor in enumerate(held):
                if tensor is None or not tensor.numel() or tensor.dtype is torch.bool:
                    continue
                changed = [None if t is None else t.clone() for t in held]
                if not changed[output].is_contiguous():
                    continue
                view = changed[output].view(-1)
                if view.is_complex():
                    view = torch.view_as_real(view).view(-1)
                size = view.element_size()
                bits = view.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[size])
                bits[len(bits) // 2] ^= 1 << (8 * size - 2)
                tried += 1
                faulty = tuple(changed)
                plan = make_plan(spec, call, held)
                wrong = bool(full_reference(plan, call, faulty))
                if spec.invariant is not None:
                    wrong |= spec.invariant(call, faulty) is not None
                if spec.replayable:
                    relation = next(
                        (r for r in plan.relations if output in r.covers), plan.rerun)
                    wrong |= not all(p.agrees() for p in relation.run(call, faulty, 0))
                seen += wrong
    assert seen == tried
