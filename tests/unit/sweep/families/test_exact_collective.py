"""F11: answers against fractions, who is to blame by pairs, ranks that lie, die, hang or refuse."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import prod
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from sdc_guard import ranks
from sdc_guard.document import exits
from sdc_guard.sweep import rank_group
from sdc_guard.sweep.declared import CORE, HOST, Bits, PartLost, Place, Unsupported
from sdc_guard.sweep.exact import LAYOUTS, tensor_of
from sdc_guard.sweep.families import exact_collective
from sdc_guard.sweep.families._collectives import drawn
from sdc_guard.sweep.families.exact_collective import OPS, TESTS, blamed, isolated
from sdc_guard.sweep.messages import Visit
from sdc_guard.sweep.rank_group import RankGroup, Slot
from sdc_guard.sweep.visit import Visitor, canary_is_caught, generator
from tests.unit.sweep.running import Started

CORES = sorted(os.sched_getaffinity(0))
FIRST, LAST = CORES[0], CORES[-1]
WHOLE = Place(kind=HOST, name="host", device="cpu", num_threads=2)
ROUNDED = [(op, d) for op, dtypes in OPS for d in dtypes
           if d in LAYOUTS and op.startswith(("all_reduce", "reduce"))]
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="this machine has one core")


@pytest.fixture(autouse=True)
def _no_ranks_are_left() -> Iterator[None]:
    yield
    for group in exact_collective._groups.values():
        group.close()
    exact_collective._groups.clear()
    assert not psutil.Process().children()


def fractions(bits: Bits, dtype: str) -> list[Fraction]:
    return [Fraction(v) for v in tensor_of(bits, dtype).double().tolist()]


@pytest.mark.parametrize(("op", "dtype"), ROUNDED)
@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_answers_are_exact_and_so_is_each_partial_result(
    op: str, dtype: str, num_ranks: int
) -> None:
    """In whatever order ranks are joined, nothing may be rounded."""
    given, expected = drawn(op, dtype, num_ranks, 64, np.random.default_rng(5))
    rows = [fractions(bits, dtype) for bits in given]
    whole = np.concatenate(expected) if op == "reduce_scatter" else expected[0]
    join = {"product": prod, "max": max, "min": min}.get(op.rpartition(" ")[2], sum)
    for element, right in enumerate(fractions(whole, dtype)):
        column = [row[element] for row in rows]
        assert join(column) == right
        for size in range(2, num_ranks + 1):
            for some in itertools.islice(itertools.combinations(column, size), 12):
                partial = join(some)
                kept = torch.tensor(float(partial), dtype=torch.float64).to(getattr(torch, dtype))
                assert Fraction(float(kept)) == partial


@pytest.mark.parametrize(("op", "dtype"), [(o, d) for o, ds in OPS for d in ds
                                           if d not in LAYOUTS and o.startswith("all_reduce sum")])
def test_sums_of_integers_stay_in_range(op: str, dtype: str) -> None:
    given, expected = drawn(op, dtype, 4, 64, np.random.default_rng(5))
    columns = zip(*(tensor_of(bits, dtype).tolist() for bits in given), strict=True)
    assert [sum(column) for column in columns] == tensor_of(expected[0], dtype).tolist()


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("bad", [None, 0, 1])
def test_one_bad_rank_is_named_and_two_ranks_cannot_tell(num_ranks: int, bad: int | None) -> None:
    pairs = list(itertools.combinations(range(num_ranks), 2))
    wrong = [p for p in pairs if bad in p]
    right = [p for p in pairs if bad not in p]
    expected = () if bad is None or num_ranks == 2 else (bad,)
    assert blamed(right, wrong) == expected


def test_pairs_that_no_rank_explains_blame_nobody() -> None:
    assert blamed([(0, 2), (1, 3), (0, 3), (1, 2), (2, 3)], [(0, 1)]) == ()  # their link, perhaps
    assert blamed([], list(itertools.combinations(range(4), 2))) == ()
    assert blamed([(2, 3)], [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]) == (0, 1)


class Pretended:
    """A group that makes the answer by definition, and a wrong one where a bad core is in it."""

    def __init__(self, slots: Sequence[Slot], bad: set[int], dies: bool) -> None:
        self._is_bad = any(slot.core in bad for slot in slots)
        self._dies = dies

    def run(self, op: str, dtype: str, given: Sequence[Bits]) -> list[Bits]:
        if self._is_bad and self._dies:
            raise PartLost("rank 0 on core 3 ended by SIGSEGV", signal.SIGSEGV)
        found = given[0] + given[1]
        if self._is_bad:
            found[7] ^= 1
        return [found, found]

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("dies", [False, True])
def test_isolation_names_the_core_that_all_wrong_pairs_share(dies: bool) -> None:
    def ask(*bad: int):
        return isolated("all_reduce sum", "int64", 33, "gloo", [Slot(n) for n in (1, 3, 5, 7)],
                        lambda _, slots: Pretended(slots, set(bad), dies))  # type: ignore[arg-type,return-value]

    assert ask(3).place == "core 3"
    assert "3 of 6 pairs" in ask(3).reason
    assert ask(1, 7).place == "core 1, core 7"
    assert ask().place == ""
    assert ask(1, 3, 5, 7).place == ""
    assert "core 1 with core 3" in ask(1, 3, 5, 7).reason


@pytest.mark.parametrize("number", range(len(TESTS[0].cases(WHOLE))),
                         ids=[c.label for c in TESTS[0].cases(WHOLE)])
def test_every_collective_is_right_here_and_sees_a_flipped_bit(number: int) -> None:
    case = TESTS[0].cases(WHOLE)[number]
    try:
        made = case.make(generator("exact_collective", case.label, 3), WHOLE)
    except Unsupported as reason:
        pytest.skip(str(reason))
    results = made.run()
    assert results[0].shape == case.shape
    for have, right in zip(results, made.expected or (), strict=True):
        np.testing.assert_array_equal(have, right)
    assert canary_is_caught(made, made.run())


def test_a_core_alone_makes_the_same_case() -> None:
    alone = Place(kind=CORE, name="core 0", device="cpu")
    case, other = TESTS[0].cases(WHOLE)[0], TESTS[0].cases(alone)[0]
    assert case.label == other.label
    one = case.make(generator("exact_collective", case.label, 3), WHOLE)
    two = other.make(generator("exact_collective", case.label, 3), alone)
    for a, b in zip(one.expected or (), two.expected or (), strict=True):
        np.testing.assert_array_equal(a, b)


def patch(monkeypatch: pytest.MonkeyPatch, strike: object) -> None:
    """What ranks do from now on: they are forked, so they have it, too."""
    sound = ranks.collective

    def collective(name: str, x: Tensor) -> Tensor:
        return strike(sound, name, x)  # type: ignore[operator,no-any-return]

    monkeypatch.setattr(ranks, "collective", collective)


@two_cores
def test_a_core_that_adds_wrong_is_found_and_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_here(sound, name, x):
        if os.sched_getaffinity(0) == {LAST}:
            x[5] += 1  # what it contributes
        return sound(name, x)

    patch(monkeypatch, wrong_here)
    monkeypatch.setattr(exact_collective, "_slots", lambda *_: tuple(
        Slot(core) for core in (FIRST, FIRST, LAST, FIRST)))
    sent: list[object] = []
    visitor = Visitor(place=WHOLE, tests={t.name: t for t in TESTS}, send=sent.append)
    done = visitor.visit(Visit(test="exact_collective", seed=1, limit_s=0.01,
                               case="all_reduce sum float32 4099"))
    assert not done.error
    assert done.canary == "caught"
    (seen,) = [m for m in sent if hasattr(m, "isolated")]
    assert seen.isolated == f"core {LAST}"
    assert (seen.wrong, seen.tried) == (10, 10)


def test_a_rank_that_dies_is_named_and_nobody_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(sound, name, x):
        if ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return sound(name, x)

    patch(monkeypatch, dies)
    group = RankGroup("gloo", [Slot(FIRST), Slot(FIRST)])
    given, _ = drawn("all_reduce sum", "float32", 2, 8, np.random.default_rng(0))
    with pytest.raises(PartLost, match=f"rank 1 on core {FIRST} ended by SIGKILL") as lost:
        group.run("all_reduce sum", "float32", given)
    assert lost.value.signal_number == signal.SIGKILL
    assert not group.is_open


def test_a_rank_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(sound, name, x):
        if ranks.rank() == 1:
            time.sleep(1000)
        return sound(name, x)

    patch(monkeypatch, hangs)
    group = RankGroup("gloo", [Slot(FIRST), Slot(FIRST)])
    monkeypatch.setattr(rank_group, "LIMIT_S", 0.5)
    given, _ = drawn("broadcast", "float32", 2, 8, np.random.default_rng(0))
    with pytest.raises(PartLost, match="does not answer") as lost:
        group.run("all_reduce sum", "float32", given)
    assert lost.value.signal_number is None


def test_what_gloo_cannot_do_is_said_and_the_group_goes_on() -> None:
    group = RankGroup("gloo", [Slot(FIRST), Slot(FIRST)])
    given = [np.zeros(4, np.uint16)] * 2
    with pytest.raises(Unsupported, match="Invalid scalar type"):
        group.run("all_reduce sum", "int16", given)
    given, expected = drawn("all_reduce sum", "int32", 2, 8, np.random.default_rng(0))
    for have, right in zip(group.run("all_reduce sum", "int32", given), expected, strict=True):
        np.testing.assert_array_equal(have, right)
    group.close()


def test_ranks_that_cannot_meet_are_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("no loopback device")

    monkeypatch.setattr(ranks, "open_group", refused)
    with pytest.raises(Unsupported, match="gloo ranks cannot meet: RuntimeError: no loopback"):
        RankGroup("gloo", [Slot(FIRST), Slot(FIRST)])


BROKEN = '''
import os
from sdc_guard import ranks
sound = ranks.collective
def collective(name, x):
    if os.sched_getaffinity(0) == {%d} and os.environ.get("HOW") == "dies":
        os.kill(os.getpid(), 11)
    if os.sched_getaffinity(0) == {%d}:
        x[5] += 1
    return sound(name, x)
ranks.collective = collective
'''


@two_cores
@pytest.mark.slow
@pytest.mark.parametrize(("how", "word"), [("adds", "FAIL"), ("dies", "FAIL")])
def test_a_whole_sweep_blames_the_core(tmp_path: Path, how: str, word: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN % (LAST, LAST))
    with Started(tmp_path, "--seconds", "20", "--tests", "exact_collective",
                 variables={"HOW": how}, first=tmp_path) as sweep:
        code, err = sweep.ended()
    assert code == exits.DIVERGENCE, err
    (found,) = {c["word"] for c in sweep.report()["cells"] if c["word"] not in ("PASS", "SKIP")}
    assert found == word
    entries = sweep.report()["findings"]
    if how == "adds":
        places = {e["finding"]["attribution"]["place"].rpartition(", ")[2] for e in entries}
        assert places == {f"core {LAST}"}
        assert "pairs of ranks are wrong" in entries[0]["facts"]["by pair"]
    else:
        assert f"on core {LAST} ended by SIGSEGV" in entries[0]["finding"]["message"]
