"""Each oracle finds a kernel that is broken in its own way, and says nothing of the right one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sdc_guard import bits
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution, execute
from sdc_guard.hunt.oracles import repeat
from sdc_guard.hunt.oracles._helper import Helper
from sdc_guard.hunt.oracles._registry import Session, all_oracles, chosen
from sdc_guard.hunt.search import examine
from sdc_guard.hunt.targets import resolve
from sdc_guard.hunt.trial import (
    Fill,
    Items,
    Layout,
    Literal,
    Operand,
    Scalar,
    Trial,
    encode,
    scalar,
)
from sdc_guard.inject import KernelOverride
from sdc_guard.inject.override import CallInfo

aten = torch.ops.aten


def _operand(*shape: int, dtype: str = "float32", layout: str = "contiguous", seed: int = 0,
             kind: str = "normal", grad: bool = False) -> Operand:
    return Operand(dtype=dtype, shape=shape, values=Fill(kind=kind, seed=seed),
                   layout=Layout(kind=layout), requires_grad=grad)


def _trial(target: str, *args: object, backward: bool = False, **kwargs: object) -> Trial:
    def taken(value: object) -> object:
        return value if isinstance(value, (Operand, Scalar, Items)) else scalar(value)

    return Trial(target=target, args=tuple(taken(a) for a in args), backward=backward,
                 kwargs={k: taken(v) for k, v in kwargs.items()})


def _found(oracle: str, trial: Trial) -> list[Divergence]:
    session = Session()
    found = list(chosen((oracle,))[0].check(session, trial, execute(trial)))
    assert session.checked, "the oracle did not look at the call"
    return found


def _off_by(amount: float, when: Callable[[CallInfo], bool] = lambda info: True):  # type: ignore[no-untyped-def]
    """The first element of each result is off where a condition holds."""
    def change(info: CallInfo, results: tuple[torch.Tensor | None, ...]) -> None:
        for result in results:
            if result is not None and result.numel() and when(info):
                place = (0,) * result.dim()
                result[place] += amount

    return change


def _is(found: list[Divergence], oracle: str, word: str, op: str) -> bool:
    return bool(found) and all((d.oracle, d.word, d.op) == (oracle, word, op) for d in found)


ADD = _trial("aten.add.Tensor", _operand(6, 9), _operand(6, 9, seed=1))
EXP = _trial("aten.exp.default", _operand(3000))
BMM = _trial("aten.bmm.default", _operand(3, 5, 7), _operand(3, 7, 4, seed=1))
TANH = _trial("aten.tanh.default", _operand(5, 7, grad=True), backward=True)


def _first(info: CallInfo) -> torch.Tensor:
    return info.args[0]  # type: ignore[no-any-return]


def test_bound_finds_a_sum_that_is_off() -> None:
    with KernelOverride(aten.add.Tensor, _off_by(1.0)):
        assert _is(_found("bound", ADD), "bound", "corruption", "aten.add.Tensor")


def test_bound_tells_the_search_how_near_a_call_came() -> None:
    session = Session()
    assert not list(examine(session, chosen(("bound",)), BMM))
    assert -60 < session.scores["bound"] < 0


def test_exact_finds_an_integer_that_is_off_by_one() -> None:
    trial = _trial("aten.add.Tensor", _operand(6, dtype="int64"), _operand(6, dtype="int64"))
    with KernelOverride(aten.add.Tensor, _off_by(1)):
        assert _is(_found("exact", trial), "exact", "corruption", "aten.add.Tensor")


def test_exact_finds_a_broken_fact_of_a_copy() -> None:
    trial = _trial("aten.index_select.default", _operand(6, 4), 0,
                   Operand(dtype="int64", shape=(2,), values=Fill(kind="constant"), free=False))
    with KernelOverride(aten.index_select.default, _off_by(0.5)):
        assert _is(_found("exact", trial), "exact", "corruption", "aten.index_select.default")


def test_layout_finds_a_kernel_that_is_wrong_where_elements_are_not_side_by_side() -> None:
    trial = _trial("aten.exp.default", _operand(4, 6, layout="stepped"))
    with KernelOverride(aten.exp.default, _off_by(1.0, lambda i: not _first(i).is_contiguous())):
        assert _is(_found("layout", trial), "layout", "corruption", "aten.exp.default")


def test_layout_keeps_the_values_of_an_expanded_operand() -> None:
    for layout in ("expanded", "overlapping", "permuted"):
        assert not _found("layout", _trial("aten.exp.default", _operand(4, 6, layout=layout)))


def test_slices_finds_a_kernel_that_is_wrong_on_few_rows() -> None:
    with KernelOverride(aten.bmm.default, _off_by(1.0, lambda i: _first(i).shape[0] < 3)):
        assert _is(_found("slices", BMM), "slices", "corruption", "aten.bmm.default")


def test_symmetries_finds_a_kernel_that_is_wrong_for_one_sign() -> None:
    first = execute(ADD).made.tensors[0][0, 0].item()
    with KernelOverride(aten.add.Tensor,
                        _off_by(1.0, lambda i: _first(i)[0, 0].item() == -first)):
        assert _is(_found("symmetries", ADD), "symmetries", "corruption", "aten.add.Tensor")


def _last_bit(when: Callable[[CallInfo], bool]):  # type: ignore[no-untyped-def]
    def change(info: CallInfo, results: tuple[torch.Tensor, ...]) -> None:
        if when(info):
            raw = bits.raw(results[0])
            raw[...] ^= raw.dtype.type(1)

    return change


def test_repeat_tells_how_often_a_call_gives_other_bits() -> None:
    trial = _trial("aten.sum.dim_IntList", _operand(64), None)
    with KernelOverride(aten.sum.dim_IntList, _last_bit(lambda i: i.call_number % 2 == 1)):
        found = _found("repeat", trial)
    assert _is(found, "repeat", "nondeterminism", "aten.sum.dim_IntList")
    assert "4 of 8" in found[0].message


def test_a_call_without_a_bound_that_comes_and_goes_is_told_by_repeat_alone() -> None:
    trial = _trial("torch.linalg.pinv", _operand(4, 4, dtype="complex64"))
    with KernelOverride(aten.linalg_pinv.atol_rtol_tensor,
                        _last_bit(lambda i: i.call_number % 2 == 1)):
        assert not list(chosen(("symmetries",))[0].check(Session(), trial, execute(trial)))
        assert "nondeterminism" in {d.word for d in _found("repeat", trial)}


def test_repeat_finds_memory_that_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fresh block holds is the allocator's business, so the kernel is lent one that holds
    what the oracle left behind last."""
    left = bytearray(b"\x3f" * 4)
    poison = repeat._poison

    def leave_behind(base: Execution, byte: int) -> None:
        poison(base, byte)
        left[:] = bytes([byte]) * 4

    def leave(info: CallInfo, results: tuple[torch.Tensor, ...]) -> None:
        results[0][-1] = torch.frombuffer(left, dtype=torch.float32)[0]

    monkeypatch.setattr(repeat, "_poison", leave_behind)
    with KernelOverride(aten.exp.default, leave):
        assert _is(_found("repeat", EXP), "repeat", "corruption", "aten.exp.default")


