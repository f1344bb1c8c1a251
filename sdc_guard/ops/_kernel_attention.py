"""Sampled rows of attention and of its gradients, recomputed by Triton kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdc_guard.bounds.attention import Machine
from sdc_guard.bounds.gamma import gamma
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, format_of, is_covered_float
from sdc_guard.ops._kernels import KernelCheck, KernelOf, KernelRun, Notes

if TYPE_CHECKING:
    from sdc_guard_kernels.attention_rows import Factors, Operands

MachineOf = Callable[[BoundCall], "Machine | None"]
"""The arithmetic of a call, or None where nothing can be said."""

NUM_ROWS = 32
"""Rows of each result that are recomputed."""

MASK_NAMES = ("attn_mask", "attn_bias")


def mask_name(call: BoundCall) -> str | None:
    """The name of the additive mask, where one is given."""
    return next((n for n in MASK_NAMES
                 if isinstance(call.get(n), Tensor) and call[n].numel()), None)


def _operands(call: BoundCall) -> Operands | None:
    from sdc_guard_kernels.attention_rows import Operands, takes

    query, key, value = (call[n] for n in ("query", "key", "value"))
    name = mask_name(call)
    mask = None
    if name is not None:
        mask = call[name].expand(*query.shape[:3], key.shape[2])
    operands = Operands(query, key, value, mask)
    return operands if takes(operands) else None


def scale_of(call: BoundCall) -> float:
    """The factor of the scores."""
    scale = call.get("scale")
    return 1 / math.sqrt(int(call["query"].shape[-1])) if scale is None else float(scale)


def narrowed(out: Format, acc: Format) -> tuple[float, float, float]:
    """Unit roundoff and absolute part of storing a result in ``out``, and its largest number."""
    narrow = out.precision < acc.precision
    return (out.u if narrow else 0.0, 16 * acc.eta + (0.5 * out.eta if narrow else 0.0), out.max)


def row_factors(
    scale: float, head_size: int, num_keys: int, out: torch.dtype, lse: torch.dtype, k: Machine
) -> Factors:
    """The contract of :func:`sdc_guard.bounds.attention.forward_limits` in the kernel's numbers."""
    from sdc_guard_kernels.attention_rows import Factors

    phi = k.contract_phi()
    rho = 10 * k.u * math.ceil(num_keys / k.key_block)
    inner = gamma(num_keys + 4, k.u) + k.inputs
    return Factors(
        scale, k.inputs + gamma(head_size + 6, k.u), k.u, k.acc.max / 2, phi,
        phi + rho + num_keys * k.u, (phi + rho + inner + k.v) * (1 + k.v),
        k.eta_v + 2 * k.acc.tiny, 2 * num_keys * k.eta,
        *narrowed(format_of(out), k.acc), *narrowed(format_of(lse), k.acc))


def _log_sum(held: tuple[Tensor, ...], query: Tensor) -> Tensor | None:
    """The log-sum-exp where it is asked for; CUDA pads its queries, cuDNN adds a dimension."""
    if len(held) < 2 or held[1] is None or not is_covered_float(held[1].dtype):
        return None
    lse = held[1]
    fits = lse.dim() in (3, 4) and lse.shape[:2] == query.shape[:2]
    return lse if fits and lse.shape[2] >= query.shape[2] and lse.numel() else None


def attention_kernel(machine_of: MachineOf) -> KernelOf:
    """Sampled rows of the output and their log-sum-exp."""

    def kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        machine, operands = machine_of(call), None
        if machine is not None and held[0].dim() == 4:
            operands = _operands(call)
        if machine is None or operands is None:
            return None
        from sdc_guard_kernels import attention_rows as kernels

        query, lse = operands.query, _log_sum(held, operands.query)
        factors = row_factors(
            scale_of(call), int(query.shape[3]), int(operands.key.shape[2]), held[0].dtype,
            query.dtype if lse is None else lse.dtype, machine)
        plan = kernels.plan_rows(operands, held[0], lse, factors, causal=bool(call["is_causal"]),
                                 num_samples=NUM_ROWS)
        out_check = KernelCheck("sample", "sum p |v| (r + gamma_N + v) / l + |o| r_l", 0, "row")
        lse_check = KernelCheck("sample", "r_l + phi |log l| + 3 u (|m| + |lse|)", 1)

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            operands = _operands(call)
            assert operands is not None
            lse = _log_sum(held, operands.query)
            out_record = notes.record(out_check)
            lse_record = None if lse is None else notes.record(lse_check)
            kernels.check_rows(plan, operands, held[0], lse, out_record, lse_record, notes.seed)

        return run

    return kernel
