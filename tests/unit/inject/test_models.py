"""Every fault model on a training step: drawn by seed, striking when due, undone on exit."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.errors import UsageError
from sdc_guard.inject import override
from sdc_guard.inject.classes import op_class
from sdc_guard.inject.models import MODELS, AnyFault, Target, draw
from sdc_guard.inject.target import KINDS
from sdc_guard.inject.truth import SIZES, size_class
from tests.unit.inject.training_target import Training, start

aten = torch.ops.aten
Trained = tuple[Training, Target, tuple[Any, ...]]
LOUD = (IndexError, OverflowError, ZeroDivisionError)
"""What a wrong index or a wrong step count ends in."""
HITS = {"rare flip": 1, "value-triggered": 3}
"""Faults of 6 that change a bit, at least; 4 of the others."""


@pytest.fixture(scope="module")
def trained() -> Trained:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = start()
    torch.set_num_threads(before)
    return found


class Again(TorchDispatchMode):
    """A guard that makes every call of an operator without random numbers once more."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[Any, list[Tensor | None]]] = []
        self.differing: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        form = form_of(func) if isinstance(func, torch._ops.OpOverload) else None
        if form is None or form.seeded or torch.Tag.inplace_view in func.tags:
            return func(*args, **kwargs)
        call = BoundCall(form, form.bind(args, kwargs))
        images = call.with_private_images()
        held = func(*args, **kwargs)
        if "empty" in form.name:
            return held
        results, again = call.results(call.args, held), images.run()
        self.results.append((func, [t if t is None else bits.snapshot(t) for t in results]))
        self.differing[str(func)] += any(
            a is not None and b is not None and not bits.bits_equal(a, b)
            for a, b in zip(results, again, strict=True))
        return held


def run(trained: Trained, fault: AnyFault | None, mode: TorchDispatchMode) -> list[Tensor]:
    """Parameters after one step; the training is put back."""
    training, _, images = trained
    training.put_back(images)
    try:
        with mode, suppress(*LOUD):
            if fault is None:
                training.step()
            else:
                with fault:
                    training.step()
        return training.state()
    finally:
        training.put_back(images)


@pytest.mark.parametrize("name", MODELS)
def test_a_fault_depends_on_its_number_and_seed_alone(name: str, trained: Trained) -> None:
    target = trained[1]
    drawn = [repr(draw(name, target, i, seed=3)) for i in range(12)]
    assert drawn == [repr(draw(name, target, i, seed=3)) for i in reversed(range(12))][::-1]
    assert "object at" not in drawn[0]
    if name not in ("duplicated batch", "dropped batch"):  # these have nothing to draw
        # A layout has no more to draw than an operator and an operand.
        assert len(set(drawn)) > (2 if name == "wrong layout" else 6)
        assert drawn != [repr(draw(name, target, i, seed=4)) for i in range(12)]


@pytest.mark.parametrize("name", MODELS)
def test_each_model_strikes_and_leaves_nothing_behind(name: str, trained: Trained) -> None:
    training, target, _ = trained
    batch = training.batch
    plain = run(trained, None, Again())
    num_struck = 0
    for index in range(6):
        fault = draw(name, target, index, seed=0)
        guard = Again()
        run(trained, fault, guard)
        assert not override._active
        assert not _get_current_dispatch_mode_stack()
        assert training.batch is batch
        assert not training.optimizer._optimizer_step_pre_hooks
        num_struck += bool(fault.injected)
        if not fault.injected:
            continue
        record = fault.injected[0]
        assert size_class(record) in SIZES
        assert record.op == ("" if fault.op is None else str(fault.op))
        if MODELS[name].kind == "transient":
            assert len({f.call_number for f in fault.injected}) == 1
            # The replay, right by itself, differs from what is in use, here and nowhere else.
            if not form_of(fault.op).seeded:
                assert guard.differing[record.op] == 1
                assert sum(guard.differing.values()) == 1
    assert num_struck >= HITS.get(name, 4)
    after = run(trained, None, Again())
    for a, b in zip(plain, after, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m.kind == "transient"])
def test_ground_truth_is_what_differs_from_a_clean_run(name: str, trained: Trained) -> None:
    target = trained[1]
    clean = Again()
    run(trained, None, clean)
    for index in range(5):
        fault = draw(name, target, index, seed=1)
        if form_of(fault.op).seeded:
            continue
        guard = Again()
        run(trained, fault, guard)
        struck = next((i for i, (a, b) in enumerate(zip(clean.results, guard.results, strict=False))
                       if differing(a[1], b[1])), None)
        if not fault.injected:
            assert struck is None
            continue
        assert struck is not None
        op, wrong = guard.results[struck]
        assert op is fault.op
        right = clean.results[struck][1]
        records = {f.output: f for f in fault.injected}
        assert differing(right, wrong) == set(records)
        for output, record in records.items():
            a, b = right[output], wrong[output]
            assert a is not None
            assert b is not None
            places = np.flatnonzero(bits.wrong_mask(a, b))
            assert record.num_wrong == len(places)
            assert record.first_indices == tuple(places[:16])
            assert record.flat_index == places[0]
            words = bits.raw(a).flat[places[0]], bits.raw(b).flat[places[0]]
            assert (int(record.before.bits, 16), int(record.after.bits, 16)) == words