def test_repeat_leaves_blocks_of_the_sizes_that_the_call_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, made, empty = execute(EXP), [], torch.empty

    def kept(*args: object, **kwargs: object) -> torch.Tensor:
        made.append(empty(*args, **kwargs))  # type: ignore[call-overload]
        return made[-1]

    monkeypatch.setattr(torch, "empty", kept)
    repeat._poison(base, 0xFF)
    assert {block.numel() for block in made} == {3000 * 4}
    assert all(bool((block == 0xFF).all()) for block in made)


def test_forms_finds_a_wrong_out_overload_and_a_wrong_in_place_one() -> None:
    with KernelOverride(aten.exp.out, _off_by(1.0)):
        found = _found("forms", EXP)
    assert _is(found, "forms", "corruption", "aten.exp.out")
    with KernelOverride(aten.exp_.default, _off_by(1.0)):
        found = _found("forms", EXP)
    assert _is(found, "forms", "corruption", "aten.exp_.default")


def test_forms_finds_a_write_between_the_elements_of_out() -> None:
    def spill(info: CallInfo, results: tuple[torch.Tensor, ...]) -> None:
        out = results[0]
        out.as_strided((1,), (1,), out.storage_offset() - 1).fill_(7)

    trials = (_trial("aten.exp.default", _operand(6, 7, seed=s)) for s in range(8))
    with KernelOverride(aten.exp.out, spill):
        found = [d for t in trials for d in _found("forms", t)]
    assert any("outside" in d.message and d.word == "corruption" for d in found)


