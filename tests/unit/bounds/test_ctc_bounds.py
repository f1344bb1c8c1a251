from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds.ctc import log_likelihood, recursion, spread

U = 2.0**-24
F = np.float32


def collapsed(path: tuple[int, ...], blank: int) -> list[int]:
    return [c for c, _ in itertools.groupby(path) if c != blank]


def by_enumeration(probs: list[list[Fraction]], target: list[int], blank: int) -> Fraction:
    """The probability of a target: every alignment by itself."""
    total = Fraction(0)
    for path in itertools.product(range(len(probs[0])), repeat=len(probs)):
        if collapsed(path, blank) == target:
            product = Fraction(1)
            for step, label in zip(probs, path, strict=True):
                product *= step[label]
            total += product
    return total


@pytest.mark.parametrize("target", [[], [1], [1, 1], [1, 2, 1], [2, 2, 2]])
@pytest.mark.parametrize("blank", [0, 3])
def test_the_likelihood_is_the_sum_over_all_alignments(target: list[int], blank: int) -> None:
    generator = np.random.default_rng(len(target) + blank)
    probs = [[Fraction(int(n), 64) for n in generator.integers(1, 30, size=4)] for _ in range(5)]
    exact = by_enumeration(probs, target, blank)
    logs = np.log([[float(p) for p in step] for step in probs])
    labels = spread(np.array(target, dtype=np.int64), blank)
    found, _ = log_likelihood(recursion(logs, labels, U), U)
    if exact == 0:
        assert found == -np.inf
    else:
        assert abs(found - np.log(float(exact))) < 2.0**-45


def test_sums_in_fp32_stay_inside_their_bound() -> None:
    generator = np.random.default_rng(0)
    for num_steps, scale in ((40, 1.0), (40, 30.0), (120, 4.0)):
        logs = -np.abs(scale * generator.normal(size=(num_steps, 6))).astype(F)
        labels = spread(generator.integers(1, 6, size=9), 0)
        sums = recursion(logs.astype(np.float64), labels, U)
        before = np.full(labels.size, -np.inf, dtype=F)
        before[:2] = logs[0, labels[:2]]
        worst = 0.0
        for t in range(1, num_steps):
            after = before.copy()
            for s in range(labels.size):
                terms = [before[s]] + ([before[s - 1]] if s else [])
                if s > 1 and labels[s] != labels[s - 2]:
                    terms.append(before[s - 2])
                m = max(terms)
                if m == -np.inf:
                    after[s] = m
                    continue
                total = F(0)
                for x in terms:
                    total += np.exp(x - m)
                after[s] = F(np.log(total)) + m + logs[t, labels[s]]
            before = after
            known = np.isfinite(before)
            assert (known == np.isfinite(sums.value[t])).all()
            error = np.abs(before[known].astype(np.float64) - sums.value[t][known])
            assert (error <= sums.error[t][known]).all()
            worst = max(worst, float((error / sums.error[t][known]).max()))
        assert worst > 0.01


def test_a_lost_alignment_is_outside_the_bound() -> None:
    logs = np.full((6, 4), np.log(0.25))
    sums = recursion(logs, spread(np.array([1, 2]), 0), U)
    found, error = log_likelihood(sums, U)
    assert abs(np.log1p(-(4.0**-6) / np.exp(found))) > 100 * error
