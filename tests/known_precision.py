"""Kernels of torch 2.13 whose half-precision sums really miss what an accumulation in fp32 gives.

They add in the storage format (bf16, fp16), where a sum stagnates: 1 + 2^-8 + 2^-8 + ... stays 1.
What the guard says of them is ``precision``, and true.  ``tests/ops/test_known_precision.py`` has a
minimal case of each, judged by exact arithmetic; whatever else is found on a correct run is a false
alarm.
"""

from __future__ import annotations

LOW_PRECISION_SUMS = {
    "aten._embedding_bag_backward": "adds in the storage format",
    "aten._embedding_bag_dense_backward": "adds in the storage format",
    "aten.embedding_dense_backward": "adds in the storage format",
    "aten.nansum": "adds the sums of its runs in the storage format",
    "aten.native_layer_norm_backward": "adds parameter gradients in the storage format",
    "aten._index_put_impl": "adds in the storage format",
    "aten._unsafe_index_put": "adds in the storage format",
    "aten.index_add": "adds in the storage format",
    "aten.index_put": "adds in the storage format",
    "aten.index_reduce": "adds in the storage format",
    "aten.put": "adds in the storage format",
}
"""By operator packet, and why."""


def is_known(finding: str) -> bool:
    """True for a ``precision`` verdict, as ``verdict: message``, on a kernel of the table."""
    verdict, _, message = finding.partition(": ")
    return verdict == "precision" and any(
        f" in {op}." in message or f" in {op}_." in message for op in LOW_PRECISION_SUMS)
