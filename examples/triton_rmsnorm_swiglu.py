"""A fused RMSNorm and SwiGLU in Triton under the guard, and a broken variant that it catches.

Without a GPU: ``TRITON_INTERPRET=1 python examples/triton_rmsnorm_swiglu.py``.
``docs/your_triton_kernel.md`` explains each step.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

import sdc_guard


@triton.jit
def rmsnorm_swiglu_kernel(
    x_ptr, gate_ptr, weight_ptr, out_ptr, stride_x, stride_gate, eps,
    NUM_COLS: tl.constexpr, BLOCK: tl.constexpr, SHORT_BY: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    square_sum = 0.0
    for start in range(0, NUM_COLS, BLOCK):
        col = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * stride_x + col, mask=col < NUM_COLS - SHORT_BY, other=0.0)
        x = x.to(tl.float32)
        square_sum += tl.sum(x * x, axis=0)
    scale = tl.rsqrt(square_sum / NUM_COLS + eps)
    for start in range(0, NUM_COLS, BLOCK):
        col = start + tl.arange(0, BLOCK)
        exists = col < NUM_COLS - SHORT_BY
        x = tl.load(x_ptr + row * stride_x + col, mask=exists, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + row * stride_gate + col, mask=exists, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + col, mask=exists, other=0.0).to(tl.float32)
        y = x * scale * weight * (gate * tl.sigmoid(gate))
        tl.store(out_ptr + row * NUM_COLS + col, y, mask=col < NUM_COLS)


def launch(x: Tensor, gate: Tensor, weight: Tensor, eps: float, short_by: int) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rmsnorm_swiglu_kernel[(x.shape[0],)](
        x, gate, weight, out, x.stride(0), gate.stride(0), eps,
        NUM_COLS=x.shape[1], BLOCK=64, SHORT_BY=short_by)
    return out


def reference(x, gate, weight, eps):
    """The same in NumPy: x / sqrt(mean(x^2) + eps) * weight * silu(gate)."""
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight
    return y * (gate / (1.0 + np.exp(-gate)))


@sdc_guard.checked(reference=reference, operands=("m n", "m n", "n"), outputs=("m .",))
def rmsnorm_swiglu(x: Tensor, gate: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return launch(x, gate, weight, eps, short_by=0)


@sdc_guard.checked(reference=reference, operands=("m n", "m n", "n"), outputs=("m .",))
def rmsnorm_swiglu_broken(x: Tensor, gate: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return launch(x, gate, weight, eps, short_by=1)  # the mask of the last block is off by one


def try_guarded(kernel) -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, gate = torch.randn(4, 100, device=device), torch.randn(4, 100, device=device)
    weight = torch.ones(100, device=device)
    with sdc_guard.Guard(budget="all") as guard:
        kernel(x, gate, weight)
    print(f"{guard.coverage.calls_checked} of {guard.coverage.calls} calls checked")
    for finding in guard.findings:
        worst = finding.worst
        print(f"{finding.verdict.value} in {finding.op}")
        print(f"  at {worst.index}: got {worst.got.repr}, "
              f"expected {float(worst.expected.repr):.4f} within {worst.bound.limit:.1e}")


if __name__ == "__main__":
    try_guarded(rmsnorm_swiglu)
    try_guarded(rmsnorm_swiglu_broken)
