"""What computes a convolution, and whether that is a sum of products: see :func:`is_judged`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdc_guard.bounds.products import SPLIT_ROUNDINGS
from sdc_guard.calls import BoundCall
from sdc_guard.formats import BFLOAT16, TFLOAT32, is_covered_float
from sdc_guard.ops._registry import HostCall
from sdc_guard.ops._shifts import Window, per_dim


def window_of(call: BoundCall | HostCall) -> Window:
    """Kernel, stride, padding and dilation of a call."""
    kernel = tuple(call["weight"].shape[2:])
    rank = len(kernel)
    return Window(kernel, *(per_dim(call[n], rank) for n in ("stride", "padding", "dilation")))


def backend_of(call: BoundCall) -> str:
    """Name of the backend that torch selects for the call's operands."""
    return str(torch._C._select_conv_backend(
        call["input"], call["weight"], None, list(call["stride"]), list(call["padding"]),
        list(call["dilation"]), bool(call["transposed"]), list(call["output_padding"]),
        int(call["groups"]))).rpartition(".")[2]


def input_rounding(dtype: torch.dtype, device_type: str = "cpu") -> float:
    """``u_in`` of an fp32 convolution that oneDNN may compute in TF32 or bf16 by
    ``torch.backends.mkldnn.conv.fp32_precision`` (or what it inherits), and cuDNN in TF32 unless
    its own switch says ``ieee``; 0 otherwise.  Doubled, because hardware may truncate."""
    if dtype is not torch.float32:
        return 0.0
    backend: Any = torch.backends.mkldnn if device_type == "cpu" else torch.backends.cudnn
    switch = getattr(getattr(backend, "conv", None), "fp32_precision", None)
    if device_type == "cpu":
        return {"tf32": 2 * TFLOAT32.u, "bf16": 2 * BFLOAT16.u}.get(str(switch), 0.0)
    exact = not backend.allow_tf32 if switch is None else str(switch) == "ieee"
    return 0.0 if exact else 2 * TFLOAT32.u


def is_slow(backend: str) -> bool:
    """True for ATen's own backends that lower a convolution to BLAS on a CPU."""
    return backend.startswith("Slow")


def adds_products(device_type: str, backend: str) -> bool:
    """True where the results are sums of products, whatever the order: no Winograd, no FFT.

    On a CPU: all but NNPACK, XNNPACK and ATen's Winograd.  On CUDA: ATen's own kernels; which of
    cuDNN's convolutions may use FFT or Winograd depends on its version, and has not been seen.
    """
    if device_type == "cpu":
        return not backend.startswith(("Nnpack", "Winograd", "Xnnpack"))
    return device_type == "cuda" and backend.startswith(("CudaDepthwise", "Slow"))


def is_judged(call: BoundCall, held: Tensor) -> bool:
    """In a format that we know, by a backend that computes dot products."""
    same = {t.dtype for _, t in call.tensors()} == {held.dtype}
    return (is_covered_float(held.dtype) and same
            and adds_products(held.device.type, backend_of(call)))


def num_roundings(device_type: str, dtype: torch.dtype, num_terms: int) -> int:
    """Roundings to count for ``num_terms``: tensor cores truncate, which errs by twice as much."""
    return num_terms * (2 if device_type == "cuda" and dtype is not torch.float64 else 1)


def num_stored_on(device_type: str) -> int:
    """Partial results that a kernel may store in the format of the result whatever its backend: on
    CUDA the sum without its bias, and the parts of a split sum as in
    :mod:`sdc_guard.bounds.products`."""
    return 2 + SPLIT_ROUNDINGS if device_type == "cuda" else 0
