"""Fourier transforms: ``_fft_c2c``, ``_fft_r2c`` and ``_fft_c2r``, over any dimensions.

The reference is NumPy's own pocketfft in float64, and in the machine's longest format for double
operands; torch runs MKL or its own pocketfft in the operand's format.  Bounds:
:mod:`sdc_guard.bounds.fft`; a scale of ``1/n`` or ``1/sqrt(n)`` is two roundings more.  For sizes
that are no power of 2 the proof limit is the premise of :mod:`sdc_guard.bounds.elementwise`: right
to half the significand of the sum of the moduli; so it is on other devices, whose libraries were
not measured, and the contract with it.  ``_fft_c2r`` reads the half spectrum of a real
signal and ignores the imaginary parts of the first and the middle number, as NumPy does.

Exact fact: the number at frequency 0 of one real line is a sum of real numbers, its imaginary part
0 (seen in 2,688 transforms).

Place: lines roll, and negation keeps every bit (seen in 5,000 calls: fp32 and fp64, 28 sizes from 1
to 4099, 1 to 33 lines along either dimension, 1 and 2 threads); a split of two lines changes the
code that a line takes, so it is learned.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.elementwise import half_significand_of
from sdc_guard.bounds.fft import PACKED, growth, transform_error
from sdc_guard.bounds.gamma import gamma
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, is_covered_float, part_dtype
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll, split
from sdc_guard.ops.complex_arithmetic import COMPLEX

aten = torch.ops.aten
Array = NDArray[Any]
Held = tuple[Tensor, ...]


def _dims(call: BoundCall) -> tuple[int, ...]:
    rank = call["self"].dim()
    return tuple(d % rank for d in call["dim"]) if rank else ()


def _axes(call: BoundCall, held: Held) -> Axes:
    """Dimensions that are not transformed hold lines of their own."""
    gone = _dims(call)
    labels = tuple(FIXED if d in gone else f"d{d}" for d in range(call["self"].dim()))
    return Axes({path: labels for path, t in call.tensors() if t.dim() == len(labels)}, (labels,))


def _symmetries(call: BoundCall, held: Held) -> tuple[Symmetry, ...]:
    labels = _axes(call, held).outputs[0]
    sizes = {x: int(held[0].shape[d]) for d, x in enumerate(labels) if x != FIXED}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    dense = bits.is_dense(call["self"])
    signed = (negate("self", known=dense),)
    if not longest or sizes[longest] < 2:
        return (*signed, RERUN)
    return (roll(longest, known=dense), *signed, split(longest, known=False))


def points(call: BoundCall, held: Held) -> int:
    """Points of one transform, those of the real signal."""
    whole = held[0] if call.form.packet == "aten._fft_c2r" else call["self"]
    return math.prod(int(whole.shape[d]) for d in _dims(call))


def _flops(call: BoundCall, held: Held) -> int:
    """``5 N log2 n`` for N numbers in transforms of n."""
    n = points(call, held)
    numel = max(int(call["self"].numel()), int(held[0].numel()))
    return int(5 * numel * max(1.0, math.log2(max(n, 2))))


def _scale(mode: int, n: int) -> float:
    return {0: 1.0, 1: 1 / math.sqrt(max(n, 1)), 2: 1 / max(n, 1)}[mode]


def _scaled(call: HostCall, value: Array, total: Array) -> tuple[Reference | None, ...]:
    """The reference of an unscaled transform ``value`` whose moduli add up to ``total``."""
    held, fmt = call.held[0], call.out_format()
    n = points(call.call, tuple(call.held))
    total = np.asarray(total, np.float64) * (1 + 2.0**-40)
    factor = _scale(int(call["normalization"]), n)
    proof, contract = transform_error(n, total, fmt)
    loose = half_significand_of(total, fmt)
    own = transform_error(n, total, FLOAT64)[1]  # our own rounding; less in a longer format
    own = own / 2**8 if fmt is FLOAT64 and value.dtype.itemsize > 16 else own
    expected = np.asarray(value * factor).astype(
        np.complex128 if np.iscomplexobj(value) else np.float64)
    stored = gamma(3, fmt.u) * np.abs(expected) + fmt.tiny + FLOAT64.u * np.abs(expected)
    if held.device.type != "cpu":
        proof = contract = np.maximum(loose, contract)
    limits = [(limit + own) * factor * (1 + gamma(4, fmt.u)) + stored
              for limit in (np.maximum(loose, contract) if proof is None else proof, contract)]
    packed = 1.0 if call.call.form.packet == "aten._fft_c2c" else PACKED
    largest = total * growth(n) * packed * max(1.0, factor)
    formula = "4 log2(2n) u sum|x|" if proof is None else "9 log2(n) u sum|x|"
    assert tuple(np.broadcast_shapes(expected.shape, limits[0].shape)) == tuple(held.shape)
    return (Reference(expected, limits[0], limits[1], formula, np.broadcast_to(
        largest, expected.shape)),)


def _operand(call: HostCall) -> Array | None:
    """The operand in the format of the reference; None where the op computes in another format than
    its result's."""
    given, held = call["self"].dtype, call.held[0].dtype
    if part_dtype(given) is not part_dtype(held) or not call["self"].dim():
        return None
    if part_dtype(given) not in (torch.float32, torch.float64):
        return None
    x = call.array("self")
    if part_dtype(given) is torch.float64:
        return x.astype(np.clongdouble if np.iscomplexobj(x) else np.longdouble)
    return x


