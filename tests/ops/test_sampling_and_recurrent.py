"""Broken kernels of interpolation, sampling, recurrent layers, CTC and pools are seen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.ops import lookup, lstm_layer

aten = torch.ops.aten


@contextmanager
def broken_kernel(name: str, kernel: Any) -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():  # torch warns of the first override in a process alone
            warnings.simplefilter("ignore", UserWarning)
            library.impl(name, kernel, "CPU")
        yield
    finally:
        library._destroy()


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def lstm_operands() -> tuple[Any, ...]:
    steps, batch, inputs, hidden = 6, 3, 5, 7
    weights = [0.3 * drawn(4 * hidden, inputs), 0.3 * drawn(4 * hidden, hidden),
               drawn(4 * hidden), drawn(4 * hidden)]
    return (drawn(steps, batch, inputs), *weights, drawn(batch, hidden), drawn(batch, hidden),
            False, [], 2, hidden, 1, True, False, False, True)


PROBABILITIES = drawn(9, 2, 5).log_softmax(-1)
CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "upsample_bicubic2d": (aten.upsample_bicubic2d.default, (drawn(2, 3, 7, 5), [9, 12], False)),
    "_upsample_bicubic2d_aa": (
        aten._upsample_bicubic2d_aa.default, (drawn(2, 3, 17, 15), [9, 4], False)),
    "_upsample_bilinear2d_aa_backward": (
        aten._upsample_bilinear2d_aa_backward.default,
        (drawn(2, 3, 9, 4), [9, 4], [2, 3, 17, 15], False)),
    "grid_sampler_2d": (
        aten.grid_sampler_2d.default, (drawn(2, 3, 7, 5), drawn(2, 4, 6, 2), 0, 1, False)),
    "grid_sampler_2d_backward": (
        aten.grid_sampler_2d_backward.default,
        (drawn(2, 3, 4, 6), drawn(2, 3, 7, 5), drawn(2, 4, 6, 2), 2, 0, False, [True, True])),
    "mkldnn_rnn_layer": (aten.mkldnn_rnn_layer.default, lstm_operands()),
    "_ctc_loss": (aten._ctc_loss.default,
                  (PROBABILITIES, torch.tensor([[1, 2], [3, 3]]), [9, 8], [2, 2])),
    "max_unpool2d": (aten.max_unpool2d.default,
                     (drawn(1, 2, 2, 2), torch.arange(4).view(1, 1, 2, 2).expand(1, 2, 2, 2) * 3,
                      [4, 4])),
    "fractional_max_pool2d": (aten.fractional_max_pool2d.default,
                              (drawn(1, 2, 7, 8), [2, 2], [4, 3], torch.rand(1, 2, 2))),
}


def judged(op: Any, args: tuple[Any, ...], held: tuple[Tensor, ...]) -> bool:
    form = form_of(op)
    call = BoundCall(form, form.bind(args, {}))
    spec = lookup(form.packet)
    assert spec is not None
    return bool(full_reference(make_plan(spec, call, held), call, held))


def flat(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


@pytest.mark.parametrize("name", CALLS)
def test_a_kernel_that_is_off_in_one_element_is_seen(name: str) -> None:
    op, args = CALLS[name]
    right = flat(op(*args))
    assert not judged(op, args, right)

    def wrong(*given: Any, **named: Any) -> Any:
        first = right[0].clone()
        first.view(-1)[first.numel() // 2] += 2.0**-9
        return (first, *right[1:]) if len(right) > 1 else first

    with broken_kernel(name, wrong):
        assert judged(op, args, flat(op(*args)))


@pytest.fixture
def no_bf16_layer() -> Iterator[None]:
    """As oneDNN answers on a CPU without AVX-512."""
    def refuse(input: Tensor, *rest: Any) -> Any:
        raise RuntimeError("could not create a primitive descriptor")

    lstm_layer.computes.cache_clear()
    with broken_kernel("mkldnn_rnn_layer", refuse):
        yield
    lstm_layer.computes.cache_clear()


@pytest.mark.usefixtures("no_bf16_layer")
@pytest.mark.parametrize("packet", ["aten.mkldnn_rnn_layer", "aten.mkldnn_rnn_layer_backward"])
def test_a_layer_that_this_cpu_does_not_have_has_no_samples(packet: str) -> None:
    spec = lookup(packet)
    assert spec is not None
    assert spec.samples is not None
    assert spec.samples(torch.Generator(), torch.bfloat16) == []


def test_a_sampled_point_one_element_further_is_seen() -> None:
    op, args = CALLS["grid_sampler_2d"]
    moved = (torch.roll(args[0], 1, -1), *args[1:])
    assert judged(op, args, flat(op(*moved)))


def test_an_output_of_an_earlier_step_is_seen() -> None:
    op, args = CALLS["mkldnn_rnn_layer"]
    output, *rest = op(*args)
    stale = output.clone()
    stale[3] = output[2]
    assert judged(op, args, (stale, *rest))


def test_an_fp64_image_keeps_the_coordinates_that_torch_floors_in_fp32() -> None:
    x = torch.randn(1, 1, 5000, dtype=torch.float64)
    y = F.interpolate(x, size=9999, mode="linear")
    assert not judged(aten.upsample_linear1d.default, (x, [9999], False), (y,))


def test_a_column_of_width_one_that_torch_resizes_wrongly_is_seen() -> None:
    """torch 2.13 on a CPU; a version that computes it rightly passes too."""
    x = torch.arange(6.0).view(1, 1, 6, 1)
    right = F.interpolate(x.mT, size=(1, 3), mode="bilinear", antialias=True).mT
    got = F.interpolate(x, size=(3, 1), mode="bilinear", antialias=True)
    args = (x, [3, 1], False)
    assert not judged(aten._upsample_bilinear2d_aa.default, args, (right,))
    off = bool((got - right).abs().max() > 0.5)
    assert judged(aten._upsample_bilinear2d_aa.default, args, (got,)) == off
