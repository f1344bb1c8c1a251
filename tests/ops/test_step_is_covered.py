"""Every op that computes numbers in a training step has a spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.calls import form_of
from sdc_guard.demo.model import Gpt, GptConfig
from sdc_guard.ops import all_specs, lookup

CONFIG = GptConfig(width=32, num_layers=1, num_heads=2, context=16, batch_size=2)

NO_NUMBERS = frozenset((
    "aten._local_scalar_dense", "aten._unsafe_view", "aten.alias", "aten.detach", "aten.empty",
    "aten.empty_like", "aten.empty_strided", "aten.expand", "aten.lift_fresh", "aten.permute",
    "aten.select", "aten.slice", "aten.split", "aten.squeeze", "aten.t", "aten.transpose",
    "aten.unbind", "aten.unsqueeze", "aten.view", "profiler._record_function_enter_new",
    "profiler._record_function_exit",
))
"""Views, memory without values, reads by Python."""


class Recorder(TorchDispatchMode):
    """Notes the packet of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.packets: set[str] = set()

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.packets.add(form_of(op).packet)
        return op(*args, **(kwargs or {}))


class Model(nn.Module):
    """The demo's GPT with dropout, another activation if wanted, and either loss."""

    def __init__(self, loss: str, activation: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.gpt, self.dropout, self.loss = Gpt(CONFIG), nn.Dropout(0.1), loss
        self.activation = activation

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        logits = self.dropout(self.gpt.logits(tokens))
        if self.activation is not None:
            logits = self.activation(logits)
        if self.loss == "objective":
            return self.gpt.objective(logits, targets).mean()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1)


def adamw(**options: Any) -> Any:
    return lambda p: torch.optim.AdamW(p, lr=1e-3, **options)


def sgd(**options: Any) -> Any:
    return lambda p: torch.optim.SGD(p, lr=1e-3, **options)


STEPS: dict[str, dict[str, Any]] = {
    "fp32": {"optimizer": adamw(foreach=False), "loss": "objective"},
    "fp32 foreach, clipped": {"optimizer": adamw(foreach=True, amsgrad=True), "clip": True},
    "fp32 fused": {"optimizer": adamw(fused=True), "activation": F.silu},
    "bf16 autocast": {"optimizer": adamw(foreach=False), "loss": "objective",
                      "autocast": torch.bfloat16},
    "bf16 autocast foreach": {"optimizer": adamw(foreach=True, maximize=True),
                              "autocast": torch.bfloat16},
    "bf16": {"optimizer": adamw(foreach=False, amsgrad=True), "dtype": torch.bfloat16},
    "fp16": {"optimizer": adamw(foreach=True), "dtype": torch.float16, "activation": F.relu},
    "fp16 scaled": {"optimizer": adamw(foreach=False), "autocast": torch.float16, "scaled": True,
                    "clip": True},
    "fp16 scaled fused": {"optimizer": adamw(fused=True), "autocast": torch.float16,
                          "scaled": True},
    "sgd": {"optimizer": sgd(foreach=False, momentum=0.9, nesterov=True, weight_decay=0.1),
            "activation": F.leaky_relu},
    "sgd foreach": {"optimizer": sgd(foreach=True, momentum=0.9, dampening=0.1, maximize=True),
                    "activation": lambda x: F.gelu(x, approximate="tanh")},
    "sgd fused": {"optimizer": sgd(fused=True, momentum=0.9), "activation": torch.tanh},
    "adam": {"optimizer": lambda p: torch.optim.Adam(p, weight_decay=0.1, foreach=True),
             "activation": torch.sigmoid},
    "adam fused": {"optimizer": lambda p: torch.optim.Adam(p, fused=True, amsgrad=True)},
}


def packets_of_two_steps(
    optimizer: Any,
    loss: str = "cross entropy",
    activation: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
    clip: bool = False,
    scaled: bool = False,
) -> set[str]:
    """The second step uses the state that the first one made."""
    torch.manual_seed(0)
    model = Model(loss, activation).to(dtype)
    steps = optimizer(model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    tokens, targets = torch.randint(0, 256, (2, 2, 16))
    with Recorder() as recorder:
        for _ in range(2):
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                value = model(tokens, targets)
            scaler.scale(value).backward()
            if clip:
                scaler.unscale_(steps)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(steps)
            scaler.update()
            steps.zero_grad()
    return recorder.packets


@pytest.mark.parametrize("name", STEPS)
def test_every_numeric_op_of_a_training_step_has_a_spec(name: str) -> None:
    packets = packets_of_two_steps(**STEPS[name])
    assert "aten.embedding" in packets
    missing = sorted(p for p in packets - NO_NUMBERS if lookup(p) is None)
    assert not missing, f"no spec for {', '.join(missing)}"


def test_packets_are_the_names_that_calls_are_looked_up_by() -> None:
    """A spec under an in-place name would never be found."""
    generator = torch.Generator()
    for spec in all_specs():
        for dtype in (torch.float32, torch.int64):
            for op, _, _ in spec.samples(generator, dtype) if spec.samples else ():
                assert form_of(op).packet == spec.packet


def test_views_are_not_among_the_specs() -> None:
    assert not [p for p in NO_NUMBERS if lookup(p) is not None]
