"""Correct results under attack are not accused by kernels, and planted errors are seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdc_guard.ops import OpSpec
from tests.kernels.attack import DTYPES, Attacker, kernel_specs
from tests.kernels.power import EXHAUSTIVE, power_of
from tests.soundness.cases import Attack
from tests.soundness.values import Fill

SPECS = {spec.packet: spec for spec in kernel_specs()}
FAST = ("aten.mm", "aten.sum", "aten._softmax", "aten.linalg_vector_norm", "aten.nll_loss_forward")
SUBNORMAL = (
    "aten._batch_norm_with_update", "aten.convolution", "aten.native_group_norm",
    "aten.native_layer_norm")


def _attacked(spec: OpSpec, dtype: torch.dtype, turns: int, seed: int) -> list[str]:
    attacker = Attacker(spec, dtype, seed)
    for turn in range(turns):
        attacker.correct(attacker.drawn(turn))
    return attacker.result.accused


@pytest.mark.parametrize("packet", FAST)
def test_correct_results_are_not_accused(packet: str) -> None:
    found = [text for dtype in (torch.float32, torch.float16)
             for text in _attacked(SPECS[packet], dtype, 2, 1)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("packet", SUBNORMAL)
def test_subnormal_bfloat16_keeps_its_value(packet: str) -> None:
    attacker = Attacker(SPECS[packet], torch.bfloat16)
    for place, exponent in enumerate((-3, 3)):
        fill = Fill(kind="subnormal", exponent=exponent, seed=place)
        attacker.correct(Attack(place, (fill,), ("sampled",)))
    assert attacker.result.verdicts
    assert not attacker.result.accused, "\n".join(attacker.result.accused)


@pytest.mark.parametrize("packet", FAST[1:])
def test_every_error_of_ten_bounds_is_seen_where_every_element_is_judged(packet: str) -> None:
    found = power_of(Attacker(SPECS[packet], torch.float32), 2)
    assert found
    for witness, counts in found.items():
        if witness.startswith(EXHAUSTIVE):
            assert counts[2] > 0
            assert counts[3] == counts[2]
            assert counts[5] == counts[4]


def test_a_planted_error_is_the_host_s_too() -> None:
    attacker = Attacker(SPECS["aten.amax"], torch.bfloat16)
    found = power_of(attacker, 2)["reference (element)"]
    assert found[0] > 0
    assert found[::2] == found[1::2]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("packet", SPECS)
def test_no_attack_on_any_op_is_accused(packet: str, dtype: torch.dtype) -> None:
    with np.errstate(all="ignore"):
        attacker = Attacker(SPECS[packet], dtype)
        if not attacker.samples.calls:
            pytest.skip("no samples on a CPU")
        turns = 8 if "attention" in packet else 40
        found = _attacked(SPECS[packet], dtype, turns, 2)
    assert not found, "\n".join(found)
