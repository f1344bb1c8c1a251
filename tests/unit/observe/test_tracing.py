"""The trace of a program's calls: complete, small, and without any effect on the program."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import sdc_guard
from sdc_guard.errors import UsageError
from sdc_guard.observe.tracing import mode
from sdc_guard.observe.tracing.reading import (
    Trace,
    read_trace,
    reals_of,
    tensors_of,
    write_trace,
)
from sdc_guard.observe.tracing.records import Call
from sdc_guard.observe.tracing.tracer import Tracer


def train() -> str:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Dropout(0.1),
                        nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    data = torch.randn(40, 8)
    for step in range(8):
        loss = nn.functional.cross_entropy(net(data[5 * step : 5 * step + 5]), torch.arange(5) % 4)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    digest = hashlib.sha256()
    for tensor in (*net.state_dict().values(), loss.detach(), torch.get_rng_state()):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def traced(path: Path, what: Callable[[], object], **options: int) -> Trace:
    tracer = Tracer(path, **options)
    tracer.open()
    try:
        what()
    finally:
        tracer.close()
    return read_trace(path)


def only(trace: Trace, op: str) -> Call:
    (found,) = [call for call in trace.calls if call.op == op]
    return found


def test_a_traced_training_leaves_equal_bits_and_a_guard_sees_the_same_calls(
    tmp_path: Path
) -> None:
    plain = train()
    with sdc_guard.Guard(budget=0) as alone:
        assert train() == plain
    with sdc_guard.Guard(budget=0, trace=tmp_path / "t.jsonl") as guard:
        assert train() == plain
    seen = [{op.op: op.calls for op in g.coverage.ops} for g in (alone, guard)]
    assert seen[0] == seen[1]
    trace = read_trace(tmp_path / "t.jsonl")
    assert trace.damaged == 0
    assert only(trace, "aten.native_layer_norm.default").count == 8
    assert only(trace, "aten.native_layer_norm.default").grad
    assert only(trace, "aten.native_layer_norm_backward.default").phase == "backward"
    assert sum(c.count for c in trace.calls if c.op == "aten.lerp_.Scalar") == 8 * 6


def test_a_call_stands_there_once_with_its_count_figures_and_arguments(tmp_path: Path) -> None:
    x = torch.tensor([[1.0, -2.0, 0.0], [torch.nan, torch.inf, 0.25]]).t()

    others = [x * 2.0**power for power in range(5)]

    def calls() -> None:
        for power in range(5):
            torch.mul(x, 3.0**power + 1)
            torch.mul(others[power], x)
            torch.mul(x, x)

    trace = traced(tmp_path / "t.jsonl", calls)
    by_number, by_tensor, by_itself = trace.calls
    assert [c.op for c in trace.calls] == ["aten.mul.Tensor"] * 3
    assert by_tensor.count == by_itself.count == 5
    assert [t.same_as for t in tensors_of(by_itself)] == [-1, 0]
    tensor = tensors_of(by_itself)[0]
    assert (tensor.shape, tensor.strides, tensor.dtype) == ((3, 2), (1, 3), "float32")
    figures = tensor.seen
    assert figures is not None
    assert (figures.low, figures.high, figures.smallest) == (-2.0, 1.0, 0.25)
    assert (figures.nans, figures.pos_infs, figures.neg_infs) == (3, 3, 0)  # of calls 1, 2 and 4
    assert (figures.zeros, figures.elements, figures.whole) == (3, 18, False)
    wider = tensors_of(by_tensor)[0].seen
    assert wider is not None
    assert wider.high == 8.0
    assert by_number.count == 5
    (number,) = reals_of(by_number)
    assert [float.fromhex(t) for t in (number.value, number.low, number.high)] == [2.0, 2.0, 28.0]


def test_no_value_is_written_unless_asked_and_then_its_bits(tmp_path: Path) -> None:
    x = torch.tensor([1.5, -7.25])
    secret = x.numpy().tobytes()
    without = traced(tmp_path / "a.jsonl", lambda: torch.exp(x))
    assert tensors_of(without.calls[0])[0].data is None
    kept = traced(tmp_path / "b.jsonl", lambda: torch.exp(x), max_data_bytes=8)
    assert base64.b64decode(tensors_of(kept.calls[0])[0].data or "") == secret
    small = traced(tmp_path / "c.jsonl", lambda: torch.exp(x), max_data_bytes=7)
    assert tensors_of(small.calls[0])[0].data is None


def test_a_file_that_ends_anywhere_is_read_up_to_there(tmp_path: Path) -> None:
    whole = traced(tmp_path / "t.jsonl", train)
    text = (tmp_path / "t.jsonl").read_bytes()
    for size in range(len(text) // 7, len(text), len(text) // 7):
        (tmp_path / "cut.jsonl").write_bytes(text[:size])
        part = read_trace(tmp_path / "cut.jsonl")
        assert part.damaged <= 1
        assert [c.op for c in part.calls] == [c.op for c in whole.calls][: len(part.calls)]
        assert part.calls
    with (tmp_path / "cut.jsonl").open("ab") as file:
        file.write(b'\n{"kind": "call"}\nnot json\n{"kind":"seen","id":99999,"count":2,'
                   b'"tensors":[]}\n' + b"[" * 500 + b"\n")
    assert read_trace(tmp_path / "cut.jsonl").damaged >= 4


def test_traces_of_several_processes_become_one_and_stay_what_they_are(tmp_path: Path) -> None:
    x = torch.ones(3)
    for name in ("rank0-pid1", "rank1-pid2"):
        traced(tmp_path / name / "trace.jsonl", lambda x=x: [torch.exp(x) for _ in range(4)])
        x = x * 2
    together = read_trace(tmp_path)
    (call,) = together.calls
    assert (call.count, together.processes) == (8, 2)
    assert tensors_of(call)[0].seen.high == 2.0  # type: ignore[union-attr]
    write_trace(together, tmp_path / "trace.jsonl")
    assert read_trace(tmp_path).calls == together.calls


def test_a_trace_keeps_to_its_size_and_says_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def many() -> None:
        for size in range(1, 200):
            torch.exp(torch.ones(size))

    full = traced(tmp_path / "a.jsonl", many, max_bytes=40_000)
    assert (tmp_path / "a.jsonl").stat().st_size <= 40_000
    assert 10 < len(full.calls) < 190
    assert sum(n for why, n in full.left_out.items() if "full" in why) > 100
    monkeypatch.setattr(mode, "MAX_CALLS_PER_OP", 50)
    few = traced(tmp_path / "b.jsonl", many)
    assert len([c for c in few.calls if c.op == "aten.exp.default"]) == 50
    assert sum(n for why, n in few.left_out.items() if why.startswith("aten.exp")) == 149


def test_a_disk_that_is_full_costs_the_trace_and_not_the_training(tmp_path: Path) -> None:
    plain = train()
    with sdc_guard.Guard(budget=0, trace="/dev/full"):
        assert train() == plain


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_writes_nothing_into_its_parent_s_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with sdc_guard.Guard(budget=0, trace=path):
        torch.exp(torch.ones(2))
        pid = os.fork()
        if not pid:
            torch.sin(torch.ones(2))
            os._exit(0)
        os.waitpid(pid, 0)
        torch.cos(torch.ones(2))
    ops = [c.op for c in read_trace(path).calls]
    assert {"aten.exp.default", "aten.cos.default"} <= set(ops)
    assert "aten.sin.default" not in ops


def test_what_is_no_file_and_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    for wrong in ("", tmp_path, 7):
        with pytest.raises(UsageError, match="give the path of a file"):
            sdc_guard.Guard(trace=wrong)
    with pytest.raises(UsageError, match="there is no trace"):
        read_trace(tmp_path / "gone.jsonl")
    with pytest.raises(UsageError, match="holds no trace"):
        read_trace(tmp_path)
    (tmp_path / "trace.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UsageError, match="no line of it is a header"):
        read_trace(tmp_path)
    (tmp_path / "trace.jsonl").write_text(
        json.dumps({"kind": "header", "schema": "2.0", "torch": "3", "threads": 1}) + "\n")
    with pytest.raises(UsageError, match=r"schema '2\.0', this version reads 1\.x"):
        read_trace(tmp_path)
