"""Products as the guard has them checked by kernels: right results pass, a flipped bit does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import checksum
from sdc_guard.formats import format_of
from sdc_guard.ops import HostCall, OpSpec, lookup
from sdc_guard.ops import _kernel_products as adapter
from tests.kernels.fake_notes import FakeNotes
from tests.soundness.attack import Attacker
from tests.soundness.evaluators import discover, emulations

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels.verdict import Verdict, read

aten = torch.ops.aten
PACKETS = ("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdc_guard_kernels import sampled_product

    monkeypatch.setattr(adapter, "SAMPLES", 2)
    monkeypatch.setattr(adapter, "SAMPLED_FROM", 64)
    monkeypatch.setattr(sampled_product, "SAMPLES_PER_PROGRAM", 2)


@pytest.fixture
def matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def spec_of(packet: str) -> OpSpec:
    found = lookup(packet)
    assert found is not None
    return found


def bind(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs or {}))


def samples(spec: OpSpec, dtype: torch.dtype) -> list[BoundCall]:
    assert spec.samples is not None
    return [bind(*s) for s in spec.samples(torch.Generator().manual_seed(1), dtype)]


def verdicts(
    call: BoundCall, held: tuple[Tensor, ...], *, notes: FakeNotes | None = None, seed: int = 11
) -> dict[str, Verdict]:
    kernel = spec_of(call.form.packet).kernel
    assert kernel is not None
    run = kernel(call, held)
    assert run is not None
    notes = notes or FakeNotes(held[0].device, seed)
    run(call, held, notes)
    return notes.verdicts()


def flipped(held: Tensor, place: tuple[int, ...]) -> Tensor:
    """A copy with the top bit of one element's exponent flipped."""
    wrong = held.clone()
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[held.dtype.itemsize]
    wrong.view(words)[place] ^= 1 << (8 * held.dtype.itemsize - 2)
    return wrong


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("packet", PACKETS)
def test_right_results_pass_and_a_flipped_bit_does_not(packet: str, dtype: torch.dtype) -> None:
    for number, call in enumerate(samples(spec_of(packet), dtype)):
        if call.form.is_out:
            continue  # the call without `out` is among them
        held = call.run_identical()
        # The sampled element of this seed, so that both witnesses have to see it.
        shape = tuple(held[0].shape)
        right = verdicts(call, held)
        assert [v.num_over for v in right.values()] == [0] * len(right)
        place = tuple(int(i) for i in np.unravel_index(right["sample"].place, shape)) \
            if "sample" in right else (0,) * len(shape)
        if number:
            continue
        found = verdicts(call, (flipped(held[0], place), *held[1:]))
        row = int(np.ravel_multi_index(place[:-1], shape[:-1]))
        assert (found["checksum"].num_over, found["checksum"].place) == (1, row)
        assert found["sample"].num_over >= 1
        assert found["sample"].place == np.ravel_multi_index(place, shape)


def test_a_correct_evaluation_of_extreme_values_passes() -> None:
    discover()
    assert attacked("aten.mm", torch.bfloat16, turns=range(2)) == []
    assert attacked("aten.addmm", torch.float16, turns=range(2)) == []


def test_products_that_all_underflow_pass_here_and_on_the_host() -> None:
    # oneDNN's bf16 product flushes each of them, so a row loses n times what an element may lose.
    a = torch.full((33, 48), 1e-19, dtype=torch.bfloat16)
    b = torch.full((48, 40), 1.1e-19, dtype=torch.bfloat16)
    call = bind(aten.mm.default, (a, b))
    flushed = (torch.zeros(33, 40, dtype=torch.bfloat16),)
    assert [v.num_over for v in verdicts(call, flushed).values()] == [0, 0]
    assert checksum(make_plan(spec_of("aten.mm"), call, flushed), call, flushed) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("packet", PACKETS)
def test_correct_evaluations_of_extreme_values_pass(packet: str, dtype: torch.dtype) -> None:
    discover()
    assert attacked(packet, dtype, turns=range(60)) == []