def test_threads_finds_a_kernel_that_is_wrong_on_two_threads() -> None:
    with KernelOverride(aten.exp.default, _off_by(1.0, lambda i: torch.get_num_threads() == 2)):
        found = _found("threads", EXP)
    assert _is(found, "threads", "corruption", "aten.exp.default")
    assert found[0].sides == ("1 thread", "2 threads")


def test_modes_finds_a_kernel_that_is_wrong_in_one_mode() -> None:
    trials = [_trial("aten.exp.default", _operand(5, seed=s)) for s in range(12)]
    with KernelOverride(aten.exp.default, _off_by(
            1.0, lambda i: torch.are_deterministic_algorithms_enabled())):
        found = [d for t in trials for d in _found("modes", t)]
    assert _is(found, "modes", "corruption", "aten.exp.default")


def test_batch_finds_a_kernel_that_is_wrong_on_a_single_item() -> None:
    with KernelOverride(aten.bmm.default, _off_by(1.0, lambda i: _first(i).shape[0] == 1)):
        assert _is(_found("batch", BMM), "batch", "corruption", "aten.bmm.default")


def test_semantics_finds_a_nan_that_is_lost() -> None:
    def lose(info: CallInfo, results: tuple[torch.Tensor, ...]) -> None:
        results[0].nan_to_num_(0.0)

    trial = _trial("aten.maximum.default", _operand(900, kind="special"),
                   _operand(900, kind="special", seed=1))
    assert not _found("semantics", trial)
    with KernelOverride(aten.maximum.default, lose):
        found = _found("semantics", trial)
    assert _is(found, "semantics", "semantic difference", "aten.maximum.default")


def test_semantics_finds_a_shape_that_the_meta_device_does_not_know() -> None:
    library = torch.library.Library("sdc_guard_test", "FRAGMENT")
    library.define("halved(Tensor x) -> Tensor")
    library.impl("halved", lambda x: x[::2].clone(), "CPU")
    library.impl("halved", lambda x: torch.empty_like(x), "Meta")
    found = _found("semantics", _trial("sdc_guard_test.halved.default", _operand(6)))
    assert _is(found, "semantics", "semantic difference", "sdc_guard_test.halved.default")


def test_gradient_finds_a_formula_that_is_wrong_in_every_format() -> None:
    def wrong(info: CallInfo, results: tuple[torch.Tensor, ...]) -> None:
        results[0].mul_(1.5)

    assert not _found("gradient", TANH)
    with KernelOverride(aten.tanh_backward.default, wrong):
        found = _found("gradient", TANH)
    assert _is(found, "gradient", "inconclusive", "aten.tanh.default")
    assert "central differences" in found[0].message


def test_gradient_finds_what_is_wrong_in_float32_alone() -> None:
    with KernelOverride(aten.tanh_backward.default, _off_by(
            0.5, lambda i: _first(i).dtype is torch.float32)):
        found = _found("gradient", TANH)
    assert _is(found, "gradient", "inconclusive", "aten.tanh.default")


@pytest.mark.slow
def test_isa_finds_a_result_that_another_process_does_not_get() -> None:
    assert not _found("isa", EXP)
    with KernelOverride(aten.exp.default, _off_by(1.0)):
        assert _is(_found("isa", EXP), "isa", "corruption", "aten.exp.default")


