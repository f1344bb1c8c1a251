"""The step of training and its operators: the same in every process, whatever the seed of the
visit, and AdamW as torch's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sdc_guard.sweep.declared import CORE, Place
from sdc_guard.sweep.exact import bits_of
from sdc_guard.sweep.families import all_tests
from sdc_guard.sweep.families import mini_transformer_step as mini
from sdc_guard.sweep.families._training import fixed, operand, same_each_time
from sdc_guard.sweep.visit import generator, joint_digest

ROOT = Path(__file__).parents[4]
CORE_0 = Place(kind=CORE, name="core 0", device="cpu")
REPEATED = ("mini_transformer_step", "real_ops", "high_entropy_repeat")
GOLDEN = ("mini_transformer_step", "real_ops")
DIGESTS = """
import sys
import torch
from sdc_guard.sweep.declared import CORE, Place
from sdc_guard.sweep.exact import bits_of
from sdc_guard.sweep.families import all_tests
from sdc_guard.sweep.visit import generator, joint_digest

torch.set_num_threads(1)
place = Place(kind=CORE, name="core 0", device="cpu")
kept = [bytearray(int(sys.argv[1]) * 1009)]  # other addresses
for name in sys.argv[2:]:
    for case in all_tests()[name].cases(place):
        made = case.make(generator(name, case.label, 5), place)
        kept.append(torch.empty(int(sys.argv[1]) * 13 + 1))
        print(name, case.label, joint_digest([bits_of(r) for r in made.run()]))
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a core's worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _digests_of_a_process(number: int) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-c", DIGESTS, str(number), *REPEATED], cwd=ROOT, check=True,
        capture_output=True, text=True, timeout=300)
    return found.stdout.splitlines()


def _digests_here() -> list[str]:
    found = []
    for name in REPEATED:
        for case in all_tests()[name].cases(CORE_0):
            made = case.make(generator(name, case.label, 5), CORE_0)
            digest = joint_digest([bits_of(r) for r in made.run()])
            found.append(f"{name} {case.label} {digest}")
    return found


def test_another_process_has_the_same_digests() -> None:
    assert _digests_of_a_process(1) == _digests_here()


@pytest.mark.slow
def test_ten_processes_have_the_same_digests() -> None:
    with ThreadPoolExecutor(2) as pool:
        for other in pool.map(_digests_of_a_process, range(10)):
            assert other == _digests_here()


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_cases_do_not_depend_on_the_seed(name: str) -> None:
    keys = set()
    for case in all_tests()[name].cases(CORE_0):
        made = [case.make(generator(name, case.label, seed), CORE_0) for seed in (1, 2)]
        one, two = ([joint_digest([bits_of(r)]) for r in m.run()] for m in made)
        assert one == two
        assert made[0].expected is None
        keys.add(made[0].golden_key)
    assert len(keys) == len(all_tests()[name].cases(CORE_0))
    assert "" not in keys


def test_a_step_gives_activations_gradients_and_parameters() -> None:
    size = mini.SMALL
    weights = mini.weights_of(fixed(), size, "float32", CORE_0)
    made = mini.cases(CORE_0)[0].make(generator("t", "c", 1), CORE_0)
    results = made.run()
    num_outputs = 1 + size.blocks + 1
    assert len(results) == num_outputs + 2 * len(weights)
    gradients = results[num_outputs:num_outputs + len(weights)]
    after = results[num_outputs + len(weights):]
    for (name, weight), gradient, new in zip(weights.items(), gradients, after, strict=True):
        assert isinstance(gradient, torch.Tensor)
        assert isinstance(new, torch.Tensor)
        assert gradient.shape == weight.shape == new.shape
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any(), name
        assert (bits_of(new) != bits_of(weight)).any(), name


def test_a_changed_weight_changes_the_digest() -> None:
    size = mini.SMALL
    weights = mini.weights_of(fixed(), size, "float32", CORE_0)
    tokens = torch.arange(size.batch * size.length).reshape(size.batch, size.length) % size.words
    right = [bits_of(x) for x in mini.step(weights, tokens, tokens, size)]
    weights["block1.down"].view(torch.int32)[3, 5] ^= 1 << 20
    wrong = [bits_of(x) for x in mini.step(weights, tokens, tokens, size)]
    assert joint_digest(right) != joint_digest(wrong)


def test_adamw_is_torchs() -> None:
    """By the bits, against the optimizer with the same settings."""
    random = fixed()
    weight, gradient = (operand(random, (33, 17), "float32", CORE_0) for _ in range(2))
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    torch.optim.AdamW([parameter], lr=mini.RATE, betas=mini.BETAS, eps=mini.EPSILON,
                      weight_decay=mini.DECAY, foreach=False).step()
    assert (bits_of(mini.adamw(weight, gradient)) == bits_of(parameter)).all()


def test_a_gpu_is_told_to_add_in_one_order_and_told_back() -> None:
    on_gpu = Place(kind="gpu", name="cuda:0", device="cuda:0")
    before = torch.are_deterministic_algorithms_enabled()
    with same_each_time(on_gpu):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
    assert torch.are_deterministic_algorithms_enabled() == before
    with same_each_time(CORE_0):
        assert torch.are_deterministic_algorithms_enabled() == before
