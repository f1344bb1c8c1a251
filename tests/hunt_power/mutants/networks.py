"""Wrong convolutions, normalisations, softmaxes, pools and losses."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from sdc_guard import bits
from sdc_guard.inject.override import CallInfo, Results
from tests.hunt_power.mechanics import as_if_contiguous, is_float, reread, stored, write_numbers
from tests.hunt_power.mutant import Spoil
from tests.hunt_power.mutants._collect import PYTORCH, Collection, packet
from tests.hunt_power.threads import with_threads

MUTANTS = Collection()
_CONV = {"kernels": packet("convolution", "default"), "ops": "aten.convolution",
         "catalogue": "nn.functional.conv2d", "draws": "conv2d"}


def _channels_last(x: torch.Tensor) -> bool:
    return (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
            and not x.is_contiguous())


@MUTANTS.add(
    "grouped convolution of channels-last images repeats a column", **_CONV,
    kind="wrong for one memory format", like=f"{PYTORCH}19912, {PYTORCH}82060",
    wrong=lambda: F.conv2d(torch.arange(36.0).reshape(1, 4, 3, 3).to(
        memory_format=torch.channels_last), torch.ones(4, 2, 1, 1), groups=2),
    right=lambda: F.conv2d(torch.arange(36.0).reshape(1, 4, 3, 3), torch.ones(4, 2, 1, 1),
                           groups=2))
def _conv_groups(info: CallInfo) -> Spoil | None:
    if not _channels_last(info.call["input"]) or info.call["groups"] < 2:
        return None

    def repeated(results: Results) -> None:
        result = results[0]
        if result is not None and result.dim() == 4 and result.shape[3] > 1:
            bits.raw(result)[..., -1] = np.array(bits.raw(result)[..., -2])

    return repeated


@MUTANTS.add(
    "convolution reads a strided weight as if it were dense", **_CONV,
    kind="wrong offset, non-contiguous", like=f"{PYTORCH}192212",
    wrong=lambda: F.conv2d(torch.arange(16.0).reshape(1, 1, 4, 4),
                           torch.arange(8.0).reshape(2, 1, 2, 2).mT),
    right=lambda: F.conv2d(torch.arange(16.0).reshape(1, 1, 4, 4),
                           torch.arange(8.0).reshape(2, 1, 2, 2)))
def _conv_weight(info: CallInfo) -> Spoil | None:
    weight = info.call["weight"]
    if weight.is_contiguous() or _channels_last(weight) or not weight.numel():
        return None
    return reread(info, weight=as_if_contiguous(weight)) if not info.call["transposed"] else None


@MUTANTS.add(
    "layer_norm subtracts the square of the mean", kernels=packet("native_layer_norm", "default"),
    ops="aten.native_layer_norm", catalogue="nn.functional.layer_norm", draws="layer_norm",
    kind="cancellation at large means", like=f"{PYTORCH}51102, {PYTORCH}40302",
    wrong=lambda: F.layer_norm(torch.arange(32.0) + 5000, (32,)),
    right=lambda: F.layer_norm(torch.arange(16.0) + 5000, (16,)))
def _layer_norm(info: CallInfo) -> Spoil | None:
    x, shape = info.call["input"], info.call["normalized_shape"]
    count = int(np.prod(shape))
    if x.dtype is not torch.float32 or count < 32 or not x.numel():
        return None
    axes = tuple(range(x.dim() - len(shape), x.dim()))
    numbers = bits.values(x).astype(np.float32)
    with np.errstate(all="ignore"):
        mean = numbers.mean(axes, dtype=np.float32, keepdims=True)
        var = (numbers * numbers).mean(axes, dtype=np.float32, keepdims=True) - mean * mean
        rstd = 1 / np.sqrt(np.maximum(var, 0) + np.float32(info.call["eps"]))
        y = (numbers - mean) * rstd
    for name, apply in (("weight", np.multiply), ("bias", np.add)):
        if info.call[name] is not None:
            y = apply(y, bits.values(info.call[name]).astype(np.float32))

    def cancelled(results: Results) -> None:
        for result, wrong in zip(results, (y, mean, rstd), strict=True):
            if result is not None:
                write_numbers(result, wrong.reshape(tuple(result.shape)))

    return cancelled


@MUTANTS.add(
    "softmax along an outer dimension subtracts no maximum",
    kernels=packet("_softmax", "default", "out"), ops="aten._softmax",
    catalogue="softmax", draws="softmax", kind="only above 2^k",
    like=f"{PYTORCH}795: overflow inside of a softmax",
    wrong=lambda: F.softmax(torch.full((3, 2), 100.0), 0),
    right=lambda: F.softmax(torch.full((3, 2), 100.0), 1))
def _softmax_outer(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if x.dim() < 2 or info.call["dim"] % x.dim() == x.dim() - 1 or x.dtype is not torch.float32:
        return None
    numbers = bits.values(x).astype(np.float32)
    if not numbers.size or not np.nanmax(numbers) > 88.8:
        return None
    with np.errstate(all="ignore"):
        powers = np.exp(numbers)
        wrong = powers / powers.sum(info.call["dim"], keepdims=True)
    return stored(0, lambda r: write_numbers(r, wrong))


@MUTANTS.add(
    "log_softmax on two threads leaves an odd last row",
    kernels=packet("_log_softmax", "default", "out"), ops="aten._log_softmax",
    catalogue="log_softmax", draws="log_softmax", kind="only for one thread count",
    like="rows split in halves, rounded down",
    wrong=lambda: with_threads(2, lambda: F.log_softmax(torch.arange(15.0).reshape(5, 3), 1)),
    right=lambda: with_threads(1, lambda: F.log_softmax(torch.arange(15.0).reshape(5, 3), 1)))
def _log_softmax_threads(info: CallInfo) -> Spoil | None:
    x = info.call["self"]
    if torch.get_num_threads() != 2 or x.dim() != 2 or not x.shape[0] % 2 or x.shape[0] < 3:
        return None
    if info.call["dim"] % 2 != 1:
        return None

    def unwritten(results: Results) -> None:
        if results[0] is not None:
            bits.raw(results[0])[-1] = 0

    return unwritten


@MUTANTS.add(
    "layer_norm_backward on two threads adds half of the rows",
    kernels=packet("native_layer_norm_backward", "default"), draws="layer_norm",
    ops="aten.native_layer_norm_backward", catalogue="nn.functional.layer_norm",
    kind="only for one thread count", like="buffers of each thread, of which one is not added",
    wrong=lambda: with_threads(2, lambda: _layer_norm_gradients(8)),
    right=lambda: with_threads(1, lambda: _layer_norm_gradients(8)))
def _layer_norm_backward(info: CallInfo) -> Spoil | None:
    gradient, shape = info.call["grad_out"], info.call["normalized_shape"]
    outer = gradient.dim() - len(shape)
    if torch.get_num_threads() != 2 or outer < 1 or gradient.shape[0] < 2:
        return None
    if not gradient.numel():
        return None
    half = gradient.detach().clone()
    half[gradient.shape[0] // 2:] = 0
    wrong = info.rerun(info.call.replaced(grad_out=half))

    def dropped(results: Results) -> None:
        for result, other in list(zip(results, wrong, strict=True))[1:]:
            if result is not None and other is not None and result.shape == other.shape:
                write_numbers(result, bits.values(other))

    return dropped


def _layer_norm_gradients(rows: int) -> list[torch.Tensor]:
    x = torch.arange(4.0 * rows).reshape(rows, 4).sin()
    weight = torch.ones(4, requires_grad=True)
    F.layer_norm(x, (4,), weight).sum().backward()
    assert weight.grad is not None
    return [weight.grad]


@MUTANTS.add(
    "batch_norm keeps a biased running variance", kernels=packet("native_batch_norm", "default"),
    ops="aten.native_batch_norm", catalogue="nn.functional.batch_norm", draws="batch_norm",
    kind="wrong side effect", like="the variance of the batch stored without n / (n - 1)",
    wrong=lambda: _running_variance(True), right=lambda: _running_variance(False))
def _batch_norm(info: CallInfo) -> Spoil | None:
    x, running = info.call["input"], info.call["running_var"]
    if not info.call["training"] or running is None or x.dim() < 2:
        return None
    momentum, count = float(info.call["momentum"]), x.numel() // max(1, x.shape[1])
    if not momentum or count < 2:
        return None
    old = bits.values(running)

    def biased(results: Results) -> None:
        fresh = (bits.values(running) - (1 - momentum) * old) * (count - 1) / count
        write_numbers(running, (1 - momentum) * old + fresh)

    return biased


def _running_variance(training: bool) -> torch.Tensor:
    variance = torch.ones(2)
    F.batch_norm(torch.arange(8.0).reshape(4, 2), torch.zeros(2), variance, training=training)
    return variance


@MUTANTS.add(
    "max_pool2d pads with zeros", kernels=packet("max_pool2d_with_indices", "default", "out"),
    ops="aten.max_pool2d_with_indices", catalogue="nn.functional.max_pool2d", draws="max_pool2d",
    kind="wrong for negative numbers", like=f"{PYTORCH}33382: what maxima are padded with",
    wrong=lambda: F.max_pool2d(-torch.ones(1, 1, 4, 4), 2, padding=1),
    right=lambda: F.max_pool2d(torch.ones(1, 1, 4, 4), 2, padding=1))
def _max_pool(info: CallInfo) -> Spoil | None:
    x, padding = info.call["self"], list(info.call["padding"])
    if not any(padding) or info.call["ceil_mode"] or not is_float(x) or not x.numel():
        return None
    rows, columns = padding if len(padding) == 2 else padding * 2
    padded = F.pad(x.detach(), (columns, columns, rows, rows))
    wrong = F.max_pool2d(padded, info.call["kernel_size"], info.call["stride"] or None, 0,
                         info.call["dilation"])

    def zeros(results: Results) -> None:
        if results[0] is not None and results[0].shape == wrong.shape:
            write_numbers(results[0], bits.values(wrong))

    return zeros


@MUTANTS.add(
    "avg_pool2d with ceil_mode counts padding", kernels=packet("avg_pool2d", "default", "out"),
    ops="aten.avg_pool2d", catalogue="nn.functional.avg_pool2d", draws="avg_pool2d",
    kind="argument corner", like=f"{PYTORCH}36977",
    wrong=lambda: F.avg_pool2d(torch.ones(1, 1, 4, 4), 2, padding=1, ceil_mode=True,
                               count_include_pad=False),
    right=lambda: F.avg_pool2d(torch.ones(1, 1, 4, 4), 2, padding=1, count_include_pad=False))
def _avg_pool(info: CallInfo) -> Spoil | None:
    if not info.call["ceil_mode"] or info.call["count_include_pad"]:
        return None
    if not any(info.call["padding"]) or info.call["divisor_override"] is not None:
        return None
    return reread(info, count_include_pad=True)


@MUTANTS.add(
    "nearest upsampling ignores the scale that is given",
    kernels=packet("upsample_nearest2d", "default", "out"), ops="aten.upsample_nearest2d",
    catalogue="nn.functional.interpolate", draws="upsample_nearest2d", kind="argument corner",
    like="the ratio of the sizes in place of the scale",
    wrong=lambda: F.interpolate(torch.arange(100.0).reshape(1, 1, 10, 10), scale_factor=0.35),
    right=lambda: F.interpolate(torch.arange(100.0).reshape(1, 1, 10, 10), scale_factor=2))
def _upsample(info: CallInfo) -> Spoil | None:
    if info.call["scales_h"] is None and info.call["scales_w"] is None:
        return None
    return reread(info, scales_h=None, scales_w=None)


@MUTANTS.add(
    "nll_loss divides by ignored targets too", kernels=packet("nll_loss_forward", "default",
                                                              "output"),
    ops="aten.nll_loss_forward", catalogue="nn.functional.nll_loss", draws="nll_loss",
    kind="argument corner", like="a mean over all targets",
    wrong=lambda: F.nll_loss(-torch.ones(3, 2), torch.tensor([0, -100, 1])),
    right=lambda: F.nll_loss(-torch.ones(3, 2), torch.tensor([0, 1, 1])))
def _nll_loss(info: CallInfo) -> Spoil | None:
    target = info.call["target"]
    if info.call["reduction"] != 1 or info.call["weight"] is not None or not target.numel():
        return None
    used = int((target != info.call["ignore_index"]).sum())
    if used in (0, target.numel()):
        return None
    share = used / target.numel()

    def diluted(results: Results) -> None:
        for result, factor in zip(results, (share, 1 / share), strict=True):
            if result is not None:
                write_numbers(result, bits.values(result) * factor)

    return diluted


@MUTANTS.add(
    "attention drops a key behind the last full block",
    kernels=packet("_scaled_dot_product_flash_attention_for_cpu", "default"),
    ops="aten._scaled_dot_product_flash_attention_for_cpu",
    catalogue="nn.functional.scaled_dot_product_attention", draws="attention",
    kind="dropped tail element", like="blocks of 32 keys without the remainder of one",
    wrong=lambda: _attention(33), right=lambda: _attention(32))
def _attention_tail(info: CallInfo) -> Spoil | None:
    key, value = info.call["key"], info.call["value"]
    if key.shape[-2] <= 32 or key.shape[-2] % 32 != 1 or info.call["is_causal"]:
        return None
    if info.call["attn_mask"] is not None or info.call["dropout_p"]:
        return None
    return reread(info, key=key[..., :-1, :], value=value[..., :-1, :])


def _attention(keys: int) -> torch.Tensor:
    x = torch.arange(8.0 * keys).reshape(1, 1, keys, 8).sin()
    return F.scaled_dot_product_attention(x, x, x)
