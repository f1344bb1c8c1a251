"""Wrong copies, moves and selections along whole dimensions."""

from __future__ import annotations

import math

import numpy as np
import torch

from sdc_guard import bits
from sdc_guard.inject.override import CallInfo, Results
from tests.hunt_power.mechanics import as_if_contiguous, image, is_dense, reread, write
from tests.hunt_power.mutant import Spoil
from tests.hunt_power.mutants._collect import PYTORCH, Collection, packet

MUTANTS = Collection()
_BLOCK = 60  # as in the blocked transposing copy of torch


@MUTANTS.add(
    "transposing copy leaves rows behind the last block", kernels=packet("copy", "_.default"),
    ops="aten.copy", catalogue="clone", draws="copy", kind="stale scratch memory",
    like=f"{PYTORCH}99519: memory that nobody wrote in a result",
    wrong=lambda: torch.zeros(70, 70).copy_(torch.arange(1.0, 4901.0).reshape(70, 70).t()),
    right=lambda: torch.zeros(60, 60).copy_(torch.arange(1.0, 3601.0).reshape(60, 60).t()))
def _copy_transposed(info: CallInfo) -> Spoil | None:
    target, source = info.call["self"], info.call["src"]
    if target.dim() != 2 or not is_dense(target) or target.shape != source.shape:
        return None
    if target.dtype is not source.dtype or target.numel() < _BLOCK**2:
        return None
    if not is_dense(source.t()) or is_dense(source) or not target.shape[0] % _BLOCK:
        return None
    done = target.shape[0] // _BLOCK * _BLOCK
    old = np.array(bits.raw(target)[done:])

    def unwritten(results: Results) -> None:
        if results[0] is not None:
            bits.raw(results[0])[done:] = old

    return unwritten


@MUTANTS.add(
    "cat along an inner dimension ignores strides", kernels=packet("cat", "default", "out"),
    ops="aten.cat", catalogue="cat", draws="cat", kind="wrong offset, non-contiguous",
    like=f"{PYTORCH}43723: a non-contiguous operand copied as a block",
    wrong=lambda: torch.cat([torch.zeros(3, 3), torch.arange(9.0).reshape(3, 3).t()], 1),
    right=lambda: torch.cat([torch.zeros(3, 3), torch.arange(9.0).reshape(3, 3).t()], 0))
def _cat_strided(info: CallInfo) -> Spoil | None:
    tensors = list(info.call["tensors"])
    if info.call["dim"] == 0 or all(is_dense(t) or not t.numel() for t in tensors):
        return None
    return reread(info, tensors=[
        t if is_dense(t) or not t.numel() else as_if_contiguous(t) for t in tensors])


@MUTANTS.add(
    "flip of bytes leaves the tail of a row", kernels=packet("flip", "default"), ops="aten.flip",
    catalogue="flip", draws="flip", kind="dropped tail element",
    like="a byte shuffle by vectors of 32 without its remainder",
    wrong=lambda: torch.arange(1, 41, dtype=torch.uint8).flip(0),
    right=lambda: torch.arange(1, 33, dtype=torch.uint8).flip(0))
