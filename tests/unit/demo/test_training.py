"""The demo's model and loop: what they compute, that they learn, that they repeat to the bit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc_guard.demo.data import load_corpus
from sdc_guard.demo.model import CONFIGS, Gpt, GptConfig, Objective
from sdc_guard.demo.training import (
    FINAL_SHARE_OF_RATE,
    LEARNING_RATE,
    WARMUP_STEPS,
    build_step,
    held_out_perplexity,
)
from sdc_guard.errors import UsageError


def parameters_after(num_steps: int, **options: object) -> list[Tensor]:
    training = build_step("tiny", seed=3, **options)  # type: ignore[arg-type]
    for _ in range(num_steps):
        training.step()
    return [p.detach() for p in training.model.parameters()]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("fused", [False, True])
def test_equal_seeds_train_to_equal_bits(dtype: str, fused: bool) -> None:
    first = parameters_after(3, dtype=dtype, fused=fused)
    second = parameters_after(3, dtype=dtype, fused=fused)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_autocast_changes_the_numbers_and_not_the_parameters_dtype() -> None:
    wide, narrow = parameters_after(2, dtype="fp32"), parameters_after(2, dtype="bf16")
    assert all(p.dtype is torch.float32 for p in narrow)
    assert not all(torch.equal(a, b) for a, b in zip(wide, narrow, strict=True))


def test_another_seed_gives_another_model_and_other_batches() -> None:
    one, two = build_step("tiny", seed=0), build_step("tiny", seed=1)
    assert not torch.equal(one.model.tokens.weight, two.model.tokens.weight)
    assert not torch.equal(one.batches.next()[0], two.batches.next()[0])


def test_the_loss_falls() -> None:
    training = build_step("tiny", seed=0)
    losses = [training.step().item() for _ in range(60)]
    assert losses[0] == pytest.approx(math.log(256), rel=0.2)
    assert sum(losses[-10:]) / 10 < 0.75 * losses[0]


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build_step("tiny", seed=5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_schedule_warms_up_and_decays_to_its_final_share() -> None:
    num_steps = WARMUP_STEPS + 5
    training = build_step("tiny", seed=0, num_steps=num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(training.optimizer.param_groups[0]["lr"])
        training.step()
    assert rates[0] == pytest.approx(LEARNING_RATE / WARMUP_STEPS)
    assert max(rates) == rates[WARMUP_STEPS] == pytest.approx(LEARNING_RATE)
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(
        FINAL_SHARE_OF_RATE * LEARNING_RATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "huge"}, "unknown config 'huge'; known: "),
        ({"config": "tiny", "dtype": "fp8"}, "unknown dtype 'fp8'; known: fp32, bf16"),
        ({"config": "tiny", "num_steps": 0}, "num_steps is 0"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_step(**options, seed=0)  # type: ignore[arg-type]


def test_a_width_that_heads_do_not_divide_is_an_error() -> None:
    with pytest.raises(UsageError, match="width 30 is not a multiple of num_heads 4"):
        GptConfig(width=30, num_layers=1, num_heads=4, context=8, batch_size=1)


def test_the_objective_is_weighted_cross_entropy_plus_z_loss() -> None:
    config = CONFIGS["tiny"]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 256, generator=generator, dtype=torch.float64)
    targets = torch.randint(256, (3, 8), generator=generator)
    targets[:, ::3] = ord(" ")
    got = Objective(config)(logits, targets)
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(3, 8)
    log_z = torch.logsumexp(logits, -1) - logits.amax(-1)
    weight = 1 - (1 - config.blank_weight) * (targets == ord(" "))
    expected = ((nll + config.z_loss * log_z**2) * weight).mean(1) / weight.double().mean(1)
    assert got.shape == (3,)
    assert float((got - expected).abs().max()) < 1e-5


def test_no_byte_sees_a_later_one() -> None:
    model = Gpt(CONFIGS["tiny"])
    tokens = torch.randint(256, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 256
    with torch.no_grad():
        before, after = model.logits(tokens), model.logits(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.equal(before[:, 10], after[:, 10])


def test_the_loss_of_the_parts_is_the_loss_of_the_whole() -> None:
    model = Gpt(CONFIGS["quick"])
    inputs, targets = torch.randint(256, (2, 6, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model.objective(model.logits(inputs), targets).mean()
        assert float((model(inputs, targets) - whole).abs()) < 1e-5


def test_a_model_that_guesses_has_the_perplexity_of_guessing() -> None:
    model = Gpt(CONFIGS["tiny"])
    nn.init.zeros_(model.head.weight)
    assert held_out_perplexity(model, load_corpus(), num_windows=40) == pytest.approx(256, rel=1e-5)


@pytest.mark.parametrize("weight", [math.nan, 1e30])
def test_a_model_without_a_finite_loss_has_infinite_perplexity(weight: float) -> None:
    model = Gpt(CONFIGS["tiny"])
    nn.init.constant_(model.norm.bias, 1.0)
    nn.init.normal_(model.head.weight, std=1.0)
    with torch.no_grad():
        model.head.weight *= weight
    assert held_out_perplexity(model, load_corpus(), num_windows=4) == math.inf
