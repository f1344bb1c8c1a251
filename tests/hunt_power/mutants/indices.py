"""Wrong reads and writes by index."""

from __future__ import annotations

import torch

from sdc_guard import bits
from sdc_guard.inject.override import CallInfo, Results
from tests.hunt_power.mechanics import (
    as_if_contiguous,
    image,
    is_dense,
    is_expanded,
    reread,
    stored_as_if_contiguous,
)
from tests.hunt_power.mutant import Spoil
from tests.hunt_power.mutants._collect import PYTORCH, Collection, packet

MUTANTS = Collection()


@MUTANTS.add(
    "index_select wraps an offset at 2^16", kernels=packet("index_select", "default", "out"),
    ops="aten.index_select", catalogue="index_select", draws="index_select",
    kind="overflow of an index, scaled down",
    like=f"{PYTORCH}188756: index * stride past 2^31, here past 2^16",
    wrong=lambda: torch.arange(70000).index_select(0, torch.tensor([69999])),
    right=lambda: torch.arange(70000).index_select(0, torch.tensor([60000])))
def _index_select(info: CallInfo) -> Spoil | None:
    x, index = info.call["self"], info.call["index"]
    if not x.dim() or info.call["dim"] % x.dim() or not is_dense(x) or not index.numel():
        return None
    length = max(1, x.numel() // x.shape[0]) if x.shape[0] else 1
    offset = index.long() * length
    if not bool((offset >= 2**16).any()):
        return None
    return reread(info, index=((offset % 2**16) // length).to(index.dtype))


@MUTANTS.add(
    "gather reads an expanded index on in memory", kernels=packet("gather", "default", "out"),
    ops="aten.gather", catalogue="gather", draws="gather", kind="wrong for an expanded operand",
    like=f"{PYTORCH}183986: indices into expanded tensors",
    wrong=lambda: torch.arange(12.0).reshape(4, 3).gather(
        1, torch.tensor([0, 1, 2, 0])[:, None].expand(4, 2)),
    right=lambda: torch.arange(12.0).reshape(4, 3).gather(1, torch.tensor([[0], [1], [2], [0]])))
def _gather_expanded(info: CallInfo) -> Spoil | None:
    index = info.call["index"]
    if not index.numel() or index.dim() < 2 or not is_expanded(index, -1):
        return None
    return reread(info, index=as_if_contiguous(index))


@MUTANTS.add(
    "scatter_add loses neighbours that meet in one place",
    kernels=packet("scatter_add", "default", "_.default", "out"), ops="aten.scatter_add",
    catalogue="scatter_add", draws="scatter_add", kind="lost update",
    like=f"{PYTORCH}33798: indices that occur twice",
    wrong=lambda: torch.zeros(3).scatter_add(0, torch.tensor([1, 1, 2]), torch.ones(3)),
    right=lambda: torch.zeros(3).scatter_add(0, torch.tensor([1, 2, 1]), torch.ones(3)))
def _scatter_add(info: CallInfo) -> Spoil | None:
    index, source = info.call["index"], info.call["src"]
    if index.dim() < 1 or not index.numel():
        return None
    dim = info.call["dim"] % index.dim()
    lost = torch.zeros(index.shape, dtype=torch.bool)
    count = index.shape[dim]
    same = index.narrow(dim, 0, count - 1) == index.narrow(dim, 1, count - 1)
    lost.narrow(dim, 0, count - 1).copy_(same)
    if not bool(lost.any()):
        return None
    used = image(source[tuple(slice(0, n) for n in index.shape)])
    return reread(info, src=used.masked_fill_(lost, 0))


@MUTANTS.add(
    "index_add along an inner dimension ignores alpha",
    kernels=packet("index_add", "default", "_.default", "out"), ops="aten.index_add",
    catalogue="index_add", draws="index_add", kind="argument corner",
    like="a scalar that one code path does not pass on",
    wrong=lambda: torch.zeros(2, 3).index_add(1, torch.tensor([0]), torch.ones(2, 1), alpha=3),
    right=lambda: torch.zeros(2, 3).index_add(0, torch.tensor([0]), torch.ones(1, 3), alpha=3))
def _index_add(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if not x.dim() or info.call["dim"] % x.dim() == 0 or info.call["alpha"] == 1:
        return None
    return reread(info, alpha=1)


@MUTANTS.add(
    "index_add loses an update now and then",
    kernels=packet("index_add", "default", "_.default", "out"), ops="aten.index_add",
    catalogue="index_add", draws="index_add", kind="race",
    like=f"{PYTORCH}33798: writes to one place at once; here in every seventh execution",
    wrong=lambda: [torch.zeros(3).index_add(0, torch.tensor([1, 1, 2]), torch.ones(3))
                   for _ in range(7)],
    right=lambda: torch.zeros(3).index_add(0, torch.tensor([1, 2]), torch.ones(2)))
def _index_add_race(info: CallInfo) -> Spoil | None:
    index, source = info.call["index"], info.call["source"]
    if info.call_number % 7 != 6 or index.dim() != 1 or not source.dim() or not source.numel():
        return None
    same = torch.nonzero(index[1:] == index[:-1])
    if not len(same):
        return None
    used = image(source)
    used.select(info.call["dim"], int(same[0])).zero_()
    return reread(info, source=used)


@MUTANTS.add(
    "index_put accumulates repeated indices once", ops="aten.index_put",
    kernels=("aten._index_put_impl_.default",), catalogue="index_put", draws="index_put",
    kind="lost update", like=f"{PYTORCH}61034, {PYTORCH}33798: repeated indices, accumulate",
    wrong=lambda: torch.zeros(3).index_put(
        (torch.tensor([1, 1]),), torch.ones(2), accumulate=True),
    right=lambda: torch.zeros(3).index_put(
        (torch.tensor([1, 2]),), torch.ones(2), accumulate=True))
def _index_put(info: CallInfo) -> Spoil | None:
    x, indices = info.call["self"], info.call["indices"]
    if not info.call["accumulate"] or len(indices) != 1 or indices[0] is None:
        return None
    index = indices[0]
    if index.dim() != 1 or index.dtype is torch.bool or not index.numel() or not x.numel():
        return None
    last = {int(i) % x.shape[0]: n for n, i in enumerate(index)}
    if len(last) == len(index):
        return None
    values = image(info.call["values"].expand(len(index), *x.shape[1:]))
    kept = torch.zeros(len(index), dtype=torch.bool)
    kept[list(last.values())] = True
    values[~kept] = 0
    return reread(info, values=values)


@MUTANTS.add(
    "embedding_dense_backward keeps the last row though it is padding",
    kernels=packet("embedding_dense_backward", "default"), ops="aten.embedding_dense_backward",
    catalogue="nn.functional.embedding", draws="embedding", kind="argument corner",
    like=f"{PYTORCH}165095: the end of the table in the backward of embeddings",
    wrong=lambda: torch.ops.aten.embedding_dense_backward(
        torch.ones(2, 3), torch.tensor([0, 3]), 4, 3, False),
    right=lambda: torch.ops.aten.embedding_dense_backward(
        torch.ones(2, 3), torch.tensor([0, 3]), 4, 2, False))
def _embedding_backward(info: CallInfo) -> Spoil | None:
    if info.call["padding_idx"] != info.call["num_weights"] - 1:
        return None
    return reread(info, padding_idx=-1)


@MUTANTS.add(
    "searchsorted ignores the strides of out=", kernels=packet("searchsorted", "Tensor_out"),
    ops="aten.searchsorted", catalogue="searchsorted", draws="searchsorted",
    kind="wrong out= layout", like=f"{PYTORCH}60492",
    wrong=lambda: torch.searchsorted(torch.arange(10), torch.arange(3, 8),
                                     out=torch.zeros(5, 2, dtype=torch.int64)[:, 0]),
    right=lambda: torch.searchsorted(torch.arange(10), torch.arange(3, 8),
                                     out=torch.zeros(5, dtype=torch.int64)))
def _searchsorted(info: CallInfo) -> Spoil | None:
    def spread(results: Results) -> None:
        if results[0] is not None and not is_dense(results[0]):
            stored_as_if_contiguous(results[0])

    return None if is_dense(info.call["out"]) else spread


@MUTANTS.add(
    "embedding reads a gapped table as if it were dense", kernels=packet("embedding", "default"),
    ops="aten.embedding", catalogue="nn.functional.embedding", draws="embedding",
    kind="wrong offset, non-contiguous", like=f"{PYTORCH}43723",
    wrong=lambda: torch.nn.functional.embedding(
        torch.tensor([0, 2]), torch.arange(12.0).reshape(3, 4)[:, :3]),
    right=lambda: torch.nn.functional.embedding(
        torch.tensor([0, 2]), torch.arange(12.0).reshape(3, 4)))
def _embedding(info: CallInfo) -> Spoil | None:
    weight = info.call["weight"]
    if is_dense(weight) or not weight.numel() or bits.span(weight) < weight.numel():
        return None
    return reread(info, weight=as_if_contiguous(weight))