def _total(x: Array, dims: tuple[int, ...]) -> Array:
    return np.asarray(np.abs(x).sum(axis=dims, keepdims=True))


def _zero_frequency(call: BoundCall, held: Held) -> tuple[int, NDArray[np.bool_], str] | None:
    dims = _dims(call)
    if len(dims) != 1 or held[0].device.type != "cpu" or not held[0].numel():
        return None
    imaginary = bits.values(held[0].narrow(dims[0], 0, 1)).imag
    broken = (imaginary != 0) & ~np.isnan(imaginary)
    if not broken.any():
        return None
    wrong = np.zeros(tuple(held[0].shape), dtype=bool)
    wrong[tuple(slice(0, 1) if d == dims[0] else slice(None) for d in range(wrong.ndim))] = broken
    return 0, wrong, "the number at frequency 0 of a real signal is real"


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in COMPLEX:
            return []
        real = op is aten._fft_r2c
        draw = draw_values(generator, part_dtype(dtype) if real else dtype, "any")
        calls: SampleList = []
        for x, dim in ((draw(5, 32), [1]), (draw(3, 31), [1]), (draw(4, 67), [1]),
                       (draw(12, 7).t(), [1]), (draw(9, 40)[1:8, 3:33], [0]), (draw(211), [0]),
                       (draw(3, 6, 10), [1, 2]), (draw(4, 5, 6), [2, 0]), (draw(1, 1), [1])):
            for mode in (0, 1, 2):
                if op is aten._fft_c2c:
                    calls.append((op.default, (x, dim, mode, bool(mode % 2)), {}))
                elif real:
                    calls.append((op.default, (x, dim, mode, mode != 1), {}))
                else:
                    last = 2 * (x.shape[dim[-1]] - 1) + mode % 2
                    calls.append((op.default, (x, dim, mode, max(last, 1)), {}))
        x = draw(5, 16)
        last_args: Any = {aten._fft_c2c: (True,), aten._fft_r2c: (True,)}.get(op, (30,))
        memory = torch.empty(5, 9 if real else 16, dtype=dtype) if op is not aten._fft_c2r else (
            torch.empty(5, 30, dtype=part_dtype(dtype)))
        calls.append((op.out, (x, [1], 0, *last_args), {"out": memory}))
        return calls

    return samples


FFT: dict[str, Any] = {
    "family": "fourier", "axes": _axes, "symmetries": _symmetries, "flops": _flops,
    "window": ("d0", "d1", "d2", "d3"), "takes_complex": True,
}


@checked(aten._fft_c2c, samples=_samples(aten._fft_c2c), **FFT)
def fft_c2c(call: HostCall) -> tuple[Reference | None, ...]:
    """``sum_j x_j e^{-+2 pi i jk/n}``: within ``4 log2(2n) u sum|x|``."""
    x, dims = _operand(call), _dims(call.call)
    if x is None:
        return (None,)
    with np.errstate(all="ignore"):
        transform = np.fft.fftn if call["forward"] else np.fft.ifftn
        value = transform(x, axes=dims, norm="backward" if call["forward"] else "forward")
        return _scaled(call, value, _total(x, dims))


@checked(aten._fft_r2c, samples=_samples(aten._fft_r2c), invariant=_zero_frequency, **FFT)
def fft_r2c(call: HostCall) -> tuple[Reference | None, ...]:
    """The transform of real numbers, all of it or the half that says everything."""
    x, dims = _operand(call), _dims(call.call)
    if x is None or not is_covered_float(call["self"].dtype):
        return (None,)
    with np.errstate(all="ignore"):
        value = np.fft.rfftn(x, axes=dims) if call["onesided"] else np.fft.fftn(x, axes=dims)
        return _scaled(call, value, _total(x, dims))


@checked(aten._fft_c2r, samples=_samples(aten._fft_c2r), **FFT)
def fft_c2r(call: HostCall) -> tuple[Reference | None, ...]:
    """The real signal of a half spectrum; the other half counts in the sum of the moduli."""
    x, dims = _operand(call), _dims(call.call)
    if x is None:
        return (None,)
    size = int(call.held[0].shape[dims[-1]])
    with np.errstate(all="ignore"):
        shape = [int(call.held[0].shape[d]) for d in dims]
        value = np.fft.irfftn(x, s=shape, axes=dims, norm="forward")
        half = np.take(x, range(min(size // 2 + 1, x.shape[dims[-1]])), axis=dims[-1])
        return _scaled(call, value, 2 * _total(half, dims))
