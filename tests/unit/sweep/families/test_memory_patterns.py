"""Memory that does not hold what was written is found, with its place."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard.sweep.declared import CORE, Case, Made, Place, Unavailable
from sdc_guard.sweep.exact import bits_of
from sdc_guard.sweep.families import memory_patterns as memory
from sdc_guard.sweep.messages import Message, Miscompare, Visit
from sdc_guard.sweep.visit import Visitor, generator

PLACE = Place(kind=CORE, name="core 0", device="cpu")
TEST = memory.TESTS[0]


def made(label: str) -> Made:
    case = next(c for c in TEST.cases(PLACE) if c.label.startswith(label))
    return case.make(generator(TEST.name, case.label, 5), PLACE)


def seen(label: str, seed: int = 5) -> np.ndarray:
    """What a clean run leaves, by rows."""
    return np.asarray(bits_of(made(label).run()[0]))


def test_an_inversion_upwards_reads_the_pattern_and_downwards_its_inverse() -> None:
    rows = seen("moving inversions of 0x55, cache")
    assert set(rows[0]) == set(rows[1]) == {0x5555555555555555}
    assert set(rows[2]) == {0xAAAAAAAAAAAAAAAA}


def test_a_bit_that_cannot_be_one_is_seen_by_the_patterns_that_set_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stuck at 0 in one cell, as each write there would find it."""
    stuck = (0, 777)

    def broken(rows: Tensor) -> None:
        rows[stuck] &= ~(1 << 21)

    found = set()
    for case in TEST.cases(PLACE):
        if "cache" not in case.label:
            continue
        ready = case.make(generator(TEST.name, case.label, 5), PLACE)
        assert ready.expected is not None
        result = ready.run()[0]
        assert isinstance(result, Tensor)
        broken(result)
        if not np.array_equal(bits_of(result), ready.expected[0]):
            found.add(case.label.partition(",")[0])
    assert {"moving inversions of ones", "moving inversions of zeros"} & found == {
        "moving inversions of ones"}
    both = {"moving inversions of 0x55", "moving inversions of 0xaa"}
    assert len(both & found) == 1


def test_each_bit_of_a_word_is_set_and_clear_in_turn() -> None:
    rows = seen("walking bit, cache")
    assert sorted(map(int, rows[0, :64])) == [1 << i for i in range(64)]
    assert np.array_equal(rows[1], ~rows[0])


def test_blocks_come_back_from_where_they_were_moved() -> None:
    rows = seen("block move, cache")
    assert sorted(rows[0]) == sorted(rows[1])
    assert len(np.unique(rows[0])) == rows.shape[1]


def test_words_that_change_between_runs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Message] = []
    kept: list[Tensor] = []
    real = torch.empty
    monkeypatch.setattr(memory, "torch", SimpleNamespace(**{
        **vars(torch), "empty": lambda *a, **o: kept.append(real(*a, **o)) or kept[-1]}))
    label = next(c.label for c in TEST.cases(PLACE) if c.label.startswith("held since"))
    visitor = Visitor(PLACE, {TEST.name: TEST}, sent.append)
    num_runs = 0

    def rot(case: Case, ready: Made, results: object) -> None:
        nonlocal num_runs
        num_runs += 1
        kept[0][1, 99] ^= 1 << 40  # between this run and the next

    visitor.tamper = rot
    visitor.visit(Visit(test=TEST.name, seed=5, limit_s=0.01, case=label))
    first = next(m for m in sent if isinstance(m, Miscompare))
    assert first.elements[0].index == (1, 99)
    assert first.elements[0].xor == "0x0000010000000000"
    assert first.subunits[0].startswith("byte ")
    assert num_runs > 1


def test_a_wrong_word_of_the_whole_device_is_blamed_on_its_page() -> None:
    chunk_bytes = 2 * memory.GPU_PAGE_BYTES
    ready = memory.make_whole(3, chunk_bytes, np.random.default_rng(0), PLACE)
    assert ready.expected is not None
    assert np.array_equal(bits_of(ready.run()[0]), ready.expected[0])
    assert ready.num_checks == 2 * 3 * chunk_bytes // 8
    assert ready.subunit is not None
    assert ready.subunit((3,)).startswith(f"byte {memory.GPU_PAGE_BYTES:#x} of {chunk_bytes:#x}")
    assert ready.subunit((3,)).endswith("of chunk 1")


def test_a_cell_of_the_whole_device_that_loses_a_bit_is_counted(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk_bytes = 2 * memory.GPU_PAGE_BYTES
    real = torch.arange
    calls = 0

    def arange(*arguments: int, out: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        real(*arguments, out=out)
        if calls == 2:  # the second chunk's first writing
            out[memory.GPU_PAGE_BYTES // 8 + 5] ^= 1
        return out

    monkeypatch.setattr(memory.torch, "arange", arange)
    ready = memory.make_whole(2, chunk_bytes, np.random.default_rng(0), PLACE)
    assert bits_of(ready.run()[0]).tolist() == [0, 0, 0, 1]


def test_short_memory_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.psutil, "virtual_memory",
                        lambda: SimpleNamespace(available=3 * memory.MIB))
    with pytest.raises(Unavailable, match="3 MiB of memory are available, and buffers for every"):
        made("address in address, memory")


def test_rows_are_whole_blocks() -> None:
    assert memory.words_of(16 * memory.MIB, 3) % memory.BLOCK_WORDS == 0
    assert memory.words_of(1 << 10, 2) == 64
