"""Wrong products of matrices and vectors."""

from __future__ import annotations

import torch

from sdc_guard import bits
from sdc_guard.inject.override import CallInfo, Results
from tests.hunt_power.mechanics import (
    as_if_contiguous,
    is_expanded,
    is_float,
    reread,
    stored,
    to_bfloat16,
    write_numbers,
)
from tests.hunt_power.mutant import Spoil
from tests.hunt_power.mutants._collect import PYTORCH, Collection, packet

MUTANTS = Collection()
_MM = {"kernels": packet("mm", "default", "out"), "ops": "aten.mm", "catalogue": "mm",
       "draws": "mm"}
_ADDMM = {"kernels": packet("addmm", "default", "_.default", "out"), "ops": "aten.addmm",
          "catalogue": "addmm", "draws": "addmm"}


@MUTANTS.add(
    "mm drops the end of a long inner dimension", **_MM, kind="dropped tail element",
    like="blocks of 16 without the remainder",
    wrong=lambda: torch.ones(2, 65) @ torch.ones(65, 2),
    right=lambda: torch.ones(2, 64) @ torch.ones(64, 2))
def _mm_tail(info: CallInfo) -> Spoil | None:
    a, b = info.call["self"], info.call["mat2"]
    inner = a.shape[1]
    if inner <= 64 or inner % 16 == 0:
        return None
    kept = inner // 16 * 16
    return reread(info, self=a[:, :kept], mat2=b[:kept])


@MUTANTS.add(
    "bfloat16 mm adds blocks in bfloat16", **_MM, kind="half accumulator",
    like="split-K with partial sums in the output's dtype",
    wrong=lambda: torch.linspace(0, 1, 1024).reshape(2, 512).bfloat16()
    @ torch.linspace(0, 1, 1024).reshape(512, 2).bfloat16(),
    right=lambda: torch.ones(2, 64, dtype=torch.bfloat16)
    @ torch.ones(64, 2, dtype=torch.bfloat16))
def _mm_half(info: CallInfo) -> Spoil | None:
    a, b = info.call["self"], info.call["mat2"]
    if a.dtype is not torch.bfloat16 or a.shape[1] < 128 or not a.numel() or not b.numel():
        return None
    left, right = bits.values(a), bits.values(b)
    total = to_bfloat16(left[:, :16] @ right[:16])
    for start in range(16, a.shape[1], 16):
        total = to_bfloat16(total + left[:, start:start + 16] @ right[start:start + 16])
    return stored(0, lambda r: write_numbers(r, total))


@MUTANTS.add(
    "mm of two transposed matrices leaves an odd last row", **_MM, kind="stale scratch memory",
    like=f"{PYTORCH}99519: a part of the result that nobody wrote",
    wrong=lambda: torch.arange(12.0).reshape(4, 3).t() @ torch.ones(5, 4).t(),
    right=lambda: torch.arange(8.0).reshape(4, 2).t() @ torch.ones(5, 4).t())
def _mm_transposed(info: CallInfo) -> Spoil | None:
    a, b = info.call["self"], info.call["mat2"]
    if any(t.stride(0) != 1 or t.stride(1) < 2 or t.shape[0] < 2 for t in (a, b)):
        return None
    if not a.shape[0] % 2 or not b.shape[1]:
        return None

    def unwritten(results: Results) -> None:
        if results[0] is not None:
            bits.raw(results[0])[-1] = bits.raw(results[0])[0]

    return unwritten


@MUTANTS.add(
    "addmm with beta = 0 lets NaN through", **_ADDMM, kind="NaN propagated",
    like=f"{PYTORCH}94534, {PYTORCH}187521",
    wrong=lambda: torch.addmm(torch.full((2, 2), torch.nan), torch.eye(2), torch.eye(2), beta=0),
    right=lambda: torch.addmm(torch.ones(2, 2), torch.eye(2), torch.eye(2), beta=0))
def _addmm_beta(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if info.call["beta"] != 0 or not is_float(x) or not x.numel() or bool(x.isfinite().all()):
        return None
    extra = 0.0 * bits.values(x)

    def through(results: Results) -> None:
        if results[0] is not None:
            write_numbers(results[0], bits.values(results[0]) + extra)

    return through


@MUTANTS.add(
    "addmm clears the matrix that is its out=", **{**_ADDMM, "kernels": packet("addmm", "out")},
    kind="wrong out= aliasing", like=f"{PYTORCH}48900",
    wrong=lambda: torch.addmm(torch.ones(3, 3), m := torch.eye(3), torch.eye(3), out=m),
    right=lambda: torch.addmm(torch.ones(3, 3), torch.eye(3), torch.eye(3),
                              out=torch.empty(3, 3)))
def _addmm_alias(info: CallInfo) -> Spoil | None:
    a, out = info.call["mat1"], info.call["out"]
    if not a.numel() or a.data_ptr() != out.data_ptr():
        return None
    return reread(info, mat1=torch.zeros_like(a))


@MUTANTS.add(
    "bmm leaves all but the first batch of an expanded matrix",
    kernels=packet("bmm", "default", "out"), ops="aten.bmm", catalogue="bmm", draws="bmm",
    kind="wrong for an expanded operand", like=f"{PYTORCH}15297: a weight that is expanded",
    wrong=lambda: torch.ones(3, 2, 2).bmm(torch.ones(1, 2, 2).expand(3, 2, 2)),
    right=lambda: torch.ones(3, 2, 2).bmm(torch.ones(3, 2, 2)))
def _bmm_expanded(info: CallInfo) -> Spoil | None:
    if not is_expanded(info.call["mat2"], 0):
        return None

    def unwritten(results: Results) -> None:
        if results[0] is not None:
            bits.raw(results[0])[1:] = 0

    return unwritten


@MUTANTS.add(
    "dot of strided vectors reads them as if they were dense", kernels=packet("dot", "default"),
    ops="aten.dot", catalogue="dot", draws="dot", kind="wrong offset, non-contiguous",
    like="an increment that is not passed to BLAS",
    wrong=lambda: torch.arange(8.0)[::2].dot(torch.ones(4)),
    right=lambda: torch.arange(4.0).dot(torch.ones(4)))
def _dot_strided(info: CallInfo) -> Spoil | None:
    pair = {name: info.call[name] for name in ("self", "tensor")}
    if all(t.numel() < 2 or t.stride(0) == 1 for t in pair.values()):
        return None
    return reread(info, **{k: as_if_contiguous(t) for k, t in pair.items()})
