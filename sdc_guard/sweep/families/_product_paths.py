"""Ways to the same product: libraries, vector code, and plain loops.

Each takes A [M, K] and B [K, N] and gives a function that computes C [M, N]; that one uses other
units, or the same ones by other code.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from sdc_guard.sweep.families.exact_product import multiply

Product = Callable[[], Tensor]
Path = Callable[[Tensor, Tensor], Product]
Paths = dict[str, tuple[Path, tuple[str, ...]]]
"""Ways by name, each with the dtypes that it takes."""


def mm(a: Tensor, b: Tensor) -> Product:
    """MKL for float32 and float64 on a CPU, oneDNN or torch's own loops for 16 bits."""
    return lambda: torch.mm(a, b)


def native_mm(a: Tensor, b: Tensor) -> Product:
    """The product without oneDNN."""

    def run() -> Tensor:
        before = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)
        try:
            return torch.mm(a, b)
        finally:
            torch._C._set_mkldnn_enabled(before)

    return run


def einsum(a: Tensor, b: Tensor) -> Product:
    """By way of a batched product."""
    return lambda: torch.einsum("mk,kn->mn", a, b)


def int_mm(a: Tensor, b: Tensor) -> Product:
    """8-bit integers, summed in 32-bit integers."""
    return lambda: torch._int_mm(a, b)


def onednn_linear(a: Tensor, b: Tensor) -> Product:
    """oneDNN's inner product, on tensors in its own layout."""
    x, weight = a.to_mkldnn(), b.t().contiguous().to_mkldnn()
    return lambda: linear(x, weight).to_dense()


def onednn_conv(a: Tensor, b: Tensor) -> Product:
    """oneDNN's convolution with a 1 x 1 kernel: K channels in, N out, M pixels."""
    x, weight = as_convolution(a, b)
    return lambda: torch.mkldnn_convolution(
        x, weight, None, (0, 0), (1, 1), (1, 1), 1)[0, :, :, 0].t()


def cudnn_conv(a: Tensor, b: Tensor) -> Product:
    x, weight = as_convolution(a, b)

    def run() -> Tensor:
        with torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return conv2d(x, weight)[0, :, :, 0].t()

    return run


def as_convolution(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A as one image [1, K, M, 1] and B as kernels [N, K, 1, 1]."""
    x = a.t().contiguous().reshape(1, a.shape[1], a.shape[0], 1)
    return x, b.t().contiguous().reshape(b.shape[1], b.shape[0], 1, 1)


def vector_sum(a: Tensor, b: Tensor) -> Product:
    """Products and sums as two elementwise kernels: no library, no fused multiply-add."""
    return lambda: (a[:, :, None] * b[None]).sum(1)


def mv(a: Tensor, b: Tensor) -> Product:
    """A column at a time: other kernels than for matrices."""
    columns = [b[:, j].contiguous() for j in range(b.shape[1])]
    return lambda: torch.stack([torch.mv(a, column) for column in columns], dim=1)


def numpy_blas(a: Tensor, b: Tensor) -> Product:
    x, y = a.numpy(), b.numpy()
    return lambda: torch.from_numpy(np.matmul(x, y))


def numpy_loop(a: Tensor, b: Tensor) -> Product:
    """NumPy's own compiled loops, of floats or of integers."""
    x, y = a.numpy(), b.numpy()
    return lambda: torch.from_numpy(np.einsum("mk,kn->mn", x, y))


def python_loop(a: Tensor, b: Tensor) -> Product:
    """One multiplication at a time, of Python's floats or integers: scalar units."""
    rows, columns = a.tolist(), b.t().tolist()
    dtype = a.dtype

    def run() -> Tensor:
        found = torch.empty((len(rows), len(columns)), dtype=dtype)
        values = found.numpy()
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                values[i, j] = sum(x * y for x, y in zip(row, column, strict=True))
        return found

    return run


def cuda_cores(a: Tensor, b: Tensor) -> Product:
    """cuBLAS without TF32."""
    product = multiply(_name(a))
    return lambda: product(a, b)


def tensor_cores(a: Tensor, b: Tensor) -> Product:
    """cuBLAS with TF32, or in 16 bits."""
    product = multiply(_name(a), is_tf32=True)
    return lambda: product(a, b)


def _name(a: Tensor) -> str:
    return str(a.dtype).removeprefix("torch.")


TENSOR_CORES = "tensor_cores"
WIDE, HALF = ("float64", "float32"), ("bfloat16", "float16")
ON_CPU: Paths = {
    "mm": (mm, (*WIDE, *HALF)),
    "native_mm": (native_mm, HALF),
    "einsum": (einsum, (*WIDE, *HALF)),
    "int_mm": (int_mm, ("int8",)),
    "onednn_linear": (onednn_linear, ("float32", *HALF)),
    "onednn_conv": (onednn_conv, ("float32", *HALF)),
    "vector_sum": (vector_sum, (*WIDE, "int64")),
    "mv": (mv, WIDE),
    "numpy_blas": (numpy_blas, WIDE),
    "numpy_loop": (numpy_loop, (*WIDE, "int64")),
    "python_loop": (python_loop, ("float64", "int64")),
}
ON_CUDA: Paths = {
    "mm": (mm, ("float64",)),
    "cuda_cores": (cuda_cores, ("float32",)),
    TENSOR_CORES: (tensor_cores, ("float32", *HALF)),
    "tensor_cores_int8": (int_mm, ("int8",)),
    "einsum": (einsum, HALF),
    "cudnn_conv": (cudnn_conv, ("float32", *HALF)),
    "vector_sum": (vector_sum, (*WIDE, "int64")),
}
IN_AMX: Paths = {
    "mm": (mm, ("bfloat16",)),
    "onednn_linear": (onednn_linear, ("bfloat16",)),
    "onednn_conv": (onednn_conv, ("bfloat16",)),
    "int_mm": (int_mm, ("int8",)),
}
"""Products that oneDNN hands to the tile unit of CPUs that have one."""
