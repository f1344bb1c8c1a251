"""A training step in which Triton kernels, in the interpreter, take the place of the host's
witnesses: forward, backward and optimizer.  They say nothing of a right step and find a fault."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import sdc_guard
from sdc_guard import Verdict
from sdc_guard.calls import form_of
from sdc_guard.inject import TransientFlip
from sdc_guard.records import OpCoverage
from tests.fidelity.models import bits_of

aten = torch.ops.aten
WIDTH, HEADS, TOKENS, VOCABULARY = 8, 2, 5, 11


class TinyGPT(nn.Module):
    """One block of a GPT."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.before = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = self.embed(tokens_BT)
        batch, length, width = x.shape
        qkv = self.qkv(self.before(x)).view(batch, length, 3, HEADS, width // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(x + self.out(mixed.transpose(1, 2).reshape(batch, length, width)))


class Training:
    """The same step each time it is made anew."""

    def __init__(self, *, half: bool = False) -> None:
        torch.manual_seed(1)
        self.model = TinyGPT()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.tokens_BT = torch.randint(0, VOCABULARY, (2, TOKENS + 1))
        self.half = half

    def step(self) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            logits = self.model(self.tokens_BT[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), self.tokens_BT[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def guard(model: nn.Module, **options: object) -> sdc_guard.Guard:
    """Kernels alone: no replay, nothing by NumPy unless a kernel doubts."""
    return sdc_guard.Guard(budget="all", kernels="always", witnesses=("kernel",),
                           model=model, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_a_right_step_is_checked_by_kernels_and_not_changed(half: bool) -> None:
    plain, guarded = Training(half=half), Training(half=half)
    plain.step()
    with guard(guarded.model) as g:
        guarded.step()
    assert not g.findings
    assert g.coverage.guard_errors == 0
    assert bits_of(list(plain.model.parameters())) == bits_of(list(guarded.model.parameters()))
    by_op = {op.op: op for op in g.coverage.ops}
    for name in ("aten.addmm", "aten.mm", "aten.sum", "aten.native_layer_norm",
                 "aten.native_layer_norm_backward", "aten._log_softmax",
                 "aten._log_softmax_backward_data"):
        assert by_op[name].calls_checked == by_op[name].calls, name
    assert _all_by_kernels(list(by_op.values()))
    products = by_op["aten.mm"]
    assert products.witnesses["kernel checksum"] == products.calls


def _all_by_kernels(ops: list[OpCoverage]) -> bool:
    return all(name.startswith("kernel ") for op in ops for name in op.witnesses)


FAULTS = {
    "forward product": (aten.addmm.default, 1, 0),
    "backward product": (aten.mm.default, 2, 0),
    "sum of a gradient": (aten.sum.dim_IntList, 0, 0),
    "norm": (aten.native_layer_norm.default, 0, 0),
    "its parameters' gradient": (aten.native_layer_norm_backward.default, 0, 1),
    "probabilities": (aten._log_softmax.default, 0, 0),
    "their gradient": (aten._log_softmax_backward_data.default, 0, 0),
    "norm of a gradient, before the optimizer": (aten.linalg_vector_norm.default, 3, 0),
}
SEEN_AS = {aten.linalg_vector_norm.default: "aten._foreach_norm.Scalar"}
"""A kernel that another operator calls, once per tensor of its list."""


QUICK = ("backward product", "sum of a gradient", "norm of a gradient, before the optimizer")


@pytest.mark.parametrize("place", [
    place if place in QUICK else pytest.param(place, marks=pytest.mark.slow) for place in FAULTS])
def test_a_fault_is_found_before_the_optimizer_steps(place: str) -> None:
    op, call_number, output = FAULTS[place]
    training = Training()
    before = bits_of(list(training.model.parameters()))
    flip = TransientFlip(op, call_number, output=output, flat_index=0, bit=29)
    with guard(training.model, on_finding="skip") as g, flip:
        training.step()
    assert flip.injected, "the fault struck nothing"
    (finding,) = g.findings
    assert finding.verdict is Verdict.CORRUPTION
    assert finding.op == SEEN_AS.get(op, str(op))
    assert finding.worst is not None
    assert finding.worst.output == (output if op not in SEEN_AS else call_number)
    assert bits_of(list(training.model.parameters())) == before, "the corrupt step was applied"
    assert g.coverage.steps_skipped == 1


def test_without_the_kernels_nobody_would_have_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above could not fail if something else found the fault."""
    from sdc_guard.ops import _registry, lookup

    spec = lookup("aten.addmm")
    assert spec is not None
    assert spec.packet == form_of(aten.addmm.default).packet
    monkeypatch.setitem(_registry._SPECS, "aten.addmm", dataclasses.replace(spec, kernel=None))
    training = Training()
    flip = TransientFlip(aten.addmm.default, 1, flat_index=0, bit=29)
    with guard(training.model) as g, flip:
        training.step()
    assert flip.injected
    assert not g.findings


def test_a_gradient_that_nobody_asked_for_is_no_error() -> None:
    """Of a first layer: the gradient of its input is masked out."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3)
    image = torch.randn(1, 2, 5, 5)
    with guard(layer) as g:
        layer(image).sum().backward()
    assert g.coverage.guard_errors == 0
    assert not g.findings
    (backward,) = [op for op in g.coverage.ops if op.op == "aten.convolution_backward"]
    assert backward.witnesses == {"kernel sample": 1}
