"""Ranks of one launch show each other their sweeps, and none waits for longer than it says.

Each writes its document under its own key of a store that rank 0, or the launcher, serves; nobody
takes part in a collective, so a rank that is missing keeps no other waiting.  Every word with the
store is said in a thread of its own, and one that takes too long ends the meeting, not the sweep.
"""

from __future__ import annotations

import queue
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from sdc_guard.ranks import open_board
from sdc_guard.sweep.launched import Launch

OPERATION_LIMIT_S = 10.0
POLL_S = 0.1
CHUNK_BYTES = 1 << 21
MAX_DOCUMENT_BYTES = 1 << 28
GOODBYE_LIMIT_S = 5.0
LEARN_MARGIN_S = 10.0
HERE, DOCUMENT, OUTCOME, SEEN = "here", "document", "outcome", "seen"
_T = TypeVar("_T")


class Board(Protocol):
    """Keys and values that all ranks see."""

    def put(self, key: str, value: bytes) -> None:
        """Write."""

    def get(self, key: str) -> bytes | None:
        """Read what is there, without waiting."""


class Unreachable(Exception):
    """The store does not answer; the text says why."""


@dataclass(frozen=True)
class Gathered:
    """``documents`` by rank; ``missing`` ranks with the host that they were on, empty where they
    were never there; ``damaged`` says by rank what was wrong with what it wrote."""

    documents: dict[int, bytes]
    missing: dict[int, str]
    damaged: dict[int, str] = field(default_factory=dict)