def attacked(packet: str, dtype: torch.dtype, turns: range) -> list[str]:
    """What was accused: results of torch and of emulated orders, for values that hurt."""
    spec, accused = spec_of(packet), []
    attacker = Attacker(spec, dtype, seed=1)
    for turn in turns:
        attack = dataclasses.replace(attacker.drawn(turn), flush=False)
        call = attacker.samples.call(attack)
        held = call.run_identical()
        results = [("torch", held)]
        for made in emulations(call, held, np.random.default_rng(turn)):
            values = torch.from_numpy(np.array(made.values, dtype=np.float64)).to(held[0].dtype)
            results.append((made.name, (values.reshape(held[0].shape),)))
        for name, result in results:
            for witness, found in verdicts(call, result, seed=turn).items():
                if found.num_over:
                    accused.append(f"{witness}: {found}, {name}, {attack.told()}")
    return accused


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("packet", PACKETS)
def test_the_bound_of_an_element_is_the_hosts(packet: str, dtype: torch.dtype) -> None:
    spec = spec_of(packet)
    assert spec.reference is not None
    for call in samples(spec, dtype):
        held = call.run_identical()
        host = HostCall(call, held)
        (reference,) = spec.reference(host)
        assert reference is not None
        left, right = adapter.operand_names(call)
        a, b = np.abs(host.array(left)), np.abs(host.array(right))
        linear, out = adapter.element_error(call, held), format_of(dtype)
        error = (linear.per_product * (a @ b) + linear.per_a * a.sum(-1)[..., :, None]
                 + linear.per_b * b.sum(-2)[..., None, :] + linear.constant)
        alpha, beta = float(call.get("alpha", 1)), float(call.get("beta", 1))
        if left != "self" and beta:
            error = error + linear.per_addend * np.abs(host.array("self"))
        stored = 0.5 * out.eta + (out.tiny if dtype is torch.bfloat16 else 0.0)
        limit = error + out.u * (np.abs(reference.expected) + error) + stored
        host_rounding = abs(alpha) * own_rounding(a.shape[-1], a @ b) * (1 + out.u)
        rounding = 2.0**-46 * limit
        assert (limit <= reference.proof + rounding).all()
        assert (limit >= reference.proof - host_rounding - rounding).all()


def test_one_pass_over_a_weight_serves_forward_and_backward() -> None:
    weight, x = torch.randn(20, 12), torch.randn(9, 12)
    notes = FakeNotes(weight.device)
    forward = bind(aten.mm.default, (x, weight.t()))
    y = forward.run_identical()
    backward = bind(aten.mm.default, (y[0], weight))
    adapter.right_sums(weight.t(), notes)  # type: ignore[arg-type]
    (first,) = notes.memory.values()
    assert verdicts(forward, y, notes=notes)["checksum"].num_over == 0
    notes.checks, notes.records = [], []
    assert verdicts(backward, backward.run_identical(), notes=notes)["checksum"].num_over == 0
    assert list(notes.memory.values()) == [first]
    # The other way round, the columns are still missing.
    other = FakeNotes(weight.device)
    assert adapter.right_sums(weight, other).shape == (2, 1, 20)  # type: ignore[arg-type]
    assert adapter.right_sums(weight.t(), other).shape == (2, 1, 12)  # type: ignore[arg-type]
    assert len(other.memory) == 2


def test_a_batch_that_is_one_matrix_is_read_once() -> None:
    a, b = torch.randn(3, 5, 7), torch.randn(7, 6).expand(3, 7, 6)
    call = bind(aten.bmm.default, (a, b))
    held = call.run_identical()
    assert verdicts(call, held)["checksum"].num_over == 0
    assert verdicts(call, (flipped(held[0], (2, 1, 3)),))["checksum"].place == 11
    assert adapter.checksum_bytes(call) == 4 * (3 * 5 * 7 + 7 * 6 + 3 * 5 * 6)


