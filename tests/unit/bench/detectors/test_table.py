"""All detectors by name, debug-mode hashes, and the package sdcguard where it is installed."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils import _python_dispatch as dispatch

from sdc_guard.bench.detectors import debug_hashes, sdcguard_pypi
from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.debug_hashes import DebugHashes
from sdc_guard.bench.detectors.sdcguard_pypi import SdcguardPypi, overload_of
from sdc_guard.bench.detectors.table import DETECTORS
from sdc_guard.bench.workload import Workload, intra_op_threads
from sdc_guard.errors import UsageError
from sdc_guard.inject.faults import Fault, RepeatedFlip, TransientFlip
from tests.unit.bench.detectors import small

aten = torch.ops.aten
SHAPE = (small.BATCH, small.HIDDEN)
needs_sdcguard = pytest.mark.skipif(
    importlib.util.find_spec("sdcguard") is None, reason="sdcguard is not installed")
WITH_A_MODE = [
    pytest.param(DebugHashes, id="debug hashes"),
    pytest.param(SdcguardPypi, id="sdcguard", marks=needs_sdcguard)]
BF16 = {"autocast": torch.bfloat16}


@pytest.fixture(autouse=True)
def own_conditions() -> Iterator[None]:
    with intra_op_threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def warm(detector: Detector, steps: int = 3, **options: Any) -> Workload:
    work = small.workload(**options)
    detector.begin(work)
    for _ in range(steps):
        assert detector.step(work) == ()
    detector.mark()
    return work


def caught(detector: Detector, fault: Fault, **options: Any) -> tuple[Alarm, ...]:
    work = warm(detector, **options)
    with fault:
        alarms = detector.step(work)
    detector.end()
    assert fault.injected
    return alarms


def test_the_table_names_every_detector_once() -> None:
    assert list(DETECTORS) == [
        "sdc_guard all", "sdc_guard 0.5 %", "sdc_guard 1 %", "sdc_guard 2 %", "sdc_guard 5 %",
        "rerun and compare", "float64 recompute", "NaN and loss-spike watch", "step replay",
        "step replay every 20", "gradient statistics", "global norm z-score", "debug-mode hashes",
        "sdcguard 0.4.0", "sdcguard 0.4.0 every 20"]
    for name, make in DETECTORS.items():
        detector = make()
        assert detector.name == name
        assert detector.description
        assert detector is not make()


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (name == "debug-mode hashes"))
    for name in DETECTORS])
def test_every_detector_leaves_the_modes_of_others_in_their_order(name: str) -> None:
    """Also where the step raises; a fault that counts the user's calls strikes each once."""
    if name.startswith("sdcguard") and importlib.util.find_spec("sdcguard") is None:
        pytest.skip("sdcguard is not installed")
    detector = DETECTORS[name]()
    work = warm(detector, 1)
    update = work.update
    with TransientFlip(aten.gelu.default, 50, counts="user") as fault:
        stack = dispatch._get_current_dispatch_mode_stack()
        detector.step(work)
        assert dispatch._get_current_dispatch_mode_stack() == stack
        assert fault._user_calls is not None
        assert fault._user_calls.num_calls == 1
        work.update = lambda: [][1]  # type: ignore[method-assign]
        with pytest.raises(IndexError):
            detector.step(work)
        assert dispatch._get_current_dispatch_mode_stack() == stack
    assert dispatch._get_current_dispatch_mode_stack() == []
    work.update = update  # type: ignore[method-assign]
    detector.end()


@pytest.mark.parametrize("make", WITH_A_MODE)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_clean_steps_are_silent_and_training_is_the_same(
    make: Callable[[], Detector], autocast: torch.dtype | None
) -> None:
    detector, alarms = make(), []
    detector.begin(small.workload())
    watched = small.trained(
        lambda work: alarms.extend(detector.step(work)), 5, autocast=autocast)
    assert alarms == []
    assert watched == small.trained(Workload.step, 5, autocast=autocast)


@pytest.mark.parametrize("make", WITH_A_MODE)
@pytest.mark.parametrize(("op", "number", "index"), [
    (aten.add_.Tensor, 2, 4), (aten.mm.default, 1, 2)], ids=["optimizer", "backward"])
def test_the_fault_strikes_the_call_of_the_user(
    make: Callable[[], Detector], op: Any, number: int, index: int
) -> None:
    plain = small.workload(**BF16)
    for _ in range(3):
        plain.step()
    fault, again = (TransientFlip(op, number, 0, index, 3, counts="user") for _ in range(2))
    with fault:
        plain.step()
    torch.manual_seed(7)
    detector = make()
    work = warm(detector, **BF16)
    with again:
        detector.step(work)
    (one,), (other,) = fault.injected, again.injected
    assert (one.shape, one.before, one.after) == (other.shape, other.before, other.after)


