"""What a launcher says in the environment: this process's rank, how many there are, where they
meet, and which share of the node is its own."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdc_guard.errors import UsageError

NO_RENDEZVOUS = "none"
SLURM_FIRST_PORT, NUM_SLURM_PORTS = 29400, 1000
MAX_RANKS = 1_000_000
MAX_PORT = 65535
MAX_DIGITS = 100
_BOUND_GPUS = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPU_BIND")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """``address`` and ``port`` are where rank 0 answers, or, where ``is_served`` says so, the
    launcher; ``identity`` is the same on all ranks of one launch and, as a rule, on no others.
    ``has_own_gpus``: the launcher has given each rank its own devices."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int
    is_served: bool
    identity: str
    has_own_gpus: bool = False

    @property
    def seed(self) -> int:
        """One seed for all ranks, so that hosts compute the same and can be compared."""
        return zlib.crc32(self.identity.encode())


def launch_of(environ: Mapping[str, str], rendezvous: str = "") -> Launch | None:
    """The launch that this process is part of: of torchrun, of srun, or whatever sets ``RANK`` and
    ``WORLD_SIZE``; None for one alone.  ``rendezvous`` is ``tcp://HOST:PORT`` where the launcher
    names no place to meet, or ``none``.

    Raises:
        UsageError: for a rendezvous that cannot be read, or ranks that are no numbers.
    """
    if rendezvous == NO_RENDEZVOUS:
        return None
    found = _of_torchrun(environ) or _of_srun(environ)
    if found is None:
        if rendezvous:
            raise UsageError(f"--rendezvous {rendezvous}: no launcher is there; start it by "
                             "torchrun or srun, or set RANK and WORLD_SIZE on each host")
        return None
    address, port = _place(rendezvous) if rendezvous else (found.address, found.port)
    if found.world_size == 1:
        return None
    if not address or not port:
        raise UsageError(f"{found.launcher} names no place to meet; set MASTER_ADDR and "
                         "MASTER_PORT, or give --rendezvous tcp://HOST:PORT, or none")
    if port > MAX_PORT:
        raise UsageError(f"MASTER_PORT={port}: a port is at most {MAX_PORT}; set another, or give "
                         "--rendezvous tcp://HOST:PORT, or none")
    return Launch(
        launcher=found.launcher, rank=found.rank, world_size=found.world_size,
        local_rank=found.local_rank, local_world_size=found.local_world_size, address=address,
        port=port, is_served=found.is_served and not rendezvous, identity=found.identity,
        has_own_gpus=found.has_own_gpus)


