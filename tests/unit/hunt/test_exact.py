"""Exact values: they agree with what is known and with our references, not with what is wrong."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from sdc_guard.calls import BoundCall, form_of, resolved
from sdc_guard.check.reference import HostCall
from sdc_guard.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from sdc_guard.hunt.exact import checked, exact_element
from sdc_guard.hunt.exact_lines import total
from sdc_guard.hunt.exact_numbers import Reader, rounded, told, wrapped
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.judging import plan_of
from sdc_guard.hunt.templates import of_spec
from sdc_guard.ops import lookup
from tests.unit.hunt.made_findings import NANMEDIAN, first_divergence

ops = torch.ops.aten
PACKETS = (
    "add", "mul", "div", "exp", "log", "tanh", "sigmoid", "gelu", "silu", "rsqrt", "pow", "atan2",
    "erf", "lgamma", "remainder", "lerp", "addcmul", "where", "clamp", "lt", "sum", "mean", "prod",
    "amax", "std", "linalg_vector_norm", "logsumexp", "cumsum", "nanmedian", "mm", "addmm", "bmm",
    "baddbmm", "mv", "dot", "_softmax", "_log_softmax", "native_layer_norm", "gather", "cat",
    "index_select", "flip", "roll", "constant_pad_nd", "embedding", "copy",
    "index_add", "slice_scatter", "select_scatter", "diagonal_scatter", "put",
    "embedding_dense_backward", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d",
    "im2col", "col2im", "native_batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "native_batch_norm_backward", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "nll_loss_backward",
    "nll_loss2d_backward", "narrow_copy", "_foreach_copy", "gelu_backward",
    "sigmoid_backward", "tanh_backward",
)


def _exact(op: object, *args: object, output: int = 0, index: tuple[int, ...] = ()) -> Fraction:
    form = form_of(op)
    call = BoundCall(form, form.bind(args, {}))
    held = call.run()
    found = exact_element(call, held[output], output, index)
    assert found is not None
    assert isinstance(found.value, Fraction)
    return found.value


@pytest.mark.parametrize("packet", PACKETS)
def test_exact_values_lie_inside_the_bounds_of_right_results(packet: str) -> None:
    """Two computations that share nothing agree about every element that is looked at."""
    spec = lookup(f"aten.{packet}")
    assert spec is not None
    looked_at = 0
    for template in itertools.islice(of_spec(spec, dtypes=("float32", "bfloat16")), 4):
        execution = execute(template.trial)
        for observation, entry in zip(execution.observations, execution.entries, strict=True):
            plan = plan_of(observation, entry)
            if observation.call.form.packet != spec.packet or plan is None:
                continue
            host = HostCall(resolved(observation.call), observation.held)
            reference = plan.spec.reference
            assert reference is not None
            with np.errstate(all="ignore"):
                expectations = list(reference(host))
            for output, expectation in enumerate(expectations):
                held = observation.held[output]
                if expectation is None or not held.numel():
                    continue
                limits = (expectation.contract if expectation.proof is None
                          else expectation.proof)
                index = tuple((7 * held.numel() // 11) // max(1, n) % n for n in held.shape)
                limit = float(np.broadcast_to(limits, tuple(held.shape))[index])
                found = exact_element(observation.call, held, output, index)
                if found is None:
                    continue
                looked_at += 1
                assert not found.breaks(limit), (template.trial.target, index, found)
    assert looked_at, "no form of this operator is known"


def test_cancellation_is_seen_exactly() -> None:
    x = torch.tensor([2.0**60, 1.0, -(2.0**60)])
    assert _exact(ops.sum.default, x) == 1
    assert _exact(ops.dot.default, x, torch.ones(3)) == 1
    assert _exact(ops.cumsum.default, x, 0, index=(2,)) == 1


def test_elementary_functions_have_their_known_digits() -> None:
    e = _exact(ops.exp.default, torch.tensor([1.0]), index=(0,))
    assert told(e).startswith("2.71828182845904523536028")
    tiny = _exact(ops.expm1.default, torch.tensor([2.0**-80], dtype=torch.float64), index=(0,))
    assert abs(tiny / Fraction(2)**-80 - 1) < Fraction(1, 10**20)
    assert told(_exact(ops.sin.default, torch.tensor([1e22], dtype=torch.float64),
                       index=(0,))).startswith("-0.8522008497671888")


def test_integers_wrap_as_the_dtype_does() -> None:
    x = torch.tensor([2**63 - 1, 1])
    assert _exact(ops.sum.default, x) == -(2**63)
    assert wrapped(Fraction(300), torch.uint8) == 44
    assert wrapped(Fraction(200), torch.int8) == -56


@pytest.mark.parametrize(("fmt", "dtype"), [(FLOAT32, np.float32), (FLOAT16, np.float16)])
def test_rounding_is_that_of_ieee(fmt: Format, dtype: type[np.floating[np.float32]]) -> None:
    rng = np.random.default_rng(1)
    for x in np.ldexp(rng.standard_normal(300), rng.integers(-160, 160, 300)):
        with np.errstate(all="ignore"):
            want = float(dtype(x))
        got = rounded(Fraction(float(x)), fmt)
        assert float(got) == want or (math.isinf(want) and got == want)


def test_ties_go_to_even_and_overflow_to_infinity() -> None:
    assert rounded(1 + Fraction(1, 2**8), BFLOAT16) == 1
    assert rounded(1 + Fraction(3, 2**8), BFLOAT16) == 1 + Fraction(1, 2**6)
    assert rounded(Fraction(2)**1024, FLOAT64) == math.inf
    assert rounded(-Fraction(2)**-1076, FLOAT64) == 0


def test_nan_and_infinities_add_as_ieee_has_them() -> None:
    assert math.isnan(total([math.inf, -math.inf, Fraction(1)]))
    assert total([math.inf, math.inf]) == math.inf
    assert math.isnan(total([math.nan, math.inf]))


def test_elements_are_read_through_strides_offsets_and_every_dtype() -> None:
    x = torch.arange(12.0).reshape(3, 4)[1:, ::2].t()
    assert Reader(x)[1, 0] == 6
    assert Reader(torch.tensor([1.5], dtype=torch.bfloat16))[(0,)] == Fraction(3, 2)
    assert Reader(torch.tensor([2**64 - 1], dtype=torch.uint64))[(0,)] == 2**64 - 1
    assert Reader(x).broadcast((5, 1, 1)) == 10


def test_a_right_number_contradicts_and_a_wrong_one_confirms() -> None:
    divergence = first_divergence(NANMEDIAN)
    assert checked(divergence)[0] == "confirmed"
    assert divergence.observation is not None
    held = divergence.observation.held
    exact = checked(divergence)[1]
    assert exact is not None
    held[0].fill_(float(exact.nearest))
    assert divergence.worst is not None
    again, found = checked(divergence)
    assert again == "contradicted"
    assert found is not None
    assert found.error == 0


def test_what_is_not_known_is_not_guessed() -> None:
    form = form_of(ops.sort.default)
    call = BoundCall(form, form.bind((torch.tensor([2.0, 1.0]),), {}))
    assert exact_element(call, call.run()[0], 0, (0,)) is None
    form = form_of(ops.exp.default)
    call = BoundCall(form, form.bind((torch.tensor([1j]),), {}))
    assert exact_element(call, call.run()[0], 0, (0,)) is None
