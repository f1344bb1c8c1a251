"""What the elementwise ops, copies, losses and optimizer kernels see, one fault at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.inject.override import KernelOverride
from sdc_guard.ops import lookup
from sdc_guard.ops._places import IN_SHARES, keeps_tails, share_ends
from sdc_guard.records import Suspicion

aten = torch.ops.aten
FORMATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def call_of(op: Any, *args: Any, **kwargs: Any) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def judge(call: BoundCall, held: tuple[Tensor, ...]) -> list[Suspicion]:
    spec = lookup(call.form.packet)
    assert spec is not None
    return full_reference(make_plan(spec, call, held), call, held)


def invariant_of(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[int, Any, str] | None:
    spec = lookup(call.form.packet)
    assert spec is not None
    assert spec.invariant is not None
    return spec.invariant(call, held)


def changed(held: tuple[Tensor, ...], output: int, value: float, at: int = 0) -> tuple[Tensor, ...]:
    image = held[output].clone()
    image.view(-1)[at] = float(value)
    return (*held[:output], image, *held[output + 1 :])


def drawn(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return 2 * torch.randn(sizes, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Place

TAILED = [aten.gelu.default, aten.silu.default, aten.sigmoid.default, aten.exp2.default,
          aten.rsqrt.default]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("op", TAILED, ids=str)
@pytest.mark.parametrize("numel", [3, 67, 4099, 40_000, 70_001, 98_304])
def test_known_relations_of_ops_with_scalar_tails_hold_at_every_size(
    op: Any, dtype: torch.dtype, numel: int, threads: int
) -> None:
    call = call_of(op, drawn(numel).abs().to(dtype))
    held = call.run()
    spec = lookup(call.form.packet)
    assert spec is not None
    relations = make_plan(spec, call, held).relations
    assert any(r.symmetry.known for r in relations)
    for relation in relations:
        for visit in range(3):
            assert all(p.agrees() for p in relation.run(call, held, visit)), relation.name


def test_threads_that_end_inside_a_vector_exclude_a_flat_split(threads: int) -> None:
    assert keeps_tails(98_304, threads)
    assert keeps_tails(70_001, threads) == (threads == 1)
    assert share_ends(70_001, 2) == [35_001, 70_001]
    spec = lookup("aten.silu")
    assert spec is not None
    call = call_of(aten.silu.default, drawn(70_001))
    plan = make_plan(spec, call, call.run())
    assert (plan.relations[0].symmetry is IN_SHARES) == (threads == 2)


def test_a_flat_split_really_breaks_where_it_is_excluded() -> None:
    """Otherwise ``IN_SHARES`` would be a cost without a reason."""
    x = drawn(70_001)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        whole = torch.nn.functional.silu(x)
        parts = torch.cat([torch.nn.functional.silu(p) for p in (x[:34_944], x[34_944:])])
    finally:
        torch.set_num_threads(before)
    assert not bits.bits_equal(whole, parts)


# Independence: the kernel is broken below every mode, and the reference still disagrees.

BROKEN = [
    (aten.exp.default, lambda: (drawn(64),)),
    (aten.gelu.default, lambda: (drawn(8, 40),)),
    (aten.silu_backward.default, lambda: (drawn(64), drawn(64, seed=1))),
    (aten.add.Tensor, lambda: (drawn(64), drawn(64, seed=1))),
    (aten.where.self, lambda: (drawn(64) > 0, drawn(64), drawn(64, seed=1))),
    (aten.cat.default, lambda: ([drawn(4, 8), drawn(4, 8, seed=1)],)),
    (aten._to_copy.default, lambda: (drawn(64), torch.bfloat16)),
    (aten.copy_.default, lambda: (drawn(64), drawn(64, seed=1).bfloat16())),
    (aten.embedding_dense_backward.default,
     lambda: (drawn(9, 8), torch.arange(9) % 4, 6, -1, False)),
    (aten.nll_loss_forward.default, lambda: (drawn(9, 8), torch.arange(9) % 4, None, 1, -100)),
    (aten.amax.default, lambda: (drawn(9, 8), [1])),
    (aten.linalg_vector_norm.default, lambda: (drawn(9, 8), 2)),
    (aten._foreach_add_.Scalar, lambda: ([drawn(8), drawn(9)], 1.5)),
    (aten._fused_adamw_.default, lambda: (
        [drawn(70)], [drawn(70, seed=1)], [drawn(70, seed=2)], [drawn(70, seed=3).abs()], [],
        [torch.tensor(3.0)], 1e-3, 0.9, 0.99, 0.1, 1e-8, False, False)),
]


@pytest.mark.parametrize(("op", "make"), BROKEN,
                         ids=lambda b: str(b) if not callable(b) else "")
def test_a_broken_kernel_does_not_deceive_its_own_reference(op: Any, make: Any) -> None:
    form = form_of(op)
    args = make()
    names = form.argument_names
    call = call_of(op, *args[: form.num_positional],
                   **dict(zip(names[form.num_positional :], args[form.num_positional :],
                              strict=False)))
    clean = call.run_identical()
    assert not judge(call, clean)

    def spoil(info: Any, results: tuple[Tensor, ...]) -> None:
        view = results[0].view(-1)
        view[-1] += 1.0 + abs(float(view[-1]))

    with KernelOverride(op, spoil) as override:
        held = call.run_identical()
        found = judge(call, held)
    assert override.num_calls
    assert found
    assert found[0].output == 0
    assert found[0].exceeds == "proof"


# Copies

@pytest.mark.parametrize("mask", [1, 1 << 15], ids=["payload", "sign"])
def test_a_copy_that_changes_a_nan_payload_or_a_zero_sign_breaks_the_invariant(mask: int) -> None:
    x = torch.tensor([0.0, float("nan")] * 8, dtype=torch.bfloat16)
    call = call_of(aten.clone.default, x)
    held = call.run()
    assert invariant_of(call, held) is None
    held[0].view(torch.int16)[:2] ^= torch.tensor(mask).to(torch.int16)
    broken = invariant_of(call, held)
    assert broken is not None
    assert broken[1].sum() == 2


def test_a_piece_at_the_wrong_place_breaks_the_invariant_of_cat() -> None:
    call = call_of(aten.cat.default, [drawn(3, 5), drawn(4, 5, seed=1)])
    held = call.run()
    assert invariant_of(call, held) is None
    broken = invariant_of(call, (held[0].roll(1, 0),))
    assert broken is not None
    assert broken[1].shape == (7, 5)


@pytest.mark.parametrize("value", [1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, 2.0**-134, 3.37e38])
def test_a_cast_rounded_the_other_way_is_found(value: float) -> None:
    call = call_of(aten._to_copy.default, torch.full((9,), value), dtype=torch.bfloat16)
    held = call.run()
    assert not judge(call, held)
    held[0].view(torch.int16)[4] += 1
    assert judge(call, held)[0].wrong.sum() == 1


# Embedding

def stagnating(dtype: torch.dtype) -> BoundCall:
    index = torch.cat([torch.zeros(900, dtype=torch.int64), torch.tensor([2, 3, 3])])
    gradient = torch.full((903, 8), 0.37).to(dtype) * torch.linspace(1, 1.3, 903)[:, None].to(dtype)
    return call_of(aten.embedding_dense_backward.default, gradient, index, 6, -1, False)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_the_sequential_emulation_is_the_kernel_bit_for_bit(dtype: torch.dtype) -> None:
    call = stagnating(dtype)
    held = call.run()
    assert invariant_of(call, held) is None
    held[0].view({8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize])[0, 3] += 1
    broken = invariant_of(call, held)
    assert broken is not None
    assert np.argwhere(broken[1]).tolist() == [[0, 3]]


def test_a_half_precision_sum_that_stagnates_breaks_the_contract_but_not_the_proof() -> None:
    call = stagnating(torch.bfloat16)
    found = judge(call, call.run())
    assert [s.exceeds for s in found] == ["contract"]
    assert set(np.argwhere(found[0].wrong)[:, 0]) == {0}


def test_rows_without_or_with_one_gradient_are_exact() -> None:
    call = stagnating(torch.float32)
    held = call.run()
    for at in (8 * 5, 8 * 2):  # an untouched row; a row of one term
        value = float(held[0].view(-1)[at])
        found = judge(call, changed(held, 0, np.nextafter(np.float32(value), np.float32(9)), at))
        assert [s.exceeds for s in found] == ["proof"]


def test_a_row_from_the_wrong_index_breaks_the_gather() -> None:
    call = call_of(aten.embedding.default, drawn(9, 8), torch.tensor([1, 4, 4]))
    held = call.run()
    assert invariant_of(call, held) is None
    broken = invariant_of(call, (held[0][[0, 0, 2]],))
    assert broken is not None
    assert broken[1].any(axis=1).tolist() == [False, True, False]


# Dropout and draws

@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_dropout_is_its_input_times_mask_times_scale(dtype: torch.dtype) -> None:
    call = call_of(aten.native_dropout.default, drawn(300, dtype=dtype), 0.3, True)
    held = call.run()
    assert invariant_of(call, held) is None
    kept = int(held[1].nonzero()[0])
    doubled = changed(held, 0, 2 * float(held[0][kept]), kept)
    assert (invariant_of(call, doubled) or (9,))[0] == 0
    forgotten = changed(held, 1, float(not held[1][kept]), kept)
    assert invariant_of(call, forgotten) is not None


@pytest.mark.parametrize(("op", "args", "value"), [
    (aten.bernoulli_.float, (drawn(9), 0.3), 0.5),
    (aten.uniform_.default, (drawn(9), -1.0, 2.0), 2.5),
    (aten.normal_.default, (drawn(9), 1.0, 2.0), float("nan")),
    (aten.random_.to, (drawn(9), 5), 5.0),
    (aten.rand.default, ([9],), 1.0),
    (aten.randperm.default, (9,), 9.0),
], ids=lambda v: str(v) if not isinstance(v, (tuple, float)) else "")
def test_a_draw_outside_its_range_is_found(op: Any, args: tuple[Any, ...], value: float) -> None:
    call = call_of(op, *args)
    held = call.run_identical()
    assert invariant_of(call, held) is None
    assert invariant_of(call, changed(held, 0, value)) is not None


# Lists and optimizers

def adamw(**changes: Any) -> BoundCall:
    options = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "eps": 1e-6,
               "amsgrad": False, "maximize": False} | changes
    lists = [[drawn(70, seed=s), drawn(33_000, seed=s + 9)] for s in range(3)]
    return call_of(aten._fused_adamw_.default, *lists, [t.abs() for t in lists[2]], [],
                   [torch.tensor(5.0), torch.tensor(5.0)], **options)


LISTS: list[tuple[Any, Any]] = [
    (aten._foreach_add_.Scalar, lambda x: ([x(70), x(70_001)], 0.3)),
    (aten._foreach_addcdiv_.ScalarList, lambda x: ([x(70), x(98_304)], [x(70), x(98_304)],
                                                   [x(70), x(98_304)], [0.1, 0.2])),
    (aten._foreach_sqrt.default, lambda x: ([x(40_000), x(3), x(65_536)],)),
    (aten._foreach_lerp_.Scalar, lambda x: ([x(40_001)], [x(40_001)], 0.1)),
    (aten._fused_adamw_.default, lambda x: (
        *([x(70), x(70_001), x(98_304)] for _ in range(4)), [], [torch.tensor(5.0)] * 3,
        1e-2, 0.9, 0.99, 0.1, 1e-6, False, False)),
]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(("op", "make"), LISTS, ids=lambda v: str(v) if not callable(v) else "")
def test_relations_of_lists_hold_for_tensors_that_threads_share(
    op: Any, make: Any, dtype: torch.dtype, threads: int
) -> None:
    args = make(lambda n: drawn(n, seed=n).abs().to(dtype) + 0.1)
    form = form_of(op)
    n = form.num_positional
    call = call_of(op, *args[:n], **dict(zip(form.argument_names[n:], args[n:], strict=False)))
    held = call.run_identical()
    spec = lookup(call.form.packet)
    assert spec is not None
    relations = make_plan(spec, call, held).relations
    assert relations[0].name == "halve list elements"
    for relation in relations:
        assert all(p.agrees() for p in relation.run(call, held, 0)), relation.name


def test_an_error_in_one_list_element_is_named(threads: int) -> None:
    call = call_of(aten._foreach_mul_.Scalar, [drawn(9), drawn(40_000), drawn(5)], 0.3)
    held = call.run_identical()
    assert not judge(call, held)
    assert [s.output for s in judge(call, changed(held, 1, 7.0))] == [1]


@pytest.mark.parametrize(("argument", "value"), [
    ("lr", 1.00001e-2), ("beta1", 0.90001), ("beta2", 0.99001), ("weight_decay", 0.101),
    ("eps", 2e-3), ("maximize", True),
])
def test_an_update_with_another_hyperparameter_is_found(argument: str, value: Any) -> None:
    call = adamw()
    assert not judge(call, call.run_identical())
    assert judge(call, adamw(**{argument: value}).run_identical())


def test_a_step_with_found_inf_changes_nothing() -> None:
    call = adamw(grad_scale=torch.tensor(8.0), found_inf=torch.tensor(1.0))
    held = call.run_identical()
    assert not judge(call, held)
    moved = changed(held, 0, np.nextafter(np.float32(held[0][0]), np.float32(9)))
    assert [s.exceeds for s in judge(call, moved)] == ["proof"]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_the_verdict_on_fused_sgd_is_that_of_the_plain_formula(dtype: torch.dtype) -> None:
    """torch up to 2.13 leaves whole vectors of half-precision parameters as they were."""
    p, g = drawn(256, dtype=dtype), drawn(256, dtype=dtype, seed=1)
    call = call_of(aten._fused_sgd_.default, [p], [g], [], weight_decay=0.0, momentum=0.0, lr=0.5,
                   dampening=0.0, nesterov=False, maximize=False, is_first_step=False)
    held = call.run_identical()
    plain = p.double() - 0.5 * g.double()
    is_wrong = float((held[0].double() - plain).abs().max()) > 0.1
    assert bool(judge(call, held)) == is_wrong


def test_a_missed_infinity_is_found() -> None:
    gradients = [drawn(9), drawn(7)]
    gradients[1][3] = float("inf")
    call = call_of(aten._amp_foreach_non_finite_check_and_unscale_.default, gradients,
                   torch.zeros(1), torch.tensor([0.5]))
    held = call.run_identical()
    assert not judge(call, held)
    assert [s.output for s in judge(call, changed(held, 2, 0.0))] == [2]


def test_ignored_rows_and_class_weights_count_in_the_loss() -> None:
    target = torch.tensor([0, 1, 2, 1, 4])
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    call = call_of(aten.nll_loss_forward.default, drawn(5, 5), target, weight, 1, 2)
    assert not judge(call, call.run())
    for other in (call_of(aten.nll_loss_forward.default, drawn(5, 5), target, weight, 1, -100),
                  call_of(aten.nll_loss_forward.default, drawn(5, 5), target, None, 1, 2)):
        assert judge(call, other.run())
