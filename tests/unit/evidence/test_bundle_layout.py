"""What is stored comes back: bits, shapes, strides, alignment, shared memory, arguments."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdc_guard.bits import alignment_bytes, snapshot
from sdc_guard.calls import BoundCall
from sdc_guard.evidence import BundleWriter, read_bundle, replay
from sdc_guard.evidence.tensors_on_disk import c_order_bytes
from tests.unit.evidence.calls_to_store import CALLS, aten, bound_call, finding_for, results_of

NAMES = sorted(CALLS)


def make(name: str) -> BoundCall:
    torch.manual_seed(11)
    return CALLS[name]()


def stored(call: BoundCall, results: tuple[Tensor, ...], folder: Path) -> Path:
    writer = BundleWriter(folder)
    evidence = writer.write(call, results, results, finding_for(call), "site")
    assert evidence.note == ""
    return Path(evidence.bundle)


def addresses(call: BoundCall) -> list[int]:
    """Where each non-empty operand starts, from the lowest one that it overlaps."""
    spans = [(t.data_ptr(), t) for _, t in call.tensors() if t.numel()]
    return [start - min(s for s, u in spans
                        if u.untyped_storage().data_ptr() == t.untyped_storage().data_ptr())
            for start, t in spans]


def same_argument(a: Any, b: Any) -> bool:
    if isinstance(a, float):
        return isinstance(b, float) and struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, complex):
        return same_argument(a.real, b.real) and same_argument(a.imag, b.imag)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and all(map(same_argument, a, b))
    return isinstance(a, Tensor) or (type(a) is type(b) and a == b)


@pytest.mark.parametrize("name", NAMES)
def test_operands_come_back_bit_for_bit_in_their_layout(name: str, tmp_path: Path) -> None:
    call, twin = make(name), make(name)
    path = stored(call, results_of(twin), tmp_path)
    rebuilt = read_bundle(path).fresh_call()

    assert rebuilt.form is call.form
    assert len(rebuilt.args) == len(call.args)
    assert all(map(same_argument, call.args, rebuilt.args))
    pairs = list(zip(call.tensors(), rebuilt.tensors(), strict=True))
    assert pairs
    for (path_a, a), (path_b, b) in pairs:
        assert path_a == path_b
        assert (a.dtype, a.shape, a.stride(), a.device) == (b.dtype, b.shape, b.stride(), b.device)
        assert c_order_bytes(a) == c_order_bytes(b)
        if a.numel():
            assert alignment_bytes(a) == alignment_bytes(b)
            assert a.data_ptr() != b.data_ptr()
    assert addresses(rebuilt) == addresses(call)


@pytest.mark.parametrize("name", NAMES)
def test_the_result_in_use_is_reproduced(name: str, tmp_path: Path) -> None:
    call = make(name)
    held = results_of(make(name))
    result = replay(read_bundle(stored(call, held, tmp_path)), num_runs=2)
    assert result.reproduces == "held"
    assert result.runs == ("held", "held")
    assert not any(result.wrong_from_held)
    assert result.worst is None


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("empty")])
def test_a_flipped_result_is_not_reproduced_and_the_expected_one_is(
    name: str, tmp_path: Path
) -> None:
    call, right = make(name), results_of(make(name))
    wrong = tuple(t if t is None else t.contiguous().clone() for t in right)
    wrong[0].view(-1).view(torch.uint8)[0] ^= 1
    bundle = read_bundle(
        BundleWriter(tmp_path).write(call, wrong, right, finding_for(call), "s").bundle)
    result = replay(bundle, num_runs=1)
    assert result.reproduces == "expected"
    assert result.wrong_from_held[0] == 1
    assert not any(result.wrong_from_held[1:])
    assert result.wrong_from_expected == tuple(None if t is None else 0 for t in right)

    swapped = BundleWriter(tmp_path).write(call, right, wrong, finding_for(call), "s")
    assert replay(read_bundle(swapped.bundle), num_runs=1).reproduces == "held"


def test_an_output_that_is_an_input_still_is(tmp_path: Path) -> None:
    call = make("in place on its own view")
    rebuilt = read_bundle(stored(call, results_of(make("in place on its own view")), tmp_path)).call
    rebuilt.args[0].fill_(2.0)
    assert rebuilt.args[1][:-1].tolist() == [2.0] * 9
    assert rebuilt.args[1][-1] != 2.0


def test_one_tensor_given_twice_is_one_object_again(tmp_path: Path) -> None:
    call = make("same tensor twice")
    rebuilt = read_bundle(stored(call, results_of(make("same tensor twice")), tmp_path)).call
    assert rebuilt.args[0] is rebuilt.args[1]


def test_each_fresh_call_has_memory_of_its_own(tmp_path: Path) -> None:
    bundle = read_bundle(stored(make("in place"), results_of(make("in place")), tmp_path))
    first, second = bundle.fresh_call(), bundle.fresh_call()
    first.args[0].zero_()
    assert bool((second.args[0] != 0).all())


def test_memory_between_the_elements_of_a_view_is_kept(tmp_path: Path) -> None:
    base = torch.arange(20.0)
    call = bound_call(aten.sum.default, base[2:19:4])
    rebuilt = read_bundle(stored(call, results_of(call), tmp_path)).call.args[0]
    assert rebuilt.as_strided((17,), (1,)).tolist() == base[2:19].tolist()


def test_a_snapshot_taken_before_an_in_place_call_is_what_is_stored(tmp_path: Path) -> None:
    live = torch.randn(4, 4)
    before = snapshot(live)
    call = bound_call(aten.add_.Scalar, before, 1.0)
    live.add_(1.0)
    assert replay(read_bundle(stored(call, (live,), tmp_path)), num_runs=1).reproduces == "held"


def test_a_parameter_is_stored_as_the_tensor_that_it_is(tmp_path: Path) -> None:
    call = bound_call(aten.mul.Tensor, torch.nn.Parameter(torch.randn(3)), 2)
    with torch.no_grad():
        held = results_of(call)
    rebuilt = read_bundle(stored(call, held, tmp_path)).call
    assert type(rebuilt.args[0]) is Tensor
    assert not rebuilt.args[0].requires_grad


def test_the_finding_comes_back_whole_infinities_included(tmp_path: Path) -> None:
    call = make("fp32 mm")
    finding = finding_for(call)
    bundle = read_bundle(BundleWriter(tmp_path).write(
        call, results_of(call), (None,), finding, "s").bundle)
    assert bundle.finding.worst == finding.worst
    assert bundle.finding.worst is not None
    assert math.isinf(bundle.finding.worst.error_ulps)
    assert bundle.finding.call == finding.call
    assert bundle.finding.attribution == finding.attribution
    assert bundle.finding.evidence.bundle == bundle.path.name
    assert bundle.environment["torch"] == torch.__version__
    assert bundle.expected == (None,)
    assert bundle.num_threads == torch.get_num_threads()
