"""Which faults are put to which run, and which of them a sweep of that length can meet."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import msgspec

GROUPS: dict[str, tuple[str, ...]] = {
    "products": ("mm.default", "mm.out", "addmm.default", "addmm.out", "bmm.default", "bmm.out",
                 "baddbmm.default", "_int_mm.default", "addmv.default", "addmv.out",
                 "dot.default"),
    "sums": ("sum.default", "sum.dim_IntList", "mean.dim", "cumsum.default", "prod.default",
             "prod.dim_int"),
    "softmax": ("_softmax.default", "_softmax_backward_data.default", "_log_softmax.default",
                "_log_softmax_backward_data.default"),
    "copies": ("copy_.default",),
    "gathers": ("index_select.default", "gather.default", "index.Tensor", "embedding.default"),
    "scatters": ("scatter.src", "scatter_add.default", "index_put.default", "index_add.default",
                 "index_copy.default", "index_put_.default", "scatter_.src", "scatter_add_.default",
                 "index_add_.default", "index_copy_.default"),
    "convolution": ("convolution.default", "convolution_backward.default"),
    "additions": ("add.Tensor", "add_.Tensor", "sub.Tensor", "sub_.Tensor"),
    "multiplications": ("mul.Tensor", "mul_.Tensor", "div.Tensor", "div_.Tensor"),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu.default",
                  "_scaled_dot_product_flash_attention_for_cpu_backward.default"),
    "norms": ("native_layer_norm.default", "native_layer_norm_backward.default"),
    "activations": ("gelu.default", "gelu_backward.default", "relu.default", "silu.default",
                    "tanh.default", "sigmoid.default", "exp.default"),
    "sorts": ("sort.stable", "sort.values_stable", "topk.default", "topk.values"),
    "bit operations": ("bitwise_and.Tensor", "bitwise_or.Tensor", "bitwise_xor.Tensor",
                       "__lshift__.Tensor", "__rshift__.Tensor", "bitwise_left_shift.Tensor",
                       "bitwise_right_shift.Tensor"),
}
"""Kernels that use one piece of the core, and are wrong together."""
KINDS = ("low bit", "high bit", "sign", "stuck lane", "wrong offset")
RATES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
MIN_EXPECTED = 5.0
"""A rate is within reach if so many wrong calls are expected in the sweep: none at all then has a
probability of 0.7 %."""
UNANSWERED = ("softmax", "attention", "norms", "activations")
"""Kernels that no test has an exact answer for: there a wrong number is FAIL only if the unit is
wrong in it again."""
NUM_RETESTS, MIN_AGAIN = 20, 2.0
"""So many repetitions follow a wrong number, and so many of them must be expected to be wrong."""
Calls = Mapping[str, float]
"""By group, how many calls a clean sweep makes on one core."""


class Fault(msgspec.Struct, frozen=True):
    """``rate``: the chance of each call of the group's kernels on ``core`` to come out wrong."""

    core: int
    group: str
    kind: str
    rate: float
    seed: int


def expected(calls: Calls, group: str, rate: float) -> float:
    """Wrong calls in one sweep."""
    return rate * calls.get(group, 0.0)


def is_reached(calls: Calls, group: str, rate: float) -> bool:
    """Whether a sweep of the measured length meets it often enough for a verdict."""
    return expected(calls, group, rate) >= MIN_EXPECTED and (
        group not in UNANSWERED or rate * NUM_RETESTS >= MIN_AGAIN)


def within_reach(calls: Calls) -> list[tuple[str, float]]:
    """Groups and rates that a sweep of the measured length meets."""
    return [(g, r) for r in RATES for g in GROUPS if is_reached(calls, g, r)]


def beyond_reach(calls: Calls) -> list[tuple[str, float]]:
    """Groups and rates of which one wrong call may come, or none: the first rate too low of each
    group that is called at all."""
    return [(g, next(r for r in RATES if not is_reached(calls, g, r)))
            for g in GROUPS if is_reached(calls, g, RATES[0])
            and not is_reached(calls, g, RATES[-1])]


def not_called(calls: Calls) -> list[str]:
    """Groups that no test of the sweep calls: blind spots."""
    return [g for g in GROUPS if expected(calls, g, 1.0) < MIN_EXPECTED]


def faults(
    pairs: Sequence[tuple[str, float]], cores: Sequence[int], num: int, seed: int
) -> list[Fault]:
    """``num`` faults: every pair in turn, in an order that the seed decides, cores and kinds
    too, so that no three of them go in step."""
    if not pairs:
        return []
    draw = random.Random(seed)
    found: list[Fault] = []
    while len(found) < num:
        for group, rate in draw.sample(list(pairs), len(pairs)):
            found.append(Fault(draw.choice(list(cores)), group, draw.choice(KINDS), rate,
                               draw.randrange(2**31)))
    return found[:num]


def mean_calls(many: Iterable[Calls]) -> dict[str, float]:
    """The mean over sweeps."""
    known = list(many)
    return {g: sum(c.get(g, 0.0) for c in known) / len(known) for g in GROUPS} if known else {}
