"""References judge by bounds, samples by windows, checksums by rows; each is shown to fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check import reference, selftest
from sdc_guard.check.plan import make_plan
from sdc_guard.ops import Reference, lookup

aten = torch.ops.aten


def _product(m: int = 40, k: int = 30, n: int = 20):
    generator = torch.Generator().manual_seed(0)
    args = (torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator))
    call = BoundCall(form_of(aten.mm.default), args)
    spec = lookup("aten.mm")
    assert spec is not None
    held = call.run()
    return make_plan(spec, call, held), call, held


def test_full_reference_names_the_wrong_element() -> None:
    plan, call, held = _product()
    assert reference.full_reference(plan, call, held) == []
    wrong = bits.snapshot(held[0])
    wrong[7, 11] += 0.01
    (found,) = reference.full_reference(plan, call, (wrong,))
    assert found.exceeds == "proof"
    assert np.argwhere(found.wrong).tolist() == [[7, 11]]


def test_sampled_reference_sees_a_wrong_column_in_any_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference, "REFERENCE_WORK", 6000)
    plan, call, held = _product()
    wrong = bits.snapshot(held[0])
    wrong[:, 3] += 1.0
    generator = np.random.default_rng(0)
    for _ in range(5):
        witness, found = reference.sampled_reference(plan, call, (wrong,), generator)
        assert witness == "sample"
        assert found
        rows = np.argwhere(found[0].wrong)
        assert set(rows[:, 1]) == {3}
        assert len(rows) < 40
        assert reference.sampled_reference(plan, call, held, generator)[1] == []


def test_checksum_sees_an_element_above_its_rows_noise() -> None:
    plan, call, held = _product()
    assert reference.checksum(plan, call, held) == []
    wrong = bits.snapshot(held[0])
    wrong[5, 5] += 0.1
    (found,) = reference.checksum(plan, call, (wrong,))
    assert found.wrong[5, 5]


@pytest.mark.parametrize(
    ("got", "expected", "magnitude", "is_wrong"),
    [
        (1.0, 1.0, 1.0, False),
        (1.1, 1.0, 1.0, True),
        (float("nan"), 1.0, 1.0, True),
        (float("inf"), 1.0, 1.0, True),
        (float("inf"), 1e39, 1e39, False),
        (1.0, float("nan"), 1.0, True),
        (float("nan"), 1.0, 1e39, False),
        (float("nan"), float("nan"), 1.0, False),
    ],
)
def test_nan_and_inf_are_judged_by_the_definition(
    got: float, expected: float, magnitude: float, is_wrong: bool
) -> None:
    expectation = Reference(np.asarray([expected]), 1e-3, 1e-3, "test", magnitude)
    found = reference.compare(torch.tensor([got]), expectation)
    assert (found is not None) == is_wrong


def test_between_contract_and_proof_is_not_called_proof() -> None:
    expectation = Reference(np.asarray([1.0]), 1e-2, 1e-4, "test")
    found = reference.compare(torch.tensor([1.001]), expectation)
    assert found is not None
    assert found[1] == "contract"


def test_selftest_finds_all_witnesses_alive_and_a_blind_one_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert selftest.dead_witnesses() == frozenset()
    monkeypatch.setattr(bits, "bits_equal", lambda a, b: True)
    assert "replay" in selftest.dead_witnesses()
    monkeypatch.undo()
    monkeypatch.setattr(selftest, "full_reference", lambda *_: [])
    assert "reference" in selftest.dead_witnesses()
    monkeypatch.undo()
    monkeypatch.setattr(selftest, "checksum", lambda *_: [])
    assert selftest.dead_witnesses() == {"checksum"}


def test_a_seeded_call_without_symmetries_is_never_repeated() -> None:
    op = aten._scaled_dot_product_flash_attention.default
    form = form_of(op)
    assert form.seeded
    q = torch.ones(1, 1, 4, 8)
    call = BoundCall(form, form.bind((q, q, q, 0.5), {}))
    spec = lookup("aten._scaled_dot_product_flash_attention")
    assert spec is not None
    plan = make_plan(spec, call, (q, torch.zeros(1, 1, 4)))
    assert plan.next_relation() is None