@pytest.mark.slow
def test_compiled_finds_an_eager_kernel_that_inductor_does_not_share() -> None:
    with torch.no_grad():
        assert not _found("compiled", EXP)
        with KernelOverride(aten.exp.default, _off_by(1.0)):
            assert _is(_found("compiled", EXP), "compiled", "corruption", "aten.exp.default")


@pytest.mark.parametrize("infinity", [float("-inf"), float("inf")])
def test_bound_finds_a_nan_where_the_definition_is_infinite(infinity: float) -> None:
    def lost(info: CallInfo, results: tuple[torch.Tensor, ...]) -> None:
        results[0][results[0].isinf()] = float("nan")

    values = Literal.of(torch.full((2, 3), infinity).numpy().tobytes())
    rows = Operand(dtype="float32", shape=(2, 3), values=values)
    for op in ("aten.logsumexp.default", "aten.amax.default"):
        trial = _trial(op, rows, Items(items=(scalar(1),)))
        with np.errstate(all="raise"):
            assert not _found("bound", trial)
        with KernelOverride(resolve(op), lost):
            assert _is(_found("bound", trial), "bound", "corruption", op)


RIGHT = (
    ADD, EXP, BMM, TANH,
    _trial("aten.sum.dim_IntList", _operand(40, 33, layout="permuted"), None),
    _trial("aten.mm.default", _operand(9, 16, dtype="bfloat16", layout="stepped"),
           _operand(16, 9, dtype="bfloat16", seed=2)),
    _trial("aten.sort.default", _operand(7, 20, layout="gapped")),
    _trial("torch.nn.functional.gelu", _operand(5, 33, layout="offset", grad=True), backward=True),
    _trial("torch.cumsum", _operand(5, 33, layout="overlapping"), 1),
    _trial("aten.mul.Tensor", _operand(20, dtype="int64"), _operand(20, dtype="int64", seed=3)),
)


@pytest.mark.parametrize("name", [o.name for o in all_oracles()
                                  if o.name not in ("isa", "compiled")])
def test_nothing_is_said_of_right_calls(name: str) -> None:
    session = Session()
    for trial in RIGHT:
        assert not list(chosen((name,))[0].check(session, trial, execute(trial)))
    assert session.checked


def test_what_one_oracle_told_no_other_tells_again() -> None:
    oracles = chosen(("bound", "forms", "layout", "repeat", "slices", "symmetries", "batch"))
    trial = _trial("aten.add.Tensor", _operand(6, 9, layout="stepped"), _operand(6, 9, seed=1))
    with KernelOverride(aten.add.Tensor, _off_by(1.0)):
        found = list(examine(Session(), oracles, trial))
    assert [d.oracle for d in found] == ["bound"]


def test_a_gradient_that_cancels_to_nothing_is_no_finding() -> None:
    trial = _trial("torch.nn.functional.rms_norm", _operand(7, 1, grad=True),
                   Items(items=(scalar(1),)), backward=True)
    assert not _found("gradient", trial)


def test_a_helper_that_ends_is_told_and_hunting_goes_on() -> None:
    helper = object.__new__(Helper)
    helper.process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE)
    helper._buffer, helper.capability = b"", "DEFAULT"
    assert helper.ask(encode(EXP)).failure == "ended with 0"
    assert not helper.is_alive


def test_in_place_on_memory_that_is_read_too_is_no_other_form_of_the_call() -> None:
    trial = _trial("torch.trapezoid", _operand(3, 4))
    assert not _found("forms", trial)


def test_relations_are_made_of_operands_that_need_gradients() -> None:
    session = Session()
    assert not list(chosen(("symmetries",))[0].check(session, TANH, execute(TANH)))
    assert not session.not_judged


@pytest.mark.parametrize(("name", "other"), [("eq", -1), ("lt", 300), ("ge", -19)])
def test_a_scalar_is_compared_as_the_integer_that_the_dtype_makes_of_it(
    name: str, other: int
) -> None:
    values = Operand(dtype="uint8", shape=(4,), values=Literal.of(bytes([0, 44, 237, 255])))
    assert not _found("exact", _trial(f"aten.{name}.Scalar", values, other))
