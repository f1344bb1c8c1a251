"""Calls of every memory layout that a bundle must bring back, and a finding to go with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdc_guard.bits import alignment_bytes
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.records import (
    Attribution,
    Bound,
    Cause,
    Evidence,
    Finding,
    OpCall,
    Pattern,
    TensorMeta,
    Value,
    Verdict,
    Vote,
    Worst,
)

aten = torch.ops.aten


def bound_call(op: Any, *args: Any, **kwargs: Any) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def finding_for(call: BoundCall, *, bound: Bound | None = None, **changes: Any) -> Finding:
    operands = tuple(
        TensorMeta(name=str(path), dtype=str(t.dtype), shape=tuple(t.shape),
                   stride=tuple(t.stride()), storage_offset=t.storage_offset(),
                   device=str(t.device), alignment_bytes=alignment_bytes(t))
        for path, t in call.tensors()
    )
    op_call = OpCall(op=call.form.name, call_index=7, step=3, phase="forward",
                     module="blocks.0.mlp", source="train.py:41", operands=operands, outputs=(),
                     arguments="alpha=31337", flops=10, num_threads=torch.get_num_threads())
    worst = Worst(output=0, index=(0, 0),
                  got=Value(dtype="float32", bits="0x4248f5c3", repr="50.24"),
                  expected=Value(dtype="float32", bits="0x7fc00001", repr="nan"),
                  xor="0x3d88f5c2", error=Value(dtype="float64", bits="0x7ff0000000000000",
                                                repr="inf"),
                  error_ulps=float("inf"), bound=bound)
    fields: dict[str, Any] = {
        "verdict": Verdict.CORRUPTION,
        "call": op_call,
        "witness": "replay",
        "relation": "row roll",
        "worst": worst,
        "pattern": Pattern(num_wrong=1, num_elements=4, first=((0, 0),), box_low=(0, 0),
                           box_high=(0, 0), flat_stride=None),
        "attribution": Attribution(
            cause=Cause.SOFTWARE, place="",
            votes=(Vote(place="core 1", method="identical", identical=True, result="held"),),
            reason="wrong in another process too"),
        "evidence": Evidence(bundle="", replay_command="", note=""),
        "held_is_wrong": True,
        "message": "got 50.24 at [0, 0]",
    }
    return Finding(**{**fields, **changes})


def _misaligned_floats() -> Tensor:
    """float32 at an address that is not a multiple of 4."""
    return torch.frombuffer(bytearray(range(1, 42)), dtype=torch.float32, count=9, offset=1)


def _nan_payloads() -> Tensor:
    bits = [0x7FC00001, 0xFFC12345 - (1 << 32), 0x7F800001, 0x80000000 - (1 << 32), 1]
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32)


def _shared_storage() -> BoundCall:
    base = torch.randn(40)
    return bound_call(aten.add.Tensor, base[1:21].view(4, 5), base[11:31].view(4, 5), alpha=2)


def _out_is_input() -> BoundCall:
    base = torch.randn(6)
    return bound_call(aten.add.out, base, torch.randn(6), out=base)


def _in_place_on_own_view() -> BoundCall:
    base = torch.randn(22)
    return bound_call(aten.add_.Tensor, base[0:20:2], base[2:22:2])


def _interleaved_chunks() -> BoundCall:
    q, k, v = torch.randn(2, 8, 4, 24).split(8, dim=-1)
    return bound_call(aten.cat.default, [q, k, v, q], 2)


def _bytes_of_a_float_operand() -> BoundCall:
    base = torch.randn(8)
    return bound_call(aten.where.ScalarOther, base.view(torch.uint8)[3:10].view(torch.bool),
                      base[1:8], 2.0)


CALLS: dict[str, Callable[[], BoundCall]] = {
    "fp32 mm": lambda: bound_call(aten.mm.default, torch.randn(5, 7), torch.randn(7, 3)),
    "fp64 transposed mm": lambda: bound_call(
        aten.mm.default, torch.randn(7, 5, dtype=torch.float64).t(),
        torch.randn(7, 3, dtype=torch.float64)),
    "bf16 mm": lambda: bound_call(aten.mm.default, torch.randn(8, 8).bfloat16(),
                                  torch.randn(8, 8).bfloat16().t()),
    "fp16 offset view of odd alignment": lambda: bound_call(
        aten.sum.dim_IntList, torch.randn(50).half()[1:43].view(6, 7), [1], True),
    "int64 cumsum": lambda: bound_call(aten.cumsum.default, torch.arange(12).view(3, 4), 1),
    "bool where": lambda: bound_call(aten.where.self, torch.rand(9) > 0.5, torch.randn(9),
                                     torch.randn(9)),
    "uint8": lambda: bound_call(aten.bitwise_xor.Scalar, torch.arange(9, dtype=torch.uint8), 5),
    "complex128": lambda: bound_call(aten.mul.Tensor, torch.randn(3, 4, dtype=torch.complex128).mT,
                                     complex(1.5, -0.0)),
    "0-dim": lambda: bound_call(aten.exp.default, torch.tensor(1.25)),
    "empty": lambda: bound_call(aten.add.Tensor, torch.empty(0, 4), torch.empty(0, 4)),
    "empty sum": lambda: bound_call(aten.sum.default, torch.empty(0)),
    "expanded": lambda: bound_call(aten.mul.Tensor, torch.randn(4, 1).expand(4, 6),
                                   torch.randn(1).expand(4, 6)),
    "gappy view": lambda: bound_call(aten.sum.dim_IntList, torch.randn(10, 12)[1:9:3, 2:11:4],
                                     [0]),
    "misaligned": lambda: bound_call(aten.neg.default, _misaligned_floats()),
    "nan payloads": lambda: bound_call(aten.clone.default, _nan_payloads()),
    "shared storage": _shared_storage,
    "same tensor twice": lambda: bound_call(aten.mm.default, *([torch.randn(4, 4)] * 2)),
    "interleaved chunks": _interleaved_chunks,
    "index list": lambda: bound_call(aten.index.Tensor, torch.randn(4, 5),
                                     [None, torch.tensor([0, 2, 2])]),
    "bytes of a float operand": _bytes_of_a_float_operand,
    "out is an input": _out_is_input,
    "in place": lambda: bound_call(aten.mul_.Tensor, torch.randn(6, 4).t(), 3),
    "in place on its own view": _in_place_on_own_view,
    "foreach in place": lambda: bound_call(
        aten._foreach_add_.List, [torch.randn(3), torch.randn(2, 2)],
        [torch.randn(3), torch.randn(2, 2)], alpha=0.5),
    "optional tensors": lambda: bound_call(
        aten.native_layer_norm.default, torch.randn(3, 8), [8], None, torch.randn(8), 1e-5),
    "dtype argument": lambda: bound_call(aten.sum.dim_IntList, torch.randn(4, 4).half(), [-1],
                                         False, dtype=torch.float32),
    "device, layout and memory format": lambda: bound_call(
        aten._to_copy.default, torch.randn(2, 3, 4, 5), dtype=torch.bfloat16,
        layout=torch.strided, device=torch.device("cpu"),
        memory_format=torch.channels_last),
    "string argument": lambda: bound_call(aten.gelu.default, torch.randn(33), approximate="tanh"),
    "float in a tensor slot": lambda: bound_call(aten.mul.Tensor, torch.randn(5), 0.1),
    "non-finite scalars": lambda: bound_call(aten.nan_to_num.default, _nan_payloads(),
                                             float("nan"), float("inf"), -0.0),
    "bool list": lambda: bound_call(
        aten.native_layer_norm_backward.default, torch.randn(3, 8), torch.randn(3, 8), [8],
        torch.randn(3, 1), torch.rand(3, 1), torch.randn(8), torch.randn(8),
        [True, True, False]),
}


def results_of(call: BoundCall) -> tuple[Tensor, ...]:
    """The correct flat results; written operands are changed, so give a call of your own."""
    return call.results(call.args, call.form.call(call.args))
