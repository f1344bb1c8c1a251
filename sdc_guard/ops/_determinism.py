"""Where equal calls need not give equal bits."""

from __future__ import annotations

from sdc_guard.ops._registry import OpSpec

NOT_DETERMINISTIC_ON_CUDA = frozenset({
    "aten._ctc_loss_backward", "aten._adaptive_avg_pool2d_backward",
    "aten._adaptive_avg_pool3d_backward", "aten.adaptive_max_pool2d_backward",
    "aten._cdist_backward", "aten._embedding_bag_dense_backward",
    "aten._histogramdd_from_bin_cts", "aten.avg_pool3d_backward", "aten.bincount",
    "aten.cumsum", "aten.fractional_max_pool2d_backward", "aten.fractional_max_pool3d_backward",
    "aten.grid_sampler_2d_backward", "aten.grid_sampler_3d_backward", "aten.histc",
    "aten.index_add", "aten.index_copy", "aten.index_put", "aten._index_put_impl",
    "aten.kthvalue", "aten.max_pool3d_with_indices_backward", "aten.max_unpool2d",
    "aten.max_unpool3d", "aten.median", "aten.multi_margin_loss_backward",
    "aten.multilabel_margin_loss_backward", "aten.nll_loss2d_backward",
    "aten.nll_loss2d_forward", "aten.put", "aten.reflection_pad1d_backward",
    "aten.reflection_pad2d_backward", "aten.reflection_pad3d_backward",
    "aten.replication_pad1d_backward", "aten.replication_pad2d_backward",
    "aten.replication_pad3d_backward", "aten.scatter", "aten.scatter_add",
    "aten.scatter_reduce", "aten.segment_reduce", "aten.upsample_bicubic2d_backward",
    "aten.upsample_bilinear2d_backward", "aten.upsample_linear1d_backward",
    "aten.upsample_nearest1d_backward", "aten.upsample_nearest2d_backward",
    "aten.upsample_nearest3d_backward", "aten.upsample_trilinear3d_backward",
})
"""Named by the documentation of ``torch.use_deterministic_algorithms`` (torch 2.13)."""

RACING = frozenset({
    "aten.index_put", "aten._index_put_impl", "aten._unsafe_index_put", "aten.put",
    "aten.index_copy", "aten.scatter", "aten._unsafe_masked_index_put_accumulate",
})
"""Where indices repeat, threads write to one place in no order, on a CPU too."""


def is_deterministic(spec: OpSpec, device: str, num_threads: int) -> bool:
    """True if equal calls must give equal bits there.  A spec speaks of all devices; on a CPU only
    races between threads are left."""
    if spec.deterministic or device != "cpu":
        return spec.deterministic
    return num_threads == 1 or spec.packet not in RACING
