"""Ranks meet through a store; whatever is missing, silent or damaged, nobody waits for long."""

from __future__ import annotations

import dataclasses
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from sdc_guard.ranks import open_board
from sdc_guard.sweep import rendezvous
from sdc_guard.sweep.launched import Launch
from sdc_guard.sweep.rendezvous import Meeting, Unreachable

LAUNCH = Launch(launcher="test", rank=0, world_size=3, local_rank=0, local_world_size=1,
                address="127.0.0.1", port=29999, is_served=False, identity="test")


class Memory:
    """A board within one process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)


class Silent(Memory):
    """A store that stops answering: ``release`` lets go of who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def get(self, key: str) -> bytes | None:
        self.release.wait()
        return None


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "POLL_S", 0.005)
    monkeypatch.setattr(rendezvous, "GOODBYE_LIMIT_S", 0.05)
    monkeypatch.setattr(rendezvous, "LEARN_MARGIN_S", 0.05)


@pytest.fixture
def silent() -> Iterator[Silent]:
    board = Silent()
    yield board
    board.release.set()


def meeting(board: Memory, rank: int, wait_s: float = 5.0) -> Meeting:
    return Meeting(dataclasses.replace(LAUNCH, rank=rank), f"node-{rank}", wait_s=wait_s,
                   open_limit_s=1.0, open_=lambda launch, limit_s: board)


def test_documents_come_and_the_outcome_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "CHUNK_BYTES", 16)
    board = Memory()
    others = [meeting(board, rank) for rank in (1, 2)]
    for other, text in zip(others, (b"one" * 100, b"two"), strict=True):
        other.show(text)
    first = meeting(board, 0)
    gathered = first.gather()
    assert gathered.documents == {1: b"one" * 100, 2: b"two"}
    assert not gathered.missing
    assert not gathered.damaged
    learnt: list[bytes | None] = []
    threads = [threading.Thread(target=lambda o=o: learnt.append(o.learn())) for o in others]
    for thread in threads:
        thread.start()
    first.tell(b"outcome", [1, 2])
    for thread in threads:
        thread.join()
    assert learnt == [b"outcome", b"outcome"]


def test_ranks_that_do_not_come_are_missing_with_the_host_that_they_were_on() -> None:
    board = Memory()
    meeting(board, 1)._open(time.monotonic() + 5)  # says hello, no more
    gathered = meeting(board, 0, wait_s=0.05).gather()
    assert gathered.missing == {1: "node-1", 2: ""}
    assert not gathered.documents


@pytest.mark.parametrize("count", [b"1", b"-1", b"999999999999", b"x", b"2"])
def test_a_damaged_document_is_told(count: bytes) -> None:
    board = Memory()
    board.values |= {"document/1": count, "document/1/0": zlib.compress(b"text" * 99)[:-9],
                     "here/1": b"node-1"}
    gathered = meeting(board, 0, wait_s=0.05).gather()
    assert list(gathered.damaged) == [1]
    assert "node-1" in gathered.damaged[1]
    assert gathered.missing == {2: ""}


def test_a_store_that_stops_answering_ends_the_meeting_not_the_sweep(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "OPERATION_LIMIT_S", 0.05)
    first = meeting(silent, 0)
    with pytest.raises(Unreachable, match="did not answer"):
        first.gather()
    assert first.is_stuck
    with pytest.raises(Unreachable, match="had stopped"):
        first.tell(b"", [1])


def test_a_rank_that_learns_nothing_goes_on() -> None:
    other = meeting(Memory(), 1, wait_s=0.05)
    other.show(b"mine")
    assert other.learn() is None


def test_no_store_is_told() -> None:
    def refuse(launch: Launch, limit_s: float) -> Memory:
        raise RuntimeError("the port is taken\nand a long trace")

    first = Meeting(LAUNCH, "node-0", wait_s=1.0, open_limit_s=1.0, open_=refuse)
    with pytest.raises(Unreachable, match=r"the port is taken$"):
        first.gather()


def test_a_store_that_is_not_there_is_not_waited_for(silent: Silent) -> None:
    def never(launch: Launch, limit_s: float) -> Memory:
        silent.release.wait()
        return silent

    other = Meeting(dataclasses.replace(LAUNCH, rank=1), "node-1", wait_s=0.05, open_limit_s=1.0,
                    open_=never)
    with pytest.raises(Unreachable, match="did not answer"):
        other.show(b"mine")


def test_torchs_store_reads_without_waiting() -> None:
    server = open_board("127.0.0.1", 0, is_server=True, limit_s=5.0, prefix="a")
    assert server.get("absent") is None
    server.put("there", b"\x00\xff" * 10)
    assert server.get("there") == b"\x00\xff" * 10
    with pytest.raises(RuntimeError):
        open_board("127.0.0.1", 1, is_server=False, limit_s=0.2, prefix="a")
