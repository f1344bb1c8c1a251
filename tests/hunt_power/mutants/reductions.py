"""Wrong sums, means, extrema, norms and scans."""

from __future__ import annotations

import math

import numpy as np
import torch

from sdc_guard import bits
from sdc_guard.inject.override import CallInfo, Results
from sdc_guard.inject.predicates import is_transposed
from tests.hunt_power.mechanics import (
    accumulated_in_half,
    as_if_contiguous,
    image,
    is_dense,
    is_expanded,
    is_float,
    reduced,
    reread,
    stored,
    stored_as_if_contiguous,
    write_numbers,
)
from tests.hunt_power.mutant import Spoil
from tests.hunt_power.mutants._collect import PYTORCH, Collection, packet
from tests.hunt_power.threads import with_threads

MUTANTS = Collection()
_SUM = packet("sum", "dim_IntList", "IntList_out")
_SUMS = {"kernels": _SUM, "ops": "aten.sum", "catalogue": "sum", "draws": "sum"}


@MUTANTS.add(
    "sum drops the last element", **_SUMS, kind="dropped tail element",
    like="a vector loop without its remainder",
    wrong=lambda: torch.arange(1.0, 34.0).sum(), right=lambda: torch.arange(32.0).sum())
def _sum_tail(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if not x.dim() or not is_float(x) or not is_dense(x) or x.dim() - 1 not in reduced(info.call):
        return None
    if x.shape[-1] <= 16 or x.shape[-1] % 8 == 0:
        return None
    short = image(x)
    short[..., -1] = 0
    return reread(info, self=short)


@MUTANTS.add(
    "sum ignores the strides of a large transposed input", **_SUMS,
    kind="wrong offset, non-contiguous, past a size",
    like=f"{PYTORCH}15058, {PYTORCH}43723: results of non-contiguous operands on CPU",
    wrong=lambda: torch.arange(4096.0).reshape(64, 64).t().sum(0),
    right=lambda: torch.arange(4032.0).reshape(63, 64).t().sum(0))
def _sum_transposed(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if x.numel() < 4096 or not is_transposed(tuple(x.shape), tuple(x.stride())):
        return None
    return reread(info, self=as_if_contiguous(x))


@MUTANTS.add(
    "sum counts an expanded dimension once", **_SUMS, kind="wrong for an expanded operand",
    like=f"{PYTORCH}183986: stride 0 taken for the storage that is shared",
    wrong=lambda: torch.ones(1, 3).expand(4, 3).sum(0), right=lambda: torch.ones(4, 3).sum(0))
def _sum_expanded(info: CallInfo) -> Spoil | None:
    x, narrow = info.call["self"], info.call["self"]
    for dim in reduced(info.call):
        if is_expanded(x, dim):
            narrow = narrow.narrow(dim, 0, 1)
    return None if narrow is x else reread(info, self=narrow)


@MUTANTS.add(
    "strided float16 sum accumulates in float16", **_SUMS, kind="half accumulator",
    like=f"{PYTORCH}103956: precision of non-contiguous bfloat16 sums on CPU",
    wrong=lambda: torch.full((300, 2), 1.1, dtype=torch.float16).sum(0),
    right=lambda: torch.full((2, 300), 1.1, dtype=torch.float16).sum(1))
def _sum_half(info: CallInfo) -> Spoil | None:
    x, dims = info.call["self"], reduced(info.call)
    if len(dims) != 1 or x.dtype is not torch.float16 or x.stride(dims[0]) == 1 or not x.numel():
        return None
    total = accumulated_in_half(x, dims[0])
    return stored(0, lambda r: write_numbers(r, total.reshape(tuple(r.shape))))


@MUTANTS.add(
    "sum of small integers wraps at 2^31", **_SUMS, kind="int32 overflow of a value",
    like=f"{PYTORCH}3738: sums in the dtype of the input",
    wrong=lambda: torch.full((3,), 2**30, dtype=torch.int32).sum(),
    right=lambda: torch.full((3,), 2**29, dtype=torch.int32).sum())
def _sum_int32(info: CallInfo) -> Spoil | None:
    if info.call["self"].dtype not in (torch.int8, torch.uint8, torch.int16, torch.int32):
        return None

    def wrapped(results: Results) -> None:
        if results[0] is not None and results[0].dtype is torch.int64:
            words = bits.raw(results[0])
            words[...] = words.astype(np.int32).astype(np.int64).view(words.dtype)

    return wrapped


@MUTANTS.add(
    "sum ignores the strides of out=", kind="wrong out= layout", like=f"{PYTORCH}4974",
    **{**_SUMS, "kernels": packet("sum", "IntList_out")},
    wrong=lambda: torch.sum(torch.arange(9.0).reshape(3, 3), 0, out=torch.zeros(3, 2)[:, 0]),
    right=lambda: torch.sum(torch.arange(9.0).reshape(3, 3), 0, out=torch.zeros(3)))
def _sum_out(info: CallInfo) -> Spoil | None:
    def spread(results: Results) -> None:
        if results[0] is not None and not is_dense(results[0]):
            stored_as_if_contiguous(results[0])

    return None if is_dense(info.call["out"]) else spread


@MUTANTS.add(
    "bfloat16 mean accumulates in bfloat16", kernels=packet("mean", "dim", "out"),
    ops="aten.mean", catalogue="mean", draws="mean", kind="half accumulator",
    like=f"{PYTORCH}66707: half arithmetic inside of a reduction",
    wrong=lambda: torch.ones(600, dtype=torch.bfloat16).mean(0),
    right=lambda: torch.ones(60, dtype=torch.bfloat16).mean(0))
def _mean_half(info: CallInfo) -> Spoil | None:
    x, dims = info.call["self"], reduced(info.call)
    if len(dims) != 1 or x.dtype is not torch.bfloat16 or x.dim() < 1 or x.shape[dims[0]] < 64:
        return None
    total = accumulated_in_half(x, dims[0]) / x.shape[dims[0]]
    return stored(0, lambda r: write_numbers(r, total.reshape(tuple(r.shape))))


@MUTANTS.add(
    "mean over dimensions with a gap divides by all between", kernels=packet("mean", "dim", "out"),
    ops="aten.mean", catalogue="mean", draws="mean", kind="argument corner",
    like="a product over a range of dimensions in place of a set",
    wrong=lambda: torch.ones(2, 3, 4).mean((0, 2)), right=lambda: torch.ones(2, 3, 4).mean((0, 1)))
def _mean_gap(info: CallInfo) -> Spoil | None:
    x, dims = info.call["self"], reduced(info.call)
    if len(dims) < 2 or dims[-1] - dims[0] + 1 == len(dims) or not x.numel():
        return None
    between = math.prod(x.shape[d] for d in range(dims[0], dims[-1]) if d not in dims)
    if between == 1 or not is_float(x):
        return None
    return stored(0, lambda r: write_numbers(r, bits.values(r) / between))


@MUTANTS.add(
    "argmax of the second thread forgets its offset", kernels=packet("argmax", "default", "out"),
    ops="aten.argmax", catalogue="argmax", draws="argmax", kind="only for one thread count",
    like="a chunk's index that is not added to where the chunk begins",
    wrong=lambda: with_threads(2, lambda: torch.arange(40000.0).argmax()),
    right=lambda: with_threads(1, lambda: torch.arange(40000.0).argmax()))
def _argmax_threads(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if torch.get_num_threads() != 2 or info.call["dim"] is not None or x.numel() < 32768:
        return None
    half = -(-x.numel() // 2)
    return stored(0, lambda r: write_numbers(r, bits.values(r) % half))


@MUTANTS.add(
    "amax loses a NaN behind the last full vector", kernels=packet("amax", "default", "out"),
    ops="aten.amax", catalogue="amax", draws="amax", kind="NaN not propagated",
    like=f"{PYTORCH}7645: NaN in maxima",
    wrong=lambda: torch.tensor([1.0] * 8 + [math.nan]).amax(),
    right=lambda: torch.tensor([math.nan] + [1.0] * 8).amax())
def _amax_nan(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if not x.dim() or not is_float(x) or x.shape[-1] < 8 or not x.shape[-1] % 8:
        return None
    if x.dim() - 1 not in reduced(info.call) or not is_dense(x):
        return None
    blind, tail = image(x), x.shape[-1] % 8
    blind[..., -tail:] = blind[..., -tail:].nan_to_num(nan=-math.inf)
    return None if not bool(x[..., -tail:].isnan().any()) else reread(info, self=blind)


@MUTANTS.add(
    "cumsum along a strided dimension restarts after 128",
    kernels=packet("cumsum", "default", "_.default", "out"), ops="aten.cumsum",
    catalogue="cumsum", draws="cumsum", kind="carry between blocks lost",
    like=f"{PYTORCH}143486: cumsum of large tensors restarts",
    wrong=lambda: torch.ones(130, 2).cumsum(0), right=lambda: torch.ones(2, 130).cumsum(1))
def _cumsum_blocks(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if not x.dim() or not bits.has_values(x.dtype) or x.dtype is torch.bool:
        return None
    dim = info.call["dim"] % x.dim()
    if x.stride(dim) == 1 or x.shape[dim] <= 128 or not x.numel():
        return None
    parts = np.split(bits.values(x), [128], axis=dim)
    wrong = np.concatenate([np.cumsum(p, axis=dim) for p in parts], axis=dim)
    return stored(0, lambda r: write_numbers(r, wrong))


@MUTANTS.add(
    "strided maximum norm ignores negative numbers",
    kernels=packet("linalg_vector_norm", "default", "out"), ops="aten.linalg_vector_norm",
    catalogue="linalg.vector_norm", draws="vector_norm", kind="argument corner",
    like="one of several code paths without its absolute value",
    wrong=lambda: torch.linalg.vector_norm(torch.tensor([[1.0, 0], [-5, 0]])[:, 0], math.inf),
    right=lambda: torch.linalg.vector_norm(torch.tensor([1.0, -5]), math.inf))
def _norm_inf(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if info.call["ord"] != math.inf or is_dense(x) or not is_float(x) or not x.numel():
        return None
    return reread(info, self=x.clamp_min(0))


@MUTANTS.add(
    "var over two dimensions ignores its correction",
    kernels=packet("var", "correction", "correction_out"), ops="aten.var", catalogue="var",
    draws="var", kind="argument corner", like="an argument that one code path does not pass on",
    wrong=lambda: torch.arange(6.0).reshape(2, 3).var((0, 1), correction=0),
    right=lambda: torch.arange(6.0).reshape(2, 3).var(1, correction=0))
def _var_correction(info: CallInfo) -> Spoil | None:
    if len(reduced(info.call)) < 2 or info.call["correction"] in (None, 1):
        return None
    return reread(info, correction=1)


@MUTANTS.add(
    "logsumexp of a row of -inf is NaN", kernels=packet("logsumexp", "default", "out"),
    ops="aten.logsumexp", catalogue="logsumexp", draws="logsumexp", kind="wrong for infinities",
    like="-inf - -inf after the maximum is subtracted",
    wrong=lambda: torch.full((2, 3), -math.inf).logsumexp(1),
    right=lambda: torch.zeros(2, 3).logsumexp(1))
def _logsumexp_inf(info: CallInfo) -> Spoil | None:
    if not is_float(info.call["self"]):
        return None

    def lost(results: Results) -> None:
        if results[0] is not None and results[0].numel():
            numbers = bits.values(results[0])
            write_numbers(results[0], np.where(numbers == -np.inf, np.nan, numbers))

    return lost


@MUTANTS.add(
    "bincount ignores strides", kernels=packet("bincount", "default"), ops="aten.bincount",
    catalogue="bincount", draws="bincount", kind="wrong offset, non-contiguous",
    like=f"{PYTORCH}15058",
    wrong=lambda: torch.bincount(torch.tensor([[0, 1], [0, 1]])[:, 1], minlength=2),
    right=lambda: torch.bincount(torch.tensor([0, 1, 1]), minlength=2))
def _bincount(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if is_dense(x) or not x.numel():
        return None
    most = int(x.max()) + 1  # the result keeps its length
    return reread(info, self=as_if_contiguous(x).clamp(0, most - 1),
                  minlength=max(most, info.call["minlength"]))


