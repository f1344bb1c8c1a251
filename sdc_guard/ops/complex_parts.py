"""Complex calls that treat the real and the imaginary part by themselves: what moves or fills
numbers, and sums with real factors.

Every claim is that of the real op's file, for either part.  Relations of the first group were seen
to keep every bit of complex64 and complex128 operands (1 and 2 threads); those of the sums are
learned at each site, because the lanes of a vector hold half as many complex numbers.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import torch

from sdc_guard.formats import is_covered_complex
from sdc_guard.ops._complex import by_parts, of_parts
from sdc_guard.ops._registry import HostCall, OpSpec, Reference, packet_name, register_derived

aten = torch.ops.aten

MOVED: tuple[Any, ...] = (
    aten.clone, aten.copy, aten._to_copy, aten.flip, aten.roll, aten.tril, aten.triu,
    aten.diag_embed, aten.diagonal_backward, aten.diagonal_copy, aten.diagonal_scatter,
    aten.cat, aten.stack, aten.select_backward, aten.slice_backward,
    aten._unsafe_index, aten.gather, aten.index, aten.index_select, aten.masked_select,
    aten.repeat, aten.take, aten.embedding,
    aten.index_copy, aten.index_fill, aten.masked_scatter, aten.scatter,
    aten.constant_pad_nd, aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d,
    aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d,
    aten.channel_shuffle, aten.native_channel_shuffle, aten.pixel_shuffle, aten.pixel_unshuffle,
    aten.im2col,
    aten.fill, aten.full, aten.full_like, aten.new_full, aten.new_zeros, aten.scalar_tensor,
    aten.zero, aten.zeros, aten.zeros_like,
    aten.where, aten.masked_fill, aten.neg,
)

SUMMED: tuple[Any, ...] = (
    aten.sum, aten.trace, aten.cumsum,
    aten.index_add, aten.scatter_add, aten._index_put_impl, aten._unsafe_index_put,
    aten.index_put, aten.put, aten.embedding_dense_backward,
    aten.reflection_pad1d_backward, aten.reflection_pad2d_backward,
    aten.reflection_pad3d_backward, aten.replication_pad1d_backward,
    aten.replication_pad2d_backward, aten.replication_pad3d_backward, aten.col2im,
    aten.unfold_backward,
)

ONES: tuple[Any, ...] = (aten.new_ones, aten.ones, aten.ones_like)


def _ones(call: HostCall) -> tuple[Reference | None, ...]:
    """1, and 0 in the imaginary part."""
    if not is_covered_complex(call.held[0].dtype):
        return (None,)
    shape = tuple(call.held[0].shape)
    real, imag = (Reference(np.full(shape, x), 0.0, 0.0, "exact") for x in (1.0, 0.0))
    return (of_parts(real, imag),)


def _derived_ones(spec: OpSpec) -> OpSpec:
    return dataclasses.replace(by_parts(spec, known=True), reference=_ones)


LISTS: tuple[Any, ...] = (
    aten._foreach_add, aten._foreach_sub, aten._foreach_mul, aten._foreach_div,
    aten._foreach_neg, aten._foreach_abs, aten._foreach_sqrt, aten._foreach_rsqrt,
    aten._foreach_reciprocal, aten._foreach_exp, aten._foreach_pow, aten._foreach_lerp,
    aten._foreach_addcmul, aten._foreach_addcdiv, aten._foreach_copy, aten._foreach_zero,
)
"""Their reference is that of the complex elementwise op."""


def _derived_list(spec: OpSpec) -> OpSpec:
    return dataclasses.replace(by_parts(spec, known=False), reference=spec.reference)


for _op in LISTS:
    register_derived(packet_name(_op), _derived_list)
for _op in MOVED:
    register_derived(packet_name(_op), partial(by_parts, known=True))
for _op in ONES:
    register_derived(packet_name(_op), _derived_ones)
for _op in SUMMED:
    register_derived(packet_name(_op), partial(by_parts, known=False))
