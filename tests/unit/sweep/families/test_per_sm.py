"""The sweep blames the SM that erred, names those not reached, and skips where there are none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard.sweep.declared import HOST, Place, Unsupported
from sdc_guard.sweep.families import per_sm
from sdc_guard.sweep.messages import Message, Miscompare, Visit
from sdc_guard.sweep.visit import Visitor
from sdc_guard_kernels.sm_witness import SmResult, Survey

PLACE = Place(kind=HOST, name="host", device="cpu")
TEST = per_sm.TESTS[0]


def survey_of(*wrong: tuple[int, int], reached: tuple[int, ...] = (0, 1, 2, 3), silent: int = 0
              ) -> Survey:
    """With ``(SM, wrong bits)`` of those that err."""
    bits = dict(wrong)
    return Survey("any", 4, tuple(SmResult(sm, 100, 3 * (sm in bits), 0, bits.get(sm, 0))
                                  for sm in reached), (frozenset(reached),), silent)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def simulate(monkeypatch: pytest.MonkeyPatch, found: Callable[[], Survey]) -> None:
    monkeypatch.setattr(per_sm, "surveyed", lambda chain, place, launches: found())


def visited(label: str) -> tuple[list[Miscompare], tuple[str, ...]]:
    sent: list[Message] = []
    done = Visitor(PLACE, {TEST.name: TEST}, sent.append).visit(
        Visit(test=TEST.name, seed=1, limit_s=0.001, case=label))
    assert not done.error
    return ([m for m in sent if isinstance(m, Miscompare)],
            tuple(c.unsupported for c in done.cases))


def test_an_sm_that_errs_is_the_subunit(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(monkeypatch, lambda: survey_of((2, 1 << 63)))
    (found,), _ = visited("chain of float32")
    assert found.subunits == ("SM 2",)
    assert [(e.index, e.got) for e in found.elements] == [
        ((2, 0), "0x0000000000000003"), ((2, 1), "0x8000000000000000")]


def test_a_program_that_leaves_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(monkeypatch, lambda: survey_of(silent=2))
    (found,), _ = visited("chain of int32")
    assert found.subunits == ("programs without a report",)


def test_sms_that_no_launch_reached_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(monkeypatch, lambda: survey_of(reached=(0, 2)))
    found, unsupported = visited("every SM reached by float32")
    assert not found
    assert unsupported == ("1 launches reached 2 of 4 SMs; never reached: 1, 3",)
    # The chain itself runs on those that can be reached.
    assert visited("chain of float32") == ([], ("",))


@pytest.mark.parametrize("chain", per_sm.NOT_PROMISED)
def test_equal_other_bits_on_every_sm_are_the_devices_way(chain: str) -> None:
    alike = survey_of(*((sm, 4) for sm in range(4)))
    with pytest.raises(Unsupported, match="differ in the same bits 0x4"):
        per_sm.require_promise(chain, alike)
    per_sm.require_promise("float32", alike)
    per_sm.require_promise(chain, survey_of((1, 4)))
    per_sm.require_promise(chain, survey_of((0, 8), *((sm, 4) for sm in (1, 2, 3))))


def test_an_sm_beyond_the_devices_number_counts_as_without_a_report() -> None:
    table = per_sm.table_of(survey_of((3, 1)), 3)
    assert table.tolist() == [[0, 0], [0, 0], [0, 0], [1, 0]]


def test_a_chain_that_triton_cannot_compile_is_unsupported(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.compiler.errors import CompilationError

    from sdc_guard_kernels import sm_units

    def refuse(*arguments: object, **options: object) -> None:
        raise CompilationError(None, None, "fp8e4nv needs a newer device")

    monkeypatch.setattr(sm_units, "survey", refuse)
    with pytest.raises(Unsupported, match="cannot compile float8e4nv"):
        per_sm.surveyed("float8e4nv", PLACE, 1)


def test_without_sms_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TEST.skip(PLACE) == ""
    monkeypatch.delenv("TRITON_INTERPRET")
    assert TEST.skip(PLACE) == "no CUDA device"
    monkeypatch.setattr(per_sm.importlib.util, "find_spec", lambda name: None)
    assert TEST.skip(PLACE) == "triton is not installed"


def test_chains_are_those_of_the_kernels() -> None:
    from sdc_guard_kernels import sm_units, sm_witness

    assert per_sm.WITNESS_CHAINS == sm_witness.CHAINS
    assert per_sm.UNIT_CHAINS == sm_units.CHAINS


def test_a_simulated_device_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in TEST.cases(PLACE) if c.label == "chain of exchange")
    made = case.make(np.random.default_rng(0), PLACE)
    assert made.num_checks == 256 * len(per_sm.SIMULATED_SMS)
    (table,) = made.run()
    assert not np.asarray(table).any()
