"""Fused optimizer steps: ``_fused_adamw_``, ``_fused_adam_``, ``_fused_adagrad_``, ``_fused_sgd_``.

The reference is the update formula in float64 (Loshchilov and Hutter 2019, algorithm 2; Kingma and
Ba 2015, algorithm 1; Duchi, Hazan and Singer 2011; ``torch.optim`` documentation), and the bound
its running error analysis (:mod:`sdc_guard.bounds.tracked`) in the computing format: one rounding
per operation, scalars rounded once.  Two forms of decay and of the moving average are in use
(``p (1 - lr wd)`` and ``p - lr wd p``; ``m + (1 - b) (g - m)`` and ``b m + (1 - b) g``); the
analysis takes for each the larger error.  Bias corrections are computed in double.

Results are lists in schema order: parameters, gradients (written where ``grad_scale`` is given),
moments. With ``found_inf`` nothing may change.

Place: list elements are independent, see :mod:`sdc_guard.ops._lists`.

``_fused_sgd_`` of bf16 and fp16 on CPU is wrong in torch up to 2.13: whole vectors are not updated
and momenta are read through pointers of the wrong width (pytorch issue 191763).  The reference says
so. There are no samples for it, because a sample is a call whose result is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.tracked import Tracked
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, format_of, is_covered_float
from sdc_guard.ops._lists import list_axes, list_symmetries
from sdc_guard.ops._pointwise import Array, compute_format
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values

aten = torch.ops.aten

CHUNK = 65536
"""Elements evaluated at once: the intermediates stay in the cache."""

FORMULA = "running error analysis of the update, one rounding per operation"
Step = dict[str, Tracked]


def _number(value: Any) -> float:
    return float(bits.values(value)) if isinstance(value, Tensor) else float(value)


def _average(old: Tracked, new: Tracked, beta: float, fmt: Format) -> Tracked:
    """``b old + (1 - b) new``, by either of the two forms."""
    b, rest = Tracked.scalar(beta, fmt), Tracked.scalar(1 - beta, fmt)
    blend = b * old + rest * new
    moved = old + rest * (new - old)
    settled = new - (new - old) * b
    error = np.maximum(np.maximum(blend.error, moved.error), settled.error)
    return Tracked(blend.value, error, fmt)


def _decayed(p: Tracked, lr: float, decay: float, fmt: Format) -> Tracked:
    """``p (1 - lr wd)`` or ``p - lr wd p``; the factor is formed in double or in the format."""
    rate = Tracked.scalar(lr, fmt) * Tracked.scalar(decay, fmt)
    inside = p * (Tracked.exact(1.0, fmt) - rate)
    outside = p - rate * p
    return Tracked(inside.value, np.maximum(inside.error, outside.error), fmt)


def _gradient(call: HostCall, g: Array, own: Format, fmt: Format) -> tuple[Tracked, Tracked]:
    """The gradient that the step uses, and the one that it leaves behind."""
    gradient = Tracked.exact(g, fmt)
    left = gradient
    if call["grad_scale"] is not None:
        gradient = gradient / Tracked.exact(_number(call["grad_scale"]), fmt)
        left = gradient.stored(own)
        gradient = Tracked(gradient.value, np.maximum(gradient.error, left.error), fmt)
    return (-gradient if call["maximize"] else gradient), left


def _adam(call: HostCall, decoupled: bool, own: Format, step: float, x: dict[str, Array]) -> Step:
    """One update of a chunk; keys are the names of the list arguments."""
    fmt = compute_format(own)
    lr, decay = _number(call["lr"]), float(call["weight_decay"])
    beta1, beta2, eps = (float(call[k]) for k in ("beta1", "beta2", "eps"))
    p = Tracked.exact(x["self"], fmt)
    gradient, left = _gradient(call, x["grads"], own, fmt)
    if decay and decoupled:
        p = _decayed(p, lr, decay, fmt)
    elif decay:
        gradient = gradient + p * Tracked.scalar(decay, fmt)
    m = _average(Tracked.exact(x["exp_avgs"], fmt), gradient, beta1, fmt)
    v_old, b2 = Tracked.exact(x["exp_avg_sqs"], fmt), Tracked.scalar(beta2, fmt)
    square = Tracked.scalar(1 - beta2, fmt) * gradient * gradient
    v = _average(v_old, gradient * gradient, beta2, fmt)
    direct = b2 * v_old + square
    v = Tracked(direct.value, np.maximum(v.error, direct.error), fmt)
    result = {"exp_avgs": m.stored(own), "exp_avg_sqs": v.stored(own), "grads": left}
    if call["amsgrad"]:
        v = v.maximum(Tracked.exact(x["max_exp_avg_sqs"], fmt))
        result["max_exp_avg_sqs"] = v.stored(own)
    root = v.sqrt() / Tracked.scalar(np.sqrt(1 - beta2**step), fmt)
    denominator = root + Tracked.scalar(eps, fmt)
    rate = Tracked.scalar(lr / (1 - beta1**step), fmt)
    first = rate * m / denominator
    second = rate * (m / denominator)
    update = Tracked(first.value, np.maximum(first.error, second.error), fmt)
    result["self"] = (p - update).stored(own)
    return result


def _sgd(call: HostCall, own: Format, x: dict[str, Array]) -> Step:
    """One update of a chunk of plain or momentum descent."""
    fmt = compute_format(own)
    decay, momentum = float(call["weight_decay"]), float(call["momentum"])
    p = Tracked.exact(x["self"], fmt)
    gradient, left = _gradient(call, x["grads"], own, fmt)
    result = {"grads": left}
    if decay:
        gradient = gradient + p * Tracked.scalar(decay, fmt)
    if "momentum_buffer_list" in x:
        buffer = gradient
        if not call["is_first_step"]:
            kept = Tracked.scalar(momentum, fmt) * Tracked.exact(x["momentum_buffer_list"], fmt)
            buffer = kept + gradient * Tracked.scalar(1 - float(call["dampening"]), fmt)
        result["momentum_buffer_list"] = buffer.stored(own)
        ahead = gradient + buffer * Tracked.scalar(momentum, fmt)
        gradient = ahead if call["nesterov"] else buffer
    result["self"] = (p - Tracked.scalar(_number(call["lr"]), fmt) * gradient).stored(own)
    return result


def _either(value: float, own: Format, fmt: Format) -> Tracked:
    """A number that one kernel rounds to the operands' format and another to its own: of the half
    formats of ``FusedAdagradKernel.cpp`` the vector body does the first, the scalar tail not."""
    apart = float(np.abs(nearest(value, own) - value))
    return Tracked(np.asarray(value), np.asarray(apart + abs(value) * fmt.u), fmt)


def _adagrad(call: HostCall, own: Format, step: float, x: dict[str, Array]) -> Step:
    """One update of a chunk; the rate ``lr / (1 + (t - 1) lr_decay)`` is formed in double."""
    fmt = compute_format(own)
    decay, lr = float(call["weight_decay"]), _number(call["lr"])
    p = Tracked.exact(x["self"], fmt)
    gradient, left = _gradient(call, x["grads"], own, fmt)
    if decay:
        gradient = gradient + p * _either(decay, own, fmt)
    total = Tracked.exact(x["state_sums"], fmt) + gradient * gradient
    denominator = total.sqrt() + _either(float(call["eps"]), own, fmt)
    rate = _either(lr / (1 + (step - 1) * float(call["lr_decay"])), own, fmt)
    first = rate * gradient / denominator
    second = rate * (gradient / denominator)
    update = Tracked(first.value, np.maximum(first.error, second.error), fmt)
    return {"self": (p - update).stored(own), "grads": left, "state_sums": total.stored(own)}


def _written(call: BoundCall) -> list[str]:
    return [call.form.argument_names[i] for i in call.form.overwrites]


def _references(call: HostCall, update: Any) -> Iterator[Reference | None]:
    """References in the order of the flat results: list after list."""
    names = [n for n in _written(call.call) if len(call[n])]
    skipped = call["found_inf"] is not None and _number(call["found_inf"]) == 1
    found: dict[tuple[str, int], Reference | None] = {}
    for j, parameter in enumerate(call["self"]):
        if not is_covered_float(parameter.dtype):
            found |= {(n, j): None for n in names}
            continue
        x = {n: bits.values(call[n][j]) for n in names}
        if skipped:
            found |= {(n, j): Reference(x[n], 0.0, 0.0, "found_inf: unchanged") for n in names}
            continue
        value = {n: np.empty(x[n].shape) for n in names}
        limit = {n: np.empty(x[n].shape) for n in names}
        own = format_of(parameter.dtype)
        for start in range(0, max(parameter.numel(), 1), CHUNK):
            part = slice(start, start + CHUNK)
            results = update(j, own, {n: x[n].reshape(-1)[part] for n in names})
            for n in names:
                result = results.get(n) or Tracked.exact(x[n].reshape(-1)[part], own)
                value[n].reshape(-1)[part] = result.value
                limit[n].reshape(-1)[part] = result.error
        for n in names:
            same = n == "grads" and call["grad_scale"] is None
            e = np.zeros(x[n].shape) if same else limit[n]
            found[n, j] = Reference(value[n], e, e, FORMULA, np.abs(value[n]))
    for n in names:
        for j in range(len(call["self"])):
            yield found[n, j]


def _register_adam(target: Any, in_place: Any, decoupled: bool) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        def update(j: int, own: Format, x: dict[str, Array]) -> Step:
            return _adam(call, decoupled, own, _number(call["state_steps"][j]), x)

        return tuple(_references(call, update))

    reference.__doc__ = ("AdamW: decoupled weight decay." if decoupled
                         else "Adam: weight decay in the gradient.")
    reference.__module__ = __name__
    checked(target, family="optimizer", axes=list_axes, symmetries=list_symmetries,
            flops=_adam_flops, samples=_adam_samples(in_place))(reference)


def _adam_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """About 16 operations per parameter."""
    return 16 * sum(int(t.numel()) for t in call["self"])


def _parameters(draw: Any) -> list[Tensor]:
    return [draw(9, 40), draw(40, 13).t(), draw(7), draw(700)]


def _adam_samples(target: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw, share = (draw_values(generator, dtype, d) for d in ("any", "positive"))
        options = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "eps": 1e-6,
                   "amsgrad": False, "maximize": False}
        calls: SampleList = []
        for n, changes in ((4, {}), (2, {"amsgrad": True, "maximize": True}),
                           (2, {"weight_decay": 0.0, "grad_scale": torch.tensor(64.0),
                                "found_inf": torch.tensor(0.0)}),
                           (1, {"grad_scale": torch.tensor(64.0), "found_inf": torch.tensor(1.0)}),
                           (2, {"lr": torch.tensor(1e-2)})):
            chosen = {**options, **changes}
            lists = [_parameters(d)[:n] for d in (draw, draw, draw, share, share)]
            if not chosen["amsgrad"]:
                lists[4] = []
            steps = [torch.tensor(float(3 + j)) for j in range(n)]
            op = target.tensor_lr if isinstance(chosen["lr"], Tensor) else target.default
            calls.append((op, (*lists, steps), chosen))
        return calls

    return samples


def _adagrad_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw, share = (draw_values(generator, dtype, d) for d in ("any", "positive"))
    options = {"lr": 1e-2, "lr_decay": 0.3, "weight_decay": 0.1, "eps": 1e-6, "maximize": False}
    calls: SampleList = []
    for n, changes in ((4, {}), (2, {"maximize": True, "lr_decay": 0.0}),
                       (2, {"weight_decay": 0.0, "grad_scale": torch.tensor(64.0),
                            "found_inf": torch.tensor(0.0)}),
                       (1, {"grad_scale": torch.tensor(64.0), "found_inf": torch.tensor(1.0)}),
                       (2, {"lr": torch.tensor(1e-2)})):
        chosen: dict[str, Any] = {**options, **changes}
        lists = [_parameters(d)[:n] for d in (draw, draw, share)]
        steps = [torch.tensor(float(3 + j)) for j in range(n)]
        op = aten._fused_adagrad_.tensor_lr if isinstance(chosen["lr"], Tensor) else (
            aten._fused_adagrad_.default)
        calls.append((op, (*lists, steps), chosen))
    return calls


def _sgd_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS or dtype.itemsize < 4:
        return []
    draw = draw_values(generator, dtype, "any")
    options = {"weight_decay": 0.1, "momentum": 0.9, "lr": 0.05, "dampening": 0.0,
               "nesterov": False, "maximize": False, "is_first_step": False}
    calls: SampleList = []
    for n, changes in ((4, {}), (2, {"nesterov": True, "maximize": True}),
                       (2, {"is_first_step": True}), (2, {"momentum": 0.0, "weight_decay": 0.0}),
                       (2, {"dampening": 0.3, "grad_scale": torch.tensor(8.0),
                            "found_inf": torch.tensor(0.0)})):
        chosen = {**options, **changes}
        lists = [_parameters(draw)[:n] for _ in range(3)]
        if chosen["momentum"] == 0.0:
            lists[2] = []
        calls.append((aten._fused_sgd_.default, tuple(lists), chosen))
    return calls


_register_adam(aten._fused_adamw, aten._fused_adamw_, True)
_register_adam(aten._fused_adam, aten._fused_adam_, False)


@checked(aten._fused_adagrad, family="optimizer", axes=list_axes, symmetries=list_symmetries,
         flops=lambda call, held: 9 * sum(t.numel() for t in call["self"]),
         samples=_adagrad_samples)
def fused_adagrad(call: HostCall) -> tuple[Reference | None, ...]:
    """Adagrad: the rate decays with the step and with the root of the summed squares."""

    def update(j: int, own: Format, x: dict[str, Array]) -> Step:
        return _adagrad(call, own, _number(call["state_steps"][j]), x)

    return tuple(_references(call, update))


@checked(aten._fused_sgd, family="optimizer", axes=list_axes, symmetries=list_symmetries,
         flops=lambda call, held: 6 * sum(t.numel() for t in call["self"]), samples=_sgd_samples)
def fused_sgd(call: HostCall) -> tuple[Reference | None, ...]:
    """Gradient descent with momentum, dampening, Nesterov's step and weight decay."""

    def update(j: int, own: Format, x: dict[str, Array]) -> Step:
        return _sgd(call, own, x)

    return tuple(_references(call, update))