def differing(a: list[Tensor | None], b: list[Tensor | None]) -> set[int]:
    return {i for i, (x, y) in enumerate(zip(a, b, strict=True))
            if x is not None and y is not None and not bits.bits_equal(x, y)}


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m.kind == "transient"])
def test_a_transient_does_nothing_when_entered_again(name: str, trained: Trained) -> None:
    fault = draw(name, trained[1], 1, seed=0)
    run(trained, fault, Again())
    before = len(fault.injected), fault.masked
    assert before != (0, 0)
    run(trained, fault, Again())
    assert (len(fault.injected), fault.masked) == before


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m.kind in ("repeated",
                                                                             "deterministic")])
def test_what_repeats_repeats_in_the_next_step_at_the_same_place(
    name: str, trained: Trained
) -> None:
    if name == "rare flip":
        pytest.skip("most of its rates are too low to show twice")
    target = trained[1]
    fault = next(f for i in range(30) if run_strikes(trained, f := draw(name, target, i, seed=0)))
    first = {(f.shape, f.first_indices) for f in fault.injected}
    num = len(fault.injected)
    run(trained, fault, Again())
    later = {(f.shape, f.first_indices) for f in fault.injected[num:]}
    assert first & later


def run_strikes(trained: Trained, fault: AnyFault) -> bool:
    run(trained, fault, Again())
    return bool(fault.injected)


@pytest.mark.parametrize("name", ["checker flip", "checker stuck"])
def test_a_checker_that_repeats_nothing_is_not_struck(name: str, trained: Trained) -> None:
    plain = run(trained, None, Watching())
    for index in range(15):
        fault = draw(name, trained[1], index, seed=2)
        state = run(trained, fault, Watching())
        assert not fault.injected
        assert all(torch.equal(a, b) for a, b in zip(plain, state, strict=True))


class Watching(TorchDispatchMode):
    """A detector that only looks."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_a_struck_checker_leaves_the_training_right(trained: Trained) -> None:
    plain = run(trained, None, Again())
    num = 0
    for index in range(8):
        fault = draw("checker flip", trained[1], index, seed=0)
        state = run(trained, fault, Again())
        num += len(fault.injected)
        assert len(fault.injected) <= 1
        assert all(torch.equal(a, b) for a, b in zip(plain, state, strict=True))
    assert num > 4


def test_half_of_the_faults_are_uniform_over_operators_and_phases(trained: Trained) -> None:
    target = trained[1]
    drawn = Counter(str(draw("single bit", target, i, seed=0).op) for i in range(600))
    pairs = {(c.op, c.phase) for c in target.calls if c.drawable}
    # An operator called once is met by the uniform half alone: 300 faults over the pairs.
    mean = 300 / len(pairs)
    assert mean - 4 * mean**0.5 < drawn["aten.gelu_backward.default"] < 2 * mean + 4 * mean**0.5
    assert drawn["aten.add_.Tensor"] > 3 * mean


def test_phases_and_classes_reach_the_ground_truth(trained: Trained) -> None:
    phases = {c.phase for c in trained[1].calls}
    assert phases == {"forward", "backward", "optimizer"}
    seen = set()
    for index in range(40):
        fault = draw("low mantissa bit", trained[1], index, seed=0)
        run(trained, fault, Watching())
        (record,) = fault.injected
        call = next(c for c in trained[1].calls
                    if c.op is fault.op and c.ordinal == fault.timer.timing.number)  # type: ignore[attr-defined]
        assert record.phase == call.phase
        seen.add(op_class(fault.op, record.phase))
    assert {"optimizer", "product", "norm", "pointwise"} <= seen


def test_bf16_steps_are_struck_in_bf16() -> None:
    trained = start(autocast=True)
    dtypes: Counter[str] = Counter()
    for name in ("single bit", "lower precision", "lower-precision accumulation", "published mix"):
        for index in range(10):
            fault = draw(name, trained[1], index, seed=0)
            run(trained, fault, Watching())
            dtypes.update({f.before.dtype for f in fault.injected[:1]})
    assert dtypes["bfloat16"] > 3
    assert dtypes["float32"] > 3


def test_what_is_not_known_or_cannot_be_struck_is_an_error(trained: Trained) -> None:
    with pytest.raises(UsageError, match="'tripple bit' is unknown; known are single bit"):
        draw("tripple bit", trained[1], 0, 0)
    with pytest.raises(UsageError, match="index is -1 and seed 0"):
        draw("single bit", trained[1], -1, 0)
    empty = Target((), trained[1].model, trained[1].optimizer, trained[0])
    with pytest.raises(UsageError, match="'wrong layout': none of the recorded calls"):
        draw("wrong layout", empty, 0, 0)


def test_each_model_has_a_kind_and_one_line() -> None:
    assert {m.kind for m in MODELS.values()} == set(KINDS)
    assert all(m.name == name and "\n" not in m.description for name, m in MODELS.items())
