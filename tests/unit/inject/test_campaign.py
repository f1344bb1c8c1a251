"""Drawing: what is recorded, what may be drawn, and that drawn faults hit what was recorded."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch

from sdc_guard.errors import UsageError
from sdc_guard.inject.campaign import draw_repeated, draw_transients, makes_numbers, record_calls
from sdc_guard.inject.faults import RepeatedFlip
from tests.unit.inject.test_faults import Replaying
from tests.unit.inject.tiny_gpt import make_step

aten = torch.ops.aten


@pytest.mark.parametrize(
    "op",
    [
        aten.view.default, aten.t.default, aten.transpose.int, aten.permute.default,
        aten.expand.default, aten.detach.default, aten.unbind.int, aten.select.int,
        aten.slice.Tensor, aten.as_strided.default, aten.alias.default,
        aten._unsafe_view.default, aten.split.Tensor, aten.unsqueeze.default,
        aten.squeeze.dim, aten.squeeze_.default, aten.unsafe_split.Tensor,
        aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default,
        aten.new_empty.default, aten.new_empty_strided.default, aten._local_scalar_dense.default,
        torch.ops.profiler._record_function_enter_new.default,
        torch.ops.profiler._record_function_exit._RecordFunction, aten.is_same_size.default,
        aten.mm, "aten.mm.default",
    ],
    ids=str,
)
def test_ops_without_numbers_of_their_own_are_not_drawn(op: Any) -> None:
    assert not makes_numbers(op)


@pytest.mark.parametrize(
    "op",
    [
        aten.mm.default, aten.mm.out, aten.sum.default, aten.copy_.default, aten.clone.default,
        aten._to_copy.default, aten.zero_.default, aten.fill_.Scalar, aten.new_zeros.default,
        aten.ones_like.default, aten._foreach_add_.List, aten._foreach_sqrt.default,
        aten._fused_adamw_.default, aten.native_dropout.default, aten.bernoulli_.float,
        aten.embedding.default, aten.arange.default, aten.native_layer_norm_backward.default,
        aten.cat.default, aten.view_copy.default, aten.argmax.default,
    ],
    ids=str,
)
def test_ops_that_make_numbers_are_drawn(op: Any) -> None:
    assert makes_numbers(op)


def test_recording_lists_forward_backward_and_optimizer_with_ordinals() -> None:
    step, _ = make_step()
    step()
    calls = record_calls(step)
    by_op = Counter(str(call.op) for call in calls)
    for op in ("aten.addmm.default", "aten.native_layer_norm_backward.default",
               "aten._scaled_dot_product_flash_attention_for_cpu_backward.default",
               "aten.embedding_dense_backward.default", "aten.addcdiv_.default"):
        assert by_op[op] >= 1, op
    for name, count in by_op.items():
        ordinals = [call.ordinal for call in calls if str(call.op) == name]
        assert ordinals == list(range(count))
    layer_norm = next(c for c in calls if c.op is aten.native_layer_norm.default)
    assert [o and o.shape for o in layer_norm.outputs] == [(3, 6, 16), (3, 6, 1), (3, 6, 1)]


def test_recording_changes_no_bit_of_training() -> None:
    step, plain = make_step()
    step()
    step, recorded = make_step()
    record_calls(step)
    for a, b in zip(plain.parameters(), recorded.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_numbers_of_known_kinds_on_the_cpu_are_drawable() -> None:
    def calls() -> None:
        x = torch.ones(4)
        torch.native_dropout(x, 0.5, True)
        x > 0  # noqa: B015
        torch.complex(x, x)
        x[:0] + 1
        x.to("meta") + 1
        x.view(2, 2)
        x + 1

    drawable = {str(c.op): c.drawable for c in record_calls(calls) if c.drawable}
    assert drawable == {
        "aten.ones.default": (0,), "aten.native_dropout.default": (0,), "aten.add.Tensor": (0,),
    }


def test_draws_are_uniform_over_calls_and_repeat_with_their_seed() -> None:
    step, _ = make_step()
    calls = record_calls(step)
    numeric = [c for c in calls if c.drawable]
    drawn = draw_transients(calls, 4000, seed=1)
    assert [repr(f) for f in drawn] == [repr(f) for f in draw_transients(calls, 4000, seed=1)]
    assert [repr(f) for f in drawn] != [repr(f) for f in draw_transients(calls, 4000, seed=2)]
    counts = Counter((str(f.op), f.call_number) for f in drawn)
    assert set(counts) <= {(str(c.op), c.ordinal) for c in numeric}
    mean = 4000 / len(numeric)
    # Poisson: six standard deviations off the mean has a chance of 1e-9 for each of the calls.
    assert max(counts.values()) < mean + 6 * mean**0.5
    assert len(counts) > 0.9 * len(numeric)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("adamw", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_each_drawn_transient_hits_once_what_was_recorded(autocast: bool, adamw: Any) -> None:
    step, _ = make_step(autocast=autocast, **adamw)
    step()
    calls = record_calls(step)
    recorded = {(str(c.op), c.ordinal): c for c in calls}
    for fault in draw_transients(calls, 40, seed=0):
        step, _ = make_step(autocast=autocast, **adamw)
        step()
        # A flipped index is a loud error, not a silent one; it was injected all the same.
        # Beneath a guard that replays, so that executions and user calls differ.
        with suppress(IndexError), Replaying(), fault:
            step()
        (record,) = fault.injected
        out = recorded[record.op, fault.call_number].outputs[record.output]
        assert out is not None
        assert record.shape == out.shape
        assert record.before.dtype == str(out.dtype).removeprefix("torch.")
        assert int(record.before.bits, 16) ^ int(record.after.bits, 16) == 1 << (fault.bit or 0)


def test_transients_of_high_bits_change_the_parameters() -> None:
    changed = 0
    plain_step, plain = make_step()
    calls = record_calls(plain_step)
    for fault in draw_transients(calls, 30, seed=3):
        step, model = make_step()
        with suppress(IndexError), fault:
            step()
        changed += any(
            not torch.equal(a, b)
            for a, b in zip(model.parameters(), plain.parameters(), strict=True)
        )
    assert changed >= 15


def test_each_drawn_repeated_flip_fires_in_every_execution_of_its_shape() -> None:
    step, _ = make_step(autocast=True)
    step()
    calls = record_calls(step)
    for fault in draw_repeated(calls, 40, seed=0):
        same = sum(
            c.op is fault.op and fault.output < len(c.outputs)
            and (out := c.outputs[fault.output]) is not None
            and out.shape == fault.shape and out.dtype is fault.dtype
            for c in calls
        )
        step, _ = make_step(autocast=True)
        step()
        with Replaying(), fault:
            try:
                step()
            except IndexError:
                assert fault.injected
                continue
        assert len(fault.injected) >= same >= 1
        assert {f.flat_index for f in fault.injected} == {fault.flat_index}


def test_gradients_are_added_in_place_only_where_no_mode_is_on() -> None:
    """Why a repeated fault wants a mode: the same step calls other overloads without one."""

    def executions(op: Any, *, mode: bool) -> int:
        step, _ = make_step()
        step()
        fault = RepeatedFlip(op, (3, 6, 16), from_call=10**9)
        with Replaying() if mode else nullcontext(), fault:
            step()
        return fault.num_calls

    adds, in_place = aten.add.Tensor, aten.add_.Tensor
    assert executions(adds, mode=True) > executions(adds, mode=False)
    assert executions(in_place, mode=False) > executions(in_place, mode=True)


def test_nothing_to_draw_from_is_an_error() -> None:
    calls = record_calls(lambda: torch.empty(3).view(3))
    with pytest.raises(UsageError, match=r"none of the \d+ recorded calls"):
        draw_transients(calls, 1, seed=0)
    assert draw_repeated(calls, 0, seed=0) == []
