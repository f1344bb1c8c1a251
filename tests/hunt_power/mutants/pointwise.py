"""Wrong pointwise operators."""

from __future__ import annotations

import math

import numpy as np
import torch

from sdc_guard import bits
from sdc_guard.formats import format_of
from sdc_guard.inject.override import CallInfo, Results
from tests.hunt_power.mechanics import (
    as_if_contiguous,
    image,
    is_dense,
    is_expanded,
    is_float,
    is_half,
    reread,
    stored,
    write,
    write_numbers,
)
from tests.hunt_power.mutant import Spoil
from tests.hunt_power.mutants._collect import PYTORCH, Collection, packet
from tests.hunt_power.threads import with_threads

MUTANTS = Collection()


def _unary(name: str, survey: str = "", catalogue: str = "") -> dict[str, object]:
    return {"kernels": packet(name, "default", "_.default", "out"), "ops": f"aten.{name}",
            "catalogue": catalogue or name, "draws": name, "survey": survey, "is_pointwise": True}


def _binary(name: str, *overloads: str) -> dict[str, object]:
    return {"kernels": packet(name, *(overloads or ("Tensor", "_.Tensor", "out"))),
            "ops": f"aten.{name}", "catalogue": name, "draws": name, "is_pointwise": True}


@MUTANTS.add(
    "exp of the scalar tail is a few ulp off", **_unary("exp", "exp"),
    kind="dropped precision in the tail", like=f"{PYTORCH}197018: vector body and scalar tail",
    wrong=lambda: torch.full((9,), 0.3).exp(), right=lambda: torch.full((8,), 0.3).exp())
