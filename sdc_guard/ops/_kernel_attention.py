"""Sampled rows of attention and of its gradients, recomputed by Triton kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdc_guard.bounds.attention import QUERY_BLOCK, Machine
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, format_of, is_covered_float
from sdc_guard.ops._kernels import KernelCheck, KernelOf, KernelRun, Notes

if TYPE_CHECKING:
    from sdc_guard_kernels.attention_gradients import GradientFactors, Saved
    from sdc_guard_kernels.attention_rows import Factors, Operands

MachineOf = Callable[[BoundCall], "Machine | None"]
"""The arithmetic of a call, or None where nothing can be said."""

NUM_ROWS = 16
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
    inner = k.order(num_keys + 4) + k.inputs
    return Factors(
        scale, k.inputs + k.order(head_size + 6), k.u, k.acc.max / 2, phi,
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


def gradient_factors(
    scale: float, sizes: tuple[int, int, int, int], sharing: int, out: torch.dtype, k: Machine
) -> GradientFactors:
    """The contract of :func:`sdc_guard.bounds.attention.backward_limits`, likewise.

    Args:
        sizes: numbers of queries and keys, sizes of a query and of a value.
        sharing: number of heads that share a key.
    """
    from sdc_guard_kernels.attention_gradients import GradientFactors

    num_queries, num_keys, head_size, value_size = sizes
    c, blocks = abs(scale), math.ceil(num_queries / QUERY_BLOCK)
    key_blocks = math.ceil(num_keys / k.key_block)
    return GradientFactors(
        scale, k.inputs + k.order(head_size + 6), k.u, k.acc.max / 2, k.contract_phi(),
        difference=k.order(value_size + 1) + k.inputs,
        underflow=2 * value_size * k.eta,
        v=k.v, floor=k.eta_v + k.eta, tiny=k.acc.tiny,
        order_q=k.order(num_keys + 4) + k.inputs + key_blocks * k.v,
        absolute_q=2 * (1 + c) * num_keys * k.eta + key_blocks * k.eta_v,
        order_k=k.order(num_queries + 4) + k.inputs + blocks * k.v,
        absolute_k=sharing * (2 * (1 + c) * num_queries * k.eta + blocks * k.eta_v),
        absolute_v=sharing * (2 * num_queries * k.eta + blocks * k.eta_v),
        flush=k.eta_v + 2 * k.acc.tiny,
        **dict(zip(("stored_u", "tail", "largest"), narrowed(format_of(out), k.acc),
                   strict=True)))


def _saved(call: BoundCall) -> Saved:
    from sdc_guard_kernels.attention_gradients import Saved

    name = "grad_out_" if call.get("grad_out_") is not None else "grad_out"
    return Saved(call[name], call["out"], call["logsumexp"])


def _fits(call: BoundCall, held: tuple[Tensor | None, ...], operands: Operands) -> bool:
    """True where operands and results have the shapes that the kernels take."""
    grad, out, lse = _saved(call)
    query, key, value = operands[:3]
    shape = (*query.shape[:3], value.shape[3])
    results = zip(held[:3], (query, key, value), strict=False)
    return (grad.shape == shape and out.shape == shape and lse.dim() in (3, 4)
            and lse.shape[:2] == query.shape[:2] and lse.shape[2] >= query.shape[2]
            and all(t is None or not t.numel() or t.shape == x.shape for t, x in results))


def attention_backward_kernel(machine_of: MachineOf) -> KernelOf:
    """Sampled rows of the gradients of queries, keys and values."""

    def kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        machine = machine_of(call)
        operands = None if machine is None else _operands(call)
        if machine is None or operands is None or not _fits(call, held, operands):
            return None
        from sdc_guard_kernels import attention_gradients as kernels

        query, key, value = operands[:3]
        gradients = tuple(t if t is not None and t.numel() else None for t in held[:3])
        factors = gradient_factors(
            scale_of(call),
            (int(query.shape[2]), int(key.shape[2]), int(query.shape[3]), int(value.shape[3])),
            int(query.shape[1] // key.shape[1]), query.dtype, machine)
        plan = kernels.plan_gradients(operands, _saved(call), gradients, factors,
                                      causal=bool(call["is_causal"]), num_samples=NUM_ROWS)
        present = tuple(t is not None for t in gradients)
        formula = "P (r |dP - d| + ...) and gamma of the product"
        checks = [KernelCheck("sample", formula, i, "row") for i in range(3)]

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            operands = _operands(call)
            assert operands is not None
            saved, seed = _saved(call), notes.seed
            if present[0]:
                kernels.check_query_rows(plan, operands, saved, held[0], notes.record(checks[0]),
                                         seed)
            if present[1] or present[2]:
                dk, dv = (held[i] if present[i] else None for i in (1, 2))
                dk_record, dv_record = (
                    notes.record(checks[i]) if present[i] else None for i in (1, 2))
                kernels.check_key_rows(plan, operands, saved, dk, dv, dk_record, dv_record,
                                       seed + 1)

        return run

    return kernel
