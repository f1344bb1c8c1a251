"""A pytest session inside a test: the plugin loaded, in this process, in a folder of its own."""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch
import torch._dynamo

import sdc_guard.inject
import sdc_guard.pytest_plugin.session
import sdc_guard.render.junit
import sdc_guard.render.markdown
import sdc_guard.render.page
import sdc_guard.render.sarif
import sdc_guard.shared_log

PLUGIN = "sdc_guard.pytest_plugin"
FAULTY = """\
import pytest
import torch
from sdc_guard.inject import TransientFlip


def fault():
    return TransientFlip(torch.ops.aten.mm.default, 0, 0, 1, 27, counts="user")


def product():
    a = torch.arange(64.).reshape(8, 8)
    return a @ a


def faulty():
    with fault():
        return product()
"""
LINE_OF_THE_PRODUCT = 12
"""Of the source line that calls the operator in which ``faulty`` plants its fault."""


def warmed_up() -> None:
    """Import now what a guard imports late: what is first imported inside a session in this process
    is forgotten at its end, and imported twice."""
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("sdc_guard_kernels.launches")
    a = torch.arange(64.0).reshape(8, 8)
    flip = sdc_guard.inject.TransientFlip(
        torch.ops.aten.mm.default, 0, 0, 1, 27, counts="user")
    with sdc_guard.Guard(budget="all"), flip:
        a @ a


def run(
    pytester: pytest.Pytester, *arguments: str, plugin: str = PLUGIN
) -> tuple[pytest.RunResult, dict[str, str]]:
    """The result, and each test's outcome by its name."""
    pytester.plugins = []
    result = pytester.runpytest_inprocess(
        "-p", plugin, "-p", "no:xdist", "-p", "no:cacheprovider", "-rA", *arguments)
    words = ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS")
    outcomes = {}
    for line in result.outlines:
        word, _, rest = line.partition(" ")
        if word in words and "::" in rest:
            outcomes[rest.partition("::")[2].partition(" - ")[0]] = word
    return result, outcomes
