"""What is varied about a call, and what is not."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from sdc_guard.hunt.builtin_catalogue import builtin_templates
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.guesses import guesses
from sdc_guard.hunt.materialise import materialise, tensor_of
from sdc_guard.hunt.oracles._registry import Session, chosen
from sdc_guard.hunt.search import search
from sdc_guard.hunt.sizes import broadcast, fits
from sdc_guard.hunt.space import Space
from sdc_guard.hunt.strategies import Neighbourhood
from sdc_guard.hunt.targets import allow
from sdc_guard.hunt.templates import Template, of_spec
from sdc_guard.hunt.trial import (
    Alias,
    Fill,
    Items,
    Layout,
    Literal,
    Operand,
    Scalar,
    Trial,
    num_elements,
)
from sdc_guard.ops import lookup


def _of(packet: str, overload: str, dtypes: tuple[str, ...] = ("float32",)) -> list[Template]:
    spec = lookup(packet)
    assert spec is not None
    return [t for t in of_spec(spec, dtypes=dtypes) if t.trial.target == f"{packet}.{overload}"]


def _drawn(
    templates: list[Template], count: int = 400, max_bytes: int = 1 << 22, max_threads: int = 2
) -> list[Trial]:
    near = Neighbourhood.of(tuple(templates), max_bytes=max_bytes, max_threads=max_threads)
    generator = random.Random(0)
    return [near.drawn(generator) for _ in range(count)]


def _refused(trials: list[Trial]) -> Counter[str]:
    return Counter(execute(t, record=False).refusal for t in trials)


@pytest.mark.parametrize(("packet", "overload"), [
    ("aten.add", "Tensor"), ("aten.mm", "default"), ("aten.sum", "dim_IntList"),
    ("aten.native_layer_norm", "default"), ("aten.exp", "out"), ("aten.cumsum", "out"),
    ("aten.convolution", "default"), ("aten._softmax", "default"),
])
def test_nearly_all_drawn_calls_are_taken(packet: str, overload: str) -> None:
    refused = _refused(_drawn(_of(packet, overload), 150))
    assert refused[""] > 130, refused.most_common(4)


def test_a_drawn_shape_changes_every_operand_that_shares_the_size() -> None:
    drawn = [tuple(o.shape for o in t.operands()) for t in _drawn(_of("aten.mm", "default"))]
    assert all(a[1] == b[0] for a, b, *_ in drawn)
    assert len({a[1] for a, b, *_ in drawn}) > 10


def test_elementwise_calls_broadcast_and_write_over_their_operands() -> None:
    drawn = _drawn(_of("aten.add", "Tensor") + _of("aten.add", "out"), 800)
    assert any(len({o.shape for o in t.operands()}) > 1 for t in drawn)
    assert any(isinstance(v, Alias) for t in drawn for v in t.kwargs.values())
    assert any(o.layout.kind == "stepped" for t in drawn
               for o in t.kwargs.values() if isinstance(o, Operand))


def test_an_operand_is_the_result_of_other_than_elementwise_calls_where_torch_can_tell() -> None:
    spec = lookup("aten.gather")
    assert spec is not None
    templates = [t for t in of_spec(spec, dtypes=("float32",)) if t.trial.target.endswith(".out")]
    written = [list(t.operands())[v.of] for t in _drawn(templates, 1500)
               for v in t.kwargs.values() if isinstance(v, Alias)]
    assert written
    assert {o.layout.kind for o in written} == {"contiguous"}


def test_nothing_is_written_through_shared_memory() -> None:
    spec = lookup("aten.add")
    assert spec is not None
    templates = [t for t in of_spec(spec, dtypes=("float32",))
                 if t.trial.target in ("aten.add_.Tensor", "aten.add.out")]
    assert len({t.trial.target for t in templates}) == 2
    for trial in _drawn(templates, 300):
        operands, out = list(trial.operands()), trial.kwargs.get("out", trial.args[0])
        out = operands[out.of] if isinstance(out, Alias) else out
        assert isinstance(out, Operand)
        assert out.layout.kind not in ("expanded", "overlapping")


def test_saved_values_and_their_sizes_stay_as_sampled() -> None:
    templates = _of("aten.native_layer_norm_backward", "default")
    for trial in _drawn(templates, 200):
        kept = [o for o in trial.operands() if not o.free]
        assert kept
        assert all(isinstance(o.values, Literal) for o in kept)
    assert set(_refused(_drawn(templates, 40))) == {""}


def _dims(trial: Trial) -> tuple[Scalar, ...]:
    dims = trial.args[1]
    return tuple(i for i in dims.items if isinstance(i, Scalar)) if isinstance(dims, Items) else ()


def test_dimensions_follow_the_rank_and_come_from_both_ends() -> None:
    drawn = _drawn(_of("aten.sum", "dim_IntList"))
    dims = Counter(int(i.text) for t in drawn for i in _dims(t))
    assert min(dims) < 0 < max(dims)
    assert {len(_dims(t)) for t in drawn} >= {1, 2}


def test_memory_of_a_trial_is_bounded_and_most_are_small() -> None:
    drawn = _drawn(_of("aten.exp", "default"), 2000, max_bytes=1 << 24)
    elements = sorted(t.num_elements for t in drawn)
    assert elements[-1] * 48 <= 1 << 24
    assert elements[-1] > 50_000
    assert elements[len(elements) // 2] < 2000
    assert elements[0] == 0


def test_counts_around_what_float32_holds_are_drawn_where_memory_allows() -> None:
    drawn = _drawn(_of("aten.sum", "default"), 6000, max_bytes=1 << 31)
    assert any(t.num_elements in (2**24 - 1, 2**24, 2**24 + 1) for t in drawn)
    assert all(t.num_elements < 2**28 for t in drawn)


def test_modes_stay_inside_what_the_session_allows() -> None:
    drawn = _drawn(_of("aten.mm", "default"), 600, max_threads=1)
    assert {t.modes.threads for t in drawn} == {1}
    assert {t.modes.autocast for t in drawn} == {"", "bfloat16", "float16"}
    assert {t.modes.mkldnn for t in drawn} == {True, False}


def test_values_stay_in_the_domain_of_their_operand() -> None:
    spec = lookup("aten._fused_adam")
    assert spec is not None
    templates = [t for t in of_spec(spec, dtypes=("float32",)) if t.domains][:1]
    for trial in _drawn(templates, 30):
        domains = templates[0].domains
        for place, operand in enumerate(trial.operands()):
            if isinstance(operand.values, Fill) and place in domains:
                assert not (materialise(trial).tensors[place] < 0).any()


@pytest.mark.parametrize("how", range(8))
def test_a_broadcast_shape_broadcasts(how: int) -> None:
    for shape in ((), (3,), (4, 1, 5)):
        assert torch.broadcast_shapes(shape, broadcast(shape, how)) == shape


def test_the_work_of_a_product_counts_each_size_once() -> None:
    assert fits([(100, 200), (200, 300)], 1 << 28, 6_000_000)
    assert not fits([(100, 200), (200, 300)], 1 << 28, 5_999_999)
    assert not fits([(1 << 20,)], 1 << 20, 1 << 40)


def test_every_built_in_sample_call_is_taken() -> None:
    templates = [t for t in builtin_templates()
                 if any(o.dtype == "float32" for o in t.trial.operands())]
    refused = {t.trial.target: r for t in templates
               if (r := execute(t.trial, record=False).refusal)}
    assert not refused
    assert len({t.trial.target for t in templates}) > 80


def test_a_function_of_ones_own_is_called_as_it_can_be() -> None:
    for name in ("own_product", "takes_nothing"):
        allow(f"{__name__}.{name}")  # as --ops does with what a user types
    found = list(guesses(f"{__name__}.own_product"))
    assert found
    assert all(len(list(t.trial.operands())) == 2 and t.trial.backward for t in found)
    assert not list(guesses(f"{__name__}.takes_nothing"))


def own_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
        raise ValueError("two matrices")
    return a @ b


def takes_nothing() -> None:
    """No call of it is taken."""


def test_what_must_keep_its_values_lies_anywhere_and_an_index_may_repeat() -> None:
    drawn = _drawn(_of("aten.gather", "default"), 1500)
    kinds = {list(t.operands())[1].layout.kind for t in drawn}
    assert kinds >= {"contiguous", "permuted", "stepped", "gapped", "offset", "expanded"}
    assert _refused(drawn[:150])[""] > 90
    saved = _drawn(_of("aten.native_layer_norm_backward", "default"), 200)
    assert {o.layout.kind for t in saved for o in t.operands() if not o.free} == {"contiguous"}


def test_a_longer_table_is_read_at_its_end() -> None:
    rows = [t for t in _drawn(_of("aten.index_select", "default"), 2000, 1 << 28)
            if t.args[1] == Scalar(kind="int", text="0") and next(t.operands()).shape]
    made = materialise(max(rows, key=lambda t: next(t.operands()).shape[0]))
    assert made.args[0].shape[0] > 4096
    assert made.args[2].max() >= made.args[0].shape[0] - 9


def test_bits_are_shifted_by_counts_up_to_and_beyond_the_width() -> None:
    counts = [materialise(t).tensors[1] for t in _drawn(
        _of("aten.bitwise_left_shift", "Tensor", ("int64",)), 200)]
    assert any((c >= 64).any() for c in counts)
    assert all((c >= 0).all() for c in counts)


def test_arguments_that_are_left_out_are_given_sometimes() -> None:
    drawn = _drawn(_of("aten.softplus", "default"), 600)
    given = {name for t in drawn for name in t.kwargs}
    assert {"beta", "threshold"} <= given or max(len(t.args) for t in drawn) > 2


def test_a_shift_goes_beyond_32_bits() -> None:
    shifts = {int(i.text) for t in _drawn(_of("aten.roll", "default"), 800)
              for i in t.args[1].items}  # type: ignore[union-attr]
    assert max(shifts) > 2**31
    assert {0, 1, -1} <= shifts


def test_a_number_without_dimensions_may_lie_behind_others() -> None:
    operand = Operand(dtype="float32", shape=(), values=Fill(kind="constant"),
                      layout=Layout(kind="offset", detail=2))
    made = tensor_of(operand)
    assert made.storage_offset() == 3
    assert made.shape == ()


def test_the_same_seed_makes_the_same_calls_and_another_does_not() -> None:
    templates = tuple(_of("aten.sum", "dim_IntList"))

    def calls(seed: int) -> list[str]:
        seen: list[Trial] = []
        search(Session(), chosen(("bound",)), templates, seed=seed, examples=40,
               on_divergence=lambda trial, divergence: None, on_trial=seen.append)
        return [t.digest for t in seen]

    assert len(calls(1)) >= 40
    assert calls(1) == calls(1) != calls(2)


def test_a_search_ends_when_its_time_is_up() -> None:
    tally = search(Session(), (), tuple(_of("aten.add", "Tensor")), seed=0, examples=10**6,
                   on_divergence=lambda trial, divergence: None, deadline_s=0.0)
    assert tally.trials == 0
    assert tally.elapsed_s < 5


def test_the_size_arguments_of_a_view_follow_its_operand() -> None:
    space = Space(_of("aten.native_layer_norm", "default")[0])
    assert space.size_places
    assert num_elements((2, 3)) == 6


def test_internal_kernels_get_their_dimensions_as_public_functions_count_them() -> None:
    drawn = _drawn(_of("aten._fft_r2c", "default", ("complex64",)), 300)
    assert {text for t in drawn for text in _texts(t.args[1])} == {"0", "1", "2"}


def test_a_dimension_stays_where_another_argument_tells_its_size() -> None:
    template = _of("aten._fft_c2r", "default", ("complex64",))
    wanted = {(str(t.trial.args[1]), tuple(o.shape for o in t.trial.operands())) for t in template}
    drawn = _drawn(template, 200)
    assert {(str(t.args[1]), tuple(o.shape for o in t.operands())) for t in drawn} <= wanted


def _texts(argument: object) -> list[str]:
    assert isinstance(argument, Items)
    return [item.text for item in argument.items if isinstance(item, Scalar)]
