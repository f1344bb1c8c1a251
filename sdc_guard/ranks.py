"""Ranks: the only module that talks to ``torch.distributed``."""

from __future__ import annotations

import os
from datetime import timedelta

import torch


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def world_size() -> int:
    """Number of ranks of the default group; 1 without one."""
    return torch.distributed.get_world_size() if _distributed() else 1


def rank() -> int:
    """This process's rank; from the launcher's environment before the group exists."""
    if _distributed():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0") or 0)


def agree(flags: tuple[bool, ...]) -> tuple[bool, ...]:
    """Logical OR of each flag over all ranks (one MAX all-reduce); every rank must call it.

    The collective is invisible to dispatch modes, ours and the user's.
    """
    if world_size() == 1:
        return flags
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    with torch._C._DisableTorchDispatch():
        values = torch.tensor([int(f) for f in flags], dtype=torch.int32, device=device)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        return tuple(bool(v) for v in values.tolist())


class StoreBoard:
    """Keys and values that all ranks see: torch's TCPStore, without its waiting."""

    def __init__(self, store: torch.distributed.Store) -> None:
        self._store = store

    def put(self, key: str, value: bytes) -> None:
        """Write."""
        self._store.set(key, value)

    def get(self, key: str) -> bytes | None:
        """Read what is there, without waiting for it."""
        return bytes(self._store.get(key)) if self._store.check([key]) else None


def open_board(
    address: str, port: int, *, is_server: bool, limit_s: float, prefix: str
) -> StoreBoard:
    """The board at a place; the server's process holds it.

    Raises:
        RuntimeError: if the server does not answer within ``limit_s``, or the port is taken.
    """
    store = torch.distributed.TCPStore(
        address, port, is_master=is_server, timeout=timedelta(seconds=limit_s),
        wait_for_workers=False)
    return StoreBoard(torch.distributed.PrefixStore(prefix, store))