@pytest.mark.parametrize(("op", "index", "bit"), [
    (aten.addmm.default, 5, 0), (aten.native_layer_norm_backward.default, 3, 31),
    (aten.addcdiv_.default, 2, 12)], ids=["forward", "sign in backward", "optimizer"])
def test_debug_hashes_name_what_strikes_once(op: Any, index: int, bit: int) -> None:
    (alarm,) = caught(DebugHashes(), TransientFlip(op, 0, 0, index, bit, counts="user"))
    assert (alarm.op, alarm.firm) == (str(op), True)


def test_debug_hashes_miss_what_comes_again() -> None:
    assert caught(DebugHashes(), RepeatedFlip(aten.addmm.default, SHAPE, 0, 5, 20)) == ()


def test_to_debug_hashes_a_nan_is_always_a_mismatch() -> None:
    detector = DebugHashes()
    work = warm(detector)
    loss = work.loss
    work.loss = lambda model, batch: loss(model, batch) * float("nan")
    (alarm,) = detector.step(work)
    assert alarm.op == "aten.mul.Tensor"


def test_debug_hashes_tell_of_steps_that_make_other_calls() -> None:
    detector = DebugHashes()
    work = warm(detector)
    passes, loss = iter(range(10)), work.loss

    def growing(model: Any, batch: Any) -> torch.Tensor:
        result = loss(model, batch)
        return result * 2 if next(passes) == 0 else result

    work.loss = growing
    (alarm,) = detector.step(work)
    assert (alarm.op, alarm.verdict) == ("", "logs differ")


def test_debug_hashes_need_a_torch_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils._debug_mode", types.ModuleType("older"))
    with pytest.raises(UsageError, match=r"torch 2\.10"):
        debug_hashes.debug_mode()


@needs_sdcguard
@pytest.mark.parametrize("make_fault", [
    lambda: TransientFlip(aten.addmm.default, 0, 0, 5, 14, counts="user"),
    lambda: RepeatedFlip(aten.addmm.default, SHAPE, 0, 5, 14)], ids=["transient", "repeated"])
def test_sdcguard_catches_a_large_error_in_a_bfloat16_product(
    make_fault: Callable[[], Fault]
) -> None:
    alarms = caught(SdcguardPypi(), make_fault(), **BF16)
    assert {(alarm.op, alarm.firm) for alarm in alarms} == {("aten.addmm.default", True)}


@needs_sdcguard
def test_sdcguard_misses_small_errors_and_float32() -> None:
    small_error = TransientFlip(aten.addmm.default, 0, 0, 5, 0, counts="user")
    assert caught(SdcguardPypi(), small_error, **BF16) == ()
    large_error = TransientFlip(aten.addmm.default, 0, 0, 5, 28, counts="user")
    assert caught(SdcguardPypi(), large_error) == ()


@needs_sdcguard
def test_sdcguard_checks_every_third_step_of_the_run() -> None:
    detector = SdcguardPypi(3)
    work = warm(detector, 4, **BF16)
    found = []
    for _ in range(6):
        with TransientFlip(aten.addmm.default, 0, 0, 5, 14, counts="user"):
            found.append(bool(detector.step(work)))
        detector.reset()
        work = small.workload(**BF16)
    assert found == [False, False, True, False, False, True]
    assert not detector.exhaustive


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdcguard_pypi, "PACKAGE", "sdcguard_that_nobody_has")
    with pytest.raises(UsageError, match=r"torch-sdc-guard\[bench\]"):
        SdcguardPypi().begin(small.workload())


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("sdcguard_other")
    module.__version__ = "9.9"  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader("sdcguard_other", None)
    monkeypatch.setitem(sys.modules, "sdcguard_other", module)
    monkeypatch.setattr(sdcguard_pypi, "PACKAGE", "sdcguard_other")
    with pytest.raises(UsageError, match=r"9\.9 is installed"):
        SdcguardPypi().begin(small.workload())


def test_overloads_are_named_as_torch_names_them() -> None:
    assert overload_of("aten::mm") == str(aten.mm.default)
    assert overload_of("aten::addmm") == str(aten.addmm.default)
    assert overload_of("") == ""


def test_an_interval_must_be_possible() -> None:
    with pytest.raises(UsageError, match="interval=0"):
        SdcguardPypi(0)
