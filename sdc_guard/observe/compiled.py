"""Regions compiled by ``torch.compile``: a dispatch mode sees only the kernels that they call from
outside (``extern_kernels.mm``); fused kernels are invisible.

So that coverage does not call them clean, each execution of an Inductor graph is counted with the
ops that it fused, their elements and FLOPs, all as not tested.  The graph's own text tells them;
nothing about compilation is changed.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any

import torch

from sdc_guard.ops import lookup
from sdc_guard.records import OpCoverage

REGION = "torch.compile fused kernels"
REASON = "fused by torch.compile: invisible to a dispatch mode"
_MODULE = "torch._inductor.output_code"
_NODE = re.compile(
    r'^\s*\w+: "\w+\[([^\]]*)\].*?" = torch\.ops\.(\w+)\.(\w+)\.(\w+)\(', re.MULTILINE
)
_CALLED_FROM_OUTSIDE = frozenset({"product", "attention", "convolution", "random", "generator"})


def fused_work(graph: str) -> tuple[int, int]:
    """(ops, elements) that a post-grad graph, printed, leaves to fused kernels.

    Views and the ops that Inductor calls from outside are not counted; a symbolic dimension
    counts as 1.
    """
    num_ops = num_elements = 0
    for shape, namespace, packet, overload in _NODE.findall(graph):
        op = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
        if op is None or op.is_view or packet in ("reshape", "empty", "_unsafe_view"):
            continue
        spec = lookup(f"{namespace}.{packet}")
        if spec is not None and spec.family in _CALLED_FROM_OUTSIDE:
            continue
        num_ops += 1
        num_elements += math.prod(
            int(d) if d.strip().isdigit() else 1 for d in shape.split(",") if d.strip()
        )
    return num_ops, num_elements


class CompiledRegions:
    """Counts executions of Inductor graphs between :meth:`open` and :meth:`close`; calls
    ``before_run`` before each."""

    def __init__(self, before_run: Callable[[], None]) -> None:
        self._before_run = before_run
        self.num_regions = 0
        self.num_ops = 0
        self.num_elements = 0
        self._work: dict[str, tuple[int, int]] = {}
        self._owner: Any = None
        self._original: Any = None

    def open(self) -> None:
        """Start counting if Inductor is loaded; call again later otherwise (each step does)."""
        module = sys.modules.get(_MODULE)
        owner = getattr(module, "CompiledFxGraph", None)
        if owner is None or self._owner is not None:
            return
        original = owner.__call__
        regions = self

        def counted(graph: Any, inputs: Any) -> Any:
            regions._before_run()
            regions._count(getattr(graph, "inductor_post_grad_graph_str", "") or "")
            return original(graph, inputs)

        self._owner, self._original = owner, original
        owner.__call__ = counted

    def close(self) -> None:
        """Leave Inductor as it was."""
        if self._owner is not None:
            self._owner.__call__ = self._original
            self._owner = self._original = None

    def _count(self, graph: str) -> None:
        work = self._work.get(graph)
        if work is None:
            work = self._work[graph] = fused_work(graph)
        self.num_regions += 1
        self.num_ops += work[0]
        self.num_elements += work[1]

    def gaps(self) -> set[str]:
        if not self.num_regions:
            return set()
        return {
            f"{self.num_regions} executions of compiled regions: their {self.num_ops} fused ops "
            "are not tested, only the kernels that they call from outside"
        }

    def coverage(self) -> tuple[OpCoverage, ...]:
        if not self.num_ops:
            return ()
        return (
            OpCoverage(
                op=REGION,
                calls=self.num_ops,
                calls_checked=0,
                elements=self.num_elements,
                elements_checked=0,
                flops=self.num_elements,
                flops_checked=0,
                witnesses={},
                not_tested={REASON: self.num_ops},
            ),
        )
