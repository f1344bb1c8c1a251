"""Calls of the smallest sizes, for compiling.

A size of 1 is a constant to the compiler, and layouts that merge into no single dimension take
other paths, so what compiles for large operands need not compile for these.
"""

from __future__ import annotations

import torch

from tests.kernels.launches import HALF, SINGLE, Case, aten, empty, integers, statistics

_e = empty


def _case(name: str, op: object, args: object, dtype: torch.dtype = SINGLE) -> Case:
    return Case(name, op, args, (dtype,))  # type: ignore[arg-type]


SMALLEST = (
    _case("mm of 1", aten.mm.default, lambda d: (_e(d, 1, 1), _e(d, 1, 1))),
    _case("mm of 1 column", aten.mm.default, lambda d: (_e(d, 40, 33), _e(d, 33, 1))),
    _case("mm of depth 1", aten.mm.default, lambda d: (_e(d, 40, 1), _e(d, 1, 40))),
    _case("addmm of 1 row", aten.addmm.default, lambda d: (_e(d, 1), _e(d, 1, 5), _e(d, 5, 1))),
    _case("bmm of 1", aten.bmm.default, lambda d: (_e(d, 1, 1, 1), _e(d, 1, 1, 1))),
    _case("dot of 1", aten.dot.default, lambda d: (_e(d, 1), _e(d, 1))),
    _case("softmax of 1", aten._softmax.default, lambda d: (_e(d, 1), 0, False)),
    _case("log softmax of 1 class", aten._log_softmax.default, lambda d: (_e(d, 5, 1), 1, False)),
    _case("softmax backward of 1", aten._softmax_backward_data.default,
          lambda d: (_e(d, 1, 1), _e(d, 1, 1), 1, d)),
    _case("layer norm of 1", aten.native_layer_norm.default,
          lambda d: (_e(d, 1, 1), [1], _e(d, 1), _e(d, 1), 1e-5)),
    _case("layer norm backward of 1", aten.native_layer_norm_backward.default,
          lambda d: (_e(d, 1, 1), _e(d, 1, 1), [1], statistics(d, 1, 1), statistics(d, 1, 1),
                     _e(d, 1), _e(d, 1), [True, True, True])),
    _case("group norm of 1", aten.native_group_norm.default,
          lambda d: (_e(d, 1, 1, 1, 2), _e(d, 1), _e(d, 1), 1, 1, 2, 1, 1e-5)),
    _case("batch norm of 1 channel", aten._native_batch_norm_legit.default,
          lambda d: (_e(d, 2, 1), _e(d, 1), _e(d, 1), _e(d, 1), _e(d, 1), True, 0.1, 1e-5)),
    _case("nll loss of 1", aten.nll_loss_forward.default,
          lambda d: (_e(d, 1, 1), integers(1), _e(d, 1), 1, -100)),
    _case("nll loss of 1, each", aten.nll_loss_forward.default,
          lambda d: (_e(d, 1, 1), integers(1), _e(d, 1), 0, 1)),
    _case("nll loss backward of 1", aten.nll_loss_backward.default,
          lambda d: (_e(d), _e(d, 1, 1), integers(1), _e(d, 1), 1, 1, _e(d))),
    _case("sum of 1", aten.sum.default, lambda d: (_e(d, 1),)),
    _case("sum of 1 column", aten.sum.dim_IntList, lambda d: (_e(d, 8192, 1), [0])),
    _case("sum of scattered dimensions", aten.sum.dim_IntList,
          lambda d: (_e(d, 3, 4, 5, 6, 7).permute(4, 2, 0, 3, 1), [0, 2, 4])),
    _case("2-norm of 1", aten.linalg_vector_norm.default, lambda d: (_e(d, 1), 2)),
    _case("1-norm of 1", aten.linalg_vector_norm.default, lambda d: (_e(d, 1), 1)),
    _case("0-norm of 1", aten.linalg_vector_norm.default, lambda d: (_e(d, 1), 0)),
    _case("minimum norm of 1", aten.linalg_vector_norm.default,
          lambda d: (_e(d, 1), -float("inf"))),
    _case("amax of 1", aten.amax.default, lambda d: (_e(d, 1), [0])),
    _case("amin of integers", aten.amin.default, lambda d: (integers(8192, 64), [0])),
    _case("any of 1", aten.any.default, lambda d: (_e(d, 1),)),
    _case("all of bool", aten.all.default, lambda d: (_e(torch.bool, 40, 50),)),
    _case("convolution of 1", aten.convolution.default,
          lambda d: (_e(d, 1, 1, 1), _e(d, 1, 1, 1), _e(d, 1), [1], [0], [1], False, [0], 1)),
    _case("transposed convolution", aten.convolution.default,
          lambda d: (_e(d, 2, 4, 8, 8), _e(d, 4, 3, 3, 3), None, [2, 2], [1, 1], [1, 1], True,
                     [1, 1], 1)),
    _case("convolution backward of 1", aten.convolution_backward.default,
          lambda d: (_e(d, 1, 1, 1), _e(d, 1, 1, 1), _e(d, 1, 1, 1), [1], [1], [0], [1], False,
                     [0], 1, [True, True, True])),
    _case("attention of 1 with a mask", aten._scaled_dot_product_efficient_attention.default,
          lambda d: (_e(d, 1, 1, 1, 8), _e(d, 1, 1, 1, 8), _e(d, 1, 1, 1, 8), _e(d, 1, 1, 1, 1),
                     True, 0.0, False)),
    _case("attention with heads of 256", aten._scaled_dot_product_flash_attention.default,
          lambda d: (*(_e(d, 2, 4, 300, 256) for _ in range(3)), 0.0, False), HALF),
)
