"""Products, sums, norms, softmax and attention at the sizes of the demo GPT, and their faults."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import checksum, full_reference
from sdc_guard.inject.override import CallInfo, KernelOverride
from sdc_guard.ops import HostCall, lookup
from sdc_guard.ops._axes import narrow, narrow_call

aten = torch.ops.aten
FLASH = aten._scaled_dot_product_flash_attention_for_cpu.default
FLASH_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
Call = tuple[Any, tuple[Any, ...]]
FLOATS = (torch.float32, torch.bfloat16, torch.float64, torch.float16)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def bind(op: Any, args: tuple[Any, ...], **kwargs: Any) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def judge(call: BoundCall, held: tuple[Any, ...]) -> list[Any]:
    spec = lookup(call.form.packet)
    assert spec is not None
    return full_reference(make_plan(spec, call, held), call, held)


def references(call: BoundCall, held: tuple[Any, ...]) -> tuple[Any, ...]:
    spec = lookup(call.form.packet)
    assert spec is not None
    assert spec.reference is not None
    with np.errstate(all="ignore"):
        return spec.reference(HostCall(call, held))


def heads(dtype: torch.dtype, count: int, length: int = 128) -> list[Tensor]:
    """[8, 4, length, 48] with the heads behind the sequence in memory, as a split qkv has them."""
    return [torch.randn(8, length, 4, 48).to(dtype).transpose(1, 2) for _ in range(count)]


@functools.cache
def demo_calls(dtype: torch.dtype) -> list[Call]:
    torch.manual_seed(1)
    x, w = torch.randn(1024, 192).to(dtype), (0.02 * torch.randn(768, 192)).to(dtype)
    grad = torch.randn(1024, 768).to(dtype)
    bias, norm = torch.randn(768).to(dtype), torch.randn(192).to(dtype)
    logits = (3 * torch.randn(1024, 256)).to(dtype)
    tokens = x.view(8, 128, 192)
    y, mean, rstd = aten.native_layer_norm.default(tokens, [192], norm, norm, 1e-5)
    p, log_p = logits.softmax(1), logits.log_softmax(1)
    q, k, v, go = heads(dtype, 4)
    out, lse = FLASH(q, k, v, 0.0, True)
    half = dtype.itemsize == 2
    return [
        (aten.addmm.default, (bias, x, w.t())),
        (aten.mm.default, (grad.t(), x)),
        (aten.mm.default, (grad, w)),
        (aten.bmm.default, (tokens, tokens.transpose(1, 2))),
        (aten.sum.dim_IntList, (grad, [0], True)),
        (aten.mean.default, (p,)),
        (aten.mean.dim, (tokens, [-1])),
        (aten.native_layer_norm.default, (tokens, [192], norm, norm, 1e-5)),
        (aten.native_layer_norm_backward.default,
         (y, tokens, [192], mean, rstd, norm, norm, [True, not half, not half])),
        (aten._softmax.default, (logits, 1, False)),
        (aten._log_softmax.default, (logits, 1, False)),
        (aten._softmax_backward_data.default, (logits, p, 1, dtype)),
        (aten._log_softmax_backward_data.default, (logits, log_p, 1, dtype)),
        (FLASH, (q, k, v, 0.0, True)),
        (FLASH_BACKWARD, (go, q, k, v, out, lse, 0.0, True)),
    ]


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_correct_step_at_demo_size_breaks_neither_bound_nor_known_relation(
    dtype: torch.dtype,
) -> None:
    for op, args in demo_calls(dtype):
        call = bind(op, args)
        held = call.run()
        assert not judge(call, held), op
        spec = lookup(call.form.packet)
        assert spec is not None
        plan = make_plan(spec, call, held)
        for relation in plan.relations:
            broken = [p for visit in range(2) for p in relation.run(call, held, visit)
                      if not p.agrees()]
            assert not (broken and relation.symmetry.known), (op, relation.name)


@pytest.mark.parametrize("index", range(15))
def test_a_kernel_that_is_wrong_at_one_element_is_seen_by_the_reference(index: int) -> None:
    """The aten kernel itself is broken: a reference that used it would agree with it."""
    op, args = demo_calls(torch.float32)[index]

    def spoil(info: CallInfo, results: tuple[Tensor, ...]) -> None:
        raw = bits.raw(results[0])
        raw[np.unravel_index(raw.size * 2 // 3, raw.shape)] ^= np.uint32(1 << 21)

    call = bind(op, args)
    with KernelOverride(op, spoil) as override:
        held = call.run()
        found = judge(call, held)
        assert override.num_calls == 1, "the reference went through the kernel under test"
    assert [f.output for f in found] == [0]
    assert int(found[0].wrong.sum()) == 1


def test_a_product_that_is_wrong_for_one_layout_is_seen() -> None:
    """Transposed left operands are read as if they were contiguous."""
    a, b = torch.randn(64, 48).t(), torch.randn(64, 40)

    def misread(info: CallInfo, results: tuple[Tensor, ...]) -> None:
        left = info.args[0]
        if not left.is_contiguous():
            results[0].copy_(left.t().reshape(left.shape).double() @ info.args[1].double())

    with KernelOverride(aten.mm.default, misread):
        transposed = bind(aten.mm.default, (a, b))
        plain = bind(aten.mm.default, (a.contiguous(), b))
        assert judge(transposed, transposed.run())
        assert not judge(plain, plain.run())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", [aten.mm.default, aten.bmm.default, aten.addmm.default,
                                aten.baddbmm.default])
def test_checksums_hold_and_one_wrong_element_breaks_them(op: Any, dtype: torch.dtype) -> None:
    batch = (3,) if "bmm" in str(op) else ()
    a, b = torch.randn(*batch, 65, 48).to(dtype), torch.randn(*batch, 48, 33).to(dtype)
    start = (torch.randn(*batch, 65, 33).to(dtype),) if "add" in str(op) else ()
    call = bind(op, (*start, a, b), **({"alpha": -0.5, "beta": 2.0} if start else {}))
    held = call.run()
    spec = lookup(call.form.packet)
    assert spec is not None
    plan = make_plan(spec, call, held)
    assert not checksum(plan, call, held)
    held[0].view(-1)[100] += 40.0
    assert checksum(plan, call, held)


@pytest.mark.usefixtures("matmul_precision")
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_every_matmul_precision_has_a_bound_that_holds_and_still_sees_a_large_error(
    precision: str,
) -> None:
    torch.set_float32_matmul_precision(precision)
    call = bind(aten.mm.default, (torch.randn(128, 256), torch.randn(256, 64)))
    held = call.run()
    assert not judge(call, held)
    held[0][3, 4] += 30.0
    assert judge(call, held)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_integer_products_are_exact_and_wrap_around(dtype: torch.dtype) -> None:
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    a, b = (torch.randint(low, high, size, dtype=dtype) for size in ((17, 30), (30, 9)))
    for op, args, kwargs in ((aten.mm.default, (a, b), {}),
                             (aten.addmm.default, (b[:1].expand(17, 9), a, b), {"alpha": 3})):
        call = bind(op, args, **kwargs)
        held = call.run()
        assert not judge(call, held)
        held[0][0, 0] ^= 1
        assert judge(call, held)[0].exceeds == "proof"


def test_beta_zero_ignores_the_addend() -> None:
    call = bind(aten.addmm.default, (torch.full((4, 5), math.nan), torch.randn(4, 6),
                                     torch.randn(6, 5)), beta=0)
    assert not judge(call, call.run())


def test_a_gelu_epilogue_has_no_reference_and_a_relu_has_one() -> None:
    args = (torch.randn(9), torch.randn(5, 8), torch.randn(8, 9))
    relu = bind(aten._addmm_activation.default, args)
    held = relu.run()
    assert not judge(relu, held)
    assert references(relu, held)[0].expected.min() == 0
    gelu = bind(aten._addmm_activation.default, args, use_gelu=True)
    assert references(gelu, gelu.run()) == (None,)


def test_runs_that_do_not_merge_in_memory_are_added_one_by_one() -> None:
    """A contract that took the sum for one cascade would call the correct kernel wrong."""
    x = torch.full((3000, 3, 5), 1 + 2.0**-11 + 2.0**-20)
    call = bind(aten.sum.dim_IntList, (x, [0, 2]))
    held = call.run()
    assert not judge(call, held)
    reference = references(call, held)[0]
    rows = bind(aten.sum.dim_IntList, (x.transpose(0, 1).reshape(3, -1), [1]))
    merged = references(rows, held)[0]
    error = np.abs(bits.values(held[0]) - reference.expected)
    assert (error > merged.contract).all()


def test_a_half_mean_rounds_twice_and_an_overflowing_sum_is_not_judged() -> None:
    x = torch.full((4096,), 100.0, dtype=torch.float16)
    call = bind(aten.mean.default, (x,))
    held = call.run()
    assert not judge(call, held)
    assert references(call, held)[0].magnitude > torch.finfo(torch.float16).max
    y = torch.randn(4096).bfloat16()
    wrong = (bind(aten.mean.default, (y,)).run()[0] + 0.5,)
    assert judge(bind(aten.mean.default, (y,)), wrong)


def test_parameter_gradients_summed_in_bf16_keep_the_proof_and_break_the_fp32_contract() -> None:
    x, grad = torch.randn(2000, 64).bfloat16(), torch.ones(2000, 64).bfloat16()
    weight = torch.ones(64).bfloat16()
    _, mean, rstd = aten.native_layer_norm.default(x, [64], weight, weight, 1e-5)
    call = bind(aten.native_layer_norm_backward.default,
                (grad, x, [64], mean, rstd, weight, weight, [False, True, True]))
    held = call.run()
    assert {f.exceeds for f in judge(call, held)} == {"contract"}
    spoiled = (None, held[1], held[2] + 1e6)
    assert judge(call, spoiled)[-1].exceeds == "proof"


@pytest.mark.parametrize("label", ["b", "h"])
def test_attention_on_a_window_has_the_same_expectations(label: str) -> None:
    q, k, v, go = heads(torch.float32, 4, 40)
    out, lse = FLASH(q, k, v, 0.0, True)
    mask = torch.randn(8, 4, 40, 40)
    masked_out, masked_lse = FLASH(q, k, v, attn_mask=mask)
    calls = [bind(FLASH, (q, k, v, 0.0, True)),
             bind(FLASH_BACKWARD, (go, q, k, v, out, lse, 0.0, True)),
             bind(FLASH, (q, k, v), attn_mask=mask),
             bind(FLASH_BACKWARD, (go, q, k, v, masked_out, masked_lse, 0.0, False),
                  attn_mask=mask)]
    for call in calls:
        held = call.run()
        spec = lookup(call.form.packet)
        assert spec is not None
        axes = spec.axes(call, held)
        part = narrow_call(call, axes, label, 1, 2)
        part_held = tuple(narrow(t, o, label, 1, 2) for t, o in zip(held, axes.outputs,
        strict=True))
        for whole, window, labels in zip(references(call, held), references(part, part_held),
                                         axes.outputs, strict=True):
            dim = labels.index(label)
            for name in ("expected", "contract", "proof"):
                wanted = np.take(getattr(whole, name), [1, 2], dim)
                np.testing.assert_array_max_ulp(getattr(window, name), wanted, 64)


# The signatures of CUDA, on results that are made here from the definition.

FORWARDS = {
    "flash": (aten._scaled_dot_product_flash_attention.default, 7),
    "efficient": (aten._scaled_dot_product_efficient_attention.default, 4),
    "cudnn": (aten._scaled_dot_product_cudnn_attention.default, 7),
    "overrideable": (aten._scaled_dot_product_fused_attention_overrideable.default, 7),
}


def named(op: Any, **values: Any) -> BoundCall:
    """A call with the named arguments, the others at their default or empty."""
    form = form_of(op)
    args = tuple(values.get(name, default)
                 for name, default in zip(form.argument_names, form.defaults, strict=True))
    return BoundCall(form, args)


def attended(dtype: torch.dtype, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention in float64, stored in ``dtype``; the log-sum-exp in fp32."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(repeats, 1) for x in (k, v))
    scores = q.double() @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~torch.ones(scores.shape[-2:]).tril().bool(), -math.inf)
    return (scores.softmax(-1) @ v).to(dtype), scores.logsumexp(-1).float()


@pytest.mark.parametrize("variant", FORWARDS)
def test_forwards_of_cuda_are_judged_by_output_and_log_sum_exp(variant: str) -> None:
    op, num_results = FORWARDS[variant]
    q, k, v = heads(torch.bfloat16, 3, 24)
    out, lse = attended(torch.bfloat16, q, k, v)
    if variant == "efficient":
        lse = torch.nn.functional.pad(lse, (0, 8), value=math.inf)
    if variant == "cudnn":
        lse = lse.unsqueeze(-1)
    rest = (None,) * (num_results - 2)
    call = named(op, query=q, key=k, value=v, dropout_p=0.0, is_causal=True)
    assert not judge(call, (out, lse, *rest))
    assert all(r is None for r in references(call, (out, lse, *rest))[2:])
    assert [f.output for f in judge(call, (out, lse + 0.5, *rest))] == [1]
    wrong = out.clone()
    wrong[5, 2, 20, 7] += 0.5
    assert [f.output for f in judge(call, (wrong, lse, *rest))] == [0]


@pytest.mark.parametrize("variant", FORWARDS)
def test_a_call_with_dropout_has_no_reference_and_no_symmetry(variant: str) -> None:
    op, num_results = FORWARDS[variant]
    q, k, v = heads(torch.bfloat16, 3, 24)
    call = named(op, query=q, key=k, value=v, dropout_p=0.1, is_causal=True)
    held = (*attended(torch.bfloat16, q, k, v), *(None,) * (num_results - 2))
    assert references(call, held) == (None,) * num_results
    spec = lookup(call.form.packet)
    assert spec is not None
    assert callable(spec.symmetries)
    assert spec.symmetries(call, held) == ()  # type: ignore[arg-type]


def test_heads_that_share_keys_are_judged_and_not_moved_apart() -> None:
    q = torch.randn(2, 6, 24, 16)
    k, v = torch.randn(2, 2, 24, 16), torch.randn(2, 2, 24, 16)
    call = named(FORWARDS["flash"][0], query=q, key=k, value=v, dropout_p=0.0, is_causal=True)
    held = (*attended(torch.float32, q, k, v), None, None, None, None, None)
    assert not judge(call, held)
    spec = lookup(call.form.packet)
    assert spec is not None
    assert spec.axes(call, held).movable() == ("b",)  # type: ignore[arg-type]


BACKWARDS = {
    "flash": aten._scaled_dot_product_flash_attention_backward.default,
    "efficient": aten._scaled_dot_product_efficient_attention_backward.default,
    "cudnn": aten._scaled_dot_product_cudnn_attention_backward.default,
    "overrideable": aten._scaled_dot_product_fused_attention_overrideable_backward.default,
}


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("variant", BACKWARDS)
def test_backwards_of_cuda_are_judged(variant: str, shared: int) -> None:
    q, go = torch.randn(2, 4, 24, 16), torch.randn(2, 4, 24, 16)
    k, v = torch.randn(2, 4 // shared, 24, 16), torch.randn(2, 4 // shared, 24, 16)
    out, lse = attended(torch.float32, q, k, v)
    given = lse.unsqueeze(-1) if variant == "cudnn" else lse
    call = named(BACKWARDS[variant], grad_out=go, grad_out_=go, query=q, key=k, value=v, out=out,
                 logsumexp=given, dropout_p=0.0, is_causal=True)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    attended(torch.float64, *leaves)[0].backward(go.double())
    held: list[Any] = [x.grad for x in leaves]
    assert not judge(call, tuple(held))
    for i in range(3):
        spoiled = [x.clone() for x in held]
        spoiled[i].view(-1)[77] += 0.01
        assert [f.output for f in judge(call, tuple(spoiled))] == [i]
    four = (held[0], None, held[2], None)
    assert not judge(call, four)


def test_infinite_operands_of_attention_are_left_to_replay() -> None:
    q, k, v = heads(torch.float32, 3, 24)
    v[0, 0, 23, 0] = math.inf
    call = bind(FLASH, (q, k, v, 0.0, True))
    held = call.run()
    assert not judge(call, held)
    assert not judge(call, (held[0] + 1, held[1]))