def _of_torchrun(environ: Mapping[str, str]) -> Launch | None:
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return None
    rank, size = _ranks(environ, "RANK", "WORLD_SIZE")
    local_rank, local_size = 0, 1
    if "LOCAL_RANK" in environ and "LOCAL_WORLD_SIZE" in environ:
        local_rank, local_size = _ranks(environ, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    port = environ.get("MASTER_PORT", "")
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    return Launch(
        launcher="torchrun" if "TORCHELASTIC_RUN_ID" in environ else "the launcher", rank=rank,
        world_size=size, local_rank=local_rank, local_world_size=local_size,
        address=environ.get("MASTER_ADDR", ""),
        port=int(port[:MAX_DIGITS]) if port.isdecimal() else 0,
        is_served=environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() in ("true", "1"),
        identity=" ".join(environ.get(name, "") for name in names))


def _of_srun(environ: Mapping[str, str]) -> Launch | None:
    # A batch script has SLURM_PROCID and SLURM_NTASKS too, and is alone: only a step's processes
    # have the step's count.
    if "SLURM_PROCID" not in environ or "SLURM_STEP_NUM_TASKS" not in environ:
        return None
    rank, size = _ranks(environ, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    node = environ.get("SLURM_NODEID", "0")
    per_node = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    number = int(node) if node.isdecimal() else 0
    local_size = per_node[number] if number < len(per_node) else per_node[-1]
    local = environ.get("SLURM_LOCALID", "0")
    job = environ.get("SLURM_JOB_ID", "0")
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST", ""))
    port = environ.get("MASTER_PORT", "")
    return Launch(
        launcher="srun", rank=rank, world_size=size, local_world_size=max(local_size, 1),
        local_rank=int(local) if local.isdecimal() else 0, is_served=False,
        address=environ.get("MASTER_ADDR", "") or first_node(nodes),
        port=int(port[:MAX_DIGITS]) if port.isdecimal() else
        SLURM_FIRST_PORT + (int(job) if job.isdecimal() else 0) % NUM_SLURM_PORTS,
        identity=f"slurm {job}.{environ.get('SLURM_STEP_ID', '0')}",
        has_own_gpus=any(environ.get(name) for name in _BOUND_GPUS))


def _ranks(environ: Mapping[str, str], rank_name: str, size_name: str) -> tuple[int, int]:
    rank, size = environ[rank_name], environ[size_name]
    is_short = max(len(rank), len(size)) <= MAX_DIGITS  # Python refuses to read very long ones
    if not (is_short and rank.isdecimal() and size.isdecimal()
            and int(rank) < int(size) <= MAX_RANKS):
        raise UsageError(f"{rank_name}={rank!r} of {size_name}={size!r}: give a rank from 0, below "
                         f"their number, which is at most {MAX_RANKS}; or --rendezvous none")
    return int(rank), int(size)


def _place(text: str) -> tuple[str, int]:
    scheme, sign, rest = text.partition("://")
    host, colon, port = rest.rpartition(":")
    if (scheme, sign) != ("tcp", "://") or not host or not colon or not port.isdecimal() \
            or len(port) > MAX_DIGITS or not 0 < int(port) <= MAX_PORT:
        raise UsageError(f"--rendezvous {text!r}: write tcp://HOST:PORT with a port of 1 to 65535, "
                         f"or {NO_RENDEZVOUS}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def first_node(nodes: str) -> str:
    """``node-01`` for Slurm's ``node-[01-04,9],other``: with Slurm's default order of tasks rank 0
    is there."""
    head, bracket, rest = nodes.partition("[")
    if "," in head or not bracket:
        return head.partition(",")[0].strip()
    inside, _, tail = rest.partition("]")
    first = inside.partition(",")[0].partition("-")[0]
    return f"{head}{first}{tail.partition(',')[0]}".strip()


def tasks_per_node(text: str) -> list[int]:
    """``[2, 2, 1]`` for Slurm's ``2(x2),1``; what cannot be read counts as 1."""
    counts: list[int] = []
    for word in text.split(","):
        count, times, number = word.strip().partition("(x")
        number = number.removesuffix(")") if times else "1"
        if count.isdecimal() and number.isdecimal() and int(number) <= MAX_RANKS:
            counts += [int(count)] * int(number)
    return counts or [1]


def share_of_cores(
    usable: Sequence[int], num_online: int, local_rank: int, local_world_size: int
) -> tuple[int, ...]:
    """The cores that this rank of its node sweeps.  Where the launcher has bound the process to
    some already, these are its own; else all are dealt out, one at least."""
    if local_world_size == 1 or len(usable) < num_online:
        return tuple(usable)
    return tuple(usable[local_rank::local_world_size]) or (usable[local_rank % len(usable)],)


def share_of_devices(launch: Launch, num_gpus: int) -> str:
    """``--devices`` for this rank of its node."""
    if launch.local_world_size == 1 or launch.has_own_gpus or not num_gpus:
        return "all"
    if num_gpus < launch.local_world_size and num_gpus == 1:
        return "all"  # one for each rank, as launchers make visible
    mine = range(launch.local_rank, num_gpus, launch.local_world_size)
    return ",".join(("cpu", *(f"cuda:{n}" for n in mine)))


def take_share(launch: Launch) -> None:
    """Keep this process, and the workers that it starts, to its share of the node's cores."""
    usable = sorted(os.sched_getaffinity(0))
    share = share_of_cores(usable, os.cpu_count() or len(usable), launch.local_rank,
                           launch.local_world_size)
    os.sched_setaffinity(0, share)