def _flip_bytes(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    dims = [d % x.dim() for d in info.call["dims"]] if x.dim() else []
    if x.element_size() != 1 or x.dim() - 1 not in dims or x.shape[-1] <= 32:
        return None
    tail = x.shape[-1] % 32

    def unwritten(results: Results) -> None:
        if results[0] is not None and tail:
            bits.raw(results[0])[..., -tail:] = 0

    return unwritten if tail else None


@MUTANTS.add(
    "roll cuts its shift to 32 bits", kernels=packet("roll", "default"), ops="aten.roll",
    catalogue="roll", draws="roll", kind="int32 overflow of an index",
    like=f"{PYTORCH}25747: an index in an int",
    wrong=lambda: torch.arange(5).roll(2**31 + 1), right=lambda: torch.arange(5).roll(7))
def _roll_int32(info: CallInfo) -> Spoil | None:
    shifts = list(info.call["shifts"])
    cut = [(int(s) + 2**31) % 2**32 - 2**31 for s in shifts]
    return None if cut == shifts else reread(info, shifts=cut)


@MUTANTS.add(
    "tril of a strided batch forgets its diagonal",
    kernels=packet("tril", "default", "_.default", "out"), ops="aten.tril", catalogue="tril",
    draws="tril", kind="argument corner", like="a batch loop that drops an argument",
    wrong=lambda: torch.ones(3, 3, 2).permute(2, 0, 1).tril(-1),
    right=lambda: torch.ones(2, 3, 3).tril(-1))
def _tril_batch(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if x.dim() < 3 or is_dense(x) or not info.call["diagonal"]:
        return None
    return reread(info, diagonal=0)


@MUTANTS.add(
    "stable sort exchanges equal keys", kernels=packet("sort", "stable", "values_stable"),
    ops="aten.sort", catalogue="sort", draws="sort", kind="broken promise of order",
    like="a stable= that one code path does not pass on",
    wrong=lambda: torch.zeros(20).sort(stable=True),
    right=lambda: torch.zeros(16).sort(stable=True))
def _sort_ties(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if not info.call["stable"] or not x.dim() or x.shape[-1] <= 16:
        return None
    if info.call["dim"] % x.dim() != x.dim() - 1:
        return None

    def exchanged(results: Results) -> None:
        values, indices = results
        if values is None or indices is None or not values.numel():
            return
        keys = bits.raw(values)
        rows = np.ascontiguousarray(keys).reshape(-1, keys.shape[-1])
        places = np.array(bits.raw(indices), order="C").reshape(rows.shape)
        for row, place in zip(rows, places, strict=True):
            ties = np.flatnonzero(row[1:] == row[:-1])
            if len(ties):
                first = ties[0]
                place[[first, first + 1]] = place[[first + 1, first]]
        np.copyto(bits.raw(indices), places.reshape(keys.shape))

    return exchanged


@MUTANTS.add(
    "topk of few among many skips the first element", kernels=packet("topk", "default", "values"),
    ops="aten.topk", catalogue="topk", draws="topk", kind="dropped element in one code path",
    like="partial sort, chosen where 64 k <= n, that begins at 1",
    wrong=lambda: torch.arange(100.0, 0, -1).topk(1), right=lambda: torch.arange(100.0).topk(1))
def _topk_partial(info: CallInfo) -> Spoil | None:
    x, k = info.call["self"], info.call["k"]
    if not x.dim() or info.call["dim"] % x.dim() != x.dim() - 1 or not info.call["largest"]:
        return None
    if not k or 64 * k > x.shape[-1] or not x.is_floating_point():
        return None
    short = image(x)
    short[..., 0] = -math.inf
    return reread(info, self=short)


@MUTANTS.add(
    "masked_fill_ of an expanded mask reads on in memory", kind="wrong for an expanded operand",
    kernels=packet("masked_fill", "Scalar", "_.Scalar"), ops="aten.masked_fill",
    catalogue="masked_fill", draws="masked_fill", like=f"{PYTORCH}12230",
    wrong=lambda: torch.zeros(4, 3).masked_fill_(
        torch.tensor([True, False, True, False])[:, None].expand(4, 3), 1),
    right=lambda: torch.zeros(4, 3).masked_fill_(
        torch.tensor([True, False, True, False])[:, None], 1))
def _masked_fill(info: CallInfo) -> Spoil | None:
    mask = info.call["mask"]
    if not is_expanded_inside(mask):
        return None
    return reread(info, mask=as_if_contiguous(mask))


def is_expanded_inside(mask: torch.Tensor) -> bool:
    return bool(mask.dim() > 1 and mask.numel() and mask.shape[-1] > 1 and mask.stride(-1) == 0)


@MUTANTS.add(
    "repeat with one repetition of a transposed input ignores strides",
    kernels=packet("repeat", "default"), ops="aten.repeat", catalogue="repeat", draws="repeat",
    kind="wrong offset, non-contiguous", like=f"{PYTORCH}159932: strides of a dimension of size 1",
    wrong=lambda: torch.arange(6.0).reshape(2, 3).t().repeat(1, 2),
    right=lambda: torch.arange(6.0).reshape(2, 3).t().repeat(2, 2))
def _repeat_once(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if is_dense(x) or not x.numel() or 1 not in info.call["repeats"]:
        return None

    wrong = info.rerun(info.call.replaced(self=as_if_contiguous(x)))[0]
    assert wrong is not None

    def strided(results: Results) -> None:
        if results[0] is not None:
            write(results[0], wrong)

    return strided
