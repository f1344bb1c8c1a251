"""The hunt near a trace: the very shapes and strides, nothing that a hostile trace wants."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.loading import load_templates
from sdc_guard.hunt.materialise import materialise
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.search import search
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.traces import read_templates, templates_of
from sdc_guard.hunt.trial import Literal, Trial
from sdc_guard.inject import KernelOverride
from sdc_guard.inject.override import CallInfo, Results
from sdc_guard.observe.tracing.tracer import Tracer

BOUND = chosen(("bound",))


def step() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8),
                        nn.Linear(8, 20))
    optimizer = torch.optim.AdamW(net.parameters())
    tokens = torch.randint(0, 20, (2, 6))
    target = tokens.flatten().clone()
    target[::3] = -100
    nn.functional.cross_entropy(net(tokens).flatten(0, 1), target).backward()
    optimizer.step()


def trace_of(path: Path, what: Callable[[], object], **options: int) -> Path:
    tracer = Tracer(path, **options)
    tracer.open()
    try:
        what()
    finally:
        tracer.close()
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace_of(tmp_path_factory.mktemp("trained") / "trace.jsonl", step)


def test_every_template_is_taken_by_its_operator_and_draws_like_it_are_right(
    trained: Path
) -> None:
    found = load_templates(trained.parent, traces=(trained,))
    session, diverged = Session(), list[Divergence]()
    for templates in found.by_target.values():
        for template in templates:
            assert not execute(template.trial, record=False).refusal, template.trial.target
        search(session, BOUND, templates, seed=0, examples=8,
               on_divergence=lambda _, divergence: diverged.append(divergence))
    assert not [d.message for d in diverged]
    assert not session.refused
    assert session.checked.total() > 200
    assert {"aten.addmm.default", "aten.gelu.default", "aten.embedding.default",
            "aten.nll_loss_forward.default", "aten.addcdiv_.default"} <= set(found.by_target)


def test_what_must_fit_other_operands_is_hunted_as_a_gradient(trained: Path) -> None:
    found = read_templates(trained)
    by_target = {t.trial.target: t for t in found.templates}
    assert "aten.native_layer_norm_backward.default" not in by_target
    assert any("native_layer_norm_backward" in why and "its gradient" in why
               for why in found.skipped)
    forward = by_target["aten.native_layer_norm.default"].trial
    assert forward.backward
    ran = [o.call.form.name for o in execute(forward).observations]
    assert "aten.native_layer_norm_backward.default" in ran


def test_the_call_comes_back_with_its_strides_address_aliases_and_numbers(tmp_path: Path) -> None:
    base = torch.arange(40.0).reshape(5, 8)
    a, b = base[1:, 1:5], base.t()[2:6, :4]

    def calls() -> None:
        torch.add(a, b, alpha=0.5)
        torch.mul(a, a, out=torch.empty(4, 4))

    path = trace_of(tmp_path / "t.jsonl", calls, max_data_bytes=1000)
    add, mul = templates_of(path)
    made = materialise(add.trial)
    assert [t.stride() for t in made.tensors] == [a.stride(), b.stride()]
    assert [t.data_ptr() % 64 for t in made.tensors] == [t.data_ptr() % 64 for t in (a, b)]
    assert [bits.bits_equal(t, s) for t, s in zip(made.tensors, (a, b), strict=True)] == [True] * 2
    assert made.kwargs["alpha"] == 0.5
    squared = materialise(mul.trial)
    assert squared.args[0] is squared.args[1]
    assert squared.kwargs["out"] is not squared.args[0]
    assert isinstance(next(add.trial.operands()).values, Literal)


def test_a_kernel_that_is_wrong_for_the_traced_strides_alone_is_found(tmp_path: Path) -> None:
    def of_the_model() -> Tensor:
        heads = torch.randn(4, 6, 3, 8)[:, :, 1].transpose(0, 1)  # as slices of a fused projection
        return heads.sum(-1)

    path = trace_of(tmp_path / "t.jsonl", of_the_model)
    templates = tuple(t for t in templates_of(path) if t.name == "aten.sum")
    elsewhere = tuple(_contiguous(t) for t in templates)

    def wrong(info: CallInfo, results: Results) -> None:
        operand = info.args[0]
        if operand.stride() == (24, 144, 1) and results[0] is not None:
            results[0].view(-1)[0] += 1

    def found(among: tuple[Template, ...]) -> list[str]:
        diverged = list[str]()
        search(Session(), BOUND, among, seed=1, examples=12,
               on_divergence=lambda _, d: diverged.append(d.word))
        return diverged

    with KernelOverride(torch.ops.aten.sum.dim_IntList, wrong):
        assert set(found(templates)) == {"corruption"}
        assert not found(elsewhere)
    assert not found(templates)


def _contiguous(template: Template) -> Template:
    import msgspec

    from sdc_guard.hunt.trial import Layout

    trial: Trial = template.trial.mapped(
        lambda _, operand: msgspec.structs.replace(operand, layout=Layout()))
    return msgspec.structs.replace(template, trial=trial)


HEADER: dict[str, Any] = {"kind": "header", "schema": "1.0", "torch": "2.13", "threads": 10**9}
TENSOR: dict[str, Any] = {
    "type": "tensor", "dtype": "float32", "shape": [2], "strides": [1], "offset": 0,
    "alignment": 0, "device": "cpu",
    "seen": {"elements": 2, "low": -1.0, "high": 1.0, "smallest": 0.5, "largest": 1.0}}
GOOD: dict[str, Any] = {"kind": "call", "id": 0, "op": "aten.exp.default", "args": [TENSOR]}


def written(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (HEADER, *lines)))
    return path


def tensor(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "args": [{**TENSOR, "shape": [3], **changes}]}


@pytest.mark.parametrize(("line", "reason"), [
    ({**GOOD, "op": "os.system"}, "no name of an overload"),
    ({**GOOD, "op": "torch.load.__call__", "args": [{"type": "plain", "value": "x"}]},
     "no such operator"),
    ({**GOOD, "op": "aten.exp.__class__"}, "no such operator"),
    ({**GOOD, "op": "aten.from_file.default",
      "args": [{"type": "plain", "value": v} for v in ("a-file", True, 4)]
      + [{"type": "plain", "value": None}] * 4}, "aten.from_file.default: "),
    ({**GOOD, "args": []}, "other arguments"),
    ({**GOOD, "args": [{"type": "plain", "value": 3}]}, "no operand"),
    ({**GOOD, "args": [{"type": "opaque", "what": "layout sparse_coo"}]}, "sparse_coo"),
    (tensor(shape=[10**12], strides=[1]), "bytes"),
    (tensor(strides=[10**12]), "bytes"),
    (tensor(strides=[-1]), "strides"),
    (tensor(strides=[1, 1]), "strides"),
    (tensor(dtype="float8_e4m3fn"), "float8_e4m3fn"),
    (tensor(dtype="__class__"), "__class__"),
    (tensor(same_as=3), "a later one"),
    (tensor(data="!!"), "damaged"),
    (tensor(seen={"elements": 2, "low": 3.0, "high": 1.0}), "do not fit together"),
    (tensor(seen={"elements": 2, "low": -1e308, "high": 1e999}), ""),
    ({**GOOD, "args": [{"type": "real", "value": "nonsense"}]}, ""),
    ({**GOOD, "args": [{"type": "named", "of": "dtype", "name": "load"}]}, "'load'"),
])
def test_what_a_trace_must_not_make_us_do_is_left_out_with_the_reason(
    tmp_path: Path, line: dict[str, Any], reason: str
) -> None:
    found = read_templates(written(tmp_path, GOOD, {**line, "id": 1}))
    assert len(found.templates) == 1
    assert any(reason in why for why in found.skipped), found.skipped
    assert execute(found.templates[0].trial).results
    with pytest.raises(UsageError, match="no call of the trace"):
        templates_of(written(tmp_path, line))
    assert not (tmp_path / "a-file").exists()
