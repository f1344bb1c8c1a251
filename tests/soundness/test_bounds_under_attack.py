"""A short attack on every family, and proof that the attack has teeth."""

from __future__ import annotations

import zlib
from collections import Counter

import numpy as np
import pytest
import torch

from sdc_guard.ops import OpSpec
from tests.soundness.attack import Attacker, Cell, attack_cell
from tests.soundness.evaluators import discover, has_emulations
from tests.soundness.run import COMPLEX, FLOATS, spec_of, specs_of, why_not

DRAWN = 3
"""Packets of a family in a dtype that the short attack takes."""


def _drawn(dtype: str) -> list[OpSpec]:
    """Some packets of every family, in each dtype others."""
    found: list[OpSpec] = []
    taken: Counter[str] = Counter()
    for spec in sorted(specs_of(dtype), key=lambda s: zlib.crc32(f"{s.packet} {dtype}".encode())):
        if taken[spec.family] < DRAWN and not why_not(spec, dtype):
            taken[spec.family] += 1
            found.append(spec)
    return found


FAST = ("bfloat16", "float32", "complex64")
"""The formats whose attack runs with the fast tests; `make test-soundness` attacks in all."""


@pytest.mark.parametrize("dtype", [
    d if d in FAST else pytest.param(d, marks=pytest.mark.slow) for d in (*FLOATS, *COMPLEX)])
def test_no_correct_evaluation_breaks_a_bound(dtype: str) -> None:
    broken, judged = [], 0
    for spec in _drawn(dtype):
        cell = attack_cell(spec, getattr(torch, dtype), examples=4, evaluations=300, min_calls=5,
                           max_calls=12)
        broken += [f"{cell.packet}: {text}" for text in cell.broken]
        judged += cell.evaluations
    assert not broken, "\n".join(broken)
    assert judged > 10_000


def _attack(packet: str, dtype: str, shrunk: float) -> Cell:
    return attack_cell(spec_of(f"aten.{packet}", dtype), getattr(torch, dtype), examples=0,
                       evaluations=1, min_calls=60, max_calls=60, shrunk=shrunk)


@pytest.mark.parametrize(("packet", "dtype", "shrunk"), [
    ("sum", "bfloat16", 2), ("mean", "float64", 2), ("mm", "float32", 4), ("bmm", "bfloat16", 2),
    ("convolution", "bfloat16", 2), ("_log_softmax", "float32", 4), ("exp", "bfloat16", 2),
    ("native_layer_norm", "float16", 2), ("native_batch_norm", "bfloat16", 4),
    ("add", "float16", 4), ("cumsum", "float32", 2), ("var", "bfloat16", 2),
    ("linalg_vector_norm", "bfloat16", 2), ("mse_loss", "float32", 4),
    ("_fused_adamw", "bfloat16", 4),
    ("_scaled_dot_product_flash_attention_for_cpu", "bfloat16", 4),
])
def test_a_bound_that_is_too_small_is_broken(packet: str, dtype: str, shrunk: float) -> None:
    assert not _attack(packet, dtype, 1.0).broken
    assert _attack(packet, dtype, shrunk).broken


def test_orders_alone_break_a_proof_that_forgets_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's own kernel cannot reach: a long sum, added one by one."""
    attacker = Attacker(spec_of("aten.mean", "float32"), torch.float32, shrunk=1.5)
    attacker.vectorised(1, 80, 80)
    assert any("kernel" not in text for text in attacker.cell.broken)
    assert not any("kernel" in text for text in attacker.cell.broken)


def test_a_kernel_that_returns_nan_breaks_its_bound() -> None:
    attacker = Attacker(spec_of("aten.sin", "float32"), torch.float32)
    results = attacker._results

    def broken(call: object, flush: bool) -> tuple[torch.Tensor, ...]:
        held = results(call, flush)  # type: ignore[arg-type]
        return tuple(torch.full_like(t, float("nan")) for t in held)

    attacker._results = broken  # type: ignore[method-assign, assignment]
    attacker.vectorised(1, 5, 5)
    assert attacker.cell.broken
    assert attacker.cell.contract.ratio == np.inf


@pytest.mark.parametrize("packet", ["sum", "mm", "convolution", "_softmax", "native_layer_norm",
                                    "mse_loss", "cumsum", "avg_pool2d", "addcmul", "dist"])
def test_families_where_the_order_matters_are_emulated(packet: str) -> None:
    discover()
    assert has_emulations(f"aten.{packet}")
    attacker = Attacker(spec_of(f"aten.{packet}", "float32"), torch.float32)
    attacker.vectorised(1, 30, 30)
    assert attacker.cell.emulated > 0
    assert not attacker.cell.broken


def test_an_attack_is_the_same_for_the_same_seed() -> None:
    first, second = (_attack("sum", "float32", 1.0) for _ in range(2))
    assert (first.contract.ratio, first.evaluations) == (second.contract.ratio, second.evaluations)