class Meeting:
    """Begins when it is made: this rank says which host it is on.

    ``wait_s`` is for how long others are waited for; ``open_`` opens the store.
    """

    def __init__(
        self, launch: Launch, host: str, *, wait_s: float, open_limit_s: float,
        open_: Callable[[Launch, float], Board] = lambda launch, limit_s: open_board(
            launch.address, launch.port, is_server=launch.rank == 0 and not launch.is_served,
            limit_s=limit_s, prefix=f"sdc_guard/{launch.identity}"),
    ) -> None:
        self.launch, self.wait_s = launch, wait_s
        self.is_stuck = False
        self._board: Board | None = None
        self._orders: queue.Queue[tuple[Callable[[], object], queue.Queue[object]]] = queue.Queue()
        threading.Thread(target=self._obey, daemon=True, name="sdc-guard rendezvous").start()

        def begin() -> None:
            self._board = open_(launch, open_limit_s)
            self._board.put(f"{HERE}/{launch.rank}", host.encode())

        self._begun: queue.Queue[object] = queue.Queue()
        self._orders.put((begin, self._begun))

    def gather(self) -> Gathered:
        """On rank 0: the documents of all others that come in time.

        Raises:
            Unreachable: if the store does not answer.
        """
        end_s = time.monotonic() + self.wait_s
        self._open(end_s)
        awaited = [rank for rank in range(self.launch.world_size) if rank != self.launch.rank]
        found: dict[int, bytes] = {}
        damaged: dict[int, str] = {}
        while True:
            for rank in tuple(awaited):
                try:
                    data = self._document(f"{DOCUMENT}/{rank}")
                except ValueError as error:
                    damaged[rank] = str(error)
                    awaited.remove(rank)
                    continue
                if data is not None:
                    found[rank] = data
                    awaited.remove(rank)
            if not awaited or time.monotonic() >= end_s:
                break
            time.sleep(POLL_S)
        hosts = {rank: (self._get(f"{HERE}/{rank}") or b"").decode("utf-8", "replace")
                 for rank in (*awaited, *damaged)}
        return Gathered(found, {rank: hosts[rank] for rank in awaited},
                        {rank: f"{hosts[rank] or 'an unknown host'}, rank {rank}: {why}"
                         for rank, why in damaged.items()})

    def show(self, document: bytes) -> None:
        """On the others: this rank's document.

        Raises:
            Unreachable: if the store does not answer.
        """
        self._open(time.monotonic() + self.wait_s)
        self._put_document(f"{DOCUMENT}/{self.launch.rank}", document)

    def learn(self) -> bytes | None:
        """On the others: what rank 0 made of all documents; None if it says nothing in time.

        Raises:
            Unreachable: if the store does not answer.
        """
        end_s = time.monotonic() + self.wait_s + LEARN_MARGIN_S
        while time.monotonic() < end_s:
            data = self._document(OUTCOME)
            if data is not None:
                self._put(f"{SEEN}/{self.launch.rank}", b"1")
                return data
            time.sleep(POLL_S)
        return None

    def tell(self, outcome: bytes, to: list[int]) -> None:
        """On rank 0: what was made of all documents.  It stays for a moment, since the store may
        end with it.

        Raises:
            Unreachable: if the store does not answer.
        """
        self._put_document(OUTCOME, outcome)
        end_s = time.monotonic() + GOODBYE_LIMIT_S
        while to and time.monotonic() < end_s:
            to = [rank for rank in to if self._get(f"{SEEN}/{rank}") is None]
            time.sleep(POLL_S if to else 0)

    def _open(self, end_s: float) -> None:
        self._result(self._begun, max(0.1, end_s - time.monotonic()))

    def _put_document(self, key: str, document: bytes) -> None:
        """In pieces: a store takes no long values.  The count comes last, and makes it whole."""
        packed = zlib.compress(document, 6)
        pieces = range(0, len(packed), CHUNK_BYTES)
        for number, start in enumerate(pieces):
            self._put(f"{key}/{number}", packed[start:start + CHUNK_BYTES])
        self._put(key, str(len(pieces)).encode())

    def _document(self, key: str) -> bytes | None:
        """Raises ValueError for one that is damaged, or too large."""
        count = self._get(key)
        if count is None:
            return None
        if not count.isdigit() or int(count) * CHUNK_BYTES > MAX_DOCUMENT_BYTES:
            raise ValueError(f"a document of {count[:20]!r} pieces")
        pieces = [self._get(f"{key}/{number}") for number in range(int(count))]
        decoder = zlib.decompressobj()
        try:
            data = decoder.decompress(b"".join(p or b"" for p in pieces), MAX_DOCUMENT_BYTES)
        except zlib.error as error:
            raise ValueError(f"a damaged document: {error}") from error
        if not decoder.eof:
            raise ValueError(f"a document that is cut, or larger than {MAX_DOCUMENT_BYTES >> 20} "
                             "MiB")
        return data

    def _put(self, key: str, value: bytes) -> None:
        self._call(lambda board: board.put(key, value))

    def _get(self, key: str) -> bytes | None:
        return self._call(lambda board: board.get(key))

    def _call(self, ask: Callable[[Board], _T]) -> _T:
        def order() -> _T:
            if self._board is None:
                raise Unreachable("the store was not opened")
            return ask(self._board)

        answer: queue.Queue[object] = queue.Queue()
        self._orders.put((order, answer))
        return self._result(answer, OPERATION_LIMIT_S)  # type: ignore[return-value]

    def _result(self, answer: queue.Queue[object], limit_s: float) -> object:
        if self.is_stuck:
            raise Unreachable("the store had stopped answering")
        try:
            result = answer.get(timeout=limit_s)
        except queue.Empty:
            self.is_stuck = True
            raise Unreachable(f"the store at {self.launch.address}:{self.launch.port} did not "
                              f"answer within {limit_s:.0f} s") from None
        if isinstance(result, BaseException):
            text = str(result).partition("\n")[0][:200]
            raise Unreachable(f"the store at {self.launch.address}:{self.launch.port}: "
                              f"{text}") from result
        return result

    def _obey(self) -> None:
        while True:
            order, answer = self._orders.get()
            try:
                answer.put(order())
            except BaseException as error:  # told where the answer is awaited
                answer.put(error)
