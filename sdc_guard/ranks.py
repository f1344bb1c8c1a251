"""Ranks: the only module that talks to ``torch.distributed``."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

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

    def __init__(self, store: Any) -> None:
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
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=is_server, timeout=timedelta(seconds=limit_s),
        wait_for_workers=False)
    return StoreBoard(
        torch.distributed.PrefixStore(prefix, store))  # type: ignore[attr-defined]


def has_backend(name: str) -> bool:
    """Whether this torch was built with gloo, or nccl."""
    if not torch.distributed.is_available():
        return False
    return bool({"gloo": torch.distributed.is_gloo_available,
                 "nccl": torch.distributed.is_nccl_available}[name]())


def open_group(
    backend: str, store: str, rank: int, size: int, device: str, limit_s: float
) -> None:
    """Make this process a rank of a group of local processes that meet through a file.

    Raises:
        RuntimeError: if the others do not come within ``limit_s``, or the backend is missing.
        ValueError: for a backend that torch does not know.
    """
    if backend == "gloo":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # never by the host's name, which may not resolve
    else:
        torch.cuda.set_device(device)
    place = torch.distributed.FileStore(store, size)  # type: ignore[attr-defined]
    torch.distributed.init_process_group(
        backend, store=place, rank=rank, world_size=size, timeout=timedelta(seconds=limit_s))


def _all_reduce(op: torch.distributed.ReduceOp.RedOpType) -> Callable[[torch.Tensor], torch.Tensor]:
    def reduced(x: torch.Tensor) -> torch.Tensor:
        torch.distributed.all_reduce(x, op=op)
        return x
    return reduced


def _reduce(x: torch.Tensor) -> torch.Tensor:
    torch.distributed.reduce(x, 0)
    return x if rank() == 0 else x[:0]  # elsewhere its value is not defined


def _broadcast(x: torch.Tensor) -> torch.Tensor:
    torch.distributed.broadcast(x, world_size() - 1)
    return x


def _all_gather(x: torch.Tensor) -> torch.Tensor:
    parts = [torch.empty_like(x) for _ in range(world_size())]
    torch.distributed.all_gather(parts, x)
    return torch.cat(parts)


def _reduce_scatter(x: torch.Tensor) -> torch.Tensor:
    found = x.new_empty(x.numel() // world_size())
    torch.distributed.reduce_scatter(found, list(x.chunk(world_size())))
    return found


def _all_to_all(x: torch.Tensor) -> torch.Tensor:
    found = torch.empty_like(x)
    torch.distributed.all_to_all_single(found, x)
    return found


def _scatter(x: torch.Tensor) -> torch.Tensor:
    found = x.new_empty(x.numel() // world_size())
    torch.distributed.scatter(found, list(x.chunk(world_size())) if rank() == 0 else None, 0)
    return found


def _ring(x: torch.Tensor) -> torch.Tensor:
    """To the next rank, from the one before."""
    found, size = torch.empty_like(x), world_size()
    for work in torch.distributed.batch_isend_irecv([
            torch.distributed.P2POp(torch.distributed.isend, x, (rank() + 1) % size),
            torch.distributed.P2POp(torch.distributed.irecv, found, (rank() - 1) % size)]):
        work.wait()
    return found


_COLLECTIVES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}


def collective(name: str, x: torch.Tensor) -> torch.Tensor:
    """This rank's result of a collective of all ranks of the default group on its 1-D ``x``, which
    may be overwritten: ``all_reduce sum`` (``max``, ``min``, ``product``), ``reduce`` (to rank 0,
    empty elsewhere), ``broadcast`` (from the last), ``all_gather``, ``reduce_scatter``,
    ``all_to_all``, ``scatter`` (from rank 0), ``send and receive`` (to the next rank).

    Raises:
        RuntimeError: where the backend does not have it for the dtype.
        KeyError: for another name.
    """
    if not _COLLECTIVES:  # here, since builds of torch may come without torch.distributed
        kinds = torch.distributed.ReduceOp
        _COLLECTIVES.update({
            "all_reduce sum": _all_reduce(kinds.SUM), "all_reduce max": _all_reduce(kinds.MAX),
            "all_reduce min": _all_reduce(kinds.MIN),
            "all_reduce product": _all_reduce(kinds.PRODUCT), "reduce": _reduce,
            "broadcast": _broadcast, "all_gather": _all_gather,
            "reduce_scatter": _reduce_scatter, "all_to_all": _all_to_all, "scatter": _scatter,
            "send and receive": _ring})
    found = _COLLECTIVES[name](x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return found
