"""What callers of internal operators promise, and what hunts therefore leave alone."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sdc_guard.hunt.catalogue_child import Reader
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.promises import hands_on_out, is_public, layouts_of, packet_called
from sdc_guard.hunt.strategies import Neighbourhood
from sdc_guard.hunt.templates import Template, argument_of, of_spec
from sdc_guard.hunt.trial import Operand, Scalar, Trial
from sdc_guard.ops import lookup


def _of(packet: str, overload: str, dtype: str = "float32") -> list[Template]:
    spec = lookup(packet)
    assert spec is not None
    return [t for t in of_spec(spec, dtypes=(dtype,)) if t.trial.target == f"{packet}.{overload}"]


def _drawn(templates: list[Template], count: int) -> list[Trial]:
    near = Neighbourhood.of(tuple(templates), max_bytes=1 << 20)
    generator = random.Random(0)
    return [near.drawn(generator) for _ in range(count)]


@pytest.mark.parametrize(("target", "public"), [
    ("aten.sum.dim_IntList", True), ("torch.Tensor.__radd__", True), ("torch.Tensor.add_", True),
    ("torch.nn.functional.batch_norm", True), ("torch.native_batch_norm", False),
    ("aten.nll_loss_forward.default", False), ("aten.mkldnn_rnn_layer", False),
    ("aten._foreach_add_.List", False), ("aten.rrelu_with_noise.default", False),
    ("torch._native_batch_norm_legit", False), ("aten.gelu_backward.grad_input", False),
])
def test_names_tell_what_users_call(target: str, public: bool) -> None:
    assert is_public(target) is public


def test_a_python_path_has_the_promises_of_its_operator() -> None:
    assert packet_called("torch.native_group_norm") == "aten.native_group_norm"
    assert packet_called("aten.native_group_norm.default") == "aten.native_group_norm"
    assert packet_called("torch.Tensor.add_") == "aten.add"
    assert packet_called("torch.nn.functional.group_norm") == ""
    assert layouts_of(packet_called("torch.native_group_norm")) == frozenset({"contiguous"})


def test_only_public_functions_are_called_on_windows_that_share_memory() -> None:
    internal = layouts_of("aten._foreach_copy")
    assert internal is not None
    assert "overlapping" not in internal
    assert "expanded" in internal
    assert layouts_of("aten.slice_scatter") is None


def test_a_name_of_the_catalogue_that_means_nothing_here_is_read_all_the_same() -> None:
    info = SimpleNamespace(name="torch._no_such_operator", variant_test_name="")
    assert Reader(info, "torch.torch._no_such_operator").names == ()
    assert Reader(info, "torch.native_group_norm").names[:2] == ("input", "weight")


@pytest.mark.parametrize("overload", ["_softmax.out", "_softmax_backward_data.out"])
def test_internal_kernels_write_where_their_callers_let_them(overload: str) -> None:
    base, _, name = overload.partition(".")
    drawn = _drawn(_of(f"aten.{base}", name), 300)
    for trial in drawn:
        (out,) = (o for o in trial.kwargs.values() if isinstance(o, Operand))
        first = next(iter(trial.operands()))
        assert (out.layout.kind, out.shape) == ("contiguous", first.shape)
    assert len({next(iter(t.operands())).shape for t in drawn}) > 1 or "backward" in overload


def test_flags_stay_with_the_values_that_were_computed_under_them() -> None:
    """A workspace of a layer that ran backwards in time is none of one that ran forwards."""
    templates = _of("aten.native_batch_norm_backward", "default")
    wanted = {_scalars(t.trial) for t in templates}
    assert {_scalars(t) for t in _drawn(templates, 300)} == wanted


def _scalars(trial: Trial) -> tuple[Scalar, ...]:
    return tuple(a for a in trial.args if isinstance(a, Scalar))


def test_the_noise_of_an_internal_activation_lies_dense() -> None:
    drawn = _drawn(_of("aten.rrelu_with_noise", "default"), 200)
    assert {list(t.operands())[1].layout.kind for t in drawn} == {"contiguous"}


def test_nobody_gives_a_loss_its_out() -> None:
    assert not hands_on_out("aten.binary_cross_entropy")
    assert not hands_on_out("aten._softmax")
    assert hands_on_out("aten.add")
    assert hands_on_out("aten.avg_pool2d")
    x, y = torch.tensor([1.0, 0.5]), torch.ones(2)
    trial = Trial(target="aten.binary_cross_entropy.default",
                  args=tuple(map(argument_of, (x, y, None, 0))))
    assert _words(trial, "forms") == []


def _words(trial: Trial, oracle: str) -> list[str]:
    base = execute(trial)
    session = Session()
    return [d.word for o in chosen((oracle,)) for d in o.check(session, trial, base)]


def test_a_score_of_inf_leaves_the_logarithm_of_the_sum_open() -> None:
    q = torch.ones(1, 1, 40, 16, dtype=torch.float16)
    mask = torch.full((40, 40), -np.inf, dtype=torch.float16)
    mask[:, [0, 2, 5, 6, 7, 11, 14, 17, 18, 19, 21, 24, 26, 27, 28, 29, 30, 31]] = np.inf
    trial = Trial(target="aten._scaled_dot_product_flash_attention_for_cpu.default",
                  args=tuple(map(argument_of, (q, q, q))), kwargs={"attn_mask": argument_of(mask)})
    assert _words(trial, "bound") == []


def test_sums_of_products_of_two_factors_may_overflow_before_the_third() -> None:
    a, b, c = (torch.full(s, v) for s, v in (
        ((1, 4), 1e38), ((1, 4, 4), 1.5), ((1, 4), 1e-30)))
    trial = Trial(target="aten._trilinear.default", args=tuple(map(argument_of, (
        a, b, c, [1, 3], [0], [1, 2], [2, 3]))))
    assert _words(trial, "bound") == []
