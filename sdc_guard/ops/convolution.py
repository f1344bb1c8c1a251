"""Convolutions in 1 to 3 dimensions, forward and transposed, and their three gradients.

*Reference.*  A loop over the taps of the kernel, each a strided slice of the input and a matrix
product in float64 by BLAS (:mod:`sdc_guard.ops._shifts`); it shares neither im2col nor oneDNN with
the kernel.  A transposed convolution is the gradient of one with respect to its input, and the
other way round, so two loops serve all four and a third makes the weight's gradient.

*Bound.*  A dot product of K terms in any order (:mod:`sdc_guard.bounds.convolution`).  oneDNN picks
Winograd only for ``algorithm::convolution_winograd`` or ``convolution_auto``; ideep, through which
ATen calls it, asks for ``convolution_direct``.  Which backend a call takes is torch's own answer;
what may be Winograd or an FFT is not judged by a bound (:mod:`sdc_guard.ops._convolutions`).
Integers are exact modulo 2^b, whatever computes them.

*Place.*  See :func:`convolution_symmetries`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.convolution import FORMULA, dot_bound
from sdc_guard.bounds.gamma import gamma, own_rounding, rounding
from sdc_guard.calls import BoundCall, Path
from sdc_guard.formats import BFLOAT16, accumulator_of, format_of
from sdc_guard.ops._axes import FIXED, Axes, Labels
from sdc_guard.ops._convolutions import (
    backend_of,
    input_rounding,
    is_judged,
    is_slow,
    num_roundings,
    num_stored_on,
    window_of,
)
from sdc_guard.ops._integers import exact, is_integer, summable, whole
from sdc_guard.ops._kernel_convolution import convolution_backward_kernel, convolution_kernel
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList
from sdc_guard.ops._shifts import correlated, gathered, scattered
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll

aten = torch.ops.aten


def _moves(call: BoundCall) -> bool:
    """True where images and channels may be moved."""
    return (call["input"].device.type != "cpu" or is_integer(call["input"].dtype)
            or not is_slow(backend_of(call)))


def _weight_labels(call: BoundCall, out: str, inner: str) -> Labels:
    """Labels of the weight; channels are fixed where they belong to groups."""
    rank = int(call["weight"].dim())
    if int(call["groups"]) != 1:
        return (FIXED,) * rank
    first = (inner, out) if call["transposed"] else (out, inner)
    return (*first, *(FIXED,) * (rank - 2))


def forward_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Images, and output channels where there are no groups."""
    space = (FIXED,) * (held[0].dim() - 2)
    channel = "o" if int(call["groups"]) == 1 else FIXED
    named: dict[Path, Labels] = {(0,): ("n", FIXED, *space),
                                 (1,): _weight_labels(call, "o", FIXED)}
    if isinstance(call["bias"], Tensor):
        named[(2,)] = (channel,)
    return Axes(named, (("n", channel, *space),))


