"""Calls of a training step at realistic sizes, of which nothing is read: for compiling kernels.

Operands are memory that nobody wrote, which costs nothing until it is touched; results get the
shapes and strides that torch's meta kernels say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of

HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64
ALL = (HALF, SINGLE, DOUBLE)
aten = torch.ops.aten

Args = Callable[[torch.dtype], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """A call, by its operator and the arguments for a dtype."""

    name: str
    op: Any
    args: Args
    dtypes: tuple[torch.dtype, ...] = ALL

    def made(self, dtype: torch.dtype) -> tuple[BoundCall, tuple[Tensor, ...]]:
        """The call, and memory for its results."""
        args = self.args(dtype)
        form = form_of(self.op)
        found = self.op(*_mapped(args))
        results = list(found) if isinstance(found, tuple | list) else [found]
        held = tuple(_empty(t) for t in results if t is None or isinstance(t, Tensor))
        call = BoundCall(form, form.bind(args, {}))
        written = (args[i] for i in form.overwrites if args[i] is not None)
        held = (*(torch.empty_like(t) for t in written), *held)
        return call, held  # type: ignore[return-value]


def _mapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, tuple | list):
        return type(value)(_mapped(v) for v in value)
    return value


def _empty(t: Tensor | None) -> Tensor | None:
    if t is None or t.numel() == 0:
        return t if t is None else torch.empty(t.shape, dtype=t.dtype)
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype)


def empty(dtype: torch.dtype, *shape: int) -> Tensor:
    """Memory that nobody wrote."""
    return torch.empty(shape, dtype=dtype)


def integers(*shape: int) -> Tensor:
    """The same, int64."""
    return torch.empty(shape, dtype=torch.int64)


def statistics(dtype: torch.dtype, *shape: int) -> Tensor:
    """The same, for saved moments: float32, or float64 of float64."""
    return empty(DOUBLE if dtype is DOUBLE else SINGLE, *shape)


_e, _ints, _statistics = empty, integers, statistics


def _attention(d: torch.dtype) -> list[Tensor]:
    return [_e(d, 8, 16, 1024, 64) for _ in range(3)]


def _flash_backward(d: torch.dtype) -> tuple[Any, ...]:
    return (_e(d, 8, 16, 1024, 64), *_attention(d), _e(d, 8, 16, 1024, 64),
            _e(SINGLE, 8, 16, 1024), _ints(0), _ints(0), 1024, 1024, 0.0, True, _ints(2), _ints(1))


def _efficient_backward(d: torch.dtype) -> tuple[Any, ...]:
    return (_e(d, 8, 16, 1024, 64), *_attention(d), None, _e(d, 8, 16, 1024, 64),
            _e(SINGLE, 8, 16, 1024), _ints(1), _ints(1), 0.0, [True, True, True, False], True)


CASES = (
    Case("mm of a weight", aten.mm.default, lambda d: (_e(d, 8192, 1024), _e(d, 4096, 1024).t())),
    Case("mm of a gradient", aten.mm.default, lambda d: (_e(d, 8192, 4096).t(), _e(d, 8192, 1024))),
    Case("mm with odd strides", aten.mm.default,
         lambda d: (_e(d, 999, 1001), _e(d, 1001, 777)), (SINGLE,)),
    Case("mm of float16", aten.mm.default,
         lambda d: (_e(d, 8192, 1024), _e(d, 4096, 1024).t()), (torch.float16,)),
    Case("addmm with a bias", aten.addmm.default,
         lambda d: (_e(d, 4096), _e(d, 8192, 1024), _e(d, 4096, 1024).t())),
    Case("baddbmm", aten.baddbmm.default,
         lambda d: (_e(d, 64, 1024, 1024), _e(d, 64, 1024, 64), _e(d, 64, 64, 1024)), (SINGLE,)),
    Case("bmm", aten.bmm.default, lambda d: (_e(d, 64, 1024, 64), _e(d, 64, 64, 1024))),
    Case("dot", aten.dot.default, lambda d: (_e(d, 1 << 24), _e(d, 1 << 24)), (SINGLE, DOUBLE)),
    Case("softmax", aten._softmax.default, lambda d: (_e(d, 128, 1024, 1024), -1, False)),
    Case("softmax of columns", aten._softmax.default,
         lambda d: (_e(d, 32, 19, 128, 128), 1, False)),
    Case("safe softmax", aten._safe_softmax.default, lambda d: (_e(d, 128, 1024, 1024), -1),
         (HALF,)),
    Case("log softmax of a vocabulary", aten._log_softmax.default,
         lambda d: (_e(d, 8192, 50304), 1, False)),
    Case("softmax backward", aten._softmax_backward_data.default,
         lambda d: (_e(d, 128, 1024, 1024), _e(d, 128, 1024, 1024), -1, d)),
    Case("log softmax backward", aten._log_softmax_backward_data.default,
         lambda d: (_e(d, 8192, 50304), _e(d, 8192, 50304), 1, d)),
    Case("layer norm", aten.native_layer_norm.default,
         lambda d: (_e(d, 8192, 1024), [1024], _e(d, 1024), _e(d, 1024), 1e-5)),
    Case("layer norm backward", aten.native_layer_norm_backward.default,
         lambda d: (_e(d, 8192, 1024), _e(d, 8192, 1024), [1024], _statistics(d, 8192, 1),
                    _statistics(d, 8192, 1), _e(d, 1024), _e(d, 1024), [True, True, True])),
    Case("group norm", aten.native_group_norm.default,
         lambda d: (_e(d, 64, 256, 56, 56), _e(d, 256), _e(d, 256), 64, 256, 56 * 56, 32, 1e-5)),
    Case("batch norm", aten._native_batch_norm_legit.default,
         lambda d: (_e(d, 64, 256, 56, 56), _e(d, 256), _e(d, 256), _e(d, 256), _e(d, 256), True,
                    0.1, 1e-5)),
    Case("batch norm in evaluation", aten._native_batch_norm_legit_no_training.default,
         lambda d: (_e(d, 64, 256, 56, 56), _e(d, 256), _e(d, 256), _e(d, 256), _e(d, 256), 0.1,
                    1e-5)),
    Case("nll loss", aten.nll_loss_forward.default,
         lambda d: (_e(d, 8192, 50304), _ints(8192), None, 1, -100)),
    Case("nll loss, each", aten.nll_loss_forward.default,
         lambda d: (_e(d, 8192, 50304), _ints(8192), _e(d, 50304), 0, -100)),
    Case("nll loss backward", aten.nll_loss_backward.default,
         lambda d: (_e(d), _e(d, 8192, 50304), _ints(8192), None, 1, -100, _e(d))),
    Case("sum", aten.sum.default, lambda d: (_e(d, 8192, 4096),)),
    Case("sum of rows", aten.sum.dim_IntList, lambda d: (_e(d, 8192, 4096), [1], True)),
    Case("sum of columns", aten.sum.dim_IntList, lambda d: (_e(d, 8192, 4096), [0], True)),
    Case("mean", aten.mean.default, lambda d: (_e(d, 8192, 4096),)),
    Case("mean of pixels", aten.mean.dim, lambda d: (_e(d, 64, 2048, 7, 7), [2, 3], True)),
    Case("2-norm", aten.linalg_vector_norm.default, lambda d: (_e(d, 4096, 1024), 2)),
    Case("maximum norm", aten.linalg_vector_norm.default,
         lambda d: (_e(d, 4096, 1024), float("inf"))),
    Case("amax", aten.amax.default, lambda d: (_e(d, 8192, 4096), [1])),
    Case("amin of columns", aten.amin.default, lambda d: (_e(d, 8192, 4096), [0])),
    Case("any", aten.any.default, lambda d: (_e(d, 8192, 4096),)),
    Case("count_nonzero", aten.count_nonzero.dim_IntList, lambda d: (_e(d, 8192, 4096), [1])),
    Case("convolution", aten.convolution.default,
         lambda d: (_e(d, 64, 64, 56, 56), _e(d, 64, 64, 3, 3), _e(d, 64), [1, 1], [1, 1], [1, 1],
                    False, [0, 0], 1)),
    Case("convolution backward", aten.convolution_backward.default,
         lambda d: (_e(d, 64, 64, 56, 56), _e(d, 64, 64, 56, 56), _e(d, 64, 64, 3, 3), [64], [1, 1],
                    [1, 1], [1, 1], False, [0, 0], 1, [True, True, True])),
    Case("flash attention", aten._scaled_dot_product_flash_attention.default,
         lambda d: (*_attention(d), 0.0, True), (HALF,)),
    Case("flash attention backward", aten._scaled_dot_product_flash_attention_backward.default,
         _flash_backward, (HALF,)),
    Case("efficient attention", aten._scaled_dot_product_efficient_attention.default,
         lambda d: (*_attention(d), None, True, 0.0, True), (SINGLE,)),
    Case("efficient attention backward",
         aten._scaled_dot_product_efficient_attention_backward.default, _efficient_backward,
         (SINGLE,)),
)


def _chain(chain: str, sms: Tensor, reports: Tensor) -> None:
    from sdc_guard_kernels import sm_witness

    sm_witness._chain_launch(chain, torch.device("cpu"))(132, sms, reports, 4, True)


def direct_launches() -> list[tuple[str, Callable[[], object]]]:
    """Launches that no op makes: comparisons of bits, fingerprints, probes."""
    from sdc_guard_kernels import accumulator_probe, bit_compare, fingerprint, sm_witness

    found: list[tuple[str, Callable[[], object]]] = []
    for d in (HALF, SINGLE):
        name = str(d).removeprefix("torch.")
        x = _e(d, 8192, 4096)
        record = torch.empty(2, dtype=torch.int64)
        found += [
            (f"comparison of bits, {name}", partial(bit_compare.compare_bits, x, x, record)),
            (f"comparison of transposed bits, {name}",
             partial(bit_compare.compare_bits, x, _e(d, 4096, 8192).t(), record)),
            (f"fingerprint, {name}", partial(fingerprint.word_sums, x)),
            (f"paired dots, {name}",
             partial(accumulator_probe.paired_dots, _e(d, 256, 64), _e(d, 256, 64)))]
    sms, reports = torch.empty(132, dtype=torch.int32), torch.empty(132, 4, dtype=torch.int64)
    for chain in ("float32", "float64", "int32"):
        found.append((f"chain of {chain}", partial(_chain, chain, sms, reports)))
    bits = torch.empty(sm_witness.SEEDS, sm_witness.TILE, sm_witness.TILE, dtype=torch.int32)
    for chain, d in sm_witness._DOTS.items():
        x = torch.empty(bits.shape, dtype=d)
        # Not by `_dot_launch`, which asks a CPU for what its interpreter can do.
        found.append((f"dots of {chain}", partial(
            sm_witness._dot_kernel[(132,)], x, x, bits, sms, reports,
            REPEATS=sm_witness.REPEATS, DEPTH=sm_witness.DOT_DEPTH, TILE=sm_witness.TILE,
            SEEDS=sm_witness.SEEDS, PRECISION="tf32" if chain == "tf32" else "ieee",
            READS_SM=True, WIDEN=False)))
    return found