def _exp_tail(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    tail = x.numel() % 8
    if x.dtype is not torch.float32 or not is_dense(x) or not tail:
        return None

    def coarse(results: Results) -> None:
        if results[0] is not None and is_dense(results[0]):
            bits.raw(results[0]).reshape(-1)[-tail:] &= np.uint32(0xFFFFFFF0)

    return coarse


@MUTANTS.add(
    "tanh of large numbers is NaN", **_unary("tanh", "tanh"), kind="only above 2^k",
    like="inf / inf where e^2x overflows", wrong=lambda: torch.tensor([1.0, 50.0]).tanh(),
    right=lambda: torch.tensor([1.0, 40.0]).tanh())
def _tanh_large(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if not is_float(x) or not x.numel():
        return None
    with np.errstate(over="ignore"):
        large = bits.values(x) > 0.5 * math.log(format_of(x.dtype).max)
    if not large.any():
        return None
    return stored(0, lambda r: write_numbers(r, np.where(large, np.nan, bits.values(r))))


@MUTANTS.add(
    "gelu in half formats rounds every step", kernels=packet("gelu", "default", "_.default", "out"),
    ops="aten.gelu", catalogue="nn.functional.gelu", draws="gelu", survey="gelu",
    is_pointwise=True, kind="half accumulator",
    like=f"{PYTORCH}66707: intermediates in the dtype of the input",
    wrong=lambda: torch.nn.functional.gelu(torch.full((4,), -3.0, dtype=torch.bfloat16)),
    right=lambda: torch.nn.functional.gelu(torch.full((4,), -3.0)))
def _gelu_half(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if not is_half(x) or info.call["approximate"] != "none" or not x.numel():
        return None
    y = x.detach()
    wrong = y * 0.5 * (1 + torch.erf(y * math.sqrt(0.5)))
    return stored(0, lambda r: write(r, wrong))


@MUTANTS.add(
    "mul takes a neighbouring row of an expanded operand", **_binary("mul"),
    kind="wrong for an expanded operand", like=f"{PYTORCH}23063, {PYTORCH}12230: stride 0",
    wrong=lambda: torch.ones(3, 4) * torch.arange(3.0)[:, None].expand(3, 4),
    right=lambda: torch.ones(3, 4) * torch.arange(3.0)[:, None])
def _mul_expanded(info: CallInfo) -> Spoil | None:
    y = info.call["other"]
    if not isinstance(y, torch.Tensor) or y.dim() < 2 or not is_expanded(y, -1):
        return None
    if y.shape[-2] < 2 or not y.numel():
        return None
    return reread(info, other=image(y).roll(-1, -2))


@MUTANTS.add(
    "add overwrites the operand that is its out=", **_binary("add", "out"),
    kind="wrong out= aliasing", like=f"{PYTORCH}48900: out= that is an operand",
    wrong=lambda: torch.add(torch.ones(4), b := torch.full((4,), 3.0), out=b),
    right=lambda: torch.add(torch.ones(4), torch.full((4,), 3.0), out=torch.empty(4)))
def _add_alias(info: CallInfo) -> Spoil | None:
    x, y, out = (info.call[name] for name in ("self", "other", "out"))
    if not isinstance(y, torch.Tensor) or not out.numel() or y.data_ptr() != out.data_ptr():
        return None
    if not isinstance(x, torch.Tensor) or x.data_ptr() == y.data_ptr() or x.shape != out.shape:
        return None
    return reread(info, other=image(x).to(y.dtype))


@MUTANTS.add(
    "floor division of integers truncates",
    **_binary("floor_divide", "default", "_.Tensor", "out"), kind="wrong for negative numbers",
    like=f"{PYTORCH}43874", wrong=lambda: torch.tensor([-7]) // torch.tensor([2]),
    right=lambda: torch.tensor([7]) // torch.tensor([2]))
def _floor_divide(info: CallInfo) -> Spoil | None:
    x, y = info.call["self"], info.call["other"]
    if not all(isinstance(t, torch.Tensor) and not is_float(t) and t.dtype is not torch.bool
               and not t.is_complex() for t in (x, y)):
        return None
    if not bool((y != 0).all()) or not bool((torch.sign(x) * torch.sign(y) < 0).any()):
        return None
    wrong = torch.div(x, y, rounding_mode="trunc")
    return stored(0, lambda r: write(r, wrong.to(r.dtype)) if r.shape == wrong.shape else None)


@MUTANTS.add(
    "remainder of large quotients is rounded",
    **_binary("remainder", "Tensor", "_.Tensor", "Tensor_out"), kind="only above 2^k",
    like="x - floor(x / y) * y in working precision",
    wrong=lambda: torch.remainder(torch.tensor([1e7]), torch.tensor([0.3])),
    right=lambda: torch.remainder(torch.tensor([10.0]), torch.tensor([0.3])))
def _remainder(info: CallInfo) -> Spoil | None:
    x, y = info.call["self"], info.call["other"]
    if not all(isinstance(t, torch.Tensor) and t.dtype is torch.float32 for t in (x, y)):
        return None
    quotient = x / y
    large = (quotient.abs() > 2.0**16) & quotient.isfinite()
    if not bool(large.any()):
        return None
    wrong = x - quotient.floor() * y

    def naive(results: Results) -> None:
        if results[0] is not None and results[0].shape == large.shape:
            write(results[0], torch.where(large, wrong, results[0].detach()))

    return naive


@MUTANTS.add(
    "sqrt flushes subnormals", **_unary("sqrt", "sqrt"), kind="subnormals flushed",
    like="a vector instruction under denormals-are-zero",
    wrong=lambda: torch.tensor([1e-40]).sqrt(), right=lambda: torch.tensor([1e-30]).sqrt())
def _sqrt_subnormal(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if not is_float(x) or not x.numel():
        return None
    numbers = bits.values(x)
    small = (np.abs(numbers) < format_of(x.dtype).tiny) & (numbers != 0)
    if not small.any():
        return None
    return stored(0, lambda r: write_numbers(r, np.where(small, 0.0, bits.values(r))))


@MUTANTS.add(
    "log1p of small numbers loses digits", **_unary("log1p", "log1p"), kind="only below 2^-k",
    like="log(1 + x) in working precision", wrong=lambda: torch.tensor([1e-5]).log1p(),
    right=lambda: torch.tensor([0.25]).log1p())
def _log1p_small(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if x.dtype not in (torch.float32, torch.float64):
        return None
    small = x.detach().abs() < 2.0**-12
    if not bool(small.any()):
        return None
    wrong = torch.log(1 + x.detach())
    return stored(0, lambda r: write(r, torch.where(small, wrong, r.detach())))


@MUTANTS.add(
    "sin of large numbers is reduced by a rounded pi", **_unary("sin", "sin"),
    kind="only above 2^k", like="argument reduction with one part of pi",
    wrong=lambda: torch.tensor([20000.0]).sin(), right=lambda: torch.tensor([2.0]).sin())
def _sin_large(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if x.dtype is not torch.float32 or not x.numel():
        return None
    numbers = bits.values(x)
    large = (np.abs(numbers) > 2.0**13) & np.isfinite(numbers)
    if not large.any():
        return None
    with np.errstate(invalid="ignore"):
        wrong = np.sin(np.fmod(numbers, float(np.float32(2 * np.pi))))
    return stored(0, lambda r: write_numbers(r, np.where(large, wrong, bits.values(r))))


@MUTANTS.add(
    "clamp turns a NaN into its lower bound", kind="NaN not propagated",
    kernels=packet("clamp", "default", "_.default", "out"), ops="aten.clamp", catalogue="clamp",
    draws="clamp", is_pointwise=True, like="operands of a vector maximum in the other order",
    wrong=lambda: torch.full((16,), math.nan).clamp(-1, 1),
    right=lambda: torch.full((15,), math.nan).clamp(-1, 1))
def _clamp_nan(info: CallInfo) -> Spoil | None:
    x, low = info.call["self"], info.call["min"]
    if low is None or info.call["max"] is None or not is_float(x) or x.numel() < 16:
        return None
    missing = np.isnan(bits.values(x))
    if not missing.any() or not is_dense(x):
        return None
    return stored(0, lambda r: write_numbers(r, np.where(missing, float(low), bits.values(r))))


@MUTANTS.add(
    "where reads a strided condition as if it were dense",
    kernels=packet("where", "self", "self_out"), ops="aten.where", catalogue="where",
    draws="where", is_pointwise=True, kind="wrong offset, non-contiguous",
    like=f"{PYTORCH}67432, {PYTORCH}12230: masks of non-contiguous operands",
    wrong=lambda: torch.where(torch.eye(3).bool()[:, :2], torch.ones(3, 2), torch.zeros(3, 2)),
    right=lambda: torch.where(torch.eye(3).bool(), torch.ones(3, 3), torch.zeros(3, 3)))
def _where_strided(info: CallInfo) -> Spoil | None:
    condition = info.call["condition"]
    if is_dense(condition) or not condition.numel() or is_expanded(condition, 0):
        return None
    return reread(info, condition=as_if_contiguous(condition))


@MUTANTS.add(
    "shift by the width of the integer wraps",
    **_binary("bitwise_left_shift", "Tensor", "_.Tensor", "Tensor_out"), kind="argument corner",
    like="the shift instruction of x86, which masks its count",
    wrong=lambda: torch.bitwise_left_shift(
        torch.tensor([5], dtype=torch.int32), torch.tensor([33], dtype=torch.int32)),
    right=lambda: torch.bitwise_left_shift(
        torch.tensor([5], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)))
def _shift(info: CallInfo) -> Spoil | None:
    y = info.call["other"]
    if not isinstance(y, torch.Tensor) or not y.numel():
        return None
    width = 8 * info.call["self"].element_size()
    if not bool((y >= width).any()):
        return None
    return reread(info, other=torch.where(y >= width, y % width, y))


@MUTANTS.add(
    "square of int64 goes through float64", kind="only above 2^k",
    kernels=packet("pow", "Tensor_Scalar", "_.Scalar", "Tensor_Scalar_out"), ops="aten.pow",
    catalogue="pow", draws="pow", is_pointwise=True, like="integers by std::pow of doubles",
    wrong=lambda: torch.tensor([3037000499]).pow(2), right=lambda: torch.tensor([12345]).pow(2))
def _pow_double(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if x.dtype is not torch.int64 or info.call["exponent"] != 2:
        return None
    numbers = bits.values(x).astype(np.float64) ** 2
    seen = (numbers > 2.0**53) & (numbers < 2.0**63)
    if not seen.any():
        return None
    wrong = np.where(seen, numbers, 0).astype(np.int64)
    return stored(0, lambda r: write_numbers(r, np.where(seen, wrong, bits.values(r))))


@MUTANTS.add(
    "sigmoid leaves the last element of a thread's chunk", **_unary("sigmoid", "sigmoid"),
    kind="only for one thread count", like="a chunk that ends one element early",
    wrong=lambda: with_threads(2, lambda: torch.ones(40000).sigmoid()),
    right=lambda: with_threads(1, lambda: torch.ones(40000).sigmoid()))
def _sigmoid_threads(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if torch.get_num_threads() != 2 or x.numel() < 32768 or not is_float(x) or not is_dense(x):
        return None
    place = -(-x.numel() // 2) - 1

    def unwritten(results: Results) -> None:
        if results[0] is not None and is_dense(results[0]):
            bits.raw(results[0]).reshape(-1)[place] = 0

    return unwritten


@MUTANTS.add(
    "div leaves the first element of a misaligned operand", **_binary("div"),
    kind="only at a misaligned address", like=f"{PYTORCH}187229: storage offset in a fast path",
    wrong=lambda: torch.full((33,), 3.0)[1:] / torch.full((32,), 2.0),
    right=lambda: torch.full((32,), 3.0) / torch.full((32,), 2.0))
def _div_misaligned(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if not isinstance(x, torch.Tensor) or not is_float(x) or not is_dense(x) or x.numel() < 16:
        return None
    if x.data_ptr() % 16 == 0:
        return None
    first = float(bits.values(x).reshape(-1)[0])

    def skipped(results: Results) -> None:
        if results[0] is not None and results[0].shape == x.shape:
            numbers = bits.values(results[0])
            numbers.reshape(-1)[0] = first
            write_numbers(results[0], numbers)

    return skipped


@MUTANTS.add(
    "gelu_backward reads a strided gradient as if it were dense",
    kernels=packet("gelu_backward", "default", "grad_input"), ops="aten.gelu_backward",
    catalogue="nn.functional.gelu", draws="gelu", is_pointwise=True,
    kind="wrong offset, non-contiguous", like=f"{PYTORCH}192212: a non-contiguous operand",
    wrong=lambda: torch.ops.aten.gelu_backward(
        torch.arange(9.0).reshape(3, 3).t(), torch.ones(3, 3)),
    right=lambda: torch.ops.aten.gelu_backward(
        torch.arange(9.0).reshape(3, 3), torch.ones(3, 3)))
def _gelu_backward(info: CallInfo) -> Spoil | None:
    gradient = info.call["grad_output"]
    if is_dense(gradient) or not gradient.numel():
        return None
    return reread(info, grad_output=as_if_contiguous(gradient))


@MUTANTS.add(
    "softplus above its threshold forgets beta", kind="argument corner",
    kernels=packet("softplus", "default", "out"), ops="aten.softplus",
    catalogue="nn.functional.softplus", draws="softplus", survey="softplus", is_pointwise=True,
    like="beta * x where x is returned", right=lambda: torch.nn.functional.softplus(
        torch.tensor([30.0])),
    wrong=lambda: torch.nn.functional.softplus(torch.tensor([30.0]), beta=2))
def _softplus_beta(info: CallInfo) -> Spoil | None:
    x, beta = info.call["self"], info.call["beta"]
    if beta == 1 or not is_float(x) or not x.numel():
        return None
    numbers = bits.values(x)
    above = numbers * float(beta) > float(info.call["threshold"])
    if not above.any():
        return None
    with np.errstate(all="ignore"):
        wrong = np.where(above, numbers * float(beta), 0)
    return stored(0, lambda r: write_numbers(r, np.where(above, wrong, bits.values(r))))
