"""Ranks, places to meet and shares of a node, as torchrun and srun say them."""

from __future__ import annotations

import pytest

from sdc_guard.errors import UsageError
from sdc_guard.sweep.launched import (
    Launch,
    first_node,
    launch_of,
    share_of_cores,
    share_of_devices,
    tasks_per_node,
)

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "head", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "job",
            "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
SRUN = {"SLURM_PROCID": "4", "SLURM_STEP_NUM_TASKS": "5", "SLURM_LOCALID": "0",
        "SLURM_NODEID": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_JOB_ID": "12345",
        "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[07-08,11],spare1"}


def launched(environ: dict[str, str], rendezvous: str = "") -> Launch:
    launch = launch_of(environ, rendezvous)
    assert launch is not None
    return launch


def test_torchrun() -> None:
    launch = launched(TORCHRUN)
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (
        3, 8, 1, 2)
    assert (launch.address, launch.port, launch.is_served) == ("head", 29500, True)
    assert launch.seed == launched({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}).seed
    assert launch.seed != launched({**TORCHRUN, "MASTER_PORT": "29501"}).seed


def test_srun() -> None:
    launch = launched(SRUN)
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (
        4, 5, 0, 1)
    assert (launch.address, launch.port, launch.is_served) == ("gpu07", 29745, False)


def test_a_batch_script_is_alone() -> None:
    assert launch_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}) is None
    assert launch_of({}) is None
    assert launch_of({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None
    assert launch_of(TORCHRUN, "none") is None


def test_a_named_place_is_served_by_rank_0() -> None:
    launch = launched(TORCHRUN, "tcp://other:1234")
    assert (launch.address, launch.port, launch.is_served) == ("other", 1234, False)
    assert launched(TORCHRUN, "tcp://[::1]:1").address == "::1"


@pytest.mark.parametrize(("environ", "rendezvous", "message"), [
    ({**TORCHRUN, "RANK": "x"}, "", "RANK='x'"),
    ({**TORCHRUN, "RANK": "8"}, "", "below"),
    ({**TORCHRUN, "WORLD_SIZE": "9" * 30}, "", "at most"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "", "MASTER_ADDR"),
    ({**TORCHRUN, "WORLD_SIZE": "9" * 5000}, "", "at most"),
    ({**TORCHRUN, "MASTER_PORT": "70000"}, "", "a port is at most 65535"),
    ({**TORCHRUN, "MASTER_PORT": "9" * 5000}, "", "a port is at most 65535"),
    (TORCHRUN, "tcp://head:" + "9" * 5000, "1 to 65535"),
    ({**TORCHRUN, "MASTER_PORT": "http"}, "", "MASTER_PORT"),
    (TORCHRUN, "http://head:1", "tcp://HOST:PORT"),
    (TORCHRUN, "tcp://head:0", "1 to 65535"),
    (TORCHRUN, "tcp://head", "tcp://HOST:PORT"),
    ({}, "tcp://head:29500", "no launcher"),
])
def test_what_cannot_be_read_is_told(
    environ: dict[str, str], rendezvous: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        launch_of(environ, rendezvous)


@pytest.mark.parametrize(("nodes", "first"), [
    ("n1", "n1"), ("n1,n2", "n1"), ("gpu[07-08,11],x", "gpu07"), ("a,gpu[1-2]", "a"),
    ("rack[1,3]-eth", "rack1-eth"), ("", "")])
def test_the_first_node(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_tasks_of_each_node() -> None:
    assert tasks_per_node("2(x2),1") == [2, 2, 1]
    assert tasks_per_node("4") == [4]
    assert tasks_per_node("what") == [1]


def test_cores_are_dealt_out_and_none_is_left() -> None:
    shares = [share_of_cores(range(7), 7, rank, 3) for rank in range(3)]
    assert sorted(core for share in shares for core in share) == list(range(7))
    assert share_of_cores((0, 1), 2, 2, 3) == (0,)  # more ranks than cores: one twice
    assert share_of_cores((4, 5), 16, 1, 2) == (4, 5)  # bound by the launcher


def test_devices_are_dealt_out() -> None:
    launch = launched(TORCHRUN)
    assert share_of_devices(launch, 4) == "cpu,cuda:1,cuda:3"
    assert share_of_devices(launch, 0) == "all"
    assert share_of_devices(launched(SRUN), 4) == "all"
    bound = launched({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_GPUS_PER_TASK": "2"})
    assert bound.local_world_size == 2
    assert share_of_devices(bound, 2) == "all"