def test_limits_follow_the_numbers_of_a_call_and_the_switches_of_torch(
    matmul_precision: None,
) -> None:
    a, b, start = torch.ones(20, 30), torch.ones(30, 40), torch.ones(40)
    spec = spec_of("aten.addmm")
    call = bind(aten.addmm.default, (start, a, b))
    held = call.run_identical()
    assert spec.kernel is not None
    run = spec.kernel(call, held)
    assert run is not None
    off = (held[0] * (1 + 2.0**-9),)

    def accused(call: BoundCall, result: tuple[Tensor, ...]) -> list[int]:
        notes = FakeNotes("cpu")
        run(call, result, notes)
        return [v.num_over > 0 for v in notes.verdicts().values()]

    assert (accused(call, held), accused(call, off)) == ([False] * 2, [True] * 2)
    doubled = bind(aten.addmm.default, (start, a, b), {"alpha": 2, "beta": 0})
    assert accused(doubled, doubled.run_identical()) == [False] * 2
    assert accused(doubled, held) == [True] * 2
    torch.set_float32_matmul_precision("medium")
    assert accused(call, off) == [False] * 2


def test_bytes_of_a_checksum() -> None:
    half = torch.bfloat16
    a, b = torch.ones(20, 30, dtype=half), torch.ones(30, 40, dtype=half)
    product = 2 * (20 * 30 + 30 * 40 + 20 * 40)
    assert adapter.checksum_bytes(bind(aten.mm.default, (a, b))) == product
    row = torch.ones(40, dtype=half)
    assert adapter.checksum_bytes(bind(aten.addmm.default, (row, a, b))) == product + 80
    ignored = bind(aten.addmm.default, (row, a, b), {"beta": 0})
    assert adapter.checksum_bytes(ignored) == product


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_other_dtypes_are_left_to_the_host(dtype: torch.dtype) -> None:
    call = bind(aten.mm.default, (torch.ones(3, 4, dtype=dtype), torch.ones(4, 5, dtype=dtype)))
    kernel = spec_of("aten.mm").kernel
    assert kernel is not None
    assert kernel(call, call.run_identical()) is None


@pytest.mark.parametrize("packet", ["aten.mm", "aten.addmm", "aten.baddbmm"])
def test_columns_name_the_column(packet: str) -> None:
    for call in samples(spec_of(packet), torch.float32):
        if call.form.is_out:
            continue
        held = call.run_identical()
        run = adapter.product_checks(columns=True, num_samples=0)(call, held)
        assert run is not None

        def judged(
            result: Tensor, run: Any = run, call: BoundCall = call,
            rest: tuple[Tensor, ...] = held[1:],
        ) -> dict[str, Verdict]:
            notes = FakeNotes(result.device)
            run(call, (result, *rest), notes)
            return dict(zip((c.unit for c in notes.checks), read(torch.stack(notes.records)),
                            strict=True))

        right = judged(held[0])
        assert (right["row"].num_over, right["column"].num_over) == (0, 0)
        assert right["column"].worst_share > 0.0
        place = tuple(n - 1 for n in held[0].shape)
        found = judged(flipped(held[0], place))
        shape = tuple(held[0].shape)
        column = int(np.ravel_multi_index((*place[:-2], place[-1]), (*shape[:-2], shape[-1])))
        assert (found["column"].num_over, found["column"].place) == (1, column)
        assert found["row"].num_over == 1


def test_a_share_of_rows_and_any_number_of_samples() -> None:
    a, b = torch.zeros(200, 4), torch.zeros(4, 400)
    call = bind(aten.mm.default, (a, b))
    held = (torch.ones(200, 400),)
    run = adapter.product_checks(row_share=0.5, num_samples=7)(call, held)
    assert run is not None
    notes = FakeNotes("cpu", seed=0)
    run(call, held, notes)
    found = notes.verdicts()
    assert (found["checksum"].num_over, found["sample"].num_over) == (112, 7)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("packet", PACKETS)
def test_on_the_device(packet: str, dtype: torch.dtype) -> None:
    for call in samples(spec_of(packet), dtype):
        if call.form.is_out:
            continue
        there = call.mapped(lambda _, t: t.cuda())
        held = there.run_identical()
        assert all(v.num_over == 0 for v in verdicts(there, held).values())
        wrong = torch.where(torch.isfinite(held[0]), torch.inf, held[0])
        assert all(v.num_over for v in verdicts(there, (wrong,)).values())
