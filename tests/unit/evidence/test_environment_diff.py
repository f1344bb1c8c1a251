"""What of two environments can change a number and differs, nested fields by their names."""

from __future__ import annotations

from sdc_guard.evidence.environment import collect_environment
from sdc_guard.evidence.environment_diff import changed_fields, flattened


def test_nested_fields_have_dotted_names_and_what_is_not_set_has_none() -> None:
    environment = {
        "torch": "2.13.0", "host": "node-7", "affinity": [0, 1], "numpy": None,
        "flags": {"cuda": {"matmul": {"tf32": True}}}, "threads": {"intra_op": 2},
        "variables": {"OMP_NUM_THREADS": None, "MKL_CBWR": "AVX2"},
        "cuda": {"devices": [], "version": None}, "parallel": ["OpenMP", "MKL"],
        "gpus": [{"uuid": "GPU-1", "pci": "0", "name": "H200", "state": {"sm_mhz": 9}, "ecc": True},
                 {"uuid": "GPU-2", "pci": "1", "name": "H200", "state": {}, "ecc": False}]}
    assert flattened(environment) == {
        "torch": "2.13.0", "flags.cuda.matmul.tf32": "true", "threads.intra_op": "2",
        "variables.MKL_CBWR": "AVX2", "parallel": '["OpenMP", "MKL"]', "gpus.name": "H200",
        "gpus.ecc": "false, true"}


def test_changes_name_both_values() -> None:
    assert changed_fields({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}, first="before",
                          second="after") == ("b: '2' before, '3' after",
                                              "c: not set before, '4' after")


def test_this_machine_differs_from_itself_in_nothing_and_hosts_are_no_difference() -> None:
    here = collect_environment()
    elsewhere = {**here, "host": "another", "affinity": [99]}
    assert flattened(here) == flattened(elsewhere)
    assert {"torch", "threads.intra_op", "flags.deterministic_algorithms"} <= flattened(here).keys()
