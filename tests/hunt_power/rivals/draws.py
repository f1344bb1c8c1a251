"""Random calls as a test with Hypothesis makes them: contiguous tensors, plain shapes and values,
arguments drawn among the usual ones; gradients where the function has some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
Draw = st.DrawFn
_SIZES = st.integers(1, 24) | st.integers(1, 300)
_DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
_INTEGERS = st.sampled_from([torch.int64, torch.int32, torch.int16, torch.uint8])


def _generator(draw: Draw) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**31)))


def _shape(draw: Draw, low: int = 1, high: int = 3) -> tuple[int, ...]:
    shape = tuple(draw(st.lists(_SIZES, min_size=low, max_size=high)))
    while torch.Size(shape).numel() > 2**18:
        shape = tuple(max(1, n // 2) for n in shape)
    return shape


def _random(draw: Draw, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    dtype = draw(_DTYPES) if dtype is None else dtype
    scale = draw(st.sampled_from([1.0, 1.0, 10.0, 100.0]))
    return (torch.randn(shape, generator=_generator(draw)) * scale).to(dtype)


def _whole(draw: Draw, shape: tuple[int, ...], low: int, high: int,
           dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(low, high, shape, generator=_generator(draw)).to(dtype)


def _unary(function: Callable[..., Any]) -> Callable[[Draw], Call]:
    return lambda draw: (function, (_random(draw, _shape(draw)),), {})


def _binary(function: Callable[..., Any]) -> Callable[[Draw], Call]:
    def make(draw: Draw) -> Call:
        shape, dtype = _shape(draw), draw(_DTYPES)
        return function, (_random(draw, shape, dtype), _random(draw, shape, dtype)), {}
    return make


def _integer_binary(function: Callable[..., Any], low: int, high: int) -> Callable[[Draw], Call]:
    def make(draw: Draw) -> Call:
        shape, dtype = _shape(draw), draw(_INTEGERS)
        signed = -1000 if dtype is not torch.uint8 else 0
        return function, (_whole(draw, shape, signed, 1000 if signed else 200, dtype),
                          _whole(draw, shape, low, high, dtype)), {}
    return make


def _reduction(function: Callable[..., Any], whole: bool = False) -> Callable[[Draw], Call]:
    def make(draw: Draw) -> Call:
        shape = _shape(draw)
        dim = draw(st.sampled_from([*range(-len(shape), len(shape))]))
        if whole and draw(st.booleans()):
            x = _whole(draw, shape, -100, 100)
        else:
            x = _random(draw, shape)
        return function, (x, dim), {}
    return make


def _total(function: Callable[..., Any]) -> Callable[[Draw], Call]:
    one = _reduction(function, whole=function is torch.sum)

    def make(draw: Draw) -> Call:
        return one(draw) if draw(st.booleans()) else (function, (_random(draw, _shape(draw)),), {})
    return make


def _mm(draw: Draw) -> Call:
    m, k, n, dtype = draw(_SIZES), draw(_SIZES), draw(_SIZES), draw(_DTYPES)
    return torch.mm, (_random(draw, (m, k), dtype), _random(draw, (k, n), dtype)), {}


def _addmm(draw: Draw) -> Call:
    _, (a, b), _ = _mm(draw)
    x = _random(draw, (a.shape[0], b.shape[1]), a.dtype)
    return torch.addmm, (x, a, b), {"beta": draw(st.sampled_from([0, 1, 0.5])),
                                    "alpha": draw(st.sampled_from([1, 2]))}


def _bmm(draw: Draw) -> Call:
    b, m, k, n = (draw(st.integers(1, 40)) for _ in range(4))
    dtype = draw(_DTYPES)
    return torch.bmm, (_random(draw, (b, m, k), dtype), _random(draw, (b, k, n), dtype)), {}


def _dot(draw: Draw) -> Call:
    n, dtype = draw(_SIZES), draw(_DTYPES)
    return torch.dot, (_random(draw, (n,), dtype), _random(draw, (n,), dtype)), {}


def _where(draw: Draw) -> Call:
    shape, dtype = _shape(draw), draw(_DTYPES)
    return torch.where, (_whole(draw, shape, 0, 2, torch.bool), _random(draw, shape, dtype),
                         _random(draw, shape, dtype)), {}


def _pow(draw: Draw) -> Call:
    exponent = draw(st.sampled_from([2, 3, 0.5, -1]))
    if isinstance(exponent, int) and exponent > 0 and draw(st.booleans()):
        return torch.pow, (_whole(draw, _shape(draw), -1000, 1000), exponent), {}
    return torch.pow, (_random(draw, _shape(draw)), exponent), {}


def _copy(draw: Draw) -> Call:
    return torch.clone, (_random(draw, _shape(draw)),), {}


def _cat(draw: Draw) -> Call:
    shape, dtype = _shape(draw), draw(_DTYPES)
    dim = draw(st.integers(0, len(shape) - 1))
    return torch.cat, ([_random(draw, shape, dtype) for _ in range(draw(st.integers(1, 3)))],
                       dim), {}


def _flip(draw: Draw) -> Call:
    shape = _shape(draw)
    x = _random(draw, shape) if draw(st.booleans()) else _whole(
        draw, shape, 0, 200, draw(_INTEGERS))
    return torch.flip, (x, [draw(st.integers(0, len(shape) - 1))]), {}


def _roll(draw: Draw) -> Call:
    shape = _shape(draw)
    return torch.roll, (_random(draw, shape), draw(st.integers(-400, 400)),
                        draw(st.integers(0, len(shape) - 1))), {}


def _indexed(function: Callable[..., Any]) -> Callable[[Draw], Call]:
    def make(draw: Draw) -> Call:
        shape = _shape(draw)
        dim, count = draw(st.integers(0, len(shape) - 1)), draw(_SIZES)
        x, index = _random(draw, shape), _whole(draw, (count,), 0, shape[dim])
        if function is torch.index_select:
            return function, (x, dim, index), {}
        shape = (*shape[:dim], count, *shape[dim + 1:])
        return function, (x, dim, index, _random(draw, shape, x.dtype)), {
            "alpha": draw(st.sampled_from([1, 2]))}
    return make


def _gathered(function: Callable[..., Any]) -> Callable[[Draw], Call]:
    def make(draw: Draw) -> Call:
        shape = _shape(draw)
        dim = draw(st.integers(0, len(shape) - 1))
        x, index = _random(draw, shape), _whole(draw, shape, 0, shape[dim])
        rest = () if function is torch.gather else (_random(draw, shape, x.dtype),)
        return function, (x, dim, index, *rest), {}
    return make


def _index_put(draw: Draw) -> Call:
    n, count, dtype = draw(_SIZES), draw(_SIZES), draw(_DTYPES)
    return torch.index_put, (_random(draw, (n,), dtype), (_whole(draw, (count,), 0, n),),
                             _random(draw, (count,), dtype)), {"accumulate": True}


def _searchsorted(draw: Draw) -> Call:
    n = draw(_SIZES)
    return torch.searchsorted, (torch.sort(_random(draw, (n,), torch.float32)).values,
                                _random(draw, (draw(_SIZES),), torch.float32)), {}


def _embedding(draw: Draw) -> Call:
    rows, width = draw(_SIZES), draw(st.integers(1, 64))
    index = _whole(draw, (draw(_SIZES),), 0, rows)
    padding = draw(st.none() | st.integers(-rows, rows - 1))
    return F.embedding, (index, _random(draw, (rows, width))), {"padding_idx": padding}


def _conv2d(draw: Draw) -> Call:
    groups, dtype = draw(st.sampled_from([1, 1, 2])), draw(_DTYPES)
    c, o = groups * draw(st.integers(1, 8)), groups * draw(st.integers(1, 8))
    h, w, k = draw(st.integers(3, 20)), draw(st.integers(3, 20)), draw(st.integers(1, 3))
    x = _random(draw, (draw(st.integers(1, 3)), c, h, w), dtype)
    return F.conv2d, (x, _random(draw, (o, c // groups, k, k), dtype)), {
        "groups": groups, "padding": draw(st.integers(0, 1))}


def _normed(function: Callable[..., Any]) -> Callable[[Draw], Call]:
    def make(draw: Draw) -> Call:
        shape, dtype = _shape(draw, 2), draw(st.sampled_from([torch.float32, torch.float64]))
        x = _random(draw, shape, dtype)
        if function is F.layer_norm:
            return function, (x, shape[-1:], _random(draw, shape[-1:], dtype)), {}
        zeros = torch.zeros(shape[1], dtype=dtype)
        return _batch_norm, (x, zeros, zeros + 1, draw(st.booleans())), {}
    return make


def _batch_norm(x: Tensor, mean: Tensor, var: Tensor, training: bool) -> list[Tensor]:
    mean, var = mean.clone(), var.clone()
    return [F.batch_norm(x, mean, var, training=training and x.numel() > x.shape[1]), mean, var]


def _image(draw: Draw) -> Tensor:
    return _random(draw, (draw(st.integers(1, 2)), draw(st.integers(1, 4)),
                          draw(st.integers(4, 30)), draw(st.integers(4, 30))))


def _pool(function: Callable[..., Any]) -> Callable[[Draw], Call]:
    def make(draw: Draw) -> Call:
        options = {"padding": draw(st.integers(0, 1)), "ceil_mode": draw(st.booleans())}
        if function is F.avg_pool2d:
            options["count_include_pad"] = draw(st.booleans())
        return function, (_image(draw), draw(st.integers(2, 3))), options
    return make


def _upsample(draw: Draw) -> Call:
    return F.interpolate, (_image(draw),), {"scale_factor": draw(st.floats(0.3, 3))}


def _nll_loss(draw: Draw) -> Call:
    n, c = draw(_SIZES), draw(st.integers(2, 30))
    target = _whole(draw, (n,), 0, c)
    if draw(st.booleans()):
        target[0] = -100
    return F.nll_loss, (_random(draw, (n, c), torch.float32), target), {}


def _attention(draw: Draw) -> Call:
    b, h, q, k, d = (draw(st.integers(1, n)) for n in (2, 4, 70, 70, 32))
    dtype = draw(_DTYPES)
    return F.scaled_dot_product_attention, (
        _random(draw, (b, h, q, d), dtype), _random(draw, (b, h, k, d), dtype),
        _random(draw, (b, h, k, d), dtype)), {}


def _masked_fill(draw: Draw) -> Call:
    shape = _shape(draw)
    return torch.masked_fill, (_random(draw, shape), _whole(draw, shape, 0, 2, torch.bool),
                               1.5), {}


def _topk(draw: Draw) -> Call:
    shape = _shape(draw)
    return torch.topk, (_random(draw, shape), draw(st.integers(1, shape[-1]))), {}


DRAWS: dict[str, Callable[[Draw], Call]] = {
    **{name: _unary(getattr(torch, name))
       for name in ("exp", "tanh", "sqrt", "log1p", "sin", "sigmoid")},
    "gelu": _unary(F.gelu),
    "softplus": lambda draw: (F.softplus, (_random(draw, _shape(draw)),),
                              {"beta": draw(st.sampled_from([1, 0.5, 2]))}),
    **{name: _binary(getattr(torch, name)) for name in ("mul", "add", "div", "remainder")},
    "floor_divide": _integer_binary(torch.floor_divide, 1, 50),
    "bitwise_left_shift": _integer_binary(torch.bitwise_left_shift, 0, 8),
    "pow": _pow,
    "clamp": lambda draw: (torch.clamp, (_random(draw, _shape(draw)), -1, 1), {}),
    "where": _where,
    **{name: _total(getattr(torch, name)) for name in ("sum", "mean", "var", "argmax", "amax")},
    "cumsum": _reduction(torch.cumsum, whole=True),
    "logsumexp": _reduction(torch.logsumexp),
    "vector_norm": lambda draw: (torch.linalg.vector_norm, (
        _random(draw, _shape(draw)), draw(st.sampled_from([0, 1, 2, float("inf")]))), {}),
    "bincount": lambda draw: (torch.bincount, (_whole(draw, (draw(_SIZES),), 0, 50),), {}),
    "copy": _copy, "cat": _cat, "flip": _flip, "roll": _roll,
    "repeat": lambda draw: (lambda x, n: x.repeat(*n), (
        x := _random(draw, _shape(draw)),
        [draw(st.integers(1, 3)) for _ in range(x.dim())]), {}),
    "tril": lambda draw: (torch.tril, (_random(draw, _shape(draw, 2)),
                                       draw(st.integers(-3, 3))), {}),
    "sort": lambda draw: (torch.sort, (_random(draw, _shape(draw)),),
                          {"stable": draw(st.booleans())}),
    "topk": _topk, "masked_fill": _masked_fill,
    "index_select": _indexed(torch.index_select), "index_add": _indexed(torch.index_add),
    "gather": _gathered(torch.gather), "scatter_add": _gathered(torch.scatter_add),
    "index_put": _index_put, "searchsorted": _searchsorted, "embedding": _embedding,
    "mm": _mm, "addmm": _addmm, "bmm": _bmm, "dot": _dot,
    "conv2d": _conv2d, "layer_norm": _normed(F.layer_norm), "batch_norm": _normed(F.batch_norm),
    "softmax": _reduction(F.softmax), "log_softmax": _reduction(F.log_softmax),
    "max_pool2d": _pool(F.max_pool2d), "avg_pool2d": _pool(F.avg_pool2d),
    "upsample_nearest2d": _upsample, "nll_loss": _nll_loss, "attention": _attention,
}