def convolution_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled images and output channels; negated input or weight, with the bias.

    oneDNN sums in the same order wherever an image or a channel stands (seen in fp32 and bf16, 1
    and 2 threads, thousands of shapes; learned for each call site all the same).  The backends that
    call BLAS do not: MKL's order depends on alignment and on edge tiles, so nothing is moved there
    and the reference sees every cheap call.  Negation is exact everywhere (seen in 4 formats).
    Integers have one result wherever they stand.
    """
    known = is_integer(held[0].dtype)
    bias = ("bias",) if isinstance(call["bias"], Tensor) else ()
    moved = (roll("n", known=known), roll("o", lane=True, known=known)) if _moves(call) else ()
    return (*moved, negate("input", *bias), *moved, negate("weight", *bias), RERUN)


def forward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """2 operations per term: every output (transposed: input) meets every tap and channel."""
    weight = call["weight"]
    positions = call["input"] if call["transposed"] else held[0]
    return 2 * int(positions.numel()) * math.prod(int(s) for s in weight.shape[1:])


def _grouped(array: F64, groups: int) -> F64:
    """Channels [N, G C, ...] as [N, G, C, ...]."""
    num, channels = array.shape[:2]
    return array.reshape(num, groups, channels // groups if channels else 0, *array.shape[2:])


def _grouped_weight(weight: F64, groups: int) -> F64:
    """[G O, C, taps...] as [G, O, C, taps...]."""
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])


def _largest(*arrays: F64) -> float:
    """The largest size of an element; NaN if one is (Python's ``max`` would drop it)."""
    return float(np.max([np.max(np.abs(a), initial=0.0) for a in arrays], initial=0.0))


def _dot_reference(
    expected: F64, abs_sum: F64, num_terms: int, num_stored: int, largest: float, held: Tensor
) -> Reference:
    device = held.device.type
    bound = dot_bound(num_roundings(device, held.dtype, num_terms), expected, abs_sum, largest,
                      held.dtype, input_rounding(held.dtype, device),
                      num_stored + num_stored_on(device))
    shape = tuple(held.shape)
    bound = bound.reshape(shape)
    # Kernels multiply padding by whatever it meets, and 0 times infinity is NaN.
    size = abs_sum.reshape(shape) if math.isfinite(largest) else np.inf
    return Reference(expected.reshape(shape), bound, bound, FORMULA, size)


def _image(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    if not dtype.is_floating_point:
        return torch.randint(-99, 100, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


Shape = tuple[tuple[int, ...], tuple[int, ...], bool, tuple[Any, ...]]

_SHAPES: tuple[Shape, ...] = (
    # input, weight, bias, (stride, padding, dilation, transposed, output_padding, groups)
    ((3, 5, 11), (7, 5, 3), True, ([1], [1], [1], False, [0], 1)),
    ((2, 6, 9, 8), (17, 6, 3, 3), True, ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
    ((2, 6, 9, 8), (4, 3, 3, 2), False, ([2, 1], [0, 1], [1, 2], False, [0, 0], 2)),
    ((2, 5, 7, 6), (5, 1, 3, 3), True, ([1, 1], [1, 1], [1, 1], False, [0, 0], 5)),
    ((2, 3, 5, 6, 4), (4, 3, 2, 3, 2), True,
     ([1, 2, 1], [1, 0, 0], [1, 1, 1], False, [0, 0, 0], 1)),
    ((2, 6, 5, 4), (6, 7, 3, 3), True, ([2, 2], [1, 1], [1, 1], True, [1, 0], 1)),
    ((3, 4, 7), (4, 3, 4), False, ([3], [0], [1], True, [0], 2)),
)


def _drawn(generator: torch.Generator, dtype: torch.dtype, shape: Shape) -> tuple[Any, ...]:
    x, weight, has_bias, rest = shape
    channels = weight[1] * rest[-1] if rest[3] else weight[0]
    bias = _image(generator, dtype, channels) if has_bias else None
    return (_image(generator, dtype, *x), _image(generator, dtype, *weight), bias, *rest)


def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    """Representative calls for a dtype; none where the op does not take it."""
    if dtype not in (*FLOATS, torch.int64):
        return []
    op = aten.convolution
    drawn = [_drawn(generator, dtype, shape) for shape in _SHAPES]
    calls: SampleList = [(op.default, args, {}) for args in drawn]
    first = drawn[1]
    last = first[0].contiguous(memory_format=torch.channels_last)
    calls.append((op.default, (last, *first[1:]), {}))
    return [*calls, (op.out, first, {"out": torch.empty_like(op.default(*first))})]


@checked(aten.convolution, family="convolution", axes=forward_axes,
         symmetries=convolution_symmetries, flops=forward_flops, window=("n", "o"),
         samples=samples, deterministic=False, kernel=convolution_kernel)
def convolution(call: HostCall) -> tuple[Reference | None, ...]:
    """``sum_{c,k} w[o,c,k] x[n,c,i s + k d - p] + b[o]``, or its transpose; see the module.

    Not documented as deterministic on CUDA, where cuDNN may pick another algorithm.
    """
    held = call.held[0]
    if is_integer(held.dtype):
        return (_integer_convolution(call, held),)
    if not is_judged(call.call, held):
        return (None,)
    groups, window = int(call["groups"]), window_of(call)
    x = _grouped(call.array("input"), groups)
    raw_weight = call.array("weight")
    weight = _grouped_weight(raw_weight, groups)
    space = tuple(held.shape[2:])
    spread = scattered if call["transposed"] else gathered
    with np.errstate(all="ignore"):
        expected = spread(x, weight, space, window)
        abs_sum = spread(np.abs(x), np.abs(weight), space, window)
        bias = call.number("bias", 0.0)
        if bias.ndim:
            column = bias.reshape(1, groups, -1, *(1,) * len(space))
            expected, abs_sum = expected + column, abs_sum + np.abs(column)
    channels = x.shape[2]
    stored = 0
    if is_slow(backend_of(call.call)):
        # The bias may be stored first; a transposed convolution adds a column per tap.
        stored = 2 + (window.num_taps if call["transposed"] else 0)
    return (_dot_reference(expected, abs_sum, channels * window.num_taps + 1, stored,
                           _largest(x, raw_weight), held),)


def _integer_convolution(call: HostCall, held: Tensor) -> Reference | None:
    """The sum of products modulo 2^b: no order of additions changes it."""
    if {t.dtype for _, t in call.call.tensors()} != {held.dtype}:
        return None
    groups, window = int(call["groups"]), window_of(call)
    x, weight, bias = summable(
        call.array("input").shape[1] * window.num_taps + 1, call.array("input"),
        call.array("weight"), call.number("bias", 0))
    spread = scattered if call["transposed"] else gathered
    space = tuple(held.shape[2:])
    total = whole(spread(_grouped(x, groups), _grouped_weight(weight, groups), space, window))
    return exact(total + whole(bias).reshape(1, groups if bias.ndim else 1, -1,
                                             *(1,) * len(space)), held)


def backward_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Images, input channels and output channels; each gradient sums over the axis that it lacks.
    Channels are fixed where they belong to groups."""
    space = (FIXED,) * (call["input"].dim() - 2)
    plain = int(call["groups"]) == 1
    o, c = ("o", "c") if plain else (FIXED, FIXED)
    weight = _weight_labels(call, o, c)
    outputs = (("n", c, *space), weight, (o,))
    return Axes(
        {(0,): ("n", o, *space), (1,): ("n", c, *space), (2,): weight},
        tuple(labels if tensor is not None else () for labels, tensor in zip(
            outputs, held, strict=True)))


def _masked(call: BoundCall, *keep: int) -> tuple[tuple[str, Any], ...]:
    mask = [bool(w) and i in keep for i, w in enumerate(call["output_mask"])]
    return (("output_mask", mask),)


def backward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled images for the input's gradient with rolled output channels for the parameters';
    rolled input channels; the negated incoming gradient, in which all are linear.

    Where nothing is moved but signs, and that rolls are learned for each call site, is for the
    reason given in :func:`convolution_symmetries`.
    """
    if not _moves(call):
        return (negate("grad_output"), RERUN)
    parameters = tuple(i for i in (1, 2) if call["output_mask"][i])
    plain = int(call["groups"]) == 1
    moves: list[Move] = []
    if call["output_mask"][0] and held[0].shape[0] > 1:
        moves.append(Move("roll", "n", outputs=(0,), overrides=_masked(call, 0)))
    if parameters and plain and call["grad_output"].shape[1] > 1:
        moves.append(Move("roll", "o", outputs=parameters, overrides=_masked(call, 1, 2)))
    found: list[Symmetry] = []
    if moves:
        found.append(Symmetry("roll images, roll channels", tuple(moves),
                              frozenset({"address", "core", "tile"}), False))
    if plain and (call["output_mask"][0] or call["output_mask"][1]):
        inner = tuple(i for i in (0, 1) if call["output_mask"][i])
        found.append(Symmetry("roll c", (Move("roll", "c", outputs=inner),),
                              frozenset({"address", "core", "tile", "lane"}), False))
    return (*found, negate("grad_output"), *found, RERUN)


def backward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """The forward's for each of the two large gradients; one addition per element for the bias."""
    positions = call["input"] if call["transposed"] else call["grad_output"]
    once = 2 * int(positions.numel()) * math.prod(int(s) for s in call["weight"].shape[1:])
    mask = call["output_mask"]
    return once * (bool(mask[0]) + bool(mask[1])) + int(call["grad_output"].numel())


def backward_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    """Representative calls for a dtype; none where the op does not take it."""
    if dtype not in FLOATS:
        return []
    op = aten.convolution_backward.default
    calls: SampleList = []
    for shape in _SHAPES:
        x, weight, bias, *rest = _drawn(generator, dtype, shape)
        result = aten.convolution.default(x, weight, bias, *rest)
        grad = _image(generator, dtype, *result.shape)
        sizes = [result.shape[1]]
        calls.append((op, (grad, x, weight, sizes, *rest, [True, True, bias is not None]), {}))
    calls += [(op, (*calls[1][1][:-1], mask), {}) for mask in (
        [True, False, False], [False, True, True], [False, False, True])]
    return calls


@checked(aten.convolution_backward, family="convolution", axes=backward_axes,
         symmetries=backward_symmetries, flops=backward_flops, window=("c",),
         samples=backward_samples, deterministic=False, kernel=convolution_backward_kernel)
def convolution_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Gradients of a convolution with respect to input, weight and bias; see the module.

    Not documented as deterministic on CUDA, where cuDNN may add with atomics.
    """
    held = call.held
    present = next((t for t in held if t is not None), None)
    if present is None or not is_judged(call.call, present):
        return (None,) * len(held)
    groups, window = int(call["groups"]), window_of(call)
    transposed = bool(call["transposed"])
    grad, x = (_grouped(call.array(n), groups) for n in ("grad_output", "input"))
    raw_weight = call.array("weight")
    weight = _grouped_weight(raw_weight, groups)
    slow = is_slow(backend_of(call.call))
    num_images, positions = grad.shape[0], math.prod(grad.shape[3:])
    references: list[Reference | None] = [None] * len(held)
    with np.errstate(all="ignore"):
        if held[0] is not None:
            spread = gathered if transposed else scattered
            space = tuple(held[0].shape[2:])
            stored = 2 + (0 if transposed else window.num_taps)
            references[0] = _dot_reference(
                spread(grad, weight, space, window),
                spread(np.abs(grad), np.abs(weight), space, window),
                grad.shape[2] * window.num_taps, stored * slow, _largest(grad, raw_weight), held[0])
        if held[1] is not None:
            large, small = (grad, x) if transposed else (x, grad)
            terms = num_images * math.prod(small.shape[3:])
            references[1] = _dot_reference(
                correlated(large, small, window),
                correlated(np.abs(large), np.abs(small), window),
                terms, (num_images + 1) * slow, _largest(grad, x), held[1])
        if held[2] is not None:
            references[2] = _bias_reference(grad, num_images * positions,
                                            (num_images + 1) * slow, held[2])
    return tuple(references)


def _bias_reference(grad: F64, num_terms: int, num_stored: int, held: Tensor) -> Reference:
    """``db[o] = sum_{n,i} dy[n,o,i]``: a sum in any order, R partial sums stored."""
    axes = (0, *range(3, grad.ndim))
    expected = grad.sum(axis=axes).reshape(-1)
    size = np.abs(grad).sum(axis=axes).reshape(-1)
    num_terms = num_roundings(held.device.type, held.dtype, num_terms)
    out, acc = format_of(held.dtype), accumulator_of(held.dtype)
    # oneDNN sums bf16 with its dot product, which reads and flushes subnormals as 0.
    flushed = acc.tiny if out is BFLOAT16 else acc.eta
    error = gamma(num_terms, acc.u) * size + own_rounding(num_terms, size)
    error = error + 2 * (num_terms + 1) * flushed
    if out is not acc:
        error = error + gamma(num_stored, out.u) * (size + error) + num_stored * out.eta
        error = error + rounding(np.abs(expected) + error, out) + out.tiny
    return Reference(expected, error, error, "gamma_n sum|dy| + rounding", size)
